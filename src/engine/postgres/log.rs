//! Change logs: tables that triggers write the keys of changed rows into.
//!
//! One function for each log serves all its triggers. It names nothing without its schema and no operator without
//! `pg_catalog`, since it runs with the rights of the account that installed it under the search path of whoever
//! writes. Where every write to a table comes as a statement on it, triggers fire once a statement (half the price
//! of row triggers for a thousand rows); partitions and tables fed by a subscription have row triggers. The log has no
//! key and no index of its own: a line is found by where it stands (`ctid`) and by the transaction that wrote it
//! (`xmin`), since the place alone may be taken by another line as soon as one is deleted.
//!
//! A key's old value is taken down by a trigger whose condition names the key columns, so the server refuses to
//! change their types, or to drop them, while the log is in place, instead of failing the writes afterwards. It does
//! not refuse to rename one: then the table takes no writes until its log is removed and installed again.

use super::types::{ident, literal, table_name};
use super::{Postgres, error};
use crate::engine::{ChangeLog, Logged, Object, Result};
use crate::model::{ColumnDef, Key, LogicalType, Table, TableName};

/// Labels what the transaction writes. The setting ends with it, and then reads as '' or not at all.
pub(super) const LABEL: &str = "SET LOCAL rowferry.label = '1'";

const LABELLED: &str = "coalesce(pg_catalog.current_setting('rowferry.label', true), '') OPERATOR(pg_catalog.<>) ''";

/// Whether the table `c` of `pg_class` can be written to in other ways than by a statement on it.
const BY_ROW: &str = "(c.relkind = 'p' OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) \
    OR EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid))";

/// Whether this is a log: no other table can have such a column.
pub(super) fn is_log(table: &Table) -> bool {
    table.column(PLACE).is_some()
}

/// Where a line stands.
const PLACE: &str = "ctid";

pub(super) fn change_logs(database: &Postgres, tables: &[Logged]) -> Result<Vec<ChangeLog>> {
    Ok(tables.iter().map(|logged| change_log(&database.shared.schema, logged)).collect())
}

fn change_log(own: &str, logged: &Logged) -> ChangeLog {
    let n = logged.n;
    // In the own schema, whatever that of the table: numbers are told apart only there.
    let name = TableName::new(format!("_rowferry_log_{n}"));
    ChangeLog {
        install: vec![install(own, &name, logged)],
        triggers: ["delete", "insert", "key", "truncate", "update"].map(|what| trigger(what, n)).to_vec(),
        unhook: Vec::new(),
        doubt: format!(
            "INSERT INTO {} (\"{}\", \"{}\") VALUES ('?', pg_catalog.clock_timestamp())",
            table_name(own, &name),
            ChangeLog::OPERATION,
            ChangeLog::WALL
        ),
        remove: vec![remove(&table_name(own, &name))],
        table: log_table(name, logged).into(),
    }
}

fn trigger(what: &str, n: u32) -> String {
    format!("_rowferry_{what}_{n}")
}

fn log_table(name: TableName, logged: &Logged) -> Table {
    let typed =
        |name: &str, logical, native: &str| ColumnDef { native: native.to_owned(), ..ColumnDef::new(name, logical) };
    let system = |name: &str, native: &str| ColumnDef {
        nullable: false,
        ..typed(name, LogicalType::Other { native: native.to_owned() }, native)
    };
    let mut columns: Vec<ColumnDef> =
        logged.key.columns.iter().map(|&c| key_column(&logged.table.columns[c])).collect();
    columns.extend([
        typed(ChangeLog::OPERATION, LogicalType::Text { max: None, fixed: false }, "text"),
        typed(ChangeLog::WALL, LogicalType::Timestamp { digits: 6, zoned: true }, "timestamp with time zone"),
        typed(ChangeLog::LABEL, LogicalType::Bool, "boolean"),
        system(PLACE, "tid"),
        system("xmin", "xid"),
    ]);
    let row_key = Key { columns: vec![columns.len() - 2, columns.len() - 1] };
    Table { primary_key: Some(row_key), ..Table::new(name, columns) }
}

fn key_column(column: &ColumnDef) -> ColumnDef {
    ColumnDef { nullable: true, default: None, generated: false, identity: None, ..column.clone() }
}

/// One statement, so that it is done whole or not at all. What is in place already is left alone and not locked.
fn install(own: &str, name: &TableName, logged: &Logged) -> String {
    let table = table_name(own, &logged.table.name);
    let log = table_name(own, name);
    let key: Vec<&str> = logged.key.columns.iter().map(|&c| logged.table.columns[c].name.as_str()).collect();
    let list = |prefix: &str| key.iter().map(|k| format!("{prefix}{}", ident(k))).collect::<Vec<_>>().join(", ");
    let names = key.iter().map(|k| literal(k)).collect::<Vec<_>>().join(", ");
    let changed = format!("FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {log}('key')", changed(logged));
    let rows = |which: &str| format!("REFERENCING {which} TABLE AS _rowferry_rows EXECUTE FUNCTION {log}()");
    let each = format!("FOR EACH ROW EXECUTE FUNCTION {log}('row')");
    // Whether it is for tables that are written row by row (NULL: for all), and `tgtype` of the catalogue.
    let triggers = [
        ("false", 4, "insert", rows("NEW")),
        ("false", 8, "delete", rows("OLD")),
        ("false", 16, "update", rows("NEW")),
        ("true", 5, "insert", each.clone()),
        ("true", 9, "delete", each.clone()),
        ("true", 17, "update", each),
        ("NULL", 17, "key", changed),
        ("NULL", TRUNCATE, "truncate", format!("EXECUTE FUNCTION {log}('all')")),
    ];
    let triggers: Vec<String> = triggers
        .iter()
        .map(|(by_row, kind, what, clause)| {
            let event = if *what == "key" { "UPDATE" } else { what };
            let name = trigger(what, logged.n);
            let arguments = i32::from(!clause.ends_with("()"));
            format!("({by_row}::boolean, {kind}, '{name}', '{event}', {arguments}, {})", literal(clause))
        })
        .collect();
    let body = format!(
        "DECLARE
  logged CONSTANT regclass := {table_text};
  waited CONSTANT text := current_setting('lock_timeout');
  columns text;
  wanted record;
BEGIN
  PERFORM set_config('lock_timeout', '1s', true);
  PERFORM {key_list} FROM {table} LIMIT 0;
  IF EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent
      WHERE c.oid = logged AND c.relkind <> 'p') THEN
    RAISE feature_not_supported USING MESSAGE =
      format('other tables inherit from %s, and what is written to those would go by unseen', logged);
  END IF;
  SELECT string_agg(format('%I %s%s', a.attname, format_type(b.oid, -1), ' COLLATE ' || c.oid::regcollation),
      ', ' ORDER BY k.at)
    || ', {op} text, {at} timestamp with time zone, {label} boolean' INTO columns
    FROM unnest(ARRAY[{names}]) WITH ORDINALITY k(name, at)
    JOIN pg_attribute a ON a.attrelid = logged AND a.attname = k.name
    LEFT JOIN pg_collation c ON c.oid = a.attcollation AND NOT c.collisdeterministic
    CROSS JOIN LATERAL (WITH RECURSIVE r(oid) AS (SELECT a.atttypid UNION ALL
      SELECT y.typbasetype FROM r JOIN pg_type y ON y.oid = r.oid WHERE y.typtype = 'd')
      SELECT r.oid FROM r JOIN pg_type y ON y.oid = r.oid WHERE y.typtype <> 'd') b;
  EXECUTE 'CREATE TABLE IF NOT EXISTS ' || {log_text} || ' (' || columns || ')';
  IF columns <> (SELECT string_agg(
        format('%I %s%s', attname, format_type(atttypid, -1), ' COLLATE ' || c.oid::regcollation), ', ' ORDER BY attnum)
      FROM pg_attribute LEFT JOIN pg_collation c ON c.oid = attcollation AND NOT c.collisdeterministic
      WHERE attrelid = {log_text}::regclass AND attnum > 0 AND NOT attisdropped) THEN
    RAISE datatype_mismatch USING MESSAGE =
      format('the change log %s was made for another key of %s: remove it first', {log_text}, logged);
  END IF;
  CREATE OR REPLACE FUNCTION {log}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {function};
  REVOKE ALL ON FUNCTION {log}() FROM PUBLIC;
  FOR wanted IN SELECT r.oid::regclass AS relation, v.*,
      EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = r.oid AND t.tgname = v.name) AS stands
    FROM (VALUES {triggers}) v(by_row, kind, name, event, arguments, clause)
    CROSS JOIN (SELECT logged AS oid UNION SELECT relid FROM pg_partition_tree(logged)) r
    WHERE (r.oid = logged OR v.kind = {TRUNCATE})
      AND v.by_row IS NOT DISTINCT FROM (SELECT CASE WHEN v.by_row IS NOT NULL THEN {BY_ROW} END
        FROM pg_class c WHERE c.oid = logged)
      AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = r.oid AND t.tgname = v.name AND t.tgtype = v.kind
        AND t.tgnargs = v.arguments AND t.tgfoid = '{function_name}'::regproc)
  LOOP
    IF wanted.stands THEN
      EXECUTE format('DROP TRIGGER %I ON %s', wanted.name, wanted.relation);
    END IF;
    EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s %s', wanted.name, wanted.event, wanted.relation, wanted.clause);
  END LOOP;
  FOR wanted IN SELECT tgrelid::regclass AS relation, tgname FROM pg_trigger
    WHERE tgfoid = '{function_name}'::regproc AND tgenabled <> 'A'
  LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', wanted.relation, wanted.tgname);
  END LOOP;
  PERFORM set_config('lock_timeout', waited, true);
END",
        table_text = literal(&table),
        key_list = list(""),
        op = ChangeLog::OPERATION,
        at = ChangeLog::WALL,
        label = ChangeLog::LABEL,
        log_text = literal(&log),
        function = literal(&function(&log, &key)),
        function_name = log.replace('\'', "''"),
        triggers = triggers.join(", "),
    );
    format!("DO {}", literal(&body))
}

/// Bit of `tgtype`.
const TRUNCATE: i32 = 32;

/// Whether an update changed the key: by its bytes, which every type has. As records, since without that it would be the
/// columns' own operators; types whose equality is that of their bytes are compared for less.
fn changed(logged: &Logged) -> String {
    const PLAIN: &[&str] = &["smallint", "integer", "bigint", "uuid", "date", "boolean", "bytea"];
    let key: Vec<&ColumnDef> = logged.key.columns.iter().map(|&c| &logged.table.columns[c]).collect();
    let (plain, others): (Vec<&ColumnDef>, Vec<&ColumnDef>) =
        key.into_iter().partition(|column| PLAIN.contains(&column.native.as_str()));
    let mut parts: Vec<String> =
        plain.iter().map(|c| ident(&c.name)).map(|name| format!("OLD.{name} IS DISTINCT FROM NEW.{name}")).collect();
    if !others.is_empty() {
        let row = |prefix: &str| {
            let names: Vec<String> = others.iter().map(|c| format!("{prefix}.{}", ident(&c.name))).collect();
            format!("ROW({})::record", names.join(", "))
        };
        parts.push(format!("{} OPERATOR(pg_catalog.*<>) {}", row("OLD"), row("NEW")));
    }
    parts.join(" OR ")
}

/// What the triggers run. A name that could be a variable or a column is the variable: columns stand with `r`. Which
/// case it is is asked in the order of what a question costs an application that writes single rows.
fn function(log: &str, key: &[&str]) -> String {
    let list = |prefix: &str| key.iter().map(|k| format!("{prefix}{}, ", ident(k))).collect::<String>();
    let (op, at, label) = (ChangeLog::OPERATION, ChangeLog::WALL, ChangeLog::LABEL);
    let into = |columns: &str| format!("INSERT INTO {log} ({columns}\"{op}\", \"{at}\", \"{label}\")");
    let now = "pg_catalog.clock_timestamp()";
    format!(
        "#variable_conflict use_variable
BEGIN
  IF TG_NARGS OPERATOR(pg_catalog.=) 0 THEN
    {keys} SELECT {of_r}pg_catalog.left(TG_OP, 1), {now}, (SELECT {LABELLED}) FROM _rowferry_rows AS r;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
    {nothing} VALUES ('X', {now}, {LABELLED});
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' OR TG_ARGV[0] OPERATOR(pg_catalog.=) 'key' THEN
    {keys} VALUES ({of_old}'D', {now}, {LABELLED});
  ELSE
    {keys} VALUES ({of_new}pg_catalog.left(TG_OP, 1), {now}, {LABELLED});
  END IF;
  RETURN NULL;
END",
        nothing = into(""),
        keys = into(&list("")),
        of_r = list("r."),
        of_old = list("OLD."),
        of_new = list("NEW."),
    )
}

/// Its triggers go with the function, wherever they have got to (a partition that was detached).
fn remove(log: &str) -> String {
    let body = format!(
        "DECLARE
  waited CONSTANT text := current_setting('lock_timeout');
BEGIN
  PERFORM set_config('lock_timeout', '1s', true);
  DROP FUNCTION IF EXISTS {log}() CASCADE;
  DROP TABLE IF EXISTS {log};
  PERFORM set_config('lock_timeout', waited, true);
END"
    );
    format!("DO {}", literal(&body))
}

/// A trigger is in place where it fires for every writer, on every partition, and its log is there.
pub(super) async fn own_triggers(database: &Postgres) -> Result<Vec<String>> {
    let sql = format!(
        "WITH ours AS (SELECT t.tgname, t.tgrelid, c.relkind, \
           t.tgenabled = 'A' AND (t.tgtype & {each_row_or_truncate} <> 0 OR NOT {BY_ROW}) AND EXISTS \
           (SELECT FROM pg_class l WHERE l.relnamespace = p.pronamespace AND l.relname = p.proname) AS fires \
           FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace \
           JOIN pg_class c ON c.oid = t.tgrelid \
           WHERE n.nspname = $1 AND left(p.proname::text, 14) = '_rowferry_log_'), \
         wanting AS (SELECT tgname FROM ours WHERE NOT fires UNION ALL \
           SELECT o.tgname FROM ours o, pg_partition_tree(o.tgrelid) p WHERE o.relkind = 'p' \
           AND NOT EXISTS (SELECT FROM ours b WHERE b.tgname = o.tgname AND b.tgrelid = p.relid)) \
         SELECT DISTINCT o.tgname::text COLLATE \"C\" FROM ours o \
           WHERE NOT EXISTS (SELECT FROM wanting w WHERE w.tgname = o.tgname) ORDER BY 1",
        each_row_or_truncate = 1 | TRUNCATE,
    );
    let session = database.shared.ask().await?;
    let rows = session.client.query(&sql, &[&database.shared.schema]).await.map_err(|e| error::from(&e))?;
    database.shared.asked(session);
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Its own number, those of its partitions, and those of the triggers on them: a partition that left and came back has
/// others.
pub(super) async fn objects(database: &Postgres, names: &[TableName]) -> Result<Vec<Object>> {
    let sql = "SELECT coalesce((SELECT c.oid::text || string_agg(concat(' ', r.relid, ':', \
           (SELECT string_agg(t.oid::text, ',' ORDER BY t.oid) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
            WHERE t.tgrelid = r.relid AND p.pronamespace = $1::text::regnamespace \
            AND left(p.proname::text, 14) = '_rowferry_log_')), '' ORDER BY r.relid) \
         FROM (SELECT c.oid AS relid UNION SELECT relid FROM pg_partition_tree(c.oid)) r), '') \
       FROM unnest($2::text[], $3::text[]) WITH ORDINALITY w(schema, name, at) \
       LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND c.relkind IN ('r', 'p')) \
         ON n.nspname = w.schema AND c.relname = w.name ORDER BY w.at";
    let own = &database.shared.schema;
    let schema = |name: &TableName| if name.schema.is_empty() { own.clone() } else { name.schema.clone() };
    let schemas: Vec<String> = names.iter().map(schema).collect();
    let names: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let session = database.shared.ask().await?;
    let rows = session.client.query(sql, &[&ident(own), &schemas, &names]).await.map_err(|e| error::from(&e))?;
    database.shared.asked(session);
    Ok(rows.iter().map(|row| Object { which: row.get(0), made: String::new() }).collect())
}
