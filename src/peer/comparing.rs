//! A peer's half of a comparison: what it is asked, and how.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::DropGuard;

use super::link::Link;
use super::message::{About, Told, WireLimits, path};
use super::session::{Answer, Session, patience};
use crate::capture::FittedBatch;
use crate::compare::Buckets;
use crate::endpoint::codec::{Damaged, Reader, Writer};
use crate::endpoint::{Comparand, Comparison, Counted, Followed, Half, Leaves};
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{Batch, BatchLimits, Key, Table, Zone};

type Read<T> = std::result::Result<T, Damaged>;

/// [`Comparison`], as the node is told that has a half of it. Conditions are those of its key.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireComparison {
    /// The start of the node that it was made for.
    pub instance: u128,
    /// Whether that half is the first.
    pub first: bool,
    /// At A.
    pub a: Table,
    /// At B.
    pub b: Table,
    /// The key's columns.
    pub key: Option<Vec<usize>>,
    products: (String, String),
    zones: (String, String),
    written: bool,
    limits: WireLimits,
    /// Milliseconds after which what takes longer is asked for once more.
    patience: u64,
}

impl WireComparison {
    /// What is told of it to the node, of this start, that has this half.
    #[must_use]
    pub fn of(comparison: &Comparison, half: Half, instance: u128, patience: u64) -> Self {
        Self {
            instance,
            first: half == Half::A,
            a: (*comparison.a).clone(),
            b: (*comparison.b).clone(),
            key: comparison.key.as_ref().map(|key| key.columns.clone()),
            products: comparison.products.clone(),
            zones: (comparison.zones.0.name().to_owned(), comparison.zones.1.name().to_owned()),
            written: comparison.written,
            limits: comparison.limits.into(),
            patience,
        }
    }

    /// How long an answer may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        patience(self.patience)
    }

    /// The comparison of these tables, of which this node has one.
    ///
    /// # Errors
    /// `BadData` where it makes no sense.
    pub fn comparison(self, (a, b): (Table, Table), condition: Option<String>) -> Result<(Comparison, Half)> {
        let zone = |name: &str| Zone::named(name).map_err(|why| Error::new(ErrorKind::BadData, why));
        let half = if self.first { Half::A } else { Half::B };
        let comparison = Comparison {
            a: Arc::new(a),
            b: Arc::new(b),
            key: self.key.map(|columns| Key { columns }),
            zones: (zone(&self.zones.0)?, zone(&self.zones.1)?),
            products: self.products,
            filters: if self.first { (condition, None) } else { (None, condition) },
            written: self.written,
            limits: BatchLimits::from(self.limits),
        };
        Ok((comparison, half))
    }
}

/// What a half is asked, see [`Comparand`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Comparing {
    /// Opens it.
    Open(Box<About<WireComparison>>),
    /// The next leaves.
    Leaves,
    /// The rows of leaves.
    Rows(Vec<u64>),
    /// Leaves follow.
    Follow,
    /// All buckets.
    Count,
    /// The rows of buckets.
    Pick(Vec<usize>),
    /// The next of them.
    Picked,
    /// What came of the last that was not done in time.
    Wait,
    /// It is not needed any more.
    Close,
}

/// A peer's half.
pub(super) struct RemoteComparand {
    session: Session,
    comparison: Arc<Comparison>,
    keys: Arc<Table>,
    _alive: DropGuard,
}

impl RemoteComparand {
    pub(super) async fn open(
        link: Arc<Link>,
        (database, instance): (String, u128),
        comparison: Arc<Comparison>,
        half: Half,
    ) -> Result<Self> {
        let mut session = Session::new(link, path::DIGESTS, 1);
        let ask = WireComparison::of(&comparison, half, instance, session.patience());
        let open = Comparing::Open(Box::new(About { database: database.clone(), ask }));
        session.open(&open, &|_: &mut Writer| {}).await?;
        let alive = session.keep_alive(database);
        Ok(Self { session, keys: comparison.keys(), comparison, _alive: alive })
    }

    /// A call to a half that is open: one that was closed knows no more where it stood.
    async fn call(&mut self, ask: Comparing, behind: impl Fn(&mut Writer) + Sync) -> Result<Answer> {
        self.session.ask(&ask, behind, &Comparing::Wait).await
    }

    fn fitted(&self, reader: &mut Reader<'_>, misfits: Vec<(usize, usize, String)>) -> Read<FittedBatch> {
        let batch = reader.batch(&self.comparison.b)?;
        let inside = |m: &(usize, usize, String)| m.0 < batch.rows() && m.1 < batch.columns().len();
        if !misfits.iter().all(inside) || !misfits.is_sorted_by_key(|m| (m.0, m.1)) {
            return Err(Damaged);
        }
        Ok(FittedBatch { batch, misfits })
    }

    fn senseless(&self) -> Error {
        self.session.senseless().into()
    }
}

fn buckets(reader: &mut Reader<'_>) -> Read<Buckets> {
    reader.buckets()
}

impl Drop for RemoteComparand {
    fn drop(&mut self) {
        self.session.close(&Comparing::Close);
    }
}

#[async_trait]
impl Comparand for RemoteComparand {
    async fn leaves(&mut self) -> Result<Leaves> {
        let answer = self.call(Comparing::Leaves, |_| {}).await?;
        let Told::Leaves = answer.told else { return Err(self.senseless()) };
        let leaves = self.session.read(&answer, |reader| reader.leaves(&self.keys))?;
        if leaves.digests.is_empty() { Err(self.senseless()) } else { Ok(leaves) }
    }

    async fn rows(&mut self, leaves: &[u64]) -> Result<Vec<FittedBatch>> {
        let answer = self.call(Comparing::Rows(leaves.to_vec()), |_| {}).await?;
        match &answer.told {
            Told::Rows(misfits) if misfits.len() == leaves.len() => self.session.read(&answer, |reader| {
                misfits.iter().map(|misfits| self.fitted(reader, misfits.clone())).collect::<Read<_>>()
            }),
            _ => Err(self.senseless()),
        }
    }

    async fn follow(&mut self, leaves: &Leaves) -> Result<Followed> {
        let answer = self.call(Comparing::Follow, |writer| writer.leaves(leaves)).await?;
        let Told::Followed(same, within, batches) = &answer.told else { return Err(self.senseless()) };
        let rows = self.session.read(&answer, |reader| {
            (0..*batches).map(|_| reader.batch(&self.comparison.b)).collect::<Read<Vec<Batch>>>()
        })?;
        Ok(Followed { same: same.clone(), within: *within, rows })
    }

    async fn count(&mut self) -> Result<Counted> {
        let answer = self.call(Comparing::Count, |_| {}).await?;
        let Told::Counted(unfit) = answer.told else { return Err(self.senseless()) };
        Ok(Counted { buckets: self.session.read(&answer, buckets)?, unfit })
    }

    async fn pick(&mut self, buckets: &[bool]) -> Result<()> {
        let wanted = (0..buckets.len()).filter(|&at| buckets[at]).collect();
        match self.call(Comparing::Pick(wanted), |_| {}).await?.told {
            Told::Done => Ok(()),
            _ => Err(self.senseless()),
        }
    }

    async fn picked(&mut self) -> Result<Option<FittedBatch>> {
        let answer = self.call(Comparing::Picked, |_| {}).await?;
        match &answer.told {
            Told::Picked(None) => Ok(None),
            Told::Picked(Some(misfits)) => {
                self.session.read(&answer, |reader| self.fitted(reader, misfits.clone())).map(Some)
            }
            _ => Err(self.senseless()),
        }
    }
}
