//! One table of a route: what it is called at both ends, column by column.

use std::sync::Arc;

use super::Route;
use crate::apply::Fill;
use crate::conflict::Rule;
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::model::{ColumnDef, Key, Shift, Table, Zone};

/// Which rows of a table take part: asked where they are sent, in that database's own SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The condition.
    pub condition: String,
    /// On the way back from where the rows came to through it: those that came so go back, whether they still meet it
    /// or not.
    pub returning: bool,
}

/// One table of a sync, in one direction.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// At the sending end, with the columns that take part.
    pub from: Arc<Table>,
    /// At the receiving end: the same columns in the same order.
    pub to: Arc<Table>,
    /// The columns that rows are told apart by, in the order in which the sending end keeps them.
    pub key: Key,
    /// The key's columns at the sending end, in that order.
    pub from_keys: Arc<Table>,
    /// The key's columns at the receiving end, in that order.
    pub to_keys: Arc<Table>,
    /// Which rows take part; `None`: all.
    pub filter: Option<Filter>,
    /// The column at the sending end that says that a row was deleted, though it stands there still.
    pub soft_delete: Option<ColumnDef>,
    /// What new rows get at the receiving end besides.
    pub fill: Fill,
    /// How its conflicts are settled, seen from the receiving end.
    pub rule: Rule,
    /// The column that says when a row was written: it settles rows that differ when the two ends first meet.
    pub stamp: Option<usize>,
}

impl Mapping {
    /// That of two tables, given whole (the first of each pair) and with the columns that take part.
    ///
    /// # Errors
    /// `SchemaMismatch` when the ends tell their rows apart by different columns.
    pub fn new(from: (&Table, &Arc<Table>), to: (&Table, &Arc<Table>), fill: Fill, rule: Rule) -> Result<Self> {
        let ((whole_from, from), (whole_to, to)) = (from, to);
        let names = |table: &Table| -> Vec<String> {
            let key = table.row_key().map_or_else(Vec::new, |key| key.columns);
            key.into_iter().map(|at| table.columns[at].name.clone()).collect()
        };
        let (ours, theirs) = (names(whole_from), names(whole_to));
        let at: Option<Vec<usize>> = ours.iter().map(|name| from.column(name)).collect();
        let same = at.filter(|at| {
            at.len() == theirs.len() && theirs.iter().all(|name| at.iter().any(|&at| to.columns[at].name == *name))
        });
        let Some(columns) = same.filter(|columns| !columns.is_empty()) else {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "{} and {} tell their rows apart by different columns ({} and {}); give both the same key",
                    from.name,
                    to.name,
                    ours.join(", "),
                    theirs.join(", ")
                ),
            ));
        };
        let numbers = |table: &Table| columns.iter().any(|&at| table.columns[at].identity.is_some());
        Ok(Self {
            from_keys: Arc::new(from.project(&columns)),
            to_keys: Arc::new(to.project(&columns)),
            // Rows under one number are two only where a database gives numbers out.
            rule: Rule { generated_keys: rule.generated_keys && (numbers(from) || numbers(to)), ..rule },
            key: Key { columns },
            filter: None,
            soft_delete: None,
            stamp: None,
            fill,
            from: from.clone(),
            to: to.clone(),
        })
    }
}

/// What rows are asked for where they are sent, in that database's own SQL.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    /// Those that are sent meet this one.
    pub meeting: Option<String>,
    /// Those of which no column says that they were deleted meet this one.
    pub alive: Option<String>,
}

impl Mapping {
    /// Whether rows come in through a condition.
    pub(super) fn is_entered(&self) -> bool {
        self.soft_delete.is_some() || self.filter.as_ref().is_some_and(|filter| !filter.returning)
    }

    /// What the sending end asks of the rows.
    ///
    /// # Errors
    /// `Unsupported` where its engine knows no conditions.
    pub(super) fn conditions(&self, database: &dyn Database) -> Result<Conditions> {
        let unset = |column: &ColumnDef| {
            database.unset(column).ok_or_else(|| {
                let what = format!("{} cannot be asked for soft_delete", database.label());
                Error::new(ErrorKind::Unsupported, what)
            })
        };
        let alive = self.soft_delete.as_ref().map(unset).transpose()?;
        let filter = self.filter.as_ref().map(|filter| filter.condition.clone());
        let meeting = match (filter, &alive) {
            (Some(filter), Some(alive)) => Some(format!("({filter}) AND {alive}")),
            (filter, alive) => filter.or_else(|| alive.clone()),
        };
        Ok(Conditions { meeting, alive })
    }

    /// Which rows take part, as a text that tells it from other choices; `None`: all.
    #[must_use]
    pub fn chosen(&self) -> Option<String> {
        let filter = self.filter.as_ref().map(|filter| filter.condition.clone());
        match &self.soft_delete {
            None => filter,
            Some(column) => Some(format!("{}\0{}", filter.unwrap_or_default(), column.name)),
        }
    }
}

/// How the clock readings of these columns change on the way between two zones.
pub(super) fn shifts((from, zone_from): (&Table, &Zone), (to, zone_to): (&Table, &Zone)) -> Arc<[Option<Shift>]> {
    let columns = from.columns.iter().zip(&to.columns);
    columns.map(|(from, to)| Shift::between(&from.logical, zone_from, &to.logical, zone_to)).collect()
}

impl Route {
    /// What rows of a table come in through.
    pub(super) fn entering(&self, at: usize) -> Option<String> {
        self.tables[at].chosen().filter(|_| self.tables[at].is_entered())
    }

    /// Whether both ends are one product.
    pub(super) fn same_product(&self) -> bool {
        self.from.product == self.to.product
    }
}
