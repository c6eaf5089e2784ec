//! The command line: one file per command.

mod args;
mod check;
mod connect;
mod copy;
mod demo;
mod diff;
mod init;
mod output;
mod sync;

use clap::{CommandFactory as _, Parser as _};
use tokio_util::sync::CancellationToken;

use crate::engine::{Error, ErrorKind};

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
}

/// Parses the command line, runs the command, prints what it has to say; the exit code.
#[must_use]
pub fn main() -> u8 {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { 2 } else { 0 };
        }
    };
    // One TLS provider for all drivers; a second call finds it in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
    start_log(&args);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("rowferry: the system gives no threads: {e}");
            return 1;
        }
    };
    let output = Output::new(&args);
    let result = runtime.block_on(async {
        let stop = stop_on_signal();
        run(&args, &output, stop).await
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Short) => 1,
        Err(e) => {
            output.error(&e);
            exit_code(e.kind)
        }
    }
}

/// The documented exit code of an error.
pub(crate) fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Unreachable => 3,
        ErrorKind::Usage | ErrorKind::SchemaMismatch | ErrorKind::Unsupported => 2,
        ErrorKind::Interrupted => 130,
        _ => 1,
    }
}

async fn run(args: &Args, output: &Output, stop: CancellationToken) -> Result<Outcome, Error> {
    match &args.command {
        Command::Copy(copy) => copy::run(args, copy, output, stop).await,
        Command::Diff(diff) => diff::run(args, diff, output, stop).await,
        Command::Sync(sync) => sync::run(args, sync, output, stop).await,
        Command::Check { syncs } => check::run(args, syncs, output).await,
        Command::Init { schema } => init::run(args, *schema, output),
        Command::Demo(demo) => demo::run(demo, output, stop).await,
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Args::command(), "rowferry", &mut std::io::stdout());
            Ok(Outcome::Done)
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Args::command());
            page.render(&mut std::io::stdout())
                .map_err(|e| Error::new(ErrorKind::Denied, format!("the manual page cannot be printed: {e}")))?;
            Ok(Outcome::Done)
        }
    }
}

/// The first Ctrl-C (or SIGTERM) asks to stop, the second ends the process.
fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        wait_for_signal().await;
        token.cancel();
        eprintln!("rowferry: stopping; once more to end at once");
        wait_for_signal().await;
        std::process::exit(130);
    });
    stop
}

#[cfg(unix)]
async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    if let Ok(mut term) = signal(SignalKind::terminate()) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = term.recv() => {}
        }
    } else {
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() {
    let _ = tokio::signal::ctrl_c().await;
}

fn start_log(args: &Args) {
    let level = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "rowferry=info,warn",
        (false, 2) => "rowferry=debug,info",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(level);
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
