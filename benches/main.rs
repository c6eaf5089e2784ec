//! Measures rowferry beside the engines' own means, in alternation and on the same rows; contents are compared after
//! each run. `./bench.sh` runs it.

mod changes;
mod copy;
mod ends;
mod process;
mod tables;

use std::error::Error;

use changes::{catch_up, cost, idle, lag, write_path};
use copy::{copies, diffs, memory};
use ends::Bench;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");

fn main() {
    // `cargo test --benches` passes no servers, and nothing here is a test.
    let (Ok(postgres), Ok(maria)) = (std::env::var("ROWFERRY_TEST_POSTGRES"), std::env::var("ROWFERRY_TEST_MARIADB"))
    else {
        eprintln!("no servers: run ./bench.sh");
        return;
    };
    if let Err(e) = Bench::new(&postgres, &maria).and_then(|bench| run(&bench)) {
        eprint!("bench: {e}");
        // What a driver says no more than that something is wrong stands behind it.
        let mut source = e.source();
        while let Some(cause) = source {
            eprint!(": {cause}");
            source = cause.source();
        }
        eprintln!();
        std::process::exit(1);
    }
}

type Part = fn(&Bench) -> Outcome<String>;

/// What can be measured, with the name of its place in the page.
const PARTS: [(&str, Part); 9] = [
    ("copy", copies::orders),
    ("wide", copies::wide),
    ("diff", diffs::diffs),
    ("memory", memory::memory),
    ("write", write_path::write_path),
    ("catch-up", catch_up::catch_up),
    ("lag", lag::lag),
    ("idle", idle::idle),
    ("cost", cost::cost),
];

/// Measures the parts that the arguments name, or all.
fn run(bench: &Bench) -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| args.iter().any(|a| a == name);
    let all = !PARTS.iter().any(|(name, _)| named(name));
    for (name, part) in PARTS {
        if all || named(name) {
            let text = format!("{}\n\n{}", bench.conditions()?, part(bench)?);
            println!("{text}");
            if named("--write") {
                put(name, &text, bench.chooses())?;
            }
        }
    }
    Ok(())
}

/// Puts the figures of a part into the page; where pairs were chosen, the lines of the others stay.
fn put(name: &str, text: &str, chosen: bool) -> Outcome<()> {
    let (begin, end) = (format!("<!-- figures: {name} -->\n"), format!("<!-- end of {name} -->"));
    let page = std::fs::read_to_string(PAGE)?;
    let place = page.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let (head, tail) = place.ok_or("docs/performance.md has no place for these figures")?;
    let before = &page[head.len() + begin.len()..page.len() - tail.len() - end.len()];
    let text = if chosen { merged(before, text) } else { text.to_owned() };
    Ok(std::fs::write(PAGE, format!("{head}{begin}{text}{end}{tail}"))?)
}

/// The lines that were there, with those of the same pair and tool anew.
fn merged(before: &str, text: &str) -> String {
    let names = |line: &str| -> Vec<String> {
        let cells = line.split(" | ").map(|cell| cell.trim_matches(['|', ' ']));
        cells.filter(|cell| !cell.starts_with(|c: char| c.is_ascii_digit() || c == '–')).map(str::to_owned).collect()
    };
    let row = |line: &&str| line.starts_with("| ");
    let mut out = String::new();
    for line in before.lines() {
        let anew = text.lines().filter(row).find(|new| row(&line) && names(new) == names(line));
        out.push_str(anew.unwrap_or(line));
        out.push('\n');
    }
    out
}

/// The middle of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
