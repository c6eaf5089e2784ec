//! The command line: one file per command.

mod args;
mod capture;
mod check;
mod conflicts;
mod connect;
mod copy;
mod demo;
mod diff;
mod ends;
mod init;
mod keys;
mod log;
mod manual;
mod output;
mod peers;
mod quarantine;
mod recover;
mod serve;
mod status;
mod sync;

use std::io::Write as _;

use clap::{CommandFactory as _, Parser as _};
use tokio_util::sync::CancellationToken;

use crate::engine::{Error, ErrorKind};
use crate::runtime::{Failpoint, asked_to_end};

pub use args::Args;
use args::Command;
use output::Output;

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// It ran and something fell short.
    Short,
    /// Nothing of it ran, for this reason, which has been said.
    Failed(ErrorKind),
}

/// Parses the command line, runs the command, prints what it has to say; the exit code.
#[must_use]
pub fn main() -> u8 {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            return refuse(&e);
        }
    };
    if let Some(Err(e)) = args.failpoint.as_deref().map(Failpoint::arm) {
        eprintln!("rowferry: {e}");
        return 2;
    }
    // One TLS provider for all drivers; a second call finds it in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
    log::start(&args);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output::complain(&format!("the system gives no threads: {e}"));
            return 1;
        }
    };
    let output = Output::new(&args);
    let result = runtime.block_on(async {
        let stop = stop_on_signal();
        run(&args, &output, stop).await
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    let code = match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Short) => 1,
        Ok(Outcome::Failed(kind)) => exit_code(kind),
        Err(e) => {
            output.error(&e);
            exit_code(e.kind)
        }
    };
    match output.fault() {
        Some(fault) => {
            output::complain(fault.message());
            if code == 0 { exit_code(fault.kind) } else { code }
        }
        None => code,
    }
}

/// Says what is wrong with the command line, or prints the help that was asked for; the exit code.
fn refuse(e: &clap::Error) -> u8 {
    if e.use_stderr() {
        let _ = e.print();
        // What could not be parsed has no format; what was typed shows it all the same.
        let typed: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        if typed.iter().any(|a| a == "--format=json") || typed.windows(2).any(|w| w[0] == "--format" && w[1] == "json")
        {
            let text = e.to_string();
            let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let sentence = lines.join(" ");
            let sentence = sentence.trim_start_matches("error: ");
            let _ = writeln!(std::io::stdout(), "{}", output::failure(ErrorKind::Usage, sentence));
        }
        return 2;
    }
    match e.print() {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => 1,
        _ => 0,
    }
}

/// The documented exit code of an error that ended a command before anything was touched.
pub(crate) fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Unreachable => 3,
        ErrorKind::Usage | ErrorKind::SchemaMismatch | ErrorKind::Unsupported | ErrorKind::Denied => 2,
        ErrorKind::Interrupted => 130,
        _ => 1,
    }
}

/// What becomes of a run that had this error. That an end is away, or that it was stopped, is told
/// by the code; whatever else it is, it ran and fell short.
pub(crate) fn ended(error: Error, output: &Output) -> Result<Outcome, Error> {
    if matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Interrupted) {
        return Err(error);
    }
    output.error(&error);
    Ok(Outcome::Short)
}

async fn run(args: &Args, output: &Output, stop: CancellationToken) -> Result<Outcome, Error> {
    match &args.command {
        Command::Copy(copy) => copy::run(args, copy, output, stop).await,
        Command::Diff(diff) => diff::run(args, diff, output, stop).await,
        Command::Sync(sync) => sync::run(args, sync, output, stop).await,
        Command::Serve => serve::run(args, output, stop).await,
        Command::Status => status::run(args, output).await,
        Command::Keys(keys) => keys::run(args, keys, output).await,
        Command::Peers(peers) => peers::run(args, peers, output).await,
        Command::Check { syncs } => check::run(args, syncs, output).await,
        Command::Capture(capture) => capture::run(args, capture, output).await,
        Command::Conflicts(conflicts) => conflicts::run(args, conflicts, output, stop).await,
        Command::Quarantine(quarantine) => quarantine::run(args, quarantine, output, stop).await,
        Command::Recover(recover) => recover::run(args, recover, output, stop).await,
        Command::Init(init) => init::run(args, init, output),
        Command::Demo(demo) => demo::run(demo, output, stop).await,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "rowferry", &mut text);
            output.raw(&text);
            Ok(Outcome::Done)
        }
        Command::Man => {
            let page = manual::page(Args::command())
                .map_err(|e| Error::new(ErrorKind::Protocol, format!("the manual page cannot be made: {e}")))?;
            output.raw(&page);
            Ok(Outcome::Done)
        }
    }
}

/// The first Ctrl-C (or SIGTERM) asks to stop, the second ends the process.
fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        asked_to_end().await;
        token.cancel();
        output::complain("stopping; once more to end at once");
        asked_to_end().await;
        std::process::exit(130);
    });
    stop
}
