//! Rows that foreign keys change by themselves, which fires no trigger of theirs: MariaDB never, MySQL only from 9.6 on
//! and when it is told to. So the trigger of the table where it begins writes them down.

use std::iter::Peekable;

use super::connect::quote;
use super::log::{Trigger, WALL, log_name, same};
use super::source::table_sql;
use crate::engine::{Error, ErrorKind, Logged, Result};
use crate::model::{ForeignKey, ForeignKeyAction};

/// The server refuses what goes further down.
const DEPTH: usize = 15;
/// Ways from one table to others that are followed.
const MOST: usize = 200;

/// One foreign key on the way: of which table, and which of its.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Step {
    child: usize,
    key: usize,
}

/// What happens to the rows at the end of a way.
#[derive(Clone)]
enum Effect {
    Deleted,
    /// These columns follow the parent's, or become NULL.
    Changed {
        columns: Vec<String>,
        null: bool,
    },
}

struct Way {
    steps: Vec<Step>,
    effect: Effect,
}

/// All ways from one table.
struct Walk<'a> {
    tables: &'a [Logged],
    root: usize,
    ways: Vec<Way>,
}

fn unsupported(message: String) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

fn edges(table: &Logged) -> &[ForeignKey] {
    &table.table.foreign_keys
}

fn acts(action: ForeignKeyAction) -> bool {
    matches!(action, ForeignKeyAction::Cascade | ForeignKeyAction::SetNull)
}

/// The foreign keys of a logged table lead to logged tables wherever they change its rows.
fn complete(tables: &[Logged], table: &Logged) -> Result<()> {
    let outside = edges(table)
        .iter()
        .filter(|key| acts(key.on_delete) || acts(key.on_update))
        .find(|key| !tables.iter().any(|t| t.table.name == key.parent));
    outside.map_or(Ok(()), |key| {
        Err(unsupported(format!(
            "table {}: a foreign key changes its rows with those of {}, which this server tells only there: sync {} too",
            table.table.name, key.parent, key.parent
        )))
    })
}

impl Walk<'_> {
    fn from(tables: &[Logged], root: usize, effect: &Effect) -> Result<Vec<Way>> {
        let mut walk = Walk { tables, root, ways: Vec::new() };
        walk.down(root, effect, &mut Vec::new(), &mut Vec::new())?;
        Ok(walk.ways)
    }

    /// `changed`: tables whose rows were changed on the way, which the server does not do twice.
    fn down(&mut self, at: usize, effect: &Effect, steps: &mut Vec<Step>, changed: &mut Vec<usize>) -> Result<()> {
        if steps.len() == DEPTH {
            return Ok(());
        }
        let here = matches!(effect, Effect::Changed { .. });
        if here {
            changed.push(at);
        }
        for (child, table) in self.tables.iter().enumerate() {
            for (key, edge) in edges(table).iter().enumerate() {
                let Some(next) = self.follow(at, edge, effect) else { continue };
                if matches!(next, Effect::Changed { .. }) && changed.contains(&child) {
                    continue;
                }
                steps.push(Step { child, key });
                self.ways.push(Way { steps: steps.clone(), effect: next.clone() });
                if self.ways.len() > MOST {
                    let name = &self.tables[self.root].table.name;
                    return Err(unsupported(format!(
                        "table {name}: its foreign keys change rows of other tables in more than {MOST} ways"
                    )));
                }
                self.down(child, &next, steps, changed)?;
                steps.pop();
            }
        }
        if here {
            changed.pop();
        }
        Ok(())
    }

    fn follow(&self, parent: usize, edge: &ForeignKey, effect: &Effect) -> Option<Effect> {
        if edge.parent != self.tables[parent].table.name {
            return None;
        }
        let (action, was_null) = match effect {
            Effect::Deleted => (edge.on_delete, false),
            Effect::Changed { columns, null } => {
                (edge.parent_columns.iter().any(|c| columns.contains(c)).then_some(edge.on_update)?, *null)
            }
        };
        match (action, effect) {
            (ForeignKeyAction::Cascade, Effect::Deleted) => Some(Effect::Deleted),
            (ForeignKeyAction::Cascade | ForeignKeyAction::SetNull, _) => Some(Effect::Changed {
                columns: edge.columns.clone(),
                null: was_null || action == ForeignKeyAction::SetNull,
            }),
            _ => None,
        }
    }
}

/// The lines that one trigger writes.
struct Lines<'a> {
    tables: &'a [Logged],
    target: &'a Logged,
    root: usize,
    /// `OLD` or `NEW`: the parent's row that the first children are found by.
    parent: &'a str,
    /// Whether they are written only where the parent's columns change.
    guarded: bool,
}

impl Lines<'_> {
    fn edge(&self, step: Step) -> &ForeignKey {
        &edges(&self.tables[step.child])[step.key]
    }

    /// The rows at the end of a way. They are locked as the server is about to do anyway: without, a row that came in
    /// between would be missed.
    fn rows(&self, way: &Way) -> String {
        let join = |edge: &ForeignKey, child: &str, parent: &str| {
            let pairs = edge.columns.iter().zip(&edge.parent_columns);
            let terms: Vec<String> =
                pairs.map(|(c, p)| format!("{child}.{} = {parent}.{}", quote(c), quote(p))).collect();
            terms.join(" AND ")
        };
        let mut from = String::new();
        for (at, step) in way.steps.iter().enumerate() {
            let name = table_sql(&self.tables[step.child].table.name);
            if at == 0 {
                from += &format!("{name} AS c0");
            } else {
                let (child, parent) = (format!("c{at}"), format!("c{}", at - 1));
                from += &format!(" STRAIGHT_JOIN {name} AS {child} ON {}", join(self.edge(*step), &child, &parent));
            }
        }
        format!("FROM {from} WHERE {} LOCK IN SHARE MODE", join(self.edge(way.steps[0]), "c0", self.parent))
    }

    /// One line for each of these rows, under its key with `null` columns of it NULL.
    fn line(&self, way: &Way, operation: char, null: &[String]) -> String {
        let last = way.steps.len() - 1;
        let table = &self.target.table;
        let key = self.target.key.columns.iter().map(|&c| &table.columns[c].name);
        let values: Vec<String> = key
            .map(|name| if null.contains(name) { "NULL".to_owned() } else { format!("c{last}.{}", quote(name)) })
            .collect();
        format!(
            "INSERT INTO {} SELECT UUID_SHORT(), {WALL}, {}, '{operation}', @rowferry_label {};\n",
            table_sql(&log_name(self.target)),
            values.join(", "),
            self.rows(way)
        )
    }

    fn lines(&self, way: &Way) -> String {
        let moved = moved(self.target, &way.effect);
        match &way.effect {
            Effect::Deleted => self.line(way, 'D', &[]),
            Effect::Changed { .. } if self.parent == "NEW" => self.line(way, 'I', &[]),
            Effect::Changed { .. } if moved.is_empty() => self.line(way, 'U', &[]),
            Effect::Changed { null: true, .. } => self.line(way, 'D', &[]) + &self.line(way, 'I', &moved),
            Effect::Changed { null: false, .. } => self.line(way, 'D', &[]),
        }
    }

    /// The statements for all ways that go on from `before`; those for a longer way are run only where the shorter one
    /// found a row.
    fn block<'w>(&self, ways: &mut Peekable<impl Iterator<Item = &'w Way>>, before: &[Step]) -> String {
        let mut out = String::new();
        while let Some(way) = ways.next_if(|way| way.steps.starts_with(before)) {
            let mut part = self.lines(way);
            let inner = self.block(ways, &way.steps);
            if !inner.is_empty() {
                part += &format!("IF ROW_COUNT() > 0 THEN\n{inner}END IF;\n");
            }
            if self.guarded && before.is_empty() {
                let parent = &self.tables[self.root].table;
                let columns = self.edge(way.steps[0]).parent_columns.iter().filter_map(|c| parent.column(c));
                part = format!("IF NOT ({}) THEN\n{part}END IF;\n", same(parent, columns));
            }
            out += &part;
        }
        out
    }
}

/// Columns of the key that an effect changes.
fn moved(table: &Logged, effect: &Effect) -> Vec<String> {
    let names = table.key.columns.iter().map(|&c| table.table.columns[c].name.clone());
    match effect {
        Effect::Deleted => Vec::new(),
        Effect::Changed { columns, .. } => names.filter(|name| columns.contains(name)).collect(),
    }
}

/// The triggers of other tables, and of this one for itself, that write into the log of this one.
pub(super) fn triggers(tables: &[Logged], target: usize) -> Result<Vec<Trigger>> {
    let logged = &tables[target];
    complete(tables, logged)?;
    let mut out = Vec::new();
    for (root, parent) in tables.iter().enumerate() {
        let all = parent.table.columns.iter().map(|c| c.name.clone()).collect();
        let update = Effect::Changed { columns: all, null: false };
        for (event, word, row, effect) in [
            ("BEFORE DELETE", "bd", "OLD", &Effect::Deleted),
            ("BEFORE UPDATE", "bu", "OLD", &update),
            ("AFTER UPDATE", "au", "NEW", &update),
        ] {
            let ways = Walk::from(tables, root, effect)?;
            let here: Vec<&Way> = ways
                .iter()
                .filter(|way| way.steps.last().is_some_and(|step| step.child == target))
                .filter(|way| {
                    let follows = matches!(way.effect, Effect::Changed { null: false, .. });
                    row == "OLD" || follows && !moved(logged, &way.effect).is_empty()
                })
                .collect();
            let computed = logged.key.columns.iter().any(|&c| logged.table.columns[c].generated);
            if computed && here.iter().any(|way| matches!(way.effect, Effect::Changed { .. })) {
                return Err(unsupported(format!(
                    "table {}: a foreign key changes columns that its computed key may depend on",
                    logged.table.name
                )));
            }
            let guarded = event.ends_with("UPDATE");
            let lines = Lines { tables, target: logged, root, parent: row, guarded };
            let body = lines.block(&mut here.into_iter().peekable(), &[]);
            if !body.is_empty() {
                let name = format!("_rowferry_{word}_{}_{}", parent.n, logged.n);
                out.push(Trigger { name, event, on: parent.table.name.clone(), body: format!("BEGIN\n{body}END") });
            }
        }
    }
    Ok(out)
}
