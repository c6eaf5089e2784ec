//! Runs the real program.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::TestDb;

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

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs `rowferry ARGS` in an empty folder that is gone afterwards.
pub fn rowferry<S: AsRef<str>>(args: &[S]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    rowferry_in(folder.path(), args)
}

/// Runs `rowferry ARGS` in `folder`, without the caller's own settings.
pub fn rowferry_in<S: AsRef<str>>(folder: &Path, args: &[S]) -> Output {
    output(&mut program(folder, args))
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts").into()
}

/// The program, in `folder` and without the caller's own settings.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rowferry"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROWFERRY_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).env("HOME", folder).env("XDG_CONFIG_HOME", folder).stdin(Stdio::null());
    command
}

/// A run that goes on beside the test. It is killed when this goes.
pub struct Running {
    child: Option<Child>,
    _folder: tempfile::TempDir,
}

/// Starts `rowferry ARGS` in an empty folder.
pub fn start<S: AsRef<str>>(args: &[S]) -> Running {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = command(folder.path());
    command.args(args.iter().map(AsRef::as_ref)).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running { child: Some(command.spawn().expect("the program starts")), _folder: folder }
}

impl Running {
    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// The most memory that it has had so far, in KiB; 0 where the system does not say.
    pub fn peak_kib(&self) -> u64 {
        let status = self.child.as_ref().map(|child| format!("/proc/{}/status", child.id()));
        let text = status.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    /// What it left, once it has ended by itself.
    pub fn end(mut self) -> Output {
        self.child.take().expect("it runs").wait_with_output().expect("its output").into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Nothing is left to do when it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `rowferry ARGS` in `folder`, to be started.
pub fn program<S: AsRef<str>>(folder: &Path, args: &[S]) -> Command {
    let mut command = command(folder);
    command.args(args.iter().map(AsRef::as_ref));
    command
}

/// Fails with the rows that differ unless `rowferry diff` finds both databases equal.
#[track_caller]
pub fn assert_equal(a: &TestDb, b: &TestDb) {
    let output = rowferry(&["diff", a.url(), b.url(), "--rows"]);
    assert_eq!(output.code, 0, "{:?} and {:?}: {}\n{}", a.engine(), b.engine(), output.stderr, output.stdout);
}
