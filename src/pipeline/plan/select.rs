//! Which tables and columns take part, and in which order.

use std::collections::{BTreeMap, BTreeSet};

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
/// `SchemaMismatch` for a name that is no table or a glob that matches none, and where nothing is left.
pub async fn select_tables(database: &dyn Database, wanted: &[String], exclude: &[String]) -> Result<Vec<Table>> {
    let own = database.tables(None).await?;
    let mut names: BTreeSet<TableName> = BTreeSet::new();
    if wanted.is_empty() {
        names.extend(own.iter().cloned());
    }
    for pattern in wanted {
        let found = matching_tables(database, &own, pattern).await?;
        if found.is_empty() {
            return Err(no_table(database, &own, pattern).await?);
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

/// Refuses names and globs to leave out that no table has: what a misspelt one was to keep back would be read.
pub(super) async fn refuse_idle(database: &dyn Database, exclude: &[String]) -> Result<()> {
    let own = if exclude.is_empty() { Vec::new() } else { database.tables(None).await? };
    for pattern in exclude {
        if matching_tables(database, &own, pattern).await?.is_empty() {
            return Err(no_table(database, &own, pattern).await?.context("exclude"));
        }
    }
    Ok(())
}

/// That a database has no table that matches, with what stands there instead or a hint.
///
/// # Errors
/// What the database says.
async fn no_table(database: &dyn Database, own: &[TableName], pattern: &str) -> Result<Error> {
    let hint = match not_a_table(database, pattern).await? {
        Some(what) => format!(": {what}"),
        None => nearest(pattern, &own.iter().map(|n| n.name.as_str()).collect::<Vec<_>>()),
    };
    Ok(Error::new(ErrorKind::SchemaMismatch, format!("{} has no table '{pattern}'{hint}", database.label())))
}

/// What a database has under this name instead of a table, in words.
///
/// # Errors
/// What the database says.
pub async fn not_a_table(database: &dyn Database, pattern: &str) -> Result<Option<String>> {
    let name = plain_name(pattern);
    if database.name_fault(&name).is_some() {
        return Ok(None);
    }
    let mut names = vec![TableName::new(name)];
    names.extend(
        pattern.split_once('.').map(|(schema, rest)| TableName::qualified(plain_name(schema), plain_name(rest))),
    );
    let found = database.taken(&names).await?.into_iter().next();
    Ok(found.map(|(name, what)| format!("{name} is {}, and only tables take part", one(&what))))
}

/// A word with its article.
pub(super) fn one(what: &str) -> String {
    let article = if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {what}")
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

/// Parents before children, else by name; of a cycle the first by name goes before its parents.
pub(super) fn sort_parents_first(tables: Vec<Table>) -> Vec<Table> {
    let places: BTreeMap<&TableName, usize> = tables.iter().enumerate().map(|(at, t)| (&t.name, at)).collect();
    let parents = |t: &Table| -> BTreeSet<usize> {
        let others = t.foreign_keys.iter().filter(|f| f.parent != t.name);
        others.filter_map(|f| places.get(&f.parent).copied()).collect()
    };
    let mut waits: Vec<BTreeSet<usize>> = tables.iter().map(parents).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); tables.len()];
    for (child, parents) in waits.iter().enumerate() {
        for &parent in parents {
            children[parent].push(child);
        }
    }
    let mut rest: BTreeSet<usize> = (0..tables.len()).collect();
    let mut free: BTreeSet<usize> = rest.iter().copied().filter(|&at| waits[at].is_empty()).collect();
    let mut order = Vec::with_capacity(tables.len());
    while let Some(next) = free.pop_first().or_else(|| rest.first().copied()) {
        rest.remove(&next);
        order.push(next);
        for &child in &children[next] {
            waits[child].remove(&next);
            if waits[child].is_empty() && rest.contains(&child) {
                free.insert(child);
            }
        }
    }
    let mut tables: Vec<Option<Table>> = tables.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| tables[at].take()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ForeignKey, ForeignKeyAction};

    #[test]
    fn parents_come_first_and_cycles_are_cut_at_their_first_name() {
        let sorted = |edges: &[(&str, &[&str])]| -> Vec<String> {
            let table = |(name, parents): &(&str, &[&str])| {
                let mut table = Table::new(TableName::new(*name), Vec::new());
                table.foreign_keys.extend(parents.iter().map(|parent| ForeignKey {
                    name: String::new(),
                    columns: Vec::new(),
                    parent: TableName::new(*parent),
                    parent_columns: Vec::new(),
                    on_delete: ForeignKeyAction::NoAction,
                    on_update: ForeignKeyAction::NoAction,
                    native: None,
                }));
                table
            };
            sort_parents_first(edges.iter().map(table).collect()).into_iter().map(|t| t.name.name).collect()
        };
        assert_eq!(sorted(&[("a", &["b"]), ("b", &["c"]), ("c", &[]), ("d", &["d"])]), ["c", "b", "a", "d"]);
        assert_eq!(sorted(&[("a", &["b"]), ("b", &["a"]), ("c", &["b", "missing"])]), ["a", "b", "c"]);
        assert_eq!(sorted(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])]), ["d", "a", "b", "c"]);
    }

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
