//! The route of an end that a peer opens: of its own end only names are taken from what the peer says, the rest from the
//! catalogue.

use std::sync::Arc;

use super::super::answer::Problem;
use super::super::auth::{Access, Way};
use super::{forbidden, must_hold, must_open};
use crate::apply::Fill;
use crate::endpoint::{End, Mapping, Route};
use crate::engine::{Error, ErrorKind};
use crate::model::{Column, ColumnDef, Key, LogicalType, Table, tells_moments};
use crate::peer::{Damaged, Reader, WireMapping, WireRoute, guarded};
use crate::site::Site;
use crate::state::Grant;

/// Why an end was not opened.
pub(super) enum Refused {
    /// The caller may not do that.
    Problem(Problem),
    /// It does not fit what stands here.
    Error(Error),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Damaged> for Refused {
    fn from(damaged: Damaged) -> Self {
        Self::Problem(super::damaged(damaged))
    }
}

pub(super) type Result<T> = std::result::Result<T, Refused>;

pub(super) fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::SchemaMismatch, what).into())
}

/// The route of an end that sends ([`Way::Out`]) or receives from this site.
pub(super) fn route(
    (access, database): (&Access, &str),
    site: &Site,
    way: Way,
    told: WireRoute,
    reader: &mut Reader<'_>,
) -> Result<Arc<Route>> {
    let first_run = told.first_run();
    let mut tables = Vec::with_capacity(told.tables.len());
    for mapping in told.tables {
        let own = if way == Way::Out { &mapping.from.name } else { &mapping.to.name };
        let grant = must_open(access, database, own)?;
        match way {
            Way::Out => must_hold(access, database, own, mapping.filter.as_ref().map(|(text, _)| text.as_str()))?,
            Way::In => takes_all(access, &grant)?,
        }
        tables.push(table(site, way, mapping, reader)?);
    }
    let (from, to) = (told.from.end()?, told.to.end()?);
    let (named, other) = if way == Way::Out { (from, to) } else { (to, from) };
    if named.site != site.id {
        let what = format!("'{database}' goes on under another name; the sync has to look again");
        return Err(Error::new(ErrorKind::CursorLost, what).into());
    }
    let own = End::of(site);
    let (from, to) = if way == Way::Out { (own, other) } else { (other, own) };
    Ok(Arc::new(Route { sync: told.sync, to_target: told.to_target, from, to, tables, first_run }))
}

/// Whether rows of a table may come in: where a key opens some of them, nobody could say which these are.
pub(super) fn takes_all(access: &Access, grant: &Grant) -> std::result::Result<(), Problem> {
    if grant.filter.is_none() {
        return Ok(());
    }
    Err(forbidden(format!(
        "key '{}' opens only some rows of {}: they can be fetched, and none can be sent there; make the sync direction: \
         pull",
        access.name, grant.table
    )))
}

/// One table: this end's from the catalogue, the other's as it is told.
fn table(site: &Site, way: Way, told: WireMapping, reader: &mut Reader<'_>) -> Result<Mapping> {
    let (filter, rule) = (told.filter(), told.rule());
    let (own, other) = if way == Way::Out { (told.from, told.to) } else { (told.to, told.from) };
    let name = own.name.clone();
    let Some(book) = site.book(&name) else { return refuse(format!("{name} is not captured here any more")) };
    let whole = book.logged.table.clone();
    let soft_delete = match (told.soft_delete, way) {
        (None, _) => None,
        (Some(column), Way::In) => Some(ColumnDef::new(&column, LogicalType::Any)),
        (Some(column), Way::Out) => match whole.column(&column) {
            Some(at) => Some(whole.columns[at].clone()),
            None => return refuse(format!("{name} has no column {column}, which soft_delete names")),
        },
    };
    let own = projected(&whole, own.columns.iter().map(|column| column.name.as_str()))?;
    let key = Key { columns: told.key };
    let inside = key.columns.iter().all(|&at| at < own.columns.len());
    if !inside || key.columns.is_empty() || other.columns.len() != own.columns.len() {
        return Err(Damaged.into());
    }
    let mut own = own;
    own.primary_key = Some(key.clone());
    key.columns.iter().for_each(|&at| own.columns[at].nullable = false);
    if !is_key_of(&whole, &own, &key, way) {
        return refuse(format!("the key of {name} is another than when the sync was planned"));
    }
    let mut other = guarded(other)?;
    other.primary_key = Some(key.clone());
    key.columns.iter().for_each(|&at| other.columns[at].nullable = false);
    let tells =
        |at: &usize| [&own, &other].iter().all(|t| t.columns.get(*at).is_some_and(|c| tells_moments(&c.logical)));
    if told.stamp.as_ref().is_some_and(|at| !tells(at)) {
        return Err(Damaged.into());
    }
    let filled = filled(&whole, &own, way, told.filled, reader)?;
    let (from, to) = if way == Way::Out { (own, other) } else { (other, own) };
    Ok(Mapping {
        from_keys: Arc::new(from.project(&key.columns)),
        to_keys: Arc::new(to.project(&key.columns)),
        fill: Fill::new(&to, filled),
        from: Arc::new(from),
        to: Arc::new(to),
        key,
        filter,
        soft_delete,
        rule,
        stamp: told.stamp,
    })
}

/// This end's table with the columns of these names.
pub(super) fn projected<'a>(whole: &Table, names: impl Iterator<Item = &'a str>) -> Result<Table> {
    let at: Option<Vec<usize>> = names.map(|name| whole.column(name)).collect();
    let Some(at) = at else {
        return refuse(format!("columns of {} are others than when this was planned", whole.name));
    };
    let twice = at.iter().enumerate().any(|(n, column)| at[..n].contains(column));
    if twice { Err(Damaged.into()) } else { Ok(whole.project(&at)) }
}

/// Whether these are the columns by which the site tells rows apart; where it sends, in its order.
pub(super) fn is_key_of(whole: &Table, own: &Table, key: &Key, way: Way) -> bool {
    let Some(known) = whole.row_key() else { return false };
    let mut known: Vec<&str> = known.columns.iter().map(|&at| whole.columns[at].name.as_str()).collect();
    let mut told: Vec<&str> = key.columns.iter().map(|&at| own.columns[at].name.as_str()).collect();
    if way == Way::In {
        known.sort_unstable();
        told.sort_unstable();
    }
    known == told
}

/// What new rows are filled with, in columns of this end's.
pub(super) fn filled(
    whole: &Table,
    own: &Table,
    way: Way,
    told: Vec<ColumnDef>,
    reader: &mut Reader<'_>,
) -> Result<Vec<(ColumnDef, Column)>> {
    let columns: Vec<ColumnDef> = if way == Way::Out {
        told
    } else {
        let mut columns = Vec::with_capacity(told.len());
        for column in told {
            match whole.column(&column.name) {
                Some(at) if own.column(&column.name).is_none() => columns.push(whole.columns[at].clone()),
                _ => return refuse(format!("{} of {} cannot be filled", column.name, whole.name)),
            }
        }
        columns
    };
    let table = Arc::new(Table::new(whole.name.clone(), columns.clone()));
    let values = reader.batch(&table)?;
    if !columns.is_empty() && values.rows() != 1 {
        return Err(Damaged.into());
    }
    let filled = columns.into_iter().zip(values.into_columns());
    Ok(if way == Way::Out { Vec::new() } else { filled.collect() })
}
