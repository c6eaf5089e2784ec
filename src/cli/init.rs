//! `rowferry init`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Outcome;
use super::args::{Args, InitArgs};
use super::output::Output;
use crate::config::{self, BLANK};
use crate::engine::{Error, ErrorKind, Result};
use crate::runtime::owners_alone;

pub(crate) fn run(args: &Args, init: &InitArgs, output: &Output) -> Result<Outcome> {
    if init.schema {
        output.raw(format!("{}\n", config::schema()).as_bytes());
        return Ok(Outcome::Done);
    }
    let path = args.config.clone().unwrap_or_else(|| PathBuf::from("rowferry.yaml"));
    if let Some(from) = &init.from {
        translate(from, &path, output)?;
    } else {
        write(&path, config::template())?;
        output.line(format!("wrote {}; fill in the databases and syncs, then run 'rowferry check'", path.display()));
        output.document(&serde_json::json!({ "written": path }));
    }
    Ok(Outcome::Done)
}

/// Writes what another system's configuration says, and tells what takes the place of its commands.
fn translate(from: &Path, path: &Path, output: &Output) -> Result<()> {
    let made = config::import(from).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
    write(path, &made.yaml)?;
    output.line(format!("wrote {} from {} ({})", path.display(), from.display(), made.system));
    for note in &made.notes {
        output.line(format!("note: {note}"));
    }
    output.line("");
    output.line("what replaces what:");
    for (old, new) in &made.replaces {
        output.line(format!("  {old}"));
        output.line(format!("    -> {new}"));
    }
    output.line("");
    output.line(match made.blanks {
        0 => "nothing is left to fill in; run 'rowferry check'".to_owned(),
        n => format!("{n} lines are marked {BLANK}: fill them in, then run 'rowferry check'"),
    });
    let replaces: Vec<_> =
        made.replaces.iter().map(|(old, new)| serde_json::json!({ "old": old, "new": new })).collect();
    output.document(&serde_json::json!({ "written": path, "system": made.system, "blanks": made.blanks,
        "replaces": replaces, "notes": made.notes }));
    Ok(())
}

/// Writes a file that is not there yet; it may hold passwords, so it is its owner's alone.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    owners_alone(options.write(true).create_new(true))
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| {
            let what = if e.kind() == std::io::ErrorKind::AlreadyExists {
                format!("{} exists already and was left as it is", path.display())
            } else {
                format!("{} cannot be written: {e}", path.display())
            };
            Error::new(ErrorKind::Usage, what)
        })
}
