//! One table of a route: what it is called at both ends, column by column.

use std::sync::Arc;

use super::Route;
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Key, Shift, Table, Zone};

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
    /// Whether either database numbers new rows itself.
    pub numbered: bool,
}

impl Mapping {
    /// That of two tables, given whole (the first of each pair) and with the columns that take part.
    ///
    /// # Errors
    /// `SchemaMismatch` when the ends tell their rows apart by different columns.
    pub fn new(from: (&Table, &Arc<Table>), to: (&Table, &Arc<Table>)) -> Result<Self> {
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
            numbered: numbers(from) || numbers(to),
            key: Key { columns },
            from: from.clone(),
            to: to.clone(),
        })
    }
}

/// How the clock readings of these columns change on the way between two zones.
pub(super) fn shifts((from, zone_from): (&Table, &Zone), (to, zone_to): (&Table, &Zone)) -> Arc<[Option<Shift>]> {
    let columns = from.columns.iter().zip(&to.columns);
    columns.map(|(from, to)| Shift::between(&from.logical, zone_from, &to.logical, zone_to)).collect()
}

impl Route {
    /// Whether both ends are one product.
    pub(super) fn same_product(&self) -> bool {
        self.from.product == self.to.product
    }
}
