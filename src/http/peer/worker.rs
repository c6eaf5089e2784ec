//! An end that works in a task of its own: what takes longer than an answer may is told by a later one.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::sessions::Done;
use crate::endpoint::{Fault, Outcome};
use crate::engine::Error;
use crate::peer::{Damaged, Told};

/// What does one thing after another.
pub(super) trait Works: Send + 'static {
    /// What it is asked.
    type Ask: Send + 'static;
    /// Does it.
    fn work(&mut self, ask: Self::Ask) -> impl Future<Output = Result<Done, Error>> + Send;
}

/// It, at work.
pub(super) struct Worker<W: Works> {
    asks: mpsc::Sender<W::Ask>,
    done: mpsc::Receiver<Outcome<Done>>,
    patience: Duration,
    busy: bool,
    _ends: DropGuard,
}

impl<W: Works> Worker<W> {
    /// Answers are to be there after `patience`; with this value ends what `ends` ends.
    pub(super) fn new(mut end: W, patience: Duration, ends: DropGuard) -> Self {
        let ((asks, mut asked), (tell, done)) = (mpsc::channel(1), mpsc::channel(1));
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                if tell.send(end.work(ask).await.map_err(Fault::from)).await.is_err() {
                    return;
                }
            }
        });
        Self { asks, done, patience, busy: false, _ends: ends }
    }

    /// What comes of it, as far as it is known in time; `None`: of what it was asked before.
    pub(super) async fn ask(&mut self, ask: Option<W::Ask>) -> Result<Outcome<Done>, Damaged> {
        if ask.is_none() != self.busy {
            return Err(Damaged);
        }
        if let Some(ask) = ask {
            self.asks.send(ask).await.map_err(|_| Damaged)?;
        }
        self.busy = true;
        match tokio::time::timeout(self.patience, self.done.recv()).await {
            Err(_) => Ok(Ok(Done::of(Told::Working))),
            Ok(done) => {
                self.busy = false;
                done.ok_or(Damaged)
            }
        }
    }
}
