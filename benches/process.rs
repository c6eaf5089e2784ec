//! Runs programs and reads what they cost from `/proc`.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// From start to exit.
    pub took: Duration,
    /// Processor time of the program and what it started, in seconds.
    pub cpu: f64,
    /// Peak resident memory in KiB.
    pub peak: u64,
}

/// Runs the program under test, which must end with one of these exit codes, and watches its memory.
pub fn rowferry(args: &[&str], folder: &Path, codes: &[i32]) -> Outcome<Run> {
    let errors = folder.join("stderr");
    let (before, started) = (children(), Instant::now());
    let mut child = Command::new(program())
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors)?)
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let end = loop {
        if let Ok(text) = std::fs::read_to_string(&status) {
            let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
            let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
        if let Some(end) = child.try_wait()? {
            break end;
        }
        std::thread::sleep(Duration::from_millis(4));
    };
    let took = started.elapsed();
    if !end.code().is_some_and(|code| codes.contains(&code)) {
        return Err(format!("rowferry {}: {end}\n{}", args.join(" "), std::fs::read_to_string(errors)?).into());
    }
    Ok(Run { took, cpu: children() - before, peak })
}

fn program() -> String {
    std::env::var("ROWFERRY_BENCH_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_rowferry").into())
}

/// The program under test, running on until it is stopped or dropped.
pub struct Background(Child);

impl Background {
    pub fn rowferry(args: &[&str], folder: &Path) -> Outcome<Self> {
        let errors = File::create(folder.join("stderr"))?;
        let mut command = Command::new(program());
        command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        Ok(Self(command.spawn()?))
    }

    pub fn id(&self) -> String {
        self.0.id().to_string()
    }

    /// Asks it to stop, and waits.
    pub fn stop(mut self) -> Outcome<()> {
        ok(Command::new("kill").args(["-INT", &self.id()]))?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fields of `/proc/PID/stat` after the name, counted as in proc(5).
fn stat(pid: &str, fields: &[usize]) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    fields.iter().map(|field| rest.get(field - 3)?.parse::<f64>().ok()).sum()
}

/// Clock ticks of `/proc` in a second.
const TICKS: f64 = 100.0;

/// Processor time of this process and of the children that have ended, in seconds.
pub fn children() -> f64 {
    stat("self", &[14, 15, 16, 17]).unwrap_or(0.0) / TICKS
}

/// Processor time of a server so far, in seconds, with its children, running or ended.
pub fn server(pid: &str) -> f64 {
    let own = stat(pid, &[14, 15, 16, 17]).unwrap_or(0.0);
    let parent: Option<f64> = pid.parse().ok();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let running: f64 = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| stat(name, &[4]).is_some() && stat(name, &[4]) == parent)
        .filter_map(|name| stat(&name, &[14, 15]))
        .sum();
    (own + running) / TICKS
}

pub fn ok(command: &mut Command) -> Outcome<()> {
    text(command).map(drop)
}

pub fn text(command: &mut Command) -> Outcome<String> {
    let done = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if !done.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

pub fn piped(from: &mut Command, to: &mut Command) -> Outcome<()> {
    let mut first = from.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let pipe = first.stdout.take().ok_or("no pipe")?;
    let second = to.stdin(pipe).stdout(Stdio::null()).status()?;
    if !first.wait()?.success() || !second.success() {
        return Err(format!("{from:?} | {to:?} failed").into());
    }
    Ok(())
}
