//! The tree is what ARCHITECTURE.md says: areas in layers, products' names in one place.

use std::fs;
use std::path::{Path, PathBuf};

/// Each area uses only areas before it.
const LAYERS: [&str; 18] = [
    "runtime", "model", "conflict", "config", "engine", "site", "state", "capture", "compare", "apply", "endpoint",
    "pipeline", "diff", "peer", "jobs", "http", "sample", "cli",
];
const PRODUCTS: [&str; 4] = ["sqlite", "mysql", "mariadb", "postgres"];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// Area and text of each source file; the crate root (`main.rs`, `lib.rs`) has no area.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let with_area = |path: PathBuf| {
        let inside = path.strip_prefix(&root).expect("inside src").to_path_buf();
        let area = inside.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).expect("UTF-8");
        (area, inside, text)
    };
    let all: Vec<_> = files(&root).into_iter().map(with_area).collect();
    all.into_iter().filter(|(area, ..)| area != "main" && area != "lib").collect()
}

/// The code of a file with its line numbers: without comments, and without what follows `mod tests`.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines()).take_while(|(_, line)| !line.starts_with("mod tests"));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Each name that follows `crate::`, those in `crate::{a, b::c}` of one line too.
fn used_areas(line: &str) -> Vec<&str> {
    let mut areas = Vec::new();
    for (at, found) in line.match_indices("crate::") {
        // `other_crate::` is not ours
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &line[at + found.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            areas.extend(list.split(',').map(name_at_start));
        } else {
            areas.push(name_at_start(rest));
        }
    }
    areas
}

fn name_at_start(text: &str) -> &str {
    let text = text.trim_start();
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// The line with what stands between quotes taken out.
fn without_strings(line: &str) -> String {
    line.replace("\\\"", "").split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

fn layer(area: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == area)
}

#[test]
fn every_area_has_a_layer() {
    for (area, file, _) in sources() {
        assert!(layer(&area).is_some(), "src/{} is in no area that ARCHITECTURE.md knows", file.display());
    }
}

#[test]
fn an_area_uses_only_areas_above_it() {
    let mut wrong = Vec::new();
    for (area, file, text) in sources() {
        for (number, line) in code(&text) {
            for used in used_areas(line).into_iter().filter(|used| layer(used) > layer(&area)) {
                wrong.push(format!("src/{}:{number}: {area} uses {used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In strings and comments a product may be named to people; in code only its engine is.
#[test]
fn products_are_named_only_in_their_engines() {
    let mut wrong = Vec::new();
    for (area, file, text) in sources() {
        if area == "engine" || file.ends_with("tests.rs") {
            continue;
        }
        for (number, line) in code(&text) {
            let line = without_strings(line).to_lowercase();
            if PRODUCTS.iter().any(|product| line.contains(product)) {
                wrong.push(format!("src/{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Words by which code is for one kind of system only.
const TELLS_APART: [&str; 14] = [
    "os::unix",
    "os::linux",
    "os::windows",
    "os::fd",
    "signal::unix",
    "signal::windows",
    "cfg(unix",
    "cfg(windows",
    "cfg(not(unix",
    "cfg(not(windows",
    "cfg!(unix",
    "cfg!(windows",
    "target_os",
    "target_family",
];

/// What differs between systems stands in one place, so that the rest is the same on all of them.
#[test]
fn systems_are_told_apart_only_in_the_runtime() {
    let mut wrong = Vec::new();
    for (_, file, text) in
        sources().into_iter().filter(|(area, file, _)| area != "runtime" && !file.ends_with("tests.rs"))
    {
        for (number, line) in code(&text) {
            let line = without_strings(line);
            if TELLS_APART.iter().any(|words| line.contains(words)) {
                wrong.push(format!("src/{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(used_areas("use crate::model::Batch;"), ["model"]);
    assert_eq!(used_areas("    crate::{engine::Error, diff}; other_crate::x"), ["engine", "diff"]);
    assert_eq!(without_strings(r#"match x { "mysql" => 1, "a\"b" => MySql }"#), r#"match x { "" => 1, "" => MySql }"#);
    assert!(layer("model") < layer("engine") && layer("pipeline") < layer("cli"));
}
