//! Rules of the core, each broken on its way to the database: the simulation must find it. What is shipped knows nothing
//! of this.

use std::sync::Arc;

use rowferry::engine::{ChangeLog, Database as _, Result, RowLock, WriteMode, WriteOptions};
use rowferry::model::{Batch, Cell, Clock, Column, Site, Table, TableName, Vector, Version};

use super::paced::PacedTarget;

/// One rule broken, the others sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The rows of a batch are read without their locks, and the decision is taken upon that.
    DecidesBeforeTheLocks,
    /// A fold reads the rows before it takes the site's numbers.
    RowsBeforeTheNumbers,
    /// A key that was left out of a batch is passed by its cursor.
    CursorPassesWhatWasLeftOut,
    /// What is written to a row that stays as it was gives it no new number.
    NoNumberForANoOp,
    /// A row is sent while its log has lines that no version knows of yet.
    FeedsUnfoldedKeys,
    /// A version that stays does not learn what the other has seen.
    VectorsNotJoined,
    /// The cursor is committed before the rows.
    CursorOutsideTheTransaction,
    /// What rowferry writes is taken down as the application's.
    LabelIgnored,
    /// What rowferry writes stays in the log.
    OwnLinesKept,
    /// Tombstones go before everybody has heard of them.
    TombstonesPurgedEarly,
    /// A row that was loaded without a version gets no number, so that no third site hears of it.
    LoadedRowsNotPassedOn,
    /// Two sites that came to the same content make a new version of it.
    EqualContentsMint,
    /// A write upon one whose clock was ahead gets its own wall time.
    ClockNotRaised,
    /// A version does not say in which epoch of its site it was given.
    NoEpoch,
    /// Who wrote which column is not kept.
    NoFacets,
    /// A row that is merged keeps the facets that its columns had.
    FacetsNotJoined,
}

/// Each with a seed that shows it. One that shows it no more is looked for anew by
/// `ROWFERRY_TEST_LONG=1 cargo test --release --test it simulation::each_broken`.
pub const ALL: [(Broken, u64); 14] = [
    (Broken::DecidesBeforeTheLocks, 99),
    (Broken::RowsBeforeTheNumbers, 9),
    (Broken::CursorPassesWhatWasLeftOut, 0),
    (Broken::NoNumberForANoOp, 8),
    (Broken::FeedsUnfoldedKeys, 1604),
    (Broken::VectorsNotJoined, 0),
    (Broken::CursorOutsideTheTransaction, 194),
    (Broken::LabelIgnored, 0),
    (Broken::OwnLinesKept, 0),
    (Broken::TombstonesPurgedEarly, 0),
    (Broken::LoadedRowsNotPassedOn, 31),
    (Broken::EqualContentsMint, 0),
    (Broken::ClockNotRaised, 0),
    (Broken::NoEpoch, 136),
];

/// Those that show where rows are merged column by column.
pub const MERGED: [(Broken, u64); 3] =
    [(Broken::NoFacets, 402), (Broken::FacetsNotJoined, 0), (Broken::VectorsNotJoined, 0)];

fn is(table: &Table, prefix: &str) -> bool {
    table.name.name.starts_with(prefix)
}

const VERSIONS: &str = "_rowferry_versions_";
const LOG: &str = "_rowferry_log_";
const CURSORS: &str = "_rowferry_cursors";
const SITE: &str = "_rowferry_site";

impl Broken {
    pub async fn begin(self, target: &mut PacedTarget, options: WriteOptions) -> Result<()> {
        let labelled = options.labelled && self != Self::LabelIgnored;
        target.target.begin(WriteOptions { labelled, ..options }).await?;
        if self == Self::TombstonesPurgedEarly && options.labelled {
            for n in 1..=2 {
                let name = TableName::new(format!("{VERSIONS}{n}"));
                let Some(versions) = target.db.memory.describe(&name).await? else { continue };
                let all = target.target.scan(&Arc::new(versions), None, usize::MAX).await?;
                let gone = |row: &usize| all.cell(*row, place(&all, "_rowferry_digest")) == Cell::Null;
                let gone = all.select((0..all.rows()).filter(gone).collect::<Vec<_>>().into_iter());
                target.target.write(WriteMode::Delete, &gone).await?;
            }
        }
        Ok(())
    }

    pub async fn lookup(
        self,
        target: &mut PacedTarget,
        table: &Arc<Table>,
        keys: &Batch,
        lock: RowLock,
    ) -> Result<Batch> {
        if self == Self::RowsBeforeTheNumbers && !target.options.labelled {
            if lock == RowLock::Wait && is(table, SITE) {
                let mut early = target.db.memory.target().await?;
                early.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
                target.early = Some(early);
            } else if let Some(early) = target.early.as_mut().filter(|_| !is(table, "_rowferry_")) {
                return early.lookup(table, keys, RowLock::None).await;
            }
        }
        let lock = match lock {
            RowLock::SkipHeld if self == Self::DecidesBeforeTheLocks => RowLock::None,
            lock => lock,
        };
        let found = target.target.lookup(table, keys, lock).await?;
        let unseen = self == Self::FeedsUnfoldedKeys && target.options.point && is(table, LOG);
        Ok(if unseen { found.select(std::iter::empty()) } else { found })
    }

    pub fn scanned(self, table: &Table, above: Option<(usize, i64)>, found: &Batch) -> Batch {
        let passes = self == Self::CursorPassesWhatWasLeftOut && above.is_some() && is(table, VERSIONS);
        found.select(usize::from(passes && found.rows() > 1)..found.rows())
    }

    pub async fn write(self, target: &mut PacedTarget, mode: WriteMode, batch: &Batch) -> Result<u64> {
        let labelled = target.options.labelled;
        if self == Self::CursorOutsideTheTransaction && labelled && is(&batch.table, CURSORS) {
            let mut other = target.db.memory.target().await?;
            other.begin(WriteOptions::default()).await?;
            let written = other.write(mode, batch).await?;
            other.commit().await?;
            return Ok(written);
        }
        if self == Self::OwnLinesKept && labelled && is(&batch.table, LOG) {
            let label = place(batch, ChangeLog::LABEL);
            let theirs = (0..batch.rows()).filter(|row| batch.cell(*row, label) != Cell::Int(1));
            let theirs = batch.select(theirs.collect::<Vec<_>>().into_iter());
            return target.target.write(mode, &theirs).await;
        }
        if is(&batch.table, VERSIONS) && mode != WriteMode::Delete {
            let bent = self.bent(target, mode, batch).await?;
            return target.target.write(mode, &bent).await;
        }
        target.target.write(mode, batch).await
    }

    /// Entries as this rule has them.
    async fn bent(self, target: &mut PacedTarget, mode: WriteMode, batch: &Batch) -> Result<Batch> {
        let labelled = target.options.labelled;
        let key = batch.table.primary_key.clone().expect("a key").columns;
        let keys = key.iter().map(|&at| batch.columns()[at].clone()).collect();
        let keys = Batch::new(Arc::new(batch.table.project(&key)), keys);
        let before = match mode {
            WriteMode::Update => target.target.lookup(&batch.table, &keys, RowLock::None).await?,
            _ => batch.select(std::iter::empty()),
        };
        let now = target.target.now().await?;
        let mut columns = vec![Column::default(); batch.table.columns.len()];
        for row in 0..batch.rows() {
            let same_key = |old: &usize| key.iter().all(|&at| before.cell(*old, at) == batch.cell(row, at));
            let old = (0..before.rows()).find(same_key).map(|old| Bent::read(&before, old));
            let mut new = Bent::read(batch, row);
            match (self, old) {
                (Self::NoNumberForANoOp, Some(old)) if new.says_as(&old) => new.seq = old.seq,
                (Self::VectorsNotJoined, Some(old)) if labelled && new.version == old.version => {
                    new.vector = old.vector;
                }
                (Self::EqualContentsMint, Some(old))
                    if labelled && new.digest == old.digest && new.version != old.version =>
                {
                    new.mint(target.db.site, new.version.clock);
                }
                (Self::ClockNotRaised, Some(old)) if !labelled && new.version != old.version => {
                    new.vector = old.vector;
                    new.version.clock = new.version.clock.min(Clock::of_write(now, now, Clock::ZERO));
                    new.vector.add(new.version);
                }
                (Self::NoEpoch, _) => new.forget_epochs(),
                (Self::NoFacets, _) => new.columns = None,
                (Self::FacetsNotJoined, Some(old)) if labelled && new.columns.is_some() && old.columns.is_some() => {
                    new.columns = old.columns;
                }
                (Self::LoadedRowsNotPassedOn, _) if labelled && new.version.is_base() => continue,
                _ => {}
            }
            new.write(batch, row, &mut columns);
        }
        Ok(Batch::new(batch.table.clone(), columns))
    }
}

fn place(batch: &Batch, column: &str) -> usize {
    batch.table.column(column).expect("a column of ours")
}

/// An entry as it stands in the versions table.
struct Bent {
    version: Version,
    vector: Vector,
    digest: Option<Vec<u8>>,
    seq: i64,
    columns: Option<Vec<u8>>,
}

impl Bent {
    fn read(batch: &Batch, row: usize) -> Self {
        let bytes = |column: &str| match batch.cell(row, place(batch, column)) {
            Cell::Bytes(bytes) => Some(bytes.to_vec()),
            _ => None,
        };
        let Cell::Int(seq) = batch.cell(row, place(batch, "_rowferry_seq")) else { unreachable!("a number") };
        Self {
            version: Version::from_bytes(&bytes("_rowferry_version").expect("a version")).expect("a version"),
            vector: Vector::from_bytes(&bytes("_rowferry_vector").expect("a vector")).expect("a vector"),
            digest: bytes("_rowferry_digest"),
            seq,
            columns: bytes("_rowferry_columns"),
        }
    }

    fn says_as(&self, other: &Self) -> bool {
        (self.version, &self.vector, &self.digest) == (other.version, &other.vector, &other.digest)
    }

    fn mint(&mut self, site: Site, above: Clock) {
        self.version = Version { clock: Clock::of_write(0, 0, above), site };
        self.vector.add(self.version);
    }

    fn forget_epochs(&mut self) {
        let without = |version: Version| Version { site: Site { epoch: 1, ..version.site }, ..version };
        let mut vector = Vector::default();
        self.vector.versions().iter().for_each(|version| vector.add(without(*version)));
        if !self.version.is_base() {
            self.version = without(self.version);
        }
        self.vector = vector;
    }

    /// The row of the batch, with this entry in it.
    fn write(self, batch: &Batch, row: usize, columns: &mut [Column]) {
        for (at, column) in columns.iter_mut().enumerate() {
            match batch.table.columns[at].name.as_str() {
                "_rowferry_version" => column.push_bytes(&self.version.to_bytes()),
                "_rowferry_vector" => column.push_bytes(&self.vector.to_bytes()),
                "_rowferry_seq" => column.push_int(self.seq),
                "_rowferry_columns" => match &self.columns {
                    Some(facets) => column.push_bytes(facets),
                    None => column.push_null(),
                },
                _ => column.push_cell(batch.cell(row, at)),
            }
        }
    }
}
