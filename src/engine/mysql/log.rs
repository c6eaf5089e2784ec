//! Change logs: tables that triggers write the keys of changed rows into.
//!
//! A line has no number of an AUTO_INCREMENT: the application would read it back as its own, and cascades would hold up
//! other writers. `UUID_SHORT()` with the time is a key that costs no lock; the time keeps servers of one number apart.

use std::collections::HashMap;

use mysql_async::prelude::Queryable as _;

use super::Mysql;
use super::cascade;
use super::connect::{BRIEFLY, Flavor, LOCK_WAIT, SQL_MODE, literal, quote};
use super::error::convert;
use super::source::table_sql;
use super::types::ddl;
use crate::engine::{ChangeLog, Error, ErrorKind, Logged, Object, Result};
use crate::model::{ColumnDef, Key, LogicalType, Table, TableName};

/// The database's clock in microseconds since 1970, whatever zone the session is in.
pub(super) const WALL: &str = "TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', UTC_TIMESTAMP(6))";
/// Column: with the time, the log's own key.
const LINE: &str = "_rowferry_line";
/// How the statement begins that fails for a table whose rows stay after a rollback.
const TRANSACTIONAL: &str = "SELECT (SELECT 'rows that outlive a rollback' FROM ";

/// A trigger to be made.
pub(super) struct Trigger {
    pub(super) name: String,
    /// `AFTER INSERT` and so on.
    pub(super) event: &'static str,
    pub(super) on: TableName,
    pub(super) body: String,
}

impl Trigger {
    fn sql_name(&self, suffix: &str) -> String {
        quote(&format!("{}{suffix}", self.name))
    }

    fn create(&self, verb: &str, suffix: &str) -> String {
        let on = table_sql(&self.on);
        format!("{verb} {} {} ON {on} FOR EACH ROW {}", self.sql_name(suffix), self.event, self.body)
    }

    fn drop(&self, suffix: &str) -> String {
        format!("DROP TRIGGER IF EXISTS {}", self.sql_name(suffix))
    }

    /// Makes it, or makes it anew without a moment in which none writes: MySQL cannot replace one, so there a second
    /// one stands in.
    fn install(&self, flavor: &Flavor) -> Vec<String> {
        if flavor.mariadb {
            return vec![self.create("CREATE OR REPLACE TRIGGER", "")];
        }
        vec![
            self.drop(STAND_IN),
            self.create("CREATE TRIGGER", STAND_IN),
            self.drop(""),
            self.create("CREATE TRIGGER", ""),
            self.drop(STAND_IN),
        ]
    }

    fn remove(&self, flavor: &Flavor) -> Vec<String> {
        if flavor.mariadb { vec![self.drop("")] } else { vec![self.drop(""), self.drop(STAND_IN)] }
    }
}

/// What follows the name of a trigger that stands in for another.
const STAND_IN: &str = "_new";

/// The log's name.
pub(super) fn log_name(logged: &Logged) -> TableName {
    TableName::new(format!("_rowferry_log_{}", logged.n))
}

/// Whether `OLD` and `NEW` agree in these columns, to the byte: a collation may hold different keys for one.
pub(super) fn same(table: &Table, columns: impl Iterator<Item = usize>) -> String {
    let term = |c: usize| {
        let column = &table.columns[c];
        let name = quote(&column.name);
        match column.logical {
            LogicalType::Text { .. }
            | LogicalType::Enum { .. }
            | LogicalType::Set { .. }
            | LogicalType::Other { .. } => {
                format!("CAST(OLD.{name} AS BINARY) <=> CAST(NEW.{name} AS BINARY)")
            }
            _ => format!("OLD.{name} <=> NEW.{name}"),
        }
    };
    columns.map(term).collect::<Vec<_>>().join(" AND ")
}

/// A column of the log's own.
fn column(name: &str, native: &str, logical: LogicalType) -> ColumnDef {
    ColumnDef { native: native.to_owned(), ..ColumnDef::new(name, logical) }
}

/// The log as a table.
fn log_table(logged: &Logged, flavor: &Flavor) -> Table {
    let int = |unsigned| LogicalType::Int { bits: 64, unsigned };
    let mut columns = vec![column(LINE, "bigint unsigned", int(true)), column(ChangeLog::WALL, "bigint", int(false))];
    columns[0].nullable = false;
    columns[1].nullable = false;
    columns.extend(logged.key.columns.iter().map(|&c| ColumnDef {
        nullable: true,
        default: None,
        generated: false,
        identity: None,
        // Compared here as the logged table's own key compares, not byte by byte: what is one key there is one key here.
        binary_order: true,
        ..logged.table.columns[c].clone()
    }));
    let operation = column(ChangeLog::OPERATION, "char(1)", LogicalType::Text { max: Some(1), fixed: true });
    columns.push(ColumnDef { collation: Some(flavor.binary_collation().to_owned()), ..operation });
    columns.push(column(ChangeLog::LABEL, "tinyint", LogicalType::Int { bits: 8, unsigned: false }));
    Table { primary_key: Some(Key { columns: vec![0, 1] }), ..Table::new(log_name(logged), columns) }
}

/// The triggers of the logged table itself.
fn own(logged: &Logged) -> Vec<Trigger> {
    let table = &logged.table;
    let log = table_sql(&log_name(logged));
    let line = |row: &str, operation: char| {
        let key: Vec<String> =
            logged.key.columns.iter().map(|&c| format!("{row}.{}", quote(&table.columns[c].name))).collect();
        format!("(UUID_SHORT(), {WALL}, {}, '{operation}', @rowferry_label)", key.join(", "))
    };
    let insert = |lines: &[String]| format!("INSERT INTO {log} VALUES {}", lines.join(", "));
    let update = format!(
        "IF {} THEN {}; ELSE {}; END IF",
        same(table, logged.key.columns.iter().copied()),
        insert(&[line("NEW", 'U')]),
        insert(&[line("OLD", 'D'), line("NEW", 'I')])
    );
    let trigger = |word: &str, event, body| Trigger {
        name: format!("_rowferry_{word}_{}", logged.n),
        event,
        on: table.name.clone(),
        body,
    };
    vec![
        trigger("i", "AFTER INSERT", insert(&[line("NEW", 'I')])),
        trigger("u", "AFTER UPDATE", update),
        trigger("d", "AFTER DELETE", insert(&[line("OLD", 'D')])),
    ]
}

/// Fails for a table that a rollback leaves as it is, see [`explained`].
fn transactional(name: &TableName) -> String {
    format!(
        "{TRANSACTIONAL}information_schema.tables t JOIN information_schema.engines e ON e.engine = t.engine \
         JOIN (SELECT 1 UNION ALL SELECT 2) twice WHERE t.table_schema = DATABASE() AND t.table_name = {} \
         AND e.transactions <> 'YES')",
        literal(&name.name)
    )
}

/// The error of a statement, with that of [`transactional`] in words.
pub(super) fn explained(sql: &str, error: mysql_async::Error) -> Error {
    match error {
        mysql_async::Error::Server(e) if e.code == 1242 && sql.starts_with(TRANSACTIONAL) => Error::new(
            ErrorKind::Unsupported,
            "the table's storage engine keeps rows after a rollback, so no log of it can be right: \
             ALTER TABLE … ENGINE=InnoDB",
        ),
        error => convert(error),
    }
}

fn refuse(logged: &Logged) -> Result<()> {
    let name = &logged.table.name;
    let own = [LINE, ChangeLog::WALL, ChangeLog::OPERATION, ChangeLog::LABEL];
    let key = || logged.key.columns.iter().map(|&c| &logged.table.columns[c]);
    let fault = if let Some(c) = key().find(|c| c.logical == LogicalType::Float { bits: 32 }) {
        format!("table {name}: its key column {} is FLOAT, by which a row cannot be found again: use DOUBLE", c.name)
    } else if let Some(c) = key().find(|c| own.iter().any(|o| o.eq_ignore_ascii_case(&c.name))) {
        format!("table {name}: its key column {} has a name that its log needs: rename it", c.name)
    } else if !name.schema.is_empty() {
        format!("table {name} is of another database than the URL names: sync it by a URL of that database")
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Unsupported, fault))
}

pub(super) fn change_logs(database: &Mysql, tables: &[Logged]) -> Result<Vec<ChangeLog>> {
    let flavor = &database.flavor;
    // The triggers keep this mode, whatever that of the application is: they must take any key that its table took.
    let set = format!("SET SESSION sql_mode = 'ALLOW_INVALID_DATES', lock_wait_timeout = {BRIEFLY}");
    let reset = format!("SET SESSION sql_mode = '{SQL_MODE}', lock_wait_timeout = {LOCK_WAIT}");
    let change_log = |(at, logged): (usize, &Logged)| {
        refuse(logged)?;
        let table = log_table(logged, flavor);
        let mut triggers = own(logged);
        triggers.extend(cascade::triggers(tables, at)?);
        let columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
        let name = table_sql(&table.name);
        let mut install = vec![transactional(&logged.table.name), set.clone()];
        install.extend(
            ddl(&table, false).create.iter().map(|sql| sql.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)),
        );
        // A log of another shape would make the application's writes fail: better this statement.
        install.push(format!("SELECT {} FROM {name} LIMIT 0", columns.join(", ")));
        install.extend(triggers.iter().flat_map(|t| t.install(flavor)));
        install.push(reset.clone());
        let mut unhook = vec![set.clone()];
        unhook.extend(triggers.iter().flat_map(|t| t.remove(flavor)));
        let mut remove = unhook.clone();
        remove.extend([format!("DROP TABLE IF EXISTS {name}"), reset.clone()]);
        unhook.push(reset.clone());
        let triggers = triggers.into_iter().map(|t| t.name).collect();
        let doubt = format!(
            "INSERT INTO {name} ({}, {}, {}) VALUES (UUID_SHORT(), {WALL}, '?')",
            quote(LINE),
            quote(ChangeLog::WALL),
            quote(ChangeLog::OPERATION)
        );
        Ok(ChangeLog { triggers, install, unhook, doubt, remove, table: table.into() })
    };
    tables.iter().enumerate().map(change_log).collect()
}

pub(super) async fn own_triggers(database: &Mysql) -> Result<Vec<String>> {
    let mut conn = database.ask().await?;
    let names: Vec<String> = conn
        .query(
            "SELECT trigger_name FROM information_schema.triggers \
             WHERE trigger_schema = DATABASE() AND trigger_name LIKE '\\_rowferry\\_%'",
        )
        .await
        .map_err(convert)?;
    database.asked(conn);
    let mut names: Vec<String> = names.into_iter().filter(|name| !name.ends_with(STAND_IN)).collect();
    names.sort();
    Ok(names)
}

/// Our triggers on each table, with the numbers that the storage engine gives to it and its partitions, for those who may
/// see them (PROCESS): TRUNCATE changes nothing else. What copies a table gives it another number too, and another time.
pub(super) async fn objects(database: &Mysql, names: &[TableName]) -> Result<Vec<Object>> {
    let mut conn = database.ask().await?;
    let mut of: HashMap<String, Vec<String>> = HashMap::new();
    let triggers: Vec<(String, String)> = conn
        .query(
            "SELECT event_object_table, trigger_name FROM information_schema.triggers \
             WHERE trigger_schema = DATABASE() AND trigger_name LIKE '\\_rowferry\\_%'",
        )
        .await
        .map_err(convert)?;
    for (table, trigger) in triggers.into_iter().filter(|(_, name)| !name.ends_with(STAND_IN)) {
        of.entry(table).or_default().push(trigger);
    }
    let numbers = if database.flavor.mariadb { "innodb_sys_tables" } else { "innodb_tables" };
    let numbers: Vec<(String, u64)> = match conn
        .query(format!("SELECT name, table_id FROM information_schema.{numbers} WHERE name LIKE '%/%'"))
        .await
        .map_err(convert)
    {
        Err(e) if e.kind == ErrorKind::Denied => Vec::new(),
        numbers => numbers?,
    };
    for (name, number) in numbers {
        let Some((schema, table)) = name.split_once('/') else { continue };
        // Partitions follow the table's name.
        let table = table.split_once('#').map_or(table, |(table, _)| table);
        if let (Some(schema), Some(table)) = (from_file_name(schema), from_file_name(table))
            && schema == database.settings.database
        {
            of.entry(table).or_default().push(number.to_string());
        }
    }
    let made: Vec<(String, String)> = conn
        .query(
            "SELECT table_name, CAST(coalesce(create_time, '') AS CHAR) FROM information_schema.tables \
             WHERE table_schema = DATABASE()",
        )
        .await
        .map_err(convert)?;
    database.asked(conn);
    let made: HashMap<String, String> = made.into_iter().collect();
    let object = |name: &TableName| {
        let mut parts = of.get(&name.name).cloned().unwrap_or_default();
        parts.sort();
        Object { which: parts.join(" "), made: made.get(&name.name).cloned().unwrap_or_default() }
    };
    Ok(names.iter().map(object).collect())
}

/// A name that the server has turned into that of a file; `None` where letters are in it that it spells in ways of its
/// own.
fn from_file_name(name: &str) -> Option<String> {
    let mut parts = name.split('@');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(4)?;
        out.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        out.push_str(rest);
    }
    Some(out)
}
