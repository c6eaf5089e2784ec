//! Tables as `pg_catalog` describes them.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Row};

use super::error;
use super::types::{builtin, ident, parse_default};
use crate::engine::{Error, ErrorKind, Result};
use crate::model::{
    ColumnDef, DefaultValue, Dialect, ForeignKey, ForeignKeyAction, Identity, Index, IndexColumn, Key, LogicalType,
    Table, TableName,
};

const TABLES: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname = $1 \
    AND left(c.relname::text, 10) <> '_rowferry_' \
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
    ORDER BY c.relname::text COLLATE \"C\"";

const OWN_TABLES: &str = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND left(c.relname::text, 10) = '_rowferry_'";

const OTHER_SCHEMAS: &str = "SELECT DISTINCT n.nspname::text COLLATE \"C\" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname <> $1 \
    AND left(n.nspname::text, 3) <> 'pg_' AND n.nspname <> 'information_schema' \
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
    ORDER BY 1";

const TABLE: &str = "SELECT w.place - 1, c.oid FROM unnest($1::text[], $2::text[]) WITH ORDINALITY w(space, name, place) \
    JOIN pg_namespace n ON n.nspname = w.space JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name \
    WHERE c.relkind IN ('r', 'p')";

/// A type of one's own is in a table's way too: each table has a type of its name.
const TAKEN: &str = "WITH w AS (SELECT n.oid, w.name, w.place FROM unnest($1::text[], $2::text[]) WITH ORDINALITY \
      w(space, name, place) JOIN pg_namespace n ON n.nspname = w.space) \
    SELECT w.place - 1, CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' \
      WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'index' END \
      FROM w JOIN pg_class c ON c.relnamespace = w.oid AND c.relname = w.name WHERE c.relkind NOT IN ('r', 'p') \
    UNION SELECT w.place - 1, 'type' FROM w JOIN pg_type t ON t.typnamespace = w.oid AND t.typname = w.name \
      WHERE t.typrelid = 0 AND t.typcategory <> 'A'";

// What follows is asked of many tables at once; the last column says which one a row belongs to.

const COLUMNS: &str = "SELECT a.attnum, a.attname::text, a.attnotnull, format_type(a.atttypid, a.atttypmod), \
    format_type(b.oid, b.typmod), t.typtype::text, t.typcategory::text, t.typname::text, a.attidentity::text, a.attgenerated::text, \
    pg_get_expr(d.adbin, d.adrelid), k.collname::text, k.collisdeterministic, \
    (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), \
    pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname::text) IS NOT NULL OR EXISTS \
      (SELECT 1 FROM pg_depend u JOIN pg_class q ON q.oid = u.refobjid AND q.relkind = 'S' \
        WHERE u.classid = 'pg_attrdef'::regclass AND u.objid = d.oid AND u.refclassid = 'pg_class'::regclass \
        AND NOT EXISTS (SELECT 1 FROM pg_depend o WHERE o.refclassid = 'pg_class'::regclass AND o.refobjid = q.oid \
          AND o.classid = 'pg_attrdef'::regclass AND o.objid <> d.oid) \
        AND NOT EXISTS (SELECT 1 FROM pg_depend o WHERE o.classid = 'pg_class'::regclass AND o.objid = q.oid \
          AND o.deptype IN ('a', 'i'))), \
    (SELECT format('(START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s CACHE %s%s)', q.seqstart, q.seqincrement, q.seqmin, q.seqmax, \
        q.seqcache, CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END) FROM pg_sequence q \
      WHERE q.seqrelid = pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname::text)::regclass \
      AND ((q.seqstart, q.seqincrement, q.seqmin, q.seqcache, q.seqcycle) IS DISTINCT FROM (1, 1, 1, 1, false) \
        OR q.seqmax <> CASE q.seqtypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 ELSE 9223372036854775807 END)), \
    a.attrelid \
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    CROSS JOIN LATERAL (WITH RECURSIVE r(oid, typmod) AS (SELECT a.atttypid, a.atttypmod UNION ALL \
      SELECT y.typbasetype, y.typtypmod FROM r JOIN pg_type y ON y.oid = r.oid WHERE y.typtype = 'd') \
      SELECT r.oid, r.typmod FROM r JOIN pg_type y ON y.oid = r.oid WHERE y.typtype <> 'd' LIMIT 1) b \
    JOIN pg_type t ON t.oid = b.oid \
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
    LEFT JOIN pg_collation k ON k.oid = a.attcollation \
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum";

const INDEXES: &str = "SELECT i.relname::text, x.indisunique, x.indisprimary, x.indkey::int2[], x.indoption::int2[], \
    x.indexprs IS NOT NULL OR x.indpred IS NOT NULL OR m.amname <> 'btree' OR x.indnatts > x.indnkeyatts \
      OR coalesce((to_jsonb(x) ->> 'indnullsnotdistinct')::boolean, false) \
      OR NOT x.indimmediate AND NOT x.indisprimary \
      OR EXISTS (SELECT 1 FROM pg_opclass o WHERE o.oid = ANY (x.indclass::oid[]) AND NOT o.opcdefault) \
      OR EXISTS (SELECT 1 FROM unnest(x.indoption::int2[]) u(o) WHERE u.o NOT IN (0, 3)), \
    coalesce(pg_get_constraintdef(u.oid), pg_get_indexdef(x.indexrelid)), u.oid IS NOT NULL, x.indrelid \
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam \
    LEFT JOIN pg_constraint u ON u.conindid = x.indexrelid AND u.conrelid = x.indrelid AND u.contype = 'u' \
    WHERE x.indrelid = ANY ($1) AND x.indisvalid AND NOT x.indisexclusion ORDER BY i.relname::text COLLATE \"C\"";

const KEYS: &str = "SELECT c.conname::text, n.nspname::text, p.relname::text, c.confdeltype::text, c.confupdtype::text, \
    (SELECT array_agg(a.attname::text ORDER BY u.o) FROM unnest(c.conkey) WITH ORDINALITY u(k, o) \
      JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = u.k), \
    (SELECT array_agg(a.attname::text ORDER BY u.o) FROM unnest(c.confkey) WITH ORDINALITY u(k, o) \
      JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = u.k), \
    CASE WHEN c.condeferrable OR c.confmatchtype = 'f' OR jsonb_typeof(to_jsonb(c) -> 'confdelsetcols') = 'array' THEN concat_ws(' ', \
      CASE c.confmatchtype WHEN 'f' THEN 'MATCH FULL' END, \
      'ON DELETE', (array['NO ACTION', 'RESTRICT', 'CASCADE', 'SET NULL', 'SET DEFAULT'])[strpos('arcnd', c.confdeltype::text)], \
      (SELECT format('(%s)', string_agg(quote_ident(a.attname), ', ')) FROM jsonb_array_elements_text(CASE \
        jsonb_typeof(to_jsonb(c) -> 'confdelsetcols') WHEN 'array' THEN to_jsonb(c) -> 'confdelsetcols' ELSE '[]' END) k \
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k::int HAVING count(*) > 0), \
      'ON UPDATE', (array['NO ACTION', 'RESTRICT', 'CASCADE', 'SET NULL', 'SET DEFAULT'])[strpos('arcnd', c.confupdtype::text)], \
      CASE WHEN c.condeferrable THEN 'DEFERRABLE' END, CASE WHEN c.condeferred THEN 'INITIALLY DEFERRED' END) END, \
    c.conrelid \
    FROM pg_constraint c JOIN pg_class p ON p.oid = c.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace \
    WHERE c.conrelid = ANY ($1) AND c.contype = 'f' ORDER BY c.conname::text COLLATE \"C\"";

const TRIGGERS: &str = "SELECT tgname::text, tgenabled IN ('A', 'R'), tgrelid FROM pg_trigger WHERE tgrelid = ANY ($1) AND NOT tgisinternal \
    AND left(tgname::text, 10) <> '_rowferry_' ORDER BY 1";

/// What the columns, keys and indexes do not say: constraints, how it is read, what is left out.
const DIALECT: &str = "SELECT 'constraint', format('CONSTRAINT %I %s', n.conname, pg_get_constraintdef(n.oid)), n.conrelid \
      FROM pg_constraint n WHERE n.conrelid = ANY ($1) AND n.contype IN ('c', 'x') AND n.convalidated \
    UNION ALL SELECT 'left out', format('check %I, which not all rows pass', n.conname), n.conrelid \
      FROM pg_constraint n WHERE n.conrelid = ANY ($1) AND n.contype = 'c' AND NOT n.convalidated \
    UNION ALL SELECT 'left out', 'that its primary key is deferrable', n.conrelid \
      FROM pg_constraint n WHERE n.conrelid = ANY ($1) AND n.contype = 'p' AND n.condeferrable \
    UNION ALL SELECT 'left out', 'partitions, PARTITION BY ' || pg_get_partkeydef(c.oid), c.oid \
      FROM pg_class c WHERE c.oid = ANY ($1) AND c.relkind = 'p' \
    UNION ALL SELECT 'left out', format('that it inherits from %s', i.inhparent::regclass), i.inhrelid \
      FROM pg_inherits i WHERE i.inhrelid = ANY ($1) \
    UNION ALL SELECT 'option', 'tables that inherit from it', c.oid FROM pg_class c WHERE c.oid = ANY ($1) AND c.relkind = 'r' AND c.relhassubclass \
    UNION ALL SELECT 'left out', 'row level security', c.oid FROM pg_class c WHERE c.oid = ANY ($1) AND c.relrowsecurity \
    UNION ALL SELECT DISTINCT 'left out', 'comments', d.objoid \
      FROM pg_description d WHERE d.objoid = ANY ($1) AND d.classoid = 'pg_class'::regclass \
    ORDER BY 1, 2";

/// An option of a table that others inherit from: it is read without their rows.
pub(super) const ALONE: &str = "tables that inherit from it";

/// Names of a schema's tables.
pub(super) async fn tables(client: &Client, own: &str, schema: Option<&str>) -> Result<Vec<TableName>> {
    let wanted = schema.unwrap_or(own);
    let rows = client.query(TABLES, &[&wanted]).await.map_err(|e| error::from(&e))?;
    let shown = if wanted == own { "" } else { wanted };
    Ok(rows.iter().map(|r| TableName::qualified(shown, r.get::<_, String>(0))).collect())
}

/// What stands under these names and is no table.
pub(super) async fn taken(client: &Client, own: &str, names: &[TableName]) -> Result<BTreeMap<TableName, String>> {
    let schemas: Vec<&str> = names.iter().map(|n| if n.schema.is_empty() { own } else { n.schema.as_str() }).collect();
    let bare: Vec<&str> = names.iter().map(|n| n.name.as_str()).collect();
    let rows = client.query(TAKEN, &[&schemas, &bare]).await.map_err(|e| error::from(&e))?;
    let told = |row: &Row| Some((names.get(usize::try_from(row.get::<_, i64>(0)).ok()?)?.clone(), row.get(1)));
    Ok(rows.iter().filter_map(told).collect())
}

/// Ours, in all schemas.
pub(super) async fn own_tables(client: &Client, own: &str) -> Result<BTreeSet<TableName>> {
    let rows = client.query(OWN_TABLES, &[]).await.map_err(|e| error::from(&e))?;
    let named = |row: &Row| {
        let schema: String = row.get(0);
        TableName::qualified(if schema == own { String::new() } else { schema }, row.get::<_, String>(1))
    };
    Ok(rows.iter().map(named).collect())
}

/// Schemas that hold tables, but the own one and the server's.
pub(super) async fn other_schemas(client: &Client, own: &str) -> Result<Vec<String>> {
    let rows = client.query(OTHER_SCHEMAS, &[&own]).await.map_err(|e| error::from(&e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Tables in the order of their names, of which there is none twice; `None` for those that are missing.
pub(super) async fn describe(client: &Client, own: &str, names: &[TableName]) -> Result<Vec<Option<Table>>> {
    let fail = |e: tokio_postgres::Error| error::from(&e);
    let space = |name: &TableName| if name.schema.is_empty() { own.to_owned() } else { name.schema.clone() };
    let spaces: Vec<String> = names.iter().map(space).collect();
    let plain: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let mut found: BTreeMap<u32, (usize, Table, Vec<i16>)> = BTreeMap::new();
    for row in client.query(TABLE, &[&spaces, &plain]).await.map_err(fail)? {
        let at = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        let space = if spaces[at] == own { "" } else { &spaces[at] };
        found.insert(row.get(1), (at, Table::new(TableName::qualified(space, plain[at]), Vec::new()), Vec::new()));
    }
    let oids: Vec<u32> = found.keys().copied().collect();
    for (what, sql) in PARTS {
        let rows = match client.query(sql, &[&oids]).await {
            Ok(rows) => rows,
            Err(e) => return Err(named(client, &oids, fail(e)).await),
        };
        for row in rows {
            let Some((_, table, numbers)) = found.get_mut(&row.get(row.len() - 1)) else { continue };
            match what {
                Part::Column => {
                    numbers.push(row.get(0));
                    table.columns.push(column(&row));
                }
                Part::Index => index(&row, numbers, table),
                Part::Key => table.foreign_keys.push(foreign_key(&row, own)),
                Part::Word => word(&row, &mut table.dialect),
                Part::Trigger => {
                    table.triggers.push(row.get(0));
                    table.loud.extend(row.get::<_, bool>(1).then(|| row.get(0)));
                }
            }
        }
    }
    let mut tables = vec![None; names.len()];
    for (at, table, _) in found.into_values() {
        tables[at] = Some(table);
    }
    Ok(tables)
}

/// The error of a question about several tables, with the one that somebody keeps from everybody.
async fn named(client: &Client, oids: &[u32], error: Error) -> Error {
    if error.kind != ErrorKind::Busy {
        return error;
    }
    let found = client.query_opt(LOCKED, &[&oids]).await;
    found.ok().flatten().map_or(error.clone(), |row| error.of_table(row.get::<_, String>(0)))
}

const LOCKED: &str = "SELECT c.relname::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
    WHERE l.granted AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid() AND c.oid = ANY ($1) \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1 LIMIT 1";

/// What a table is made of.
#[derive(Clone, Copy)]
enum Part {
    Column,
    Index,
    Key,
    Word,
    Trigger,
}

/// What is asked of it, in this order.
const PARTS: [(Part, &str); 5] = [
    (Part::Column, COLUMNS),
    (Part::Index, INDEXES),
    (Part::Key, KEYS),
    (Part::Word, DIALECT),
    (Part::Trigger, TRIGGERS),
];

fn word(row: &Row, dialect: &mut Dialect) {
    let (kind, text): (String, String) = (row.get(0), row.get(1));
    match kind.as_str() {
        "constraint" => dialect.constraints.push(text),
        "option" => dialect.options.push(text),
        _ => dialect.left_out.push(text),
    }
}

fn column(row: &Row) -> ColumnDef {
    let name: String = row.get(1);
    let native: String = row.get(3);
    let base: String = row.get(4);
    let (kind, category, base_name): (String, String, String) = (row.get(5), row.get(6), row.get(7));
    let labels: Option<Vec<String>> = row.get(13);
    let logical = builtin(&base).unwrap_or_else(|| match (kind.as_str(), category.as_str()) {
        ("e", _) => LogicalType::Enum { labels: labels.unwrap_or_default() },
        (_, "A") => LogicalType::Array { native: native.clone() },
        _ if base_name == "citext" => LogicalType::Text { max: None, fixed: false },
        _ => LogicalType::Other { native: native.clone() },
    });
    let computed: String = row.get(9);
    let generated = !computed.is_empty();
    let expression: Option<String> = row.get(10);
    let dialect = expression.as_ref().filter(|_| generated).map(|e| {
        let kept = if computed == "v" { "VIRTUAL" } else { "STORED" };
        format!("GENERATED ALWAYS AS ({e}) {kept}")
    });
    // Of a sequence that is the column's own, or that no other column takes numbers from.
    let alone: bool = row.get(14);
    let whole = matches!(builtin(&native), Some(LogicalType::Int { .. }));
    let identity = match row.get::<_, String>(8).as_str() {
        "a" => Some(Identity::Always),
        "d" => Some(Identity::ByDefault),
        _ if alone && whole && expression.as_deref().is_some_and(is_number_of_a_sequence) => Some(Identity::ByDefault),
        _ => None,
    };
    let default =
        expression.filter(|_| identity.is_none() && !generated).and_then(|e| match parse_default(&e, &logical) {
            // Text forms of these are the server's own: only its words say them exactly.
            Some(DefaultValue::Literal(_))
                if matches!(logical, LogicalType::Binary { .. } | LogicalType::Bits { .. }) =>
            {
                Some(DefaultValue::Expression(e))
            }
            other => other,
        });
    let counting: Option<String> = row.get(15);
    let dialect = if identity.is_some() { counting } else { dialect };
    let collation: Option<String> = row.get(11);
    let deterministic: Option<bool> = row.get(12);
    ColumnDef {
        name,
        logical,
        native,
        nullable: !row.get::<_, bool>(2),
        default,
        generated,
        dialect,
        identity,
        collation: collation.filter(|c| c != "default"),
        binary_order: deterministic.unwrap_or(true) && base_name != "citext",
    }
}

/// Whether a default is the next number of a sequence and nothing else.
fn is_number_of_a_sequence(expression: &str) -> bool {
    expression.starts_with("nextval('")
        && expression.ends_with("'::regclass)")
        && expression.matches("nextval(").count() == 1
}

fn index(row: &Row, numbers: &[i16], table: &mut Table) {
    let (name, unique, primary): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let (keys, options): (Vec<i16>, Vec<i16>) = (row.get(3), row.get(4));
    let positions: Vec<usize> =
        keys.iter().take(options.len()).filter_map(|k| numbers.iter().position(|n| n == k)).collect();
    if primary {
        table.primary_key = Some(Key { columns: positions });
        return;
    }
    let columns = positions
        .iter()
        .zip(&options)
        .map(|(&at, option)| IndexColumn { name: table.columns[at].name.clone(), descending: option & 1 == 1 })
        .collect();
    let special: bool = row.get(5);
    table.indexes.push(Index { name, columns, unique, constraint: row.get(7), native: special.then(|| row.get(6)) });
}

fn foreign_key(row: &Row, own: &str) -> ForeignKey {
    let schema: String = row.get(1);
    let action = |code: String| match code.as_str() {
        "r" => ForeignKeyAction::Restrict,
        "c" => ForeignKeyAction::Cascade,
        "n" => ForeignKeyAction::SetNull,
        "d" => ForeignKeyAction::SetDefault,
        _ => ForeignKeyAction::NoAction,
    };
    ForeignKey {
        name: row.get(0),
        columns: row.get(5),
        parent: TableName::qualified(if schema == own { String::new() } else { schema }, row.get::<_, String>(2)),
        parent_columns: row.get(6),
        on_delete: action(row.get(3)),
        on_update: action(row.get(4)),
        native: row.get(7),
    }
}

/// The select list of a table's columns, those that are not binary as text.
pub(super) fn select_list(table: &Table) -> String {
    let list = table.columns.iter().map(|c| {
        let cast = if super::codec::Wire::of(&c.logical) == super::codec::Wire::Cast { "::text" } else { "" };
        format!("{}{cast}", ident(&c.name))
    });
    list.collect::<Vec<_>>().join(", ")
}
