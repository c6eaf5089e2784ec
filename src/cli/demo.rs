//! `rowferry demo`.

use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::args::DemoArgs;
use super::output::Output;
use crate::engine::Result;

pub(crate) async fn run(_demo: &DemoArgs, _output: &Output, _stop: CancellationToken) -> Result<Outcome> {
    Ok(Outcome::Done)
}
