//! Incremental syncs beside hand-written triggers and the servers' own replication.

pub mod app;
pub mod catch_up;
pub mod cost;
pub mod idle;
pub mod lag;
pub mod replica;
pub mod write_path;

use crate::Outcome;
use crate::ends::{Bench, End, Side};
use crate::process::{Run, rowferry};

/// The name of the sync that every part makes for itself.
pub const SYNC: &str = "bench";

impl End {
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Maria => "MariaDB",
            Self::Sqlite => "SQLite",
        }
    }
}

/// Writes a config with one incremental sync of these tables.
pub fn configure(bench: &Bench, from: End, to: End, tables: &[String]) -> Outcome<()> {
    let (a, b) = (bench.url(from, Side::Source), bench.url(to, Side::Target));
    let tables = tables.join(", ");
    let text = format!(
        "databases:\n  a: {{ url: \"{a}\" }}\n  b: {{ url: \"{b}\" }}\nsyncs:\n  {SYNC}: {{ source: a, target: b, \
         direction: push, mode: incremental, capture: trigger, tables: [{tables}] }}\n"
    );
    Ok(std::fs::write(bench.folder().join("rowferry.yaml"), text)?)
}

/// One run of the sync.
pub fn sync(bench: &Bench) -> Outcome<Run> {
    rowferry(&["sync", SYNC, "-q"], bench.folder(), &[0])
}

/// Takes rowferry's own tables out of both databases of the sync.
pub fn uninstall(bench: &Bench) -> Outcome<Run> {
    rowferry(&["capture", "remove", "-q"], bench.folder(), &[0])
}

/// The middle of some times, and the value below which this share of them lies.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place")]
    let at = ((values.len() as f64 - 1.0) * share).round() as usize;
    values[at]
}
