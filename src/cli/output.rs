//! Everything that is printed.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::args::{Args, Format};
use crate::engine::Error;
use crate::pipeline::Progress;

/// Where output goes and in which form.
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    documents: bool,
}

impl Output {
    pub(crate) fn new(args: &Args) -> Self {
        Self { format: args.format, quiet: args.quiet, documents: true }
    }

    /// The same, for a step of a longer tale whose last document is the only one.
    pub(crate) fn without_documents(&self) -> Self {
        Self { documents: false, ..*self }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A line for people; nothing with `--format json`.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        if !self.is_json() {
            // A closed pipe is the reader's wish.
            let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
        }
    }

    /// The one JSON document.
    pub(crate) fn document(&self, value: &impl serde::Serialize) {
        if self.is_json()
            && self.documents
            && let Ok(text) = serde_json::to_string(value)
        {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    /// The one sentence of an error.
    pub(crate) fn error(&self, error: &Error) {
        let _ = self;
        let _ = writeln!(std::io::stderr(), "rowferry: {error}");
    }

    /// Shows progress on a terminal until the returned guard is dropped.
    pub(crate) fn watch(&self, progress: &Progress) -> Watch {
        if self.is_json() || self.quiet || !std::io::stderr().is_terminal() {
            return Watch { task: None };
        }
        let progress = progress.clone();
        Watch { task: Some(tokio::spawn(draw(progress))) }
    }
}

/// Stops drawing when dropped.
pub(crate) struct Watch {
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Tables at work get a bar each; those that are done leave.
async fn draw(progress: Progress) {
    let screen = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:24!} {bar:24} {human_pos}/{human_len} rows {per_sec} {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut bars: Vec<Option<ProgressBar>> = vec![None; progress.tables.len()];
    loop {
        for (table, bar) in progress.tables.iter().zip(&mut bars) {
            let (read, total) = (table.read.load(Ordering::Relaxed), table.total.load(Ordering::Relaxed));
            if table.done.load(Ordering::Relaxed) {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            } else if read > 0 {
                let bar = bar.get_or_insert_with(|| {
                    screen.add(ProgressBar::new(total).with_style(style.clone()).with_prefix(table.name.clone()))
                });
                bar.set_position(read);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Rows of cells as aligned columns, two spaces between; numbers to the right.
pub(crate) fn columns(rows: &[Vec<String>]) -> Vec<String> {
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
