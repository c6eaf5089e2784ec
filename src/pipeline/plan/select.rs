//! Which tables and columns take part, and in which order.

use std::collections::BTreeSet;

use super::columns::ColumnChoice;
use crate::engine::{Database, Error, ErrorKind, Result};
use crate::model::{Table, TableName};

/// Matches a name against a glob of `*` and `?`; `\` takes the meaning of the character behind it away.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    /// What stands at one place of a pattern.
    #[derive(PartialEq)]
    enum Part {
        Any,
        One,
        Char(char),
    }
    // Nearly all are names, and there may be thousands of both.
    if !pattern.contains(['*', '?', '\\']) {
        return pattern == name;
    }
    let mut chars = pattern.chars();
    let mut p = Vec::new();
    while let Some(c) = chars.next() {
        p.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Char(chars.next().unwrap_or(c)),
            c => Part::Char(c),
        });
    }
    let n: Vec<char> = name.chars().collect();
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < n.len() {
        if i < p.len() && p[i] == Part::Any {
            star = Some((i, j));
            i += 1;
        } else if i < p.len() && (p[i] == Part::One || p[i] == Part::Char(n[j])) {
            i += 1;
            j += 1;
        } else if let Some((star_i, star_j)) = star {
            i = star_i + 1;
            j = star_j + 1;
            star = Some((star_i, star_j + 1));
        } else {
            return false;
        }
    }
    p[i..].iter().all(|part| *part == Part::Any)
}

/// The pattern that matches this name alone.
#[must_use]
pub fn exact_pattern(name: &str) -> String {
    name.chars().fold(String::new(), |mut out, c| {
        if matches!(c, '*' | '?' | '\\') {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// The name that a pattern without `*` and `?` matches.
fn plain_name(pattern: &str) -> String {
    let mut chars = pattern.chars();
    std::iter::from_fn(|| chars.next().and_then(|c| if c == '\\' { chars.next().or(Some(c)) } else { Some(c) }))
        .collect()
}

/// Names of a database's tables that match one of these patterns, each with or without its schema.
///
/// # Errors
/// What the database says.
pub async fn matching_tables(database: &dyn Database, own: &[TableName], pattern: &str) -> Result<Vec<TableName>> {
    let found: Vec<TableName> = own.iter().filter(|n| matches_pattern(pattern, &n.name)).cloned().collect();
    match pattern.split_once('.') {
        Some((schema, rest)) if found.is_empty() => {
            let mut elsewhere = match database.tables(Some(&plain_name(schema))).await {
                // An engine without schemas has names with dots, and this is none of them.
                Err(e) if e.kind == ErrorKind::SchemaMismatch => Vec::new(),
                other => other?,
            };
            elsewhere.retain(|n| matches_pattern(rest, &n.name));
            Ok(elsewhere)
        }
        _ => Ok(found),
    }
}

/// The tables of a database that are named, or match a glob, and are not excluded.
///
/// # Errors
/// `SchemaMismatch` for a name that is no table; globs may match nothing only beside others that do.
pub async fn select_tables(database: &dyn Database, wanted: &[String], exclude: &[String]) -> Result<Vec<Table>> {
    let own = database.tables(None).await?;
    let mut names: BTreeSet<TableName> = BTreeSet::new();
    if wanted.is_empty() {
        names.extend(own.iter().cloned());
    }
    for pattern in wanted {
        let found = matching_tables(database, &own, pattern).await?;
        if found.is_empty() {
            let known: Vec<&str> = own.iter().map(|n| n.name.as_str()).collect();
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("{} has no table '{pattern}'{}", database.label(), nearest(pattern, &known)),
            ));
        }
        names.extend(found);
    }
    names.retain(|n| !exclude.iter().any(|x| matches_pattern(x, &n.name) || matches_pattern(x, &n.to_string())));
    let names: Vec<TableName> = names.into_iter().collect();
    // A table may be dropped between the listing and this.
    let tables: Vec<Table> = database.describe_all(&names).await?.into_iter().flatten().collect();
    if tables.is_empty() {
        return Err(Error::new(ErrorKind::SchemaMismatch, format!("{} has no table to read", database.label())));
    }
    Ok(tables)
}

/// A hint with the nearest known name.
pub(super) fn nearest(name: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .filter(|(distance, k)| *distance <= 2.max(k.len() / 3))
        .min()
        .map(|(_, k)| format!("; did you mean '{k}'?"))
        .unwrap_or_default()
}

/// The table with the columns of a choice, every name of which must exist.
pub(super) fn choose_columns(table: &Table, choice: &ColumnChoice) -> Result<Table> {
    let known: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    for name in choice.only.iter().flatten().chain(&choice.exclude) {
        if table.column(name).is_none() {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("{} has no column '{name}'{}", table.name, nearest(name, &known)),
            ));
        }
    }
    let wanted =
        |name: &String| choice.only.as_ref().is_none_or(|o| o.contains(name)) && !choice.exclude.contains(name);
    let positions: Vec<usize> = (0..table.columns.len()).filter(|&i| wanted(&table.columns[i].name)).collect();
    Ok(table.project(&positions))
}

/// Parents before children; tables of a cycle in the order of their names.
pub(super) fn sort_parents_first(tables: Vec<Table>) -> Vec<Table> {
    let mut rest = tables;
    let mut sorted: Vec<Table> = Vec::with_capacity(rest.len());
    let mut names: BTreeSet<TableName> = rest.iter().map(|t| t.name.clone()).collect();
    while !rest.is_empty() {
        let free = |t: &Table| t.foreign_keys.iter().all(|f| f.parent == t.name || !names.contains(&f.parent));
        let at = rest.iter().position(free).unwrap_or(0);
        let next = rest.remove(at);
        names.remove(&next.name);
        sorted.push(next);
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, matches) in [
            ("c_*", "c_1", true),
            ("*", "", true),
            ("a?c", "aüc", true),
            ("a?c", "ac", false),
            ("*b*d", "abcbd", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[a]", "[a]", true),
            ("[a]", "a", false),
            ("\\\\", "\\", true),
        ] {
            assert_eq!(matches_pattern(pattern, name), matches, "{pattern} {name}");
        }
        for name in ["a*b?", "\\", "x\\*", "plain"] {
            assert!(matches_pattern(&exact_pattern(name), name));
            assert_eq!(plain_name(&exact_pattern(name)), name);
            assert!(!matches_pattern(&exact_pattern(name), &format!("{name}x")));
        }
    }
}
