//! Tables as another node describes them: what of that may stand in SQL of ours, and what is left out.
//!
//! Names are quoted wherever they stand, types are not. A node that is broken into must not run SQL at those that it
//! syncs with, so of an engine's own words only plain type names are taken over.

use crate::engine::{Error, ErrorKind};
use crate::model::{DefaultValue, ForeignKey, LogicalType, Table};

const COLUMNS_MAX: usize = 4096;
const NAME_MAX: usize = 1024;

/// The table without what must not be taken over.
///
/// # Errors
/// `BadData` for a table that makes no sense, or that has a type which cannot be named safely.
pub fn guarded(mut table: Table) -> Result<Table, Error> {
    let refuse = |what: String| Err(Error::new(ErrorKind::BadData, format!("table {}: {what}", table.name)));
    let names = table.columns.iter().map(|column| column.name.as_str());
    let long = names.chain([table.name.name.as_str(), table.name.schema.as_str()]).any(|name| name.len() > NAME_MAX);
    let twice = table.columns.iter().enumerate().any(|(at, c)| table.columns[..at].iter().any(|d| d.name == c.name));
    let keys = table.primary_key.iter().flat_map(|key| &key.columns);
    if long || twice || table.columns.len() > COLUMNS_MAX || keys.clone().any(|&at| at >= table.columns.len()) {
        return refuse("the other node describes no table that there can be".to_owned());
    }
    for column in &table.columns {
        if let LogicalType::Array { native } | LogicalType::Other { native } = &column.logical
            && !is_plain(native)
        {
            return refuse(format!("the type of {} is told in words that another node must not use", column.name));
        }
    }
    let mut left_out = std::mem::take(&mut table.dialect.left_out);
    left_out.append(&mut table.dialect.constraints);
    left_out.append(&mut table.dialect.options);
    table.dialect.left_out = left_out;
    for column in &mut table.columns {
        if !is_plain(&column.native) {
            column.native.clear();
        }
        column.dialect = None;
        let word = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        column.collation = column.collation.take().filter(word);
        if let Some(DefaultValue::Expression(text)) = &column.default {
            table.dialect.left_out.push(format!("the default of {}, {text}", column.name));
            column.default = None;
        }
    }
    table.dialect.left_out.extend(table.foreign_keys.iter_mut().filter_map(ForeignKey::give_up_native));
    for index in table.indexes.iter().filter(|index| index.native.is_some()) {
        table.dialect.left_out.push(format!("index {}", index.name));
    }
    table.indexes.retain(|index| index.native.is_none());
    Ok(table)
}

/// Words that make more of a type than a type.
const CLAUSES: [&str; 10] =
    ["default", "references", "check", "generated", "collate", "constraint", "as", "on", "primary", "unique"];

/// Whether a text is a type and no more: words, bounds in parentheses, names in quotes.
fn is_plain(native: &str) -> bool {
    let (mut quoted, mut depth) = (false, 0_u32);
    for c in native.chars() {
        match c {
            '\\' | '\0' => return false,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' if depth == 0 => return false,
            ')' => depth -= 1,
            '0'..='9' | ',' | ' ' => {}
            'a'..='z' | 'A'..='Z' | '_' | '.' | '[' | ']' if depth == 0 => {}
            _ => return false,
        }
    }
    let words = native.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    !quoted
        && depth == 0
        && words.clone().count() <= 8
        && !words.into_iter().any(|w| CLAUSES.contains(&w.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ColumnDef, Dialect, ForeignKeyAction, Index, IndexColumn, Key, TableName};

    #[test]
    fn types_are_words_and_bounds() {
        for plain in
            ["", "bigint", "numeric(12,2)", "timestamp(3) with time zone", "varchar(10)[]", "\"My Type\"", "a.b"]
        {
            assert!(is_plain(plain), "{plain}");
        }
        for more in [
            "int; DROP TABLE t",
            "int DEFAULT pg_sleep",
            "int default 1",
            "int) --",
            "int/**/",
            "text CHECK (x)",
            "int references secrets",
            "enum('a')",
            "\"a\\\"",
            "\"open",
            "int(a)",
            "integer primary key",
        ] {
            assert!(!is_plain(more), "{more}");
        }
    }

    #[test]
    fn only_what_is_plain_is_taken_over() {
        let evil = "int); DROP TABLE t; --".to_owned();
        let mut column = ColumnDef::new("a\"; --", LogicalType::Int { bits: 64, unsigned: false });
        column.native.clone_from(&evil);
        column.dialect = Some(evil.clone());
        column.collation = Some(evil.clone());
        column.default = Some(DefaultValue::Expression(evil.clone()));
        let mut table = Table::new(TableName::new("t"), vec![column.clone()]);
        table.dialect = Dialect { constraints: vec![evil.clone()], options: vec![evil.clone()], left_out: Vec::new() };
        let columns = vec![IndexColumn { name: "a".to_owned(), descending: false }];
        let native = Some(evil.clone());
        table.foreign_keys = vec![ForeignKey {
            name: "f".to_owned(),
            columns: vec!["a".to_owned()],
            parent: TableName::new("p"),
            parent_columns: vec!["b".to_owned()],
            on_delete: ForeignKeyAction::NoAction,
            on_update: ForeignKeyAction::NoAction,
            native: Some(evil.clone()),
        }];
        table.indexes = vec![Index { name: "i".to_owned(), columns, unique: true, constraint: false, native }];
        let guarded_table = guarded(table.clone()).unwrap();
        let left = &guarded_table.columns[0];
        assert_eq!((left.native.as_str(), &left.dialect, &left.collation, &left.default), ("", &None, &None, &None));
        assert!(guarded_table.indexes.is_empty() && guarded_table.dialect.constraints.is_empty());
        assert!(guarded_table.dialect.options.is_empty());
        assert_eq!(guarded_table.foreign_keys[0].rules(), "ON DELETE NO ACTION ON UPDATE NO ACTION");
        assert_eq!(guarded_table.dialect.left_out.len(), 5, "{:?}", guarded_table.dialect.left_out);

        table.columns[0].logical = LogicalType::Other { native: evil };
        assert!(guarded(table.clone()).is_err());
        table.columns = vec![column.clone(), column];
        assert!(guarded(table.clone()).is_err(), "two of one name");
        table.columns.pop();
        table.primary_key = Some(Key { columns: vec![1] });
        assert!(guarded(table).is_err(), "a key of no column");
    }
}
