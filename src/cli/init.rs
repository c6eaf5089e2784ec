//! `rowferry init`.

use std::io::Write as _;
use std::path::PathBuf;

use super::Outcome;
use super::args::Args;
use super::output::Output;
use crate::config;
use crate::engine::{Error, ErrorKind, Result};

pub(crate) fn run(args: &Args, schema: bool, output: &Output) -> Result<Outcome> {
    if schema {
        output.raw(format!("{}\n", config::schema()).as_bytes());
        return Ok(Outcome::Done);
    }
    let path = args.config.clone().unwrap_or_else(|| PathBuf::from("rowferry.yaml"));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    file.and_then(|mut f| f.write_all(config::template().as_bytes())).map_err(|e| {
        let what = if e.kind() == std::io::ErrorKind::AlreadyExists {
            format!("{} exists already and was left as it is", path.display())
        } else {
            format!("{} cannot be written: {e}", path.display())
        };
        Error::new(ErrorKind::Usage, what)
    })?;
    output.line(format!("wrote {}; fill in the databases and syncs, then run 'rowferry check'", path.display()));
    output.document(&serde_json::json!({ "written": path }));
    Ok(Outcome::Done)
}
