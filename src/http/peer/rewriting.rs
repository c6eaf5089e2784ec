//! A table that is written as a peer has it: of this node's table only names are taken from what the peer says.

use std::sync::Arc;

use super::super::answer::Reply;
use super::super::auth::Way;
use super::super::router::Call;
use super::must_open;
use super::route::{Refused, filled, is_key_of, projected, refuse, takes_all};
use super::sessions::{Asked, Behind, Done, End, Opener, REWRITERS_MAX, Work, through};
use super::worker::{Worker, Works};
use crate::apply::Fill;
use crate::endpoint::{LocalRewriter, Outcome, Rewrite, Rewriter as _};
use crate::engine::{Error, WriteMode};
use crate::model::{Batch, Key};
use crate::peer::{About, Damaged, Reader, Rewriting, Told, WireRewrite};
use crate::state::Grant;

/// A call to a table that is written.
pub(in super::super) async fn rewrite(call: Call) -> Reply {
    through::<Rewriting>(call, Way::In).await
}

/// What is done to it.
pub(super) enum Ask {
    Put(Vec<(WriteMode, Batch)>),
    Write,
    Verify(bool),
}

impl Works for LocalRewriter {
    type Ask = Ask;

    async fn work(&mut self, ask: Ask) -> Result<Done, Error> {
        match ask {
            Ask::Put(all) => {
                let rows = all.iter().map(|(_, batch)| batch.rows()).sum();
                for (mode, batch) in all {
                    self.put(mode, batch).await?;
                }
                Ok(Done { rows, ..Done::of(Told::Done) })
            }
            Ask::Write => {
                let written = self.write().await?;
                let mut refused = Vec::with_capacity(written.refused.len());
                let mut batches = Vec::with_capacity(written.refused.len());
                for (mode, batch, reasons) in written.refused {
                    refused.push((mode, reasons));
                    batches.push(batch);
                }
                let told = Told::Rewritten([written.inserted, written.updated, written.deleted], refused);
                Ok(Done { behind: Behind::Batches(batches), ..Done::of(told) })
            }
            Ask::Verify(gone) => Ok(Done::of(Told::Problems(self.verify(gone).await?))),
        }
    }
}

/// The table, from the catalogue.
async fn table(opener: &Opener<'_>, told: WireRewrite, reader: &mut Reader<'_>) -> Result<Rewrite, Refused> {
    let name = told.table;
    let Some(whole) = opener.database.describe(&name).await? else {
        return refuse(format!("'{}' has no table {name} any more", opener.name));
    };
    let mut own = projected(&whole, told.columns.iter().map(String::as_str))?;
    let key = told.key.map(|columns| Key { columns });
    if key.iter().flat_map(|key| &key.columns).any(|&at| at >= own.columns.len()) {
        return Err(Damaged.into());
    }
    own.primary_key.clone_from(&key);
    match &key {
        Some(key) => {
            key.columns.iter().for_each(|&at| own.columns[at].nullable = false);
            if !is_key_of(&whole, &own, key, Way::In) {
                return refuse(format!("the key of {name} is another than when this was planned"));
            }
        }
        // Rows are found by all that is given of them.
        None => own.indexes.retain(|index| !index.unique),
    }
    let filled = filled(&whole, &own, Way::In, told.filled, reader)?;
    Ok(Rewrite { fill: Fill::new(&own, filled), table: Arc::new(own), whole: Arc::new(whole) })
}

impl Asked for Rewriting {
    type Subject = WireRewrite;
    const MOST: usize = REWRITERS_MAX;

    fn instance(subject: &WireRewrite) -> u128 {
        subject.instance
    }

    async fn open(
        opener: Opener<'_>,
        told: WireRewrite,
        reader: &mut Reader<'_>,
    ) -> Result<(End, Vec<Grant>), Refused> {
        let grant = must_open(opener.access, opener.name, &told.table)?;
        takes_all(opener.access, &grant)?;
        let patience = told.patience();
        let rewrite = Arc::new(table(&opener, told, reader).await?);
        let (keys, name) = (opener.call.caller.clone(), opener.name.to_owned());
        let sees = move |table: &crate::model::TableName| {
            keys.as_ref().is_some_and(|(keys, at)| keys[*at].grant(&name, &table.to_string()).is_some())
        };
        let end = LocalRewriter::new(opener.database, &rewrite, sees);
        let stop = opener.call.node.stop.child_token();
        Ok((End::Rewriter(Worker::new(end, patience, stop.drop_guard()), rewrite), vec![grant]))
    }

    fn opens(self) -> Result<About<WireRewrite>, Self> {
        match self {
            Self::Open(about) => Ok(*about),
            other => Err(other),
        }
    }

    fn closes(&self) -> bool {
        matches!(self, Self::Close)
    }

    async fn run(self, work: &mut Work, reader: &mut Reader<'_>) -> Result<Outcome<Done>, Damaged> {
        let End::Rewriter(worker, rewrite) = &mut work.end else { return Err(Damaged) };
        let ask = match self {
            Self::Open(_) | Self::Close => return Err(Damaged),
            Self::Put(modes) => {
                let found_by = rewrite.found_by();
                let table = |mode| if mode == WriteMode::Delete { &found_by } else { &rewrite.table };
                let rows = modes.into_iter().map(|mode| Ok((mode, reader.batch(table(mode))?)));
                Some(Ask::Put(rows.collect::<Result<_, Damaged>>()?))
            }
            Self::Write => Some(Ask::Write),
            Self::Verify(gone) => Some(Ask::Verify(gone)),
            Self::Wait => None,
        };
        reader.end()?;
        worker.ask(ask).await
    }
}
