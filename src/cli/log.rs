//! Log lines on stderr, in the form of every other sentence there.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::args::{Args, Command};

/// Starts the log, as loud as was asked for.
pub(super) fn start(args: &Args) {
    // A node says what it does.
    let serves = matches!(args.command, Command::Serve);
    let level = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) if serves => "rowferry=info,rowferry::step=warn,warn",
        (false, 0) => "warn",
        (false, 1) => "rowferry=info,warn",
        (false, 2) => "rowferry=debug,info",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(level);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .event_format(Sentence)
        .with_writer(std::io::stderr)
        .try_init();
}

/// `rowferry: warning: …`; the word in colour where the writer takes colours.
struct Sentence;

impl<S, N> FormatEvent<S, N> for Sentence
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (word, colour) = word(*event.metadata().level());
        if writer.has_ansi_escapes() {
            write!(writer, "rowferry: \x1b[{colour}m{word}:\x1b[0m ")?;
        } else {
            write!(writer, "rowferry: {word}: ")?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// A level's word and the number of its colour.
fn word(level: Level) -> (&'static str, u8) {
    match level {
        Level::ERROR => ("error", 31),
        Level::WARN => ("warning", 33),
        Level::INFO => ("info", 32),
        Level::DEBUG => ("debug", 34),
        Level::TRACE => ("trace", 35),
    }
}
