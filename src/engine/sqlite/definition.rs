//! What only the text of CREATE TABLE tells: how columns are computed, and checks.

use std::collections::BTreeSet;

/// The words of a table's definition that no pragma tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Definition {
    /// Of each column that is computed: its name, and `GENERATED ALWAYS AS (…) STORED`.
    pub generated: Vec<(String, String)>,
    /// Each check, with its name where it has one.
    pub checks: Vec<String>,
    /// Of each reference, in the order in which they stand, whether it is looked at no sooner than at the commit.
    pub deferred: Vec<bool>,
    /// What it says besides that is carried nowhere.
    pub left_out: BTreeSet<&'static str>,
}

/// A word, a quoted name, a number or a sign, with its place in the text.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    start: usize,
    /// How many parentheses are open around it; that of a parenthesis is the depth inside it.
    depth: usize,
}

impl Token<'_> {
    fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// Reads `CREATE TABLE … ( … ) …` as SQLite keeps it, which is always well-formed.
pub(super) fn read(sql: &str) -> Definition {
    let tokens = tokens(sql);
    let mut out = Definition::default();
    let inside: Vec<Token<'_>> =
        tokens.iter().skip_while(|t| t.depth == 0).skip(1).take_while(|t| t.depth > 0).copied().collect();
    for part in inside.split(|t| t.depth == 1 && t.text == ",") {
        let says = |a: &str, b: &str| part.windows(2).any(|w| w[0].depth == 1 && w[0].is(a) && w[1].is(b));
        out.left_out.extend(says("ON", "CONFLICT").then_some("ON CONFLICT clauses"));
        for (at, token) in part.iter().enumerate().filter(|(_, t)| t.depth == 1) {
            let named = at >= 2 && part[at - 2].depth == 1 && part[at - 2].is("CONSTRAINT");
            if token.is("REFERENCES") {
                out.deferred.push(false);
            } else if token.is("DEFERRABLE") {
                let words = |n: usize, word: &str| part.get(at + n).is_some_and(|t| t.is(word));
                let refused = at > 0 && part[at - 1].is("NOT");
                if let Some(last) = out.deferred.last_mut() {
                    *last = !refused && words(1, "INITIALLY") && words(2, "DEFERRED");
                }
            } else if token.is("CHECK") {
                let from = if named { part[at - 2].start } else { token.start };
                out.checks.extend(close(part, at).map(|end| sql[from..end].to_owned()));
            } else if token.is("AS") && part.get(at + 1).is_some_and(|t| t.text == "(") {
                out.generated.extend(computed(sql, part, at));
            }
        }
    }
    out
}

/// Where the parenthesis that opens behind `at` closes.
fn close(part: &[Token<'_>], at: usize) -> Option<usize> {
    part[at + 1..].iter().find(|t| t.depth == 2 && t.text == ")").map(Token::end)
}

fn computed(sql: &str, part: &[Token<'_>], at: usize) -> Option<(String, String)> {
    let (open, end) = (part.get(at + 1)?, close(part, at)?);
    let stored = part.iter().find(|t| t.start >= end).is_some_and(|t| t.is("STORED"));
    let words = format!("GENERATED ALWAYS AS {} {}", &sql[open.start..end], if stored { "STORED" } else { "VIRTUAL" });
    Some((unquote(part.first()?.text), words))
}

fn unquote(name: &str) -> String {
    let inner = |open: char, close: char| name.strip_prefix(open).and_then(|n| n.strip_suffix(close));
    for quote in ['"', '`', '\''] {
        if let Some(inner) = inner(quote, quote) {
            return inner.replace(&format!("{quote}{quote}"), &quote.to_string());
        }
    }
    inner('[', ']').unwrap_or(name).to_owned()
}

fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(c) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let length = match c {
            '"' | '`' | '\'' => quoted(rest, c),
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            _ if in_a_word(c) => rest.find(|c| !in_a_word(c)).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        let text = &rest[..length];
        if c == '(' {
            depth += 1;
        }
        if !c.is_whitespace() && !text.starts_with("--") && !text.starts_with("/*") {
            out.push(Token { text, start: at, depth });
        }
        if c == ')' {
            depth = depth.saturating_sub(1);
        }
        at += length;
    }
    out
}

fn in_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Length of the quoted text at the beginning; a doubled quote is part of it.
fn quoted(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(end) = text[at..].find(quote) {
        at += end + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_and_computed_columns_are_found_between_everything_else() {
        let found = read(
            "CREATE TABLE \"t(\" ( -- a, CHECK (no)\n id INTEGER PRIMARY KEY ON CONFLICT REPLACE CHECK (id > 0),\n \
             [a b] TEXT DEFAULT ('x, CHECK (1)') CONSTRAINT \"named, so\" CHECK (length(\"a b\") < 5 AND (1)), \
             \"q\"\"q\" INT AS (id * 2) STORED, v TEXT GENERATED ALWAYS AS (upper([a b] || ')')) UNIQUE, \
             kind TEXT CHECK (kind IN ('a', 'b')), as_of TEXT REFERENCES a, check_no INT, /* CHECK (2) */ \
             of INT REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED REFERENCES b NOT DEFERRABLE INITIALLY DEFERRED, \
             CHECK (id < check_no), UNIQUE (id, kind), FOREIGN KEY (id, of) REFERENCES c ON DELETE CASCADE DEFERRABLE \
             INITIALLY DEFERRED, FOREIGN KEY (id) REFERENCES d DEFERRABLE) STRICT, WITHOUT ROWID",
        );
        assert_eq!(
            found.checks,
            [
                "CHECK (id > 0)",
                "CONSTRAINT \"named, so\" CHECK (length(\"a b\") < 5 AND (1))",
                "CHECK (kind IN ('a', 'b'))",
                "CHECK (id < check_no)"
            ]
        );
        assert_eq!(
            found.generated,
            [
                ("q\"q".to_owned(), "GENERATED ALWAYS AS (id * 2) STORED".to_owned()),
                ("v".to_owned(), "GENERATED ALWAYS AS (upper([a b] || ')')) VIRTUAL".to_owned())
            ]
        );
        assert_eq!(found.left_out, ["ON CONFLICT clauses"].into());
        assert_eq!(found.deferred, [false, true, false, true, false]);
        assert_eq!(read("CREATE TABLE t (a)"), Definition::default());
    }
}
