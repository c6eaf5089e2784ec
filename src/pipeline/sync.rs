//! Changes of one end to the other: the first run brings the rows that were never changed under capture, every run
//! brings what has a version.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::run::{Report, TableReport};
use crate::capture::interrupted;
use crate::endpoint::{Basis, Fault, Keys, Outcome, Parcel, Place, Receiver, Route, Sender};
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Batch, BatchLimits};

/// How changes are brought over.
#[derive(Clone)]
pub struct ChangeOptions {
    /// Bounds of a parcel.
    pub limits: BatchLimits,
    /// Asked to stop.
    pub stop: CancellationToken,
}

/// How often rows are asked for that are being written.
pub(super) const TRIES: u32 = 8;

/// Brings the changes of one end to the other, all tables of the route together; one that fails is left out, and the
/// others go on.
///
/// # Errors
/// What concerns no single table.
pub async fn run_changes(
    from: &mut dyn Sender,
    to: &mut dyn Receiver,
    route: &Route,
    options: &ChangeOptions,
) -> Result<Report> {
    let started = Instant::now();
    let report = |mapping: &crate::endpoint::Mapping| TableReport {
        table: (if route.to_target { &mapping.from } else { &mapping.to }).name.to_string(),
        ..TableReport::default()
    };
    let mut run = Run {
        from,
        to,
        route,
        options,
        places: (0..route.tables.len()).map(|table| Place { table, position: 0 }).collect(),
        reports: route.tables.iter().map(report).collect(),
        error: None,
    };
    run.bring_all().await?;
    let Run { to, reports, error, .. } = run;
    let written = |t: &TableReport| t.inserted + t.updated + t.deleted > 0;
    let written: Vec<usize> = (0..reports.len()).filter(|&at| written(&reports[at])).collect();
    let problems = if written.is_empty() { Vec::new() } else { to.verify(&written).await? };
    let clean = error.is_none() && problems.is_empty() && reports.iter().all(|t| t.quarantined + t.open == 0);
    Ok(Report {
        status: if clean { "succeeded" } else { "failed" },
        tables: reports,
        seconds: started.elapsed().as_secs_f64(),
        problems,
        error,
    })
}

/// A run in one direction.
struct Run<'a> {
    from: &'a mut dyn Sender,
    to: &'a mut dyn Receiver,
    route: &'a Route,
    options: &'a ChangeOptions,
    /// The tables that go on, and how far they are.
    places: Vec<Place>,
    reports: Vec<TableReport>,
    error: Option<ErrorKind>,
}

impl Run<'_> {
    /// The tables that go on.
    fn tables(&self) -> Vec<usize> {
        self.places.iter().map(|place| place.table).collect()
    }

    /// Leaves the table out that is to blame.
    fn leave_out(&mut self, fault: Fault) -> Result<()> {
        let Fault { table: Some(at), error } = fault else { return Err(fault.error) };
        let error = error.context(format!("table {}", self.reports[at].table));
        self.error.get_or_insert(error.kind);
        self.reports[at].error = Some(error.message().to_owned());
        self.places.retain(|place| place.table != at);
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        if self.options.stop.is_cancelled() { Err(interrupted()) } else { Ok(()) }
    }

    async fn bring_all(&mut self) -> Result<()> {
        self.fold().await?;
        let cursors = self.to.cursors().await?;
        for place in &mut self.places {
            place.position = cursors[place.table].unwrap_or(0);
        }
        for table in self.tables().into_iter().filter(|&table| cursors[table].is_none()) {
            if let Err(fault) = self.meet(table).await {
                self.leave_out(fault)?;
            }
        }
        self.bring_changes().await?;
        for table in self.tables() {
            if let Err(fault) = self.bring_refused(table).await {
                self.leave_out(fault)?;
            }
        }
        Ok(())
    }

    async fn fold(&mut self) -> Result<()> {
        while let Err(fault) = self.from.fold(&self.tables()).await {
            self.leave_out(fault)?;
        }
        Ok(())
    }

    async fn bring_changes(&mut self) -> Result<()> {
        while !self.places.is_empty() {
            self.go_on()?;
            let parcel = match self.from.changes(&self.places, self.options.limits).await {
                Ok(parcel) if parcel.places == self.places => return Ok(()),
                Ok(parcel) => parcel,
                Err(fault) => {
                    self.leave_out(fault)?;
                    continue;
                }
            };
            if let Err(fault) = self.take_in(&parcel, Basis::Written).await {
                self.leave_out(fault)?;
                continue;
            }
            self.places.clone_from(&parcel.places);
            if !parcel.more {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn take_in(&mut self, parcel: &Parcel, basis: Basis) -> Outcome<()> {
        let applied = self.to.take(parcel, basis).await?;
        for ((table, changes), applied) in parcel.changes.iter().zip(applied) {
            self.reports[*table].add(changes.entries.len(), applied);
        }
        Ok(())
    }

    /// Compares all rows of a table and brings over those that the receiving end lacks. Rows that differ are settled as
    /// the route says, those that only the receiving end has stay. Equal rows are one row.
    async fn meet(&mut self, table: usize) -> Outcome<()> {
        let mut rows = self.from.rows(table, self.options.limits).await?;
        while let Some(batch) = rows.recv().await {
            self.go_on()?;
            let rows = batch.map_err(Fault::at(table))?.batch;
            let differing = self.to.differing(table, &rows).await?;
            if !differing.is_empty() {
                let columns = self.route.tables[table].key.columns.iter().map(|&at| rows.columns()[at].clone());
                let keys = Batch::new(self.route.tables[table].from_keys.clone(), columns.collect());
                self.bring(table, keys.select(differing.into_iter())).await?;
            }
        }
        Ok(())
    }

    /// Settles rows that differ at the first meeting, as they stand now, each with the version that it has: both ends
    /// may have met elsewhere.
    async fn bring(&mut self, table: usize, mut keys: Batch) -> Outcome<()> {
        for _ in 0..TRIES {
            let current = self.from.current(table, &Keys::Sent(keys.clone())).await?;
            let parcel = Parcel { changes: vec![(table, current.changes)], places: Vec::new(), more: false };
            self.take_in(&parcel, Basis::Meeting).await?;
            if current.left_out.is_empty() {
                return Ok(());
            }
            keys = keys.select(current.left_out.into_iter());
            self.from.fold(&[table]).await?;
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("rows of {} are written faster than they can be read", self.reports[table].table),
        )
        .into())
    }

    /// What the receiving end refused before is brought once more, as it stands now: what was in its way may be gone.
    async fn bring_refused(&mut self, table: usize) -> Outcome<()> {
        let refused = self.to.refused(table).await?;
        if refused.rows() == 0 {
            return Ok(());
        }
        let rows = refused.rows();
        let current = self.from.current(table, &Keys::Received(refused)).await?;
        // What is not tried now stays refused.
        self.reports[table].quarantined = (rows - current.changes.entries.len() - current.left_out.len()) as u64;
        let parcel = Parcel { changes: vec![(table, current.changes)], places: Vec::new(), more: false };
        self.take_in(&parcel, Basis::Written).await
    }
}
