//! Whether a condition stays what it is taken for: one expression between parentheses of ours.

use super::{Error, ErrorKind, Result};

/// How an engine quotes, as far as it matters where a quoted part ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quoting {
    /// Quotes inside which `\` takes the next character's meaning away.
    pub escaping: &'static str,
    /// Whether `` ` `` quotes.
    pub backtick: bool,
    /// Whether `[` quotes up to `]`.
    pub bracket: bool,
    /// Whether `$tag$` quotes up to the next one, and `E'` begins a string with escapes.
    pub dollar: bool,
    /// Whether `#` begins a comment.
    pub hash: bool,
}

/// Refuses a condition that could end before its end, or comment out what stands behind it.
pub(super) fn check(condition: &str, quoting: Quoting) -> Result<()> {
    walk(condition, quoting).map_err(|why| {
        Error::new(
            ErrorKind::Usage,
            format!("the condition {condition} cannot be used: {why}; it must be one whole expression"),
        )
    })
}

type Fault = &'static str;

fn walk(condition: &str, quoting: Quoting) -> std::result::Result<(), Fault> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(c) = condition[at..].chars().next() {
        let before = &condition[..at];
        let tail = &condition[at + c.len_utf8()..];
        let rest = match c {
            '\'' | '"' => {
                after_quote(tail, c, quoting.escaping.contains(c) || (quoting.dollar && escape_string(before)))?
            }
            '`' if quoting.backtick => after_quote(tail, c, false)?,
            '[' if quoting.bracket => after_quote(tail, ']', false)?,
            '$' if quoting.dollar && !before.ends_with(in_a_word) => after_dollar(tail)?,
            '#' if quoting.hash => return Err("it has a comment"),
            '/' if tail.starts_with('*') => return Err("it has a comment"),
            '-' if tail.starts_with('-') => return Err("it has a comment, or two minuses that want a space between"),
            ';' => return Err("it has a semicolon"),
            '\0' => return Err("it has a NUL character"),
            ')' if depth == 0 => return Err("it closes a parenthesis that it has not opened"),
            ')' => {
                depth -= 1;
                tail
            }
            '(' => {
                depth += 1;
                tail
            }
            _ => tail,
        };
        at = condition.len() - rest.len();
    }
    if depth > 0 { Err("it leaves a parenthesis open") } else { Ok(()) }
}

fn in_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Whether the `'` behind this begins a string in which backslashes escape: `E'`.
fn escape_string(before: &str) -> bool {
    before.strip_suffix(['e', 'E']).is_some_and(|head| !head.ends_with(in_a_word))
}

/// What stands behind the closing quote. A doubled one opens again at once.
fn after_quote(text: &str, quote: char, escapes: bool) -> std::result::Result<&str, Fault> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote {
            return Ok(&text[at + c.len_utf8()..]);
        }
    }
    Err("it leaves a quote open")
}

/// What stands behind a dollar-quoted string; where none begins, the text itself.
fn after_dollar(text: &str) -> std::result::Result<&str, Fault> {
    let Some((tag, rest)) = text.split_once('$') else { return Ok(text) };
    if !tag.chars().all(|c| c.is_alphanumeric() || c == '_') || tag.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(text);
    }
    rest.split_once(&format!("${tag}$")).map(|(_, rest)| rest).ok_or("it leaves a quote open")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQLITE: Quoting = Quoting { escaping: "", backtick: true, bracket: true, dollar: false, hash: false };
    const MYSQL: Quoting = Quoting { escaping: "'\"", backtick: true, bracket: false, dollar: false, hash: true };
    const POSTGRES: Quoting = Quoting { escaping: "", backtick: false, bracket: false, dollar: true, hash: false };

    #[test]
    fn expressions_pass() {
        for quoting in [SQLITE, MYSQL, POSTGRES] {
            for fine in ["a > 1", "a = ')' AND (b IN (1, 2))", "a = 'it''s -- /* ;'", "\"a)\" - -1 = 2", "é <> '☕'"]
            {
                assert_eq!(walk(fine, quoting), Ok(()), "{fine} {quoting:?}");
            }
        }
        assert_eq!(walk("[a)] = 1 AND `b(` = '\\'", SQLITE), Ok(()));
        assert_eq!(walk("a = '\\')' AND b", MYSQL), Ok(()));
        assert_eq!(walk("a = $x$ ) ' $x$ AND j #> '{a}' AND b = E'\\')' AND c$d = date'\\'", POSTGRES), Ok(()));
    }

    #[test]
    fn what_leaves_its_parentheses_is_refused() {
        for quoting in [SQLITE, MYSQL, POSTGRES] {
            for bad in ["1=1) OR (1=1", "(a", "a = 'x", "a = \"x", "a; DROP TABLE t", "a -- b", "a /* b", "a\0"] {
                assert!(walk(bad, quoting).is_err(), "{bad} {quoting:?}");
            }
        }
        assert!(walk("a # b", MYSQL).is_err());
        assert!(walk("a = '\\') OR (1", SQLITE).is_err() && walk("a = '\\'", MYSQL).is_err());
        assert!(walk("[a", SQLITE).is_err() && walk("`a", MYSQL).is_err());
        assert!(walk("a = $$ b", POSTGRES).is_err() && walk("a = E'\\'", POSTGRES).is_err());
    }
}
