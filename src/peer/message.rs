//! What nodes say to each other: the heads of bodies. Rows, keys and changes stand behind them, see `codec`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::apply::Applied;
use crate::conflict::{FirstRun, Policy, Rule, Side};
use crate::endpoint::{
    Basis, Differing, End, Fault, Filter, Mapping, Mark, Outstanding, Place, Resumed, Route, Standing, Standings, Start,
};
use crate::engine::{Error, ErrorKind, Letters, WriteMode};
use crate::model::{BadVersion, BatchLimits, Site, Table, TableName, Vector, Zone};
use crate::pipeline::{Captured, ColumnChoice, Origin, PlanOptions};

/// The version of what is said here.
pub const PROTOCOL: u32 = 1;
/// The type of bodies.
pub const MIME: &str = "application/vnd.rowferry.peer";

/// Where each kind of call goes.
pub mod path {
    /// Who is there.
    pub const HANDSHAKE: &str = "/api/peer/v1/handshake";
    /// What a sync needs before it runs.
    pub const PREPARE: &str = "/api/peer/v1/prepare";
    /// What an end that sends is asked.
    pub const CHANGES: &str = "/api/peer/v1/changes";
    /// All rows of a table.
    pub const SNAPSHOT: &str = "/api/peer/v1/snapshot";
    /// What an end that receives is asked.
    pub const APPLY: &str = "/api/peer/v1/apply";
    /// What one half of a comparison is asked.
    pub const DIGESTS: &str = "/api/peer/v1/digests";
    /// What a table is asked that is written as it is elsewhere.
    pub const ROWS: &str = "/api/peer/v1/rows";
}

/// Greets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of who asks.
    pub protocol: u32,
    /// Its node's name.
    pub node: String,
    /// The database that it wants to meet; `None`: the one that its key opens.
    pub database: Option<String>,
}

/// Greets back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL`] of who answers.
    pub protocol: u32,
    /// Its node's name.
    pub node: String,
    /// The database's name there.
    pub database: String,
    /// The product behind it.
    pub product: String,
    /// Who the database is, once something of it is captured.
    pub site: Option<(u64, u32)>,
    /// What the node's clock shows, in microseconds since 1970.
    pub now: i64,
    /// Which start of the node answered.
    pub instance: u128,
    /// The tables that the key opens, with a digest of their form.
    pub tables: Vec<(String, String)>,
    /// Whether it knows comparisons, which older nodes do not.
    #[serde(default)]
    pub compares: bool,
    /// Whether its tables can be written as they are elsewhere.
    #[serde(default)]
    pub rewrites: bool,
}

/// What is asked before a sync runs. Each is about one database.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preparing {
    /// What is known of the tables that these options choose.
    Origin(WireOptions),
    /// Whether tables can be read so.
    Check(Vec<Asked>),
    /// A plan for what comes from there.
    Plan(Box<WireOrigin>, WireOptions, bool),
    /// Captures tables; of some of them it keeps facets of the columns.
    Capture(Vec<TableName>, Vec<TableName>),
    /// What is captured.
    Captured,
    /// A text that tells whether something of these tables is another.
    Forms(Vec<TableName>),
    /// The last number that was given out, once it is above this one or one of these tables was written to; after so many
    /// milliseconds in any case.
    News(Vec<TableName>, i64, u64),
    /// How much waits in these tables after these places.
    Pending(Vec<(TableName, i64)>),
    /// How many rows a table has.
    Count(TableName),
    /// A half of a comparison is needed still.
    Alive(u128),
    /// Takes a lock.
    Lock(String),
    /// Gives it back.
    Unlock(u128),
    /// Whether it is held still.
    Held(u128),
}

/// Something that is asked about a database of the node that is asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct About<T> {
    /// The database's name there.
    pub database: String,
    /// What is asked.
    pub ask: T,
}

/// A table, as it is to be read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// The table.
    pub table: TableName,
    /// Its columns.
    pub columns: Vec<String>,
    /// The condition that rows have to meet.
    pub filter: Option<String>,
}

/// [`PlanOptions`].
#[derive(Debug, Serialize, Deserialize)]
pub struct WireOptions {
    tables: Vec<String>,
    exclude: Vec<String>,
    filters: Vec<(String, String)>,
    create: bool,
    allow_loss: bool,
    force: bool,
    lasting: bool,
    renamed: Vec<(String, TableName)>,
    columns: Vec<(String, ColumnChoice)>,
    #[serde(default)]
    soft_deletes: BTreeMap<String, String>,
}

impl WireOptions {
    /// Those of a sync.
    #[must_use]
    pub fn of(options: &PlanOptions) -> Self {
        Self {
            tables: options.tables.clone(),
            exclude: options.exclude.clone(),
            filters: options.filters.clone(),
            create: options.create,
            allow_loss: options.allow_loss,
            force: options.force,
            lasting: options.lasting,
            renamed: options.renamed.clone().into_iter().collect(),
            columns: options.columns.clone().into_iter().collect(),
            soft_deletes: options.soft_deletes.clone(),
        }
    }

    /// Whether missing tables are made.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.create
    }

    /// What to plan for.
    #[must_use]
    pub fn options(self) -> PlanOptions {
        PlanOptions {
            tables: self.tables,
            exclude: self.exclude,
            filters: self.filters,
            create: self.create,
            allow_loss: self.allow_loss,
            force: self.force,
            lasting: self.lasting,
            renamed: self.renamed.into_iter().collect(),
            columns: self.columns.into_iter().collect(),
            soft_deletes: self.soft_deletes,
            ..PlanOptions::default()
        }
    }
}

/// [`Origin`].
#[derive(Debug, Serialize, Deserialize)]
pub struct WireOrigin {
    label: String,
    product: String,
    version: String,
    table_names: u8,
    zone: String,
    tables: Vec<Table>,
    conditions: Vec<(String, String)>,
}

impl WireOrigin {
    /// What is told of it.
    #[must_use]
    pub fn of(origin: Origin) -> Self {
        let table_names = match origin.table_names {
            Letters::Exact => 0,
            Letters::FoldAscii => 1,
            Letters::Fold => 2,
        };
        Self {
            label: origin.label,
            product: origin.product,
            version: origin.version,
            table_names,
            zone: origin.zone.name().to_owned(),
            tables: origin.tables,
            conditions: origin.conditions.into_iter().collect(),
        }
    }

    /// The origin, at a node of this name.
    ///
    /// # Errors
    /// `BadData` where it makes no sense.
    pub fn origin(self, node: &str) -> Result<Origin, Error> {
        let zone = Zone::named(&self.zone).map_err(|why| Error::new(ErrorKind::BadData, why))?;
        let tables = self.tables.into_iter().map(super::guard::guarded).collect::<Result<Vec<_>, Error>>()?;
        let table_names = match self.table_names {
            0 => Letters::Exact,
            1 => Letters::FoldAscii,
            _ => Letters::Fold,
        };
        Ok(Origin {
            identity: format!("peer {node} {}", self.label),
            label: self.label,
            product: self.product,
            version: self.version,
            table_names,
            zone,
            tables,
            conditions: self.conditions.into_iter().collect(),
            notes: Vec::new(),
        })
    }
}

/// One table of a plan. What new rows are filled with stands behind the head, one row for each table.
#[derive(Debug, Serialize, Deserialize)]
pub struct WirePlan {
    /// At the end that sends.
    pub source: Table,
    /// At the end that receives.
    pub target: Table,
    /// What is filled there.
    pub filled: Vec<crate::model::ColumnDef>,
    /// The key's columns.
    pub key: Option<Vec<usize>>,
    /// The condition.
    pub filter: Option<String>,
    /// What could surprise.
    pub notes: Vec<String>,
}

/// [`End`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireEnd {
    site: (u64, u32),
    label: String,
    product: String,
    zone: String,
}

impl WireEnd {
    /// What is told of it.
    #[must_use]
    pub fn of(end: &End) -> Self {
        Self {
            site: (end.site.id, end.site.epoch),
            label: end.label.clone(),
            product: end.product.clone(),
            zone: end.zone.name().to_owned(),
        }
    }

    /// The end.
    ///
    /// # Errors
    /// `BadData` where it makes no sense.
    pub fn end(self) -> Result<End, Error> {
        let zone = Zone::named(&self.zone).map_err(|why| Error::new(ErrorKind::BadData, why))?;
        let site = Site { id: self.site.0, epoch: self.site.1 };
        if site.id == 0 {
            return Err(Error::new(ErrorKind::BadData, "an end that is no site"));
        }
        Ok(End { site, label: self.label, product: self.product, zone })
    }
}

/// [`Captured`].
#[derive(Debug, Serialize, Deserialize)]
pub struct WireCaptured {
    end: WireEnd,
    tables: Vec<Table>,
    lost: Vec<(TableName, WireKind, String)>,
    doubted: Vec<TableName>,
    dropped: Vec<(TableName, Vec<String>)>,
}

impl WireCaptured {
    /// What is told of it: only these tables.
    #[must_use]
    pub fn of(captured: &Captured, opened: impl Fn(&TableName) -> bool) -> Self {
        let tables = captured.tables.iter().filter(|table| opened(&table.name)).map(|table| (**table).clone());
        let lost = captured.lost.iter().filter(|(table, _)| opened(table));
        Self {
            tables: tables.collect(),
            lost: lost.map(|(table, e)| refused(table, e)).collect(),
            doubted: captured.doubted.iter().filter(|table| opened(table)).cloned().collect(),
            dropped: captured.dropped.iter().filter(|(table, _)| opened(table)).cloned().collect(),
            end: WireEnd::of(&captured.end),
        }
    }

    /// What is captured.
    ///
    /// # Errors
    /// `BadData` where it makes no sense.
    pub fn captured(self) -> Result<Captured, Error> {
        let tables = self.tables.into_iter().map(|table| super::guard::guarded(table).map(Into::into));
        let lost = self.lost.into_iter().map(|(table, kind, said)| (table, Error::new(kind.into(), said)));
        Ok(Captured {
            end: self.end.end()?,
            tables: tables.collect::<Result<_, Error>>()?,
            lost: lost.collect(),
            doubted: self.doubted,
            dropped: self.dropped,
        })
    }
}

/// [`Route`]. What new rows are filled with stands behind the head, one row for each table.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireRoute {
    /// The start of the node that it was made for: what was recorded before is not done again.
    pub instance: u128,
    /// The sync's name.
    pub sync: String,
    /// Whether it goes to the sync's target.
    pub to_target: bool,
    /// The end that sends.
    pub from: WireEnd,
    /// The end that receives.
    pub to: WireEnd,
    /// How rows are settled when the two meet.
    pub first_run: WireRule,
    /// The tables.
    pub tables: Vec<WireMapping>,
}

/// [`Mapping`].
#[derive(Debug, Serialize, Deserialize)]
pub struct WireMapping {
    /// At the end that sends.
    pub from: Table,
    /// At the end that receives.
    pub to: Table,
    /// The key's columns.
    pub key: Vec<usize>,
    /// The condition, and whether it is that of the way there.
    pub filter: Option<(String, bool)>,
    /// The column at the end that sends that says that a row was deleted.
    #[serde(default)]
    pub soft_delete: Option<String>,
    /// What is filled.
    pub filled: Vec<crate::model::ColumnDef>,
    /// How conflicts are settled.
    pub rule: WireRule,
    /// Whether sites number new rows themselves.
    pub generated_keys: bool,
    /// The column that says when a row was written.
    pub stamp: Option<usize>,
}

/// A policy, seen from the end that receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WireRule {
    /// The higher version.
    Later,
    /// Column by column.
    Columns,
    /// What is there.
    Keep,
    /// What stands here.
    Local,
    /// What comes.
    Incoming,
    /// A person decides.
    Manual,
}

impl WireRule {
    fn of(policy: Policy) -> Self {
        match policy {
            Policy::LastWriteWins => Self::Later,
            Policy::MergeColumns => Self::Columns,
            Policy::KeepExisting => Self::Keep,
            Policy::Prefer(Side::Local) => Self::Local,
            Policy::Prefer(Side::Incoming) => Self::Incoming,
            Policy::Manual => Self::Manual,
        }
    }

    fn policy(self) -> Policy {
        match self {
            Self::Later => Policy::LastWriteWins,
            Self::Columns => Policy::MergeColumns,
            Self::Keep => Policy::KeepExisting,
            Self::Local => Policy::Prefer(Side::Local),
            Self::Incoming => Policy::Prefer(Side::Incoming),
            Self::Manual => Policy::Manual,
        }
    }
}

impl WireMapping {
    fn of(mapping: &Mapping) -> Self {
        Self {
            from: (*mapping.from).clone(),
            to: (*mapping.to).clone(),
            key: mapping.key.columns.clone(),
            filter: mapping.filter.as_ref().map(|filter| (filter.condition.clone(), filter.returning)),
            soft_delete: mapping.soft_delete.as_ref().map(|column| column.name.clone()),
            filled: mapping.fill.columns().to_vec(),
            rule: WireRule::of(mapping.rule.policy),
            generated_keys: mapping.rule.generated_keys,
            stamp: mapping.stamp,
        }
    }

    /// Which rows take part.
    #[must_use]
    pub fn filter(&self) -> Option<Filter> {
        self.filter.clone().map(|(condition, returning)| Filter { condition, returning })
    }

    /// How its conflicts are settled.
    #[must_use]
    pub fn rule(&self) -> Rule {
        Rule { policy: self.rule.policy(), generated_keys: self.generated_keys }
    }
}

impl WireRoute {
    /// What is told of it.
    #[must_use]
    pub fn of(route: &Route, instance: u128) -> Self {
        Self {
            instance,
            sync: route.sync.clone(),
            to_target: route.to_target,
            from: WireEnd::of(&route.from),
            to: WireEnd::of(&route.to),
            first_run: match route.first_run {
                FirstRun::Prefer(Side::Local) => WireRule::Local,
                FirstRun::Prefer(Side::Incoming) => WireRule::Incoming,
                FirstRun::Manual => WireRule::Manual,
            },
            tables: route.tables.iter().map(WireMapping::of).collect(),
        }
    }

    /// How rows are settled when the two meet.
    #[must_use]
    pub fn first_run(&self) -> FirstRun {
        match self.first_run {
            WireRule::Local => FirstRun::Prefer(Side::Local),
            WireRule::Incoming => FirstRun::Prefer(Side::Incoming),
            _ => FirstRun::Manual,
        }
    }
}

/// A call to an end that was opened for a route. Its number is one more than that of the call before: a call that comes
/// twice is answered again and done once, and one that comes late is not done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// The end, named by who opened it.
    pub session: u128,
    /// The call's number; 0 opens.
    pub number: u64,
    /// What is asked.
    pub ask: T,
}

/// What an end that sends is asked, see [`crate::endpoint::Sender`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sending {
    /// Opens it.
    Open(Box<About<WireRoute>>),
    /// Where the other end goes on.
    Resume(WireStandings),
    /// What it has seen of the other end.
    Seen,
    /// Gives versions.
    Fold(Vec<WirePlace>),
    /// Keys follow; whether their deletion is forgotten.
    Bury(usize, bool),
    /// Keys follow; whether of all rows.
    Vouch(usize, bool),
    /// What was written.
    Changes(Vec<WirePlace>, WireLimits),
    /// What was deleted.
    Deleted(WirePlace, usize),
    /// Keys follow; whether they are in the receiver's form.
    Current(usize, bool),
    /// All rows of a table; the answer is a stream.
    Rows(usize, WireLimits),
    /// It is not needed any more.
    Close,
}

/// What an end that receives is asked, see [`crate::endpoint::Receiver`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Receiving {
    /// Opens it.
    Open(Box<About<WireRoute>>),
    /// How far it is.
    Cursors,
    /// What the other end has seen of it.
    Judge(u32, WireMark),
    /// It was restored.
    Renew,
    /// How many rows; whether keys follow.
    Rows(usize, bool),
    /// Rows follow.
    Differing(usize, WireDiffering),
    /// Keys of rows whose deletion the sender cannot name: what it has forgotten, or those that nobody has written; whether a
    /// key follows.
    Unnamed(usize, Option<(WireVector, bool)>, bool, usize),
    /// What the other end has forgotten.
    Inherit(usize, WireVector),
    /// Changes of these tables follow.
    Take(Vec<usize>, Vec<WirePlace>, Option<WireMark>, bool),
    /// All rows of these tables were compared.
    Settle(Vec<usize>),
    /// What was set aside.
    Aside(usize, usize),
    /// What people have to look at.
    Outstanding,
    /// Whether all holds, after rows of some tables came and of others went.
    Verify(Vec<usize>, Vec<usize>),
    /// It is not needed any more.
    Close,
}

/// [`Differing`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "as there")]
pub enum WireDiffering {
    Meeting,
    Any,
    Poorer,
}

impl From<Differing> for WireDiffering {
    fn from(how: Differing) -> Self {
        match how {
            Differing::Meeting => Self::Meeting,
            Differing::Any => Self::Any,
            Differing::Poorer => Self::Poorer,
        }
    }
}

impl From<WireDiffering> for Differing {
    fn from(how: WireDiffering) -> Self {
        match how {
            WireDiffering::Meeting => Self::Meeting,
            WireDiffering::Any => Self::Any,
            WireDiffering::Poorer => Self::Poorer,
        }
    }
}

/// [`Place`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct WirePlace(usize, i64, i64);

impl From<Place> for WirePlace {
    fn from(place: Place) -> Self {
        Self(place.table, place.position, place.token)
    }
}

impl From<WirePlace> for Place {
    fn from(WirePlace(table, position, token): WirePlace) -> Self {
        Self { table, position, token }
    }
}

/// [`Standing`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct WireStanding(u32, Option<(u32, WirePlace)>, bool, bool);

impl From<Standing> for WireStanding {
    fn from(standing: Standing) -> Self {
        Self(standing.number, standing.at.map(|(epoch, place)| (epoch, place.into())), standing.aside, standing.widened)
    }
}

impl From<WireStanding> for Standing {
    fn from(WireStanding(number, at, aside, widened): WireStanding) -> Self {
        Self { number, at: at.map(|(epoch, place)| (epoch, place.into())), aside, widened }
    }
}

/// [`Vector`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireVector(String);

impl From<&Vector> for WireVector {
    fn from(vector: &Vector) -> Self {
        Self(vector.to_string())
    }
}

impl TryFrom<WireVector> for Vector {
    type Error = BadVersion;

    fn try_from(WireVector(text): WireVector) -> Result<Self, BadVersion> {
        text.parse()
    }
}

/// [`Mark`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct WireMark(i64, i64);

impl From<Mark> for WireMark {
    fn from(Mark { position, token }: Mark) -> Self {
        Self(position, token)
    }
}

impl From<WireMark> for Mark {
    fn from(WireMark(position, token): WireMark) -> Self {
        Self { position, token }
    }
}

/// [`Standings`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireStandings(Vec<Option<WireStanding>>, Option<(u32, WireMark)>);

impl From<Standings> for WireStandings {
    fn from(Standings { tables, seen }: Standings) -> Self {
        let tables = tables.into_iter().map(|standing| standing.map(Into::into)).collect();
        Self(tables, seen.map(|(epoch, mark)| (epoch, mark.into())))
    }
}

impl From<WireStandings> for Standings {
    fn from(WireStandings(tables, seen): WireStandings) -> Self {
        let tables = tables.into_iter().map(|standing| standing.map(Into::into)).collect();
        Self { tables, seen: seen.map(|(epoch, mark)| (epoch, mark.into())) }
    }
}

/// [`BatchLimits`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct WireLimits(usize, usize);

impl From<BatchLimits> for WireLimits {
    fn from(limits: BatchLimits) -> Self {
        Self(limits.rows, limits.bytes)
    }
}

/// Bytes of a batch that is asked for.
const BYTES_MAX: usize = 16 << 20;

impl From<WireLimits> for BatchLimits {
    fn from(WireLimits(rows, bytes): WireLimits) -> Self {
        Self { rows: rows.clamp(1, crate::endpoint::codec::ROWS_MAX), bytes: bytes.clamp(1, BYTES_MAX) }
    }
}

/// [`Start`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WireStart {
    /// Here.
    At(WirePlace),
    /// They never met.
    Never,
    /// Nobody knows.
    Lost,
    /// It takes no part.
    Not,
}

/// What calls are answered with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// Done.
    Done,
    /// See [`Resumed`]; none: the reader was restored.
    Resumed(Option<(Vec<WireStart>, Vec<WireVector>)>),
    /// What it has seen.
    Seen(Option<(u32, WireMark)>),
    /// Rows that differ.
    Differing(Vec<usize>),
    /// Tables that were emptied, and that were doubted.
    Folded(Vec<usize>, Vec<usize>),
    /// Changes of these tables follow; where the other end stands then, what it has seen, and whether there is more.
    Parcel(Vec<usize>, Vec<WirePlace>, Option<WireMark>, bool),
    /// Keys follow.
    Deleted(WirePlace),
    /// Changes follow; the keys that cannot be told just now, and what the other end has seen then.
    Current(Vec<usize>, Option<WireMark>),
    /// How far it is.
    Cursors(WireStandings),
    /// A number.
    Count(u64),
    /// Keys follow, and where to go on, if there is more.
    Unnamed(bool),
    /// No more is known of these than that they were deleted.
    Buried(Vec<usize>),
    /// What became of changes.
    Taken(Vec<[u64; 6]>),
    /// Keys follow.
    Keys,
    /// What people have to look at.
    Outstanding(Vec<[u64; 3]>),
    /// What does not hold.
    Problems(Vec<String>),
    /// It takes longer.
    Working,
    /// Leaves follow.
    Leaves,
    /// So many batches follow; of each row, column and reason of what does not fit.
    Rows(Vec<Vec<(usize, usize, String)>>),
    /// See [`crate::endpoint::Followed`]; so many batches follow.
    Followed(Vec<bool>, bool, usize),
    /// Buckets follow; so many rows do not fit.
    Counted(u64),
    /// A batch follows, with row, column and reason of what does not fit; none: that was all.
    Picked(Option<Vec<(usize, usize, String)>>),
    /// Rows that were inserted, updated and deleted. Batches of what was refused follow, of each how it was to be written
    /// and the reasons, row by row.
    Rewritten([u64; 3], Vec<(WriteMode, Vec<String>)>),
    /// It went wrong; with the table that is to blame.
    Failed(Option<usize>, WireKind, String),
}

impl From<Resumed> for Told {
    fn from(resumed: Resumed) -> Self {
        let start = |start| match start {
            Start::Place(place) => WireStart::At(place.into()),
            Start::Never => WireStart::Never,
            Start::Lost => WireStart::Lost,
            Start::Not => WireStart::Not,
        };
        Self::Resumed(match resumed {
            Resumed::At(starts, forgotten) => {
                Some((starts.into_iter().map(start).collect(), forgotten.iter().map(Into::into).collect()))
            }
            Resumed::ReaderRestored => None,
        })
    }
}

impl From<WireStart> for Start {
    fn from(start: WireStart) -> Self {
        match start {
            WireStart::At(place) => Self::Place(place.into()),
            WireStart::Never => Self::Never,
            WireStart::Lost => Self::Lost,
            WireStart::Not => Self::Not,
        }
    }
}

impl From<Fault> for Told {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault.table, WireKind::of(fault.error.kind), fault.error.message().to_owned())
    }
}

impl Told {
    /// What became of changes.
    #[must_use]
    pub fn taken(applied: &[Applied]) -> Self {
        Self::Taken(applied.iter().map(|a| [a.inserted, a.updated, a.deleted, a.conflicts, a.held, a.apart]).collect())
    }

    /// What people have to look at.
    #[must_use]
    pub fn outstanding(all: &[Outstanding]) -> Self {
        Self::Outstanding(all.iter().map(|o| [o.open, o.quarantined, o.waiting]).collect())
    }
}

/// What became of one table's changes.
#[must_use]
pub fn applied([inserted, updated, deleted, conflicts, held, apart]: [u64; 6]) -> Applied {
    Applied { inserted, updated, deleted, conflicts, held, apart }
}

/// The terms of [`Receiving::Take`].
#[must_use]
pub fn basis(meeting: bool) -> Basis {
    if meeting { Basis::Meeting } else { Basis::Written }
}

macro_rules! kinds {
    ($($kind:ident),*) => {
        /// [`ErrorKind`].
        #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[allow(missing_docs, reason = "as there")]
        pub enum WireKind { $($kind),* }

        impl WireKind {
            fn of(kind: ErrorKind) -> Self {
                match kind { $(ErrorKind::$kind => Self::$kind),* }
            }
        }

        impl From<WireKind> for ErrorKind {
            fn from(kind: WireKind) -> Self {
                match kind { $(WireKind::$kind => Self::$kind),* }
            }
        }
    };
}

kinds!(
    Unreachable,
    Busy,
    Denied,
    Constraint,
    CursorLost,
    SchemaMismatch,
    Unsupported,
    BadData,
    Protocol,
    Full,
    Usage,
    Interrupted
);

/// A table that does not fit, and why.
#[must_use]
pub fn refused(table: &TableName, error: &Error) -> (TableName, WireKind, String) {
    (table.clone(), WireKind::of(error.kind), error.message().to_owned())
}

/// What preparing comes to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prepared {
    /// Done.
    Done,
    /// What rows come from.
    Origin(Box<WireOrigin>),
    /// A plan; what is filled follows, one row for each table. Then the tables that do not fit, and why.
    Plan(Vec<WirePlan>, Vec<(TableName, WireKind, String)>),
    /// What is captured.
    Captured(Box<WireCaptured>),
    /// What [`Preparing::Forms`] asks.
    Forms(String),
    /// The last number that was given out.
    News(i64),
    /// So many changes, and how long the oldest has waited, in microseconds.
    Pending(u64, Option<i64>),
    /// So many rows.
    Count(u64),
    /// Whether a lock is held, under this name.
    Lock(Option<u128>),
    /// It went wrong.
    Failed(WireKind, String),
}

impl From<Error> for Prepared {
    fn from(error: Error) -> Self {
        Self::Failed(WireKind::of(error.kind), error.message().to_owned())
    }
}
