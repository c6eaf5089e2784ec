//! Names and values of files that are lists of them.

use super::Constants;

/// `NAME=value` lines, with or without quotes and `export`.
pub(super) fn of_environment(text: &str) -> Constants {
    let line = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let value = value.trim();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default(),
            _ => value.split(" #").next().unwrap_or_default().trim_end(),
        };
        (!name.starts_with('#')).then(|| (name.trim().to_owned(), value.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// `define('NAME', 'value')` and `const NAME = 'value'`, outside of comments.
pub(super) fn of_php(text: &str) -> Constants {
    let mut found = Constants::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("//") || line.starts_with('#') || line.starts_with('*') || line.starts_with("/*") {
            continue;
        }
        let named = line.strip_prefix("define(").and_then(|rest| {
            let (name, rest) = rest.split_once(',')?;
            Some((name.trim().trim_matches(['\'', '"']), rest.trim()))
        });
        let constant = line.strip_prefix("const ").and_then(|rest| rest.split_once('='));
        let Some((name, value)) = named.or(constant.map(|(name, value)| (name.trim(), value.trim()))) else { continue };
        let value = if let Some(quote @ ('"' | '\'')) = value.chars().next() {
            value[1..].split(quote).next().map(str::to_owned)
        } else {
            // A number; anything else is computed when the program runs.
            let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
            (!digits.is_empty()).then_some(digits)
        };
        if let Some(value) = value {
            found.insert(name.to_owned(), value);
        }
    }
    found
}
