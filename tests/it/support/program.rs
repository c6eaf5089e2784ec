//! Runs the real program.

use std::path::Path;
use std::process::{Command, Stdio};

/// What a run of the program left.
#[derive(Debug)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The one JSON document on standard output.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON on stdout: {error}\n{self:?}"))
    }
}

/// Runs `rowferry ARGS` in an empty folder that is gone afterwards.
pub fn rowferry<S: AsRef<str>>(args: &[S]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    rowferry_in(folder.path(), args)
}

/// Runs `rowferry ARGS` in `folder`, without the caller's own settings.
pub fn rowferry_in<S: AsRef<str>>(folder: &Path, args: &[S]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rowferry"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROWFERRY_") {
            command.env_remove(name);
        }
    }
    let output = command
        .args(args.iter().map(AsRef::as_ref))
        .current_dir(folder)
        .env("HOME", folder)
        .env("XDG_CONFIG_HOME", folder)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
