//! Everything that is printed.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{Args, Format};
use crate::engine::{Error, ErrorKind};
use crate::pipeline::Progress;

/// Where output goes and in which form.
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    documents: bool,
    /// Whether the one document has been printed.
    told: Arc<AtomicBool>,
    /// Why stdout took something no more, unless its reader just went away.
    fault: Arc<OnceLock<String>>,
}

impl Output {
    pub(crate) fn new(args: &Args) -> Self {
        let (told, fault) = (Arc::default(), Arc::default());
        Self { format: args.format, quiet: args.quiet, documents: true, told, fault }
    }

    /// One that says nothing on stdout.
    pub(crate) fn silent() -> Self {
        let (told, fault) = (Arc::default(), Arc::default());
        Self { format: Format::Json, quiet: true, documents: false, told, fault }
    }

    /// Whether only what went wrong is to be said.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A line for people, without whatever in it would break a line; nothing with `--format json`.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        if !self.is_json() {
            self.raw(format!("{}\n", shown(text.as_ref())).as_bytes());
        }
    }

    /// A line about what went well, which `-q` leaves out.
    pub(crate) fn news(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// The one JSON document.
    pub(crate) fn document(&self, value: &impl serde::Serialize) {
        if self.is_json()
            && self.documents
            && let Ok(text) = serde_json::to_string(value)
        {
            self.told.store(true, Ordering::Relaxed);
            self.raw(format!("{text}\n").as_bytes());
        }
    }

    /// These bytes, whatever the format.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // A closed pipe is the reader's wish.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => drop(self.fault.set(e.to_string())),
            _ => {}
        }
    }

    /// Why stdout did not take all that was said, if so.
    pub(crate) fn fault(&self) -> Option<Error> {
        self.fault.get().map(|e| Error::new(ErrorKind::Full, format!("stdout cannot be written: {e}")))
    }

    /// The one sentence of an error, and the document where none was printed yet.
    pub(crate) fn error(&self, error: &Error) {
        complain(error.message());
        if !self.told.load(Ordering::Relaxed) {
            self.document(&failure(error.kind, error.message()));
        }
    }

    /// Whether someone sees how a run gets on.
    pub(crate) fn is_watched(&self) -> bool {
        !self.is_json() && !self.quiet && std::io::stderr().is_terminal()
    }

    /// Shows progress on a terminal until the returned guard is dropped.
    pub(crate) fn watch(&self, progress: &Progress) -> Watch {
        Watch(self.is_watched().then(|| {
            let screen = MultiProgress::new();
            (tokio::spawn(draw(progress.clone(), screen.clone())), screen)
        }))
    }
}

/// A line on stderr; where that is closed, nobody wants to know.
pub(crate) fn complain(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "rowferry: {}", shown(sentence));
}

/// The document of a command that failed: its kind in lower-case words joined by `-`.
pub(crate) fn failure(kind: ErrorKind, message: &str) -> serde_json::Value {
    let mut word = String::new();
    for c in format!("{kind:?}").chars() {
        if c.is_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(c.to_ascii_lowercase());
    }
    serde_json::json!({ "error": { "kind": word, "message": message } })
}

/// The text on one line: control characters, which a name may hold, as escapes.
pub(crate) fn shown(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// Stops drawing when dropped, and leaves nothing of what was drawn.
pub(crate) struct Watch(Option<(tokio::task::JoinHandle<()>, MultiProgress)>);

impl Drop for Watch {
    fn drop(&mut self) {
        let Some((task, screen)) = &self.0 else { return };
        task.abort();
        // A terminal that is gone needs no clearing.
        let _ = screen.clear();
        // The task may end only after the result is printed, and would draw once more.
        screen.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// Tables at work get a bar each; those that are done leave.
async fn draw(progress: Progress, screen: MultiProgress) {
    let style = ProgressStyle::with_template("{prefix:24!} {bar:24} {human_pos}/{human_len} rows{msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut bars: Vec<Option<(ProgressBar, Instant)>> = vec![None; progress.tables.len()];
    loop {
        for (table, bar) in progress.tables.iter().zip(&mut bars) {
            let (read, total) = (table.read.load(Ordering::Relaxed), table.total.load(Ordering::Relaxed));
            if table.done.load(Ordering::Relaxed) {
                if let Some((bar, _)) = bar.take() {
                    bar.finish_and_clear();
                }
            } else if read > 0 {
                let (bar, since) = bar.get_or_insert_with(|| {
                    let bar = ProgressBar::new(total).with_style(style.clone()).with_prefix(shown(&table.name));
                    (screen.add(bar), Instant::now())
                });
                bar.set_message(pace(read, total, since.elapsed()));
                bar.set_position(read);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Rate and time left, once there is something to tell by.
fn pace(read: u64, total: u64, took: Duration) -> String {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if millis < 500 {
        return String::new();
    }
    let rate = (read.saturating_mul(1000) / millis).max(1);
    if read >= total {
        return format!(", {}/s, finishing", HumanCount(rate));
    }
    format!(", {}/s, {} left", HumanCount(rate), HumanDuration(Duration::from_secs((total - read) / rate)))
}

/// Rows of cells as aligned columns, two spaces between; numbers to the right.
pub(crate) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let size = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let sizes: Vec<usize> = (0..width).map(size).collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let pad = " ".repeat(sizes[c] - cell.chars().count());
                let number = !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit());
                if c > 0 {
                    line.push_str("  ");
                }
                line.push_str(&if number { format!("{pad}{cell}") } else { format!("{cell}{pad}") });
            }
            line.trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_told_when_it_is_known() {
        let told = |read, total, millis| pace(read, total, Duration::from_millis(millis));
        assert_eq!(told(1_000_000, 2_000_000, 100), "");
        assert_eq!(told(50_000, 1_250_000, 2000), ", 25,000/s, 48 seconds left");
        assert_eq!(told(1, 1000, 60_000), ", 1/s, 17 minutes left");
        assert_eq!(told(1000, 1000, 1000), ", 1,000/s, finishing");
    }
}
