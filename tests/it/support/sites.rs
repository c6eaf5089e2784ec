//! Databases that a config brings in step two by two.

use serde_json::Value;

use super::{Engine, Output, TestDb, assert_equal, rowferry_in, some};

/// Two.
pub const PAIR: &[(usize, usize)] = &[(0, 1)];
/// Three, each with each.
pub const RING: &[(usize, usize)] = &[(0, 1), (1, 2), (2, 0)];
/// Three, of which the one in the middle meets both.
pub const STAR: &[(usize, usize)] = &[(0, 1), (2, 1)];

/// Databases that a config brings in step two by two.
pub struct Sites {
    /// By number.
    pub dbs: Vec<TestDb>,
    /// Where the config is.
    pub folder: tempfile::TempDir,
    edges: Vec<(usize, usize)>,
}

impl Sites {
    /// Databases of these engines, which the sync of each edge brings in step.
    pub fn new(engines: &[Engine], edges: &[(usize, usize)], sync: &str) -> Self {
        let dbs = engines.iter().map(|&engine| TestDb::new(engine)).collect();
        let sites = Self { dbs, folder: tempfile::tempdir().expect("a folder"), edges: edges.to_vec() };
        sites.say(sync);
        sites
    }

    /// What each sync says besides its ends and its direction, which is both ways.
    pub fn say(&self, sync: &str) {
        let databases = self.dbs.iter().enumerate().map(|(at, db)| format!("  d{at}: {{ url: \"{}\" }}\n", db.url()));
        let syncs = self
            .edges
            .iter()
            .map(|(a, b)| format!("  s{a}{b}: {{ source: d{a}, target: d{b}, direction: bidirectional, {sync} }}\n"));
        let (databases, syncs): (String, String) = (databases.collect(), syncs.collect());
        let text = format!("node: test\ndatabases:\n{databases}syncs:\n{syncs}");
        std::fs::write(self.folder.path().join("rowferry.yaml"), text).expect("the config");
    }

    /// Runs the program beside the config.
    pub fn run(&self, arguments: &[&str]) -> Output {
        rowferry_in(self.folder.path(), &[arguments, &["--format", "json"]].concat())
    }

    /// What these syncs wrote, all of them if none is named.
    #[track_caller]
    pub fn sync(&self, names: &[&str]) -> u64 {
        // Triggers of the application that cannot be silenced are accepted.
        let output = self.run(&[&["sync", "--force"], names].concat());
        assert_eq!(output.code, 0, "{:?}: {}{}", self.engines(), output.stderr, output.stdout);
        let reports = output.json();
        let tables = reports.as_array().expect("a list").iter().flat_map(|r| r["tables"].as_array().expect("tables"));
        let of = |t: &Value, what: &str| t[what].as_u64().expect("a count");
        tables.map(|t| of(t, "inserted") + of(t, "updated") + of(t, "deleted")).sum()
    }

    /// Rounds until nothing is written any more, at most as many as there are sites; then all hold the same.
    #[track_caller]
    pub fn come_to_rest(&self) {
        for _ in 0..=self.dbs.len() {
            if self.sync(&[]) == 0 {
                self.dbs[1..].iter().for_each(|other| assert_equal(&self.dbs[0], other));
                return;
            }
        }
        panic!("{:?} never come to rest", self.engines());
    }

    /// As [`Self::come_to_rest`], where a run may end with rows that wait for what another site has to say first.
    #[track_caller]
    pub fn settle(&self) {
        let mut output = None;
        for _ in 0..2 * self.dbs.len() {
            output = Some(self.run(&["sync"])).filter(|output| output.code != 0);
            if output.is_none() {
                return self.come_to_rest();
            }
        }
        panic!(
            "{:?} never settle: {}",
            self.engines(),
            output.map(|output| output.stdout + &output.stderr).unwrap_or_default()
        );
    }

    /// What they are.
    pub fn engines(&self) -> Vec<Engine> {
        self.dbs.iter().map(TestDb::engine).collect()
    }

    /// The recorded conflicts.
    pub fn conflicts(&self) -> Vec<Value> {
        self.run(&["conflicts", "list"]).json().as_array().expect("a list").clone()
    }

    /// All hold these rows.
    #[track_caller]
    pub fn assert_rows(&self, sql: &str, expected: &str) {
        for db in &self.dbs {
            assert_eq!(rows(db, sql), expected, "{:?} of {:?}", db.engine(), self.engines());
        }
    }
}

/// All rows of a query on one line.
pub fn rows(db: &TestDb, sql: &str) -> String {
    let shown = |row: Vec<Option<String>>| {
        row.into_iter().map(|value| value.unwrap_or("NULL".to_owned())).collect::<Vec<_>>().join(" ")
    };
    db.query(sql).into_iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Three of each engine, and one of each in every place; in an ordinary run half of these.
#[track_caller]
pub fn threes() -> Vec<[Engine; 3]> {
    let engines = Engine::available();
    let turned = |at: usize| [0, 1, 2].map(|other| engines[(at + other) % engines.len()]);
    some(engines.len(), engines.iter().map(|&engine| [engine; 3]).chain((0..engines.len()).map(turned)))
}

/// Each engine in front of a file, and in front of another database of its own; in an ordinary run half of these.
#[track_caller]
pub fn pairs(sync: &str) -> Vec<Sites> {
    let engines = Engine::available();
    let alike = engines.iter().filter(|engine| **engine != Engine::Sqlite).map(|&engine| [engine, engine]);
    let files = engines.iter().map(|&engine| [engine, Engine::Sqlite]);
    let chosen = some(engines.len(), files.chain(alike));
    chosen.into_iter().map(|two| Sites::new(&two, PAIR, sync)).collect()
}
