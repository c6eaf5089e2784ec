//! Random rows and random moments, from fixed seeds: a few in every run, many with `--long`.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rowferry::sample;

use crate::support::Engine::{Mariadb, Mysql, Postgres, Sqlite};
use crate::support::{Engine, TestDb, long, rowferry, start};

/// A stream of numbers that is the same on every machine (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// From `low` to `high`, both included.
    fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = i128::from(high) - i128::from(low) + 1;
        let at = i128::from(low) + i128::from(self.next()) % span;
        i64::try_from(at).expect("within the bounds")
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let last = i64::try_from(of.len()).expect("a few") - 1;
        of[usize::try_from(self.between(0, last)).expect("not negative")]
    }

    fn digits(&mut self, most: i64) -> String {
        let digits: String = (0..self.between(1, most)).map(|_| char::from(b'0' + self.digit())).collect();
        digits.trim_start_matches('0').to_owned()
    }

    fn digit(&mut self) -> u8 {
        u8::try_from(self.between(0, 9)).expect("one digit")
    }
}

/// A value that every engine can hold, as the inside of a quoted literal.
type Draw = fn(&mut Random) -> String;

fn integer(random: &mut Random, bits: u32) -> String {
    let high = i64::MAX >> (64 - bits);
    let edge = random.pick(&[-high - 1, high, 0, -1, 1]);
    let any = random.between(-high - 1, high);
    random.pick(&[edge, any, any % 1000]).to_string()
}

fn double(random: &mut Random) -> String {
    let digits = random.between(-999_999_999_999_999, 999_999_999_999_999);
    // No negative zero, which only some can hold.
    if digits == 0 { "0".to_owned() } else { format!("{digits}e{}", random.between(-290, 290)) }
}

fn single(random: &mut Random) -> String {
    let digits = random.between(1, 999_999);
    format!("{}{digits}e{}", random.pick(&["", "-"]), random.between(-30, 30))
}

fn decimal(random: &mut Random, before: i64, after: i64) -> String {
    let whole = random.digits(before);
    let rest: String = (0..after).map(|_| char::from(b'0' + random.digit())).collect();
    let value = format!("{}.{rest}", if whole.is_empty() { "0" } else { &whole });
    let zero = value.bytes().all(|b| b == b'0' || b == b'.');
    if zero || random.between(0, 1) == 0 { value } else { format!("-{value}") }
}

fn text(random: &mut Random, most: i64) -> String {
    const LETTERS: [char; 16] =
        ['a', 'Z', '0', ' ', '\'', '"', '\\', '%', '\n', '\t', ',', 'é', 'ß', '王', '🦀', '\u{1}'];
    (0..random.between(0, most)).map(|_| random.pick(&LETTERS)).collect()
}

fn bytes(random: &mut Random) -> String {
    (0..random.between(0, 60)).map(|_| format!("{:02x}", random.between(0, 255))).collect()
}

fn day(random: &mut Random, years: (i64, i64)) -> String {
    format!("{:04}-{:02}-{:02}", random.between(years.0, years.1), random.between(1, 12), random.between(1, 28))
}

fn clock(random: &mut Random) -> String {
    let (h, m, s) = (random.between(0, 23), random.between(0, 59), random.between(0, 59));
    // The last digit is no zero: SQLite's text of a moment may lose such zeros on its way.
    format!("{h:02}:{m:02}:{s:02}.{:05}{}", random.between(0, 99_999), random.between(1, 9))
}

fn uuid(random: &mut Random) -> String {
    // Version 4, variant 1: MariaDB refuses what no standard names.
    let hex = format!("{:016x}{:016x}", random.next(), random.next());
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

fn json(random: &mut Random) -> String {
    let key = random.between(0, 9);
    format!("{{\"k{key}\":  [{}, null, true],\"s\":\"é{key}\"}}", integer(random, 40))
}

/// Columns that an engine has for the logical types, and their values.
fn columns(engine: Engine, with_json: bool) -> Vec<(&'static str, Draw)> {
    let my = [Mariadb, Mysql].contains(&engine);
    let of = |sqlite, mysql, postgres| match engine {
        Sqlite => sqlite,
        Mariadb | Mysql => mysql,
        Postgres => postgres,
    };
    let mut columns: Vec<(&'static str, Draw)> = vec![
        (of("BOOLEAN", "tinyint(1)", "boolean"), |r| r.pick(&["0", "1"]).to_owned()),
        ("smallint", |r| integer(r, 16)),
        ("bigint", |r| integer(r, 64)),
        (of("REAL", "double", "double precision"), double),
        ("numeric(12,2)", |r| decimal(r, 10, 2)),
        ("varchar(20)", |r| text(r, 20)),
        (of("TEXT", "longtext", "text"), |r| text(r, 300)),
        (of("BLOB", "longblob", "bytea"), bytes),
        ("date", |r| day(r, (1000, 9999))),
        (of("TIME", "time(6)", "time"), clock),
        (of("DATETIME(6)", "datetime(6)", "timestamp"), |r| format!("{} {}", day(r, (1000, 9999)), clock(r))),
        (of("TIMESTAMPTZ", "timestamp(6) NULL", "timestamptz"), |r| {
            format!("{} {}+00:00", day(r, (1971, 2037)), clock(r))
        }),
    ];
    if engine != Sqlite {
        columns.push((of("", "float", "real"), single));
        columns.push(("numeric(38,10)", |r| decimal(r, 28, 10)));
    }
    if engine != Mysql {
        columns.push(("uuid", uuid));
        if with_json {
            columns.push(("json", json));
        }
    }
    if my {
        columns.push(("bigint unsigned", |r| r.next().to_string()));
    }
    columns
}

fn literal(engine: Engine, native: &str, value: &str) -> String {
    match (engine, native) {
        (_, "BLOB" | "longblob") => format!("x'{value}'"),
        (_, "bytea") => format!("'\\x{value}'"),
        // Neither takes the offset; the session's zone is UTC.
        (Mariadb | Mysql, n) if n.starts_with("timestamp") => format!("'{}'", value.trim_end_matches("+00:00")),
        (Mariadb | Mysql, _) => format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")),
        _ => format!("'{}'", value.replace('\'', "''")),
    }
}

/// A table `t` with a column of each type and, with `rows`, random rows.
fn fill(db: &TestDb, columns: &[(&'static str, Draw)], rows: i64, seed: u64) {
    let engine = db.engine();
    let list: String = columns.iter().enumerate().map(|(n, (native, _))| format!(", c{n} {native}")).collect();
    db.execute(&format!("CREATE TABLE t (id INT NOT NULL PRIMARY KEY{list})"));
    let mut random = Random(seed);
    for first in (0..rows).step_by(200) {
        let mut sql = if [Mariadb, Mysql].contains(&engine) {
            "SET sql_mode = 'STRICT_ALL_TABLES', time_zone = '+00:00'; ".to_owned()
        } else {
            String::new()
        };
        sql += "INSERT INTO t VALUES ";
        for id in first..(first + 200).min(rows) {
            let _ = write!(sql, "{}({id}", if id == first { "" } else { ", " });
            for (native, draw) in columns {
                let value = draw(&mut random);
                let null = random.between(0, 9) == 0;
                let shown = if null { "NULL".to_owned() } else { literal(engine, native, &value) };
                let _ = write!(sql, ", {shown}");
            }
            sql.push(')');
        }
        db.execute(&sql);
    }
}

/// A → B → A: each value comes back, seen by the engine itself and by the comparison.
fn journey(from: Engine, to: Engine) {
    let (rows, seed) = (if long() { 3000 } else { 100 }, 4711);
    let (a, b, back) = (TestDb::new(from), TestDb::new(to), TestDb::new(from));
    // MySQL keeps a document and not its spelling.
    let columns = columns(from, to != Mysql);
    fill(&a, &columns, rows, seed);
    fill(&back, &columns, 0, seed);
    for command in [["copy", a.url(), b.url()], ["copy", b.url(), back.url()], ["diff", a.url(), back.url()]] {
        let run = rowferry(&command);
        assert_eq!(run.code, 0, "{from:?} -> {to:?}, seed {seed}: {command:?}: {}\n{}", run.stderr, run.stdout);
    }
    let (before, after) = (a.query("SELECT * FROM t ORDER BY id"), back.query("SELECT * FROM t ORDER BY id"));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after, "{from:?} -> {to:?}, seed {seed}");
    }
    assert_eq!(before.len(), after.len());
}

macro_rules! journeys {
    ($($name:ident: $from:ident;)*) => {$(
        #[test]
        fn $name() {
            let there = Engine::available();
            for to in there.iter().filter(|_| there.contains(&$from)) {
                journey($from, *to);
            }
        }
    )*};
}

journeys! {
    random_rows_of_sqlite: Sqlite;
    random_rows_of_mariadb: Mariadb;
    random_rows_of_mysql: Mysql;
    random_rows_of_postgres: Postgres;
}

#[test]
fn killed_at_random_moments_the_same_command_ends_equal() {
    let moments = if long() { 50 } else { 2 };
    let shop = TestDb::new(Sqlite);
    shop.execute(sample::shop_schema());
    let rows: Vec<String> = sample::rows(1, 7).collect();
    shop.execute(&format!("BEGIN; {}; COMMIT", rows.join(";\n")));
    for engine in Engine::available() {
        let mut random = Random(42);
        let command = |to: &TestDb| {
            let allow: &[&str] = if engine == Mysql { &["--allow-loss"] } else { &[] };
            let words = [&["copy", shop.url(), to.url(), "--batch-size", "50"], allow].concat();
            words.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let whole = TestDb::new(engine);
        let began = Instant::now();
        assert_eq!(rowferry(&command(&whole)).code, 0);
        let most = i64::try_from(began.elapsed().as_micros()).expect("a short time");
        for _ in 0..moments {
            let target = TestDb::new(engine);
            let after = random.between(0, most);
            let run = start(&command(&target));
            std::thread::sleep(Duration::from_micros(u64::try_from(after).expect("not negative")));
            run.kill();
            let run = rowferry(&command(&target));
            assert_eq!(run.code, 0, "{engine:?}, killed after {after} µs: {run:?}");
            let run = rowferry(&["diff", whole.url(), target.url()]);
            assert_eq!(run.code, 0, "{engine:?}, killed after {after} µs: {run:?}");
        }
    }
}
