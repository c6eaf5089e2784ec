//! A half of a comparison that a peer makes: of this node's table only names are taken from what the peer says.

use std::sync::Arc;

use super::super::answer::Reply;
use super::super::auth::Way;
use super::super::router::Call;
use super::must_open;
use super::route::{Refused, projected};
use super::sessions::{Asked, Behind, Done, End, HALVES_MAX, Opener, Work, through};
use super::worker::{Worker, Works};
use crate::capture::FittedBatch;
use crate::compare::BUCKETS;
use crate::endpoint::{Comparand as _, Counted, Followed, Leaves, LocalComparand, Outcome};
use crate::engine::{Error, ErrorKind};
use crate::model::{Batch, Key, Table};
use crate::peer::{About, Comparing, Damaged, Reader, Told, WireComparison, guarded};
use crate::pipeline::agree_on_key;
use crate::state::Grant;

/// A call to a half of a comparison.
pub(in super::super) async fn compare(call: Call) -> Reply {
    through::<Comparing>(call, Way::Out).await
}

/// The two tables: this node's from the catalogue, the other's as it is told.
async fn tables(opener: &Opener<'_>, told: &mut WireComparison) -> Result<(Table, Table), Refused> {
    let refuse = |what: String| Err(Error::new(ErrorKind::SchemaMismatch, what).into());
    let none = Table::new(told.a.name.clone(), Vec::new());
    let (a, b) = (std::mem::replace(&mut told.a, none.clone()), std::mem::replace(&mut told.b, none));
    let (own, other) = if told.first { (a, b) } else { (b, a) };
    let name = own.name;
    let Some(whole) = opener.database.describe(&name).await? else {
        return refuse(format!("'{}' has no table {name} any more", opener.name));
    };
    if other.columns.len() != own.columns.len() {
        return Err(Damaged.into());
    }
    let (own, other) = (projected(&whole, own.columns.iter().map(|c| c.name.as_str()))?, guarded(other)?);
    let (mut a, mut b) = if told.first { (own, other) } else { (other, own) };
    let key = agree_on_key(&mut a, &mut b);
    if key != told.key.clone().map(|columns| Key { columns }) {
        return refuse(format!("the key of {name} is another than a moment ago"));
    }
    Ok((a, b))
}

/// Row, column and reason of what does not fit.
type Misfits = Vec<(usize, usize, String)>;

/// Batches, with row, column and reason of what does not fit.
fn fitted(all: Vec<FittedBatch>) -> (Vec<Misfits>, Vec<Batch>) {
    let one = |fitted: FittedBatch| {
        let FittedBatch { batch, misfits } = fitted.set_aside();
        (misfits, batch)
    };
    all.into_iter().map(one).unzip()
}

fn batches(told: Told, batches: Vec<Batch>) -> Done {
    Done { told, rows: batches.iter().map(Batch::rows).sum(), behind: Behind::Batches(batches) }
}

impl Works for LocalComparand {
    type Ask = (Comparing, Option<Leaves>);

    async fn work(&mut self, (ask, leaves): Self::Ask) -> Result<Done, Error> {
        work(self, ask, leaves).await
    }
}

async fn work(half: &mut LocalComparand, ask: Comparing, leaves: Option<Leaves>) -> Result<Done, Error> {
    match (ask, leaves) {
        (Comparing::Follow, Some(leaves)) => {
            let Followed { same, within, rows } = half.follow(&leaves).await?;
            Ok(batches(Told::Followed(same, within, rows.len()), rows))
        }
        (Comparing::Leaves, _) => Ok(Done { behind: Behind::Leaves(half.leaves().await?), ..Done::of(Told::Leaves) }),
        (Comparing::Rows(wanted), _) => {
            let (misfits, rows) = fitted(half.rows(&wanted).await?);
            Ok(batches(Told::Rows(misfits), rows))
        }
        (Comparing::Count, _) => {
            let Counted { buckets, unfit } = half.count().await?;
            Ok(Done { behind: Behind::Buckets(buckets), ..Done::of(Told::Counted(unfit)) })
        }
        (Comparing::Pick(wanted), _) => {
            let mut buckets = vec![false; BUCKETS];
            for at in wanted.into_iter().filter(|&at| at < BUCKETS) {
                buckets[at] = true;
            }
            half.pick(&buckets).await?;
            Ok(Done::of(Told::Done))
        }
        (Comparing::Picked, _) => {
            let (misfits, rows) = fitted(half.picked().await?.into_iter().collect());
            Ok(batches(Told::Picked(misfits.into_iter().next()), rows))
        }
        (Comparing::Open(_) | Comparing::Close | Comparing::Follow | Comparing::Wait, _) => {
            Err(Error::new(ErrorKind::Protocol, "nothing that a half of a comparison is asked"))
        }
    }
}

impl Asked for Comparing {
    type Subject = WireComparison;
    const MOST: usize = HALVES_MAX;

    fn instance(subject: &WireComparison) -> u128 {
        subject.instance
    }

    async fn open(
        opener: Opener<'_>,
        mut told: WireComparison,
        _reader: &mut Reader<'_>,
    ) -> Result<(End, Vec<Grant>), Refused> {
        let own = if told.first { &told.a.name } else { &told.b.name };
        let grant = must_open(opener.access, opener.name, own)?;
        let (tables, patience) = (tables(&opener, &mut told).await?, told.patience());
        let (comparison, half) = told.comparison(tables, grant.filter.clone())?;
        let (comparison, stop) = (Arc::new(comparison), opener.call.node.stop.child_token());
        let half = LocalComparand::open(opener.database, &comparison, half, None, &stop).await?;
        let worker = Worker::new(half, patience, stop.drop_guard());
        Ok((End::Half(worker, comparison.keys()), vec![grant]))
    }

    fn opens(self) -> Result<About<WireComparison>, Self> {
        match self {
            Self::Open(about) => Ok(*about),
            other => Err(other),
        }
    }

    fn closes(&self) -> bool {
        matches!(self, Self::Close)
    }

    async fn run(self, work: &mut Work, reader: &mut Reader<'_>) -> Result<Outcome<Done>, Damaged> {
        let End::Half(worker, keys) = &mut work.end else { return Err(Damaged) };
        let leaves = if matches!(self, Self::Follow) { Some(reader.leaves(keys)?) } else { None };
        reader.end()?;
        let waits = matches!(self, Self::Wait);
        worker.ask((!waits).then_some((self, leaves))).await
    }
}
