//! A half of a comparison that a peer makes: of this node's table only names are taken from what the peer says.

use std::sync::Arc;

use super::super::answer::Reply;
use super::super::auth::Way;
use super::super::router::Call;
use super::must_open;
use super::route::Refused;
use super::sessions::{Asked, Behind, Done, End, HALVES_MAX, Opener, Work, through};
use crate::capture::FittedBatch;
use crate::compare::BUCKETS;
use crate::endpoint::{Comparand as _, Counted, Fault, Followed, LocalComparand, Outcome};
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
    let at: Option<Vec<usize>> = own.columns.iter().map(|column| whole.column(&column.name)).collect();
    let Some(at) = at else { return refuse(format!("columns of {name} are others than a moment ago")) };
    let twice = at.iter().enumerate().any(|(n, column)| at[..n].contains(column));
    if twice || other.columns.len() != at.len() {
        return Err(Damaged.into());
    }
    let (own, other) = (whole.project(&at), guarded(other)?);
    let (mut a, mut b) = if told.first { (own, other) } else { (other, own) };
    let key = agree_on_key(&mut a, &mut b);
    if key != told.key.clone().map(|columns| Key { columns }) {
        return refuse(format!("the key of {name} is another than a moment ago"));
    }
    Ok((a, b))
}

/// Batches, with row and column of what does not fit.
fn fitted(all: Vec<FittedBatch>) -> (Vec<Vec<(usize, usize)>>, Vec<Batch>) {
    let one = |fitted: FittedBatch| {
        let FittedBatch { batch, misfits } = fitted.set_aside();
        (misfits.iter().map(|m| (m.0, m.1)).collect(), batch)
    };
    all.into_iter().map(one).unzip()
}

fn batches(told: Told, batches: Vec<Batch>) -> Done {
    Done { told, rows: batches.iter().map(Batch::rows).sum(), behind: Behind::Batches(batches) }
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
        let tables = tables(&opener, &mut told).await?;
        let (comparison, half) = told.comparison(tables, grant.filter.clone())?;
        let (comparison, stop) = (Arc::new(comparison), &opener.call.node.stop);
        let comparand = LocalComparand::open(opener.database, &comparison, half, None, stop).await?;
        Ok((End::Half(Box::new(comparand), comparison.keys()), vec![grant]))
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
        let End::Half(half, keys) = &mut work.end else { return Err(Damaged) };
        let leaves = if matches!(self, Self::Follow) { Some(reader.leaves(keys)?) } else { None };
        reader.end()?;
        let done: Result<Done, Error> = match (self, leaves) {
            (Self::Follow, Some(leaves)) => half
                .follow(&leaves)
                .await
                .map(|Followed { same, within, rows }| batches(Told::Followed(same, within, rows.len()), rows)),
            (Self::Leaves, None) => {
                half.leaves().await.map(|leaves| Done { behind: Behind::Leaves(leaves), ..Done::of(Told::Leaves) })
            }
            (Self::Rows(wanted), None) => half.rows(&wanted).await.map(|rows| {
                let (misfits, rows) = fitted(rows);
                batches(Told::Rows(misfits), rows)
            }),
            (Self::Count, None) => half.count().await.map(|Counted { buckets, unfit }| Done {
                behind: Behind::Buckets(buckets),
                ..Done::of(Told::Counted(unfit))
            }),
            (Self::Pick(wanted), None) => {
                let mut buckets = vec![false; BUCKETS];
                wanted.into_iter().for_each(|at| buckets.get_mut(at).into_iter().for_each(|bucket| *bucket = true));
                half.pick(&buckets).await.map(|()| Done::of(Told::Done))
            }
            (Self::Picked, None) => half.picked().await.map(|picked| {
                let (misfits, rows) = fitted(picked.into_iter().collect());
                batches(Told::Picked(misfits.into_iter().next()), rows)
            }),
            (Self::Open(_) | Self::Close | Self::Follow, None) | (_, Some(_)) => return Err(Damaged),
        };
        Ok(done.map_err(Fault::from))
    }
}
