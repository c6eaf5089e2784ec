//! What a sync asks of its two ends: the one that sends and the one that receives.
//!
//! A sync never touches a database itself. It asks a [`Sender`] for changes and hands them to a [`Receiver`]; either may
//! be a database at hand (`local`) or stand for one behind a wire. So everything that goes in and out is plain data,
//! and each end does itself what only it can do: the sender finds rows by keys in its own form, the receiver puts rows
//! into the form of its own columns and decides under its own locks.
//!
//! Both are opened for one [`Route`], which says all that an end needs to know of the sync and of the other end. Tables
//! go by their place in [`Route::tables`], parents before children.
//!
//! What both promise:
//! - A call is complete or has no effect. A caller that does not know whether [`Receiver::take`] took effect asks
//!   [`Receiver::cursors`]: rows and cursors are one transaction. Whatever is taken twice changes nothing.
//! - A [`Fault`] with a table blames that table alone: the same call without it may succeed. One without a table ends
//!   the run.
//! - Whoever is asked waits for locks of its own; `Busy` comes out only when that took too long.
//! - After any error the next call begins anew: nothing half done is left open.
//!
//! Two ends that are only compared are two [`Comparand`]s; nothing is put in place for that. Where one of them is then
//! written as the other is, it is a [`Rewriter`] too.

pub mod codec;
mod comparand;
mod comparison;
mod joining;
mod local;
mod mapping;
mod rewriter;
mod stamped;

use async_trait::async_trait;

use crate::apply::Applied;
use crate::capture::{Changes, Reading};
use crate::conflict::FirstRun;
use crate::engine::Result;
use crate::model::{Batch, BatchLimits, Site, Vector, Zone};

pub use crate::capture::{Fault, Outcome};
pub use crate::site::Mark;
pub use comparand::LocalComparand;
pub use comparison::{Comparand, Comparison, Counted, Followed, Half, Leaves};
pub use joining::{Findings, join};
pub use local::{LocalReceiver, LocalSender};
pub use mapping::{Filter, Mapping};
pub use rewriter::{LocalRewriter, Rewrite, Rewriter, Rewritten, referring};
pub use stamped::StampedSender;

/// One end of a route, as the other needs to know it.
#[derive(Debug, Clone)]
pub struct End {
    /// Who it is.
    pub site: Site,
    /// What people call it: a URL without secrets.
    pub label: String,
    /// The product: values that both ends took once pass between two of one product.
    pub product: String,
    /// The zone in which its naive timestamps stand.
    pub zone: Zone,
}

/// One direction of a sync.
#[derive(Debug, Clone)]
pub struct Route {
    /// The sync's name, for the records.
    pub sync: String,
    /// Whether the receiving end is the sync's target.
    pub to_target: bool,
    /// The sending end.
    pub from: End,
    /// The receiving end.
    pub to: End,
    /// The tables, parents before children.
    pub tables: Vec<Mapping>,
    /// How rows are settled that differ when the two meet for the first time, seen from the receiving end.
    pub first_run: FirstRun,
}

/// How far the changes of one table were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The table's place in the route.
    pub table: usize,
    /// The last of the sending site's numbers that was taken in; 0 before the first.
    pub position: i64,
    /// What the sending site has noted with that number.
    pub token: i64,
}

/// Which of a site's writes another one may have taken in, in any sync: the epoch in which the site was then, and what it
/// had given out.
pub type Seen = (u32, Mark);

/// How far the receiving end says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standings {
    /// With each table of the route; `None` for a table that takes no part there.
    pub tables: Vec<Option<Standing>>,
    /// What it has seen of the sending site. No cursor has to have passed that yet: a first run takes in rows before there
    /// is a cursor.
    pub seen: Option<Seen>,
}

/// How far the receiving end says that it is with one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its own number of the table.
    pub number: u32,
    /// Its place, with the epoch in which the sending site was then; `None`: it never read this table.
    pub at: Option<(u32, Place)>,
    /// Whether something of it was set aside, and may be asked for again.
    pub aside: bool,
    /// Whether columns are sent that were not when all rows were last compared: what stands in these has no version of its
    /// own, and whoever wrote a row since knew nothing of it.
    pub widened: bool,
}

/// What the sending end makes of where the receiving end stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// By table of the route: its place, or why there is none; and what the sending end has forgotten of deleted rows of
    /// which the receiving end may not have heard.
    At(Vec<Start>, Vec<Vector>),
    /// It has read more than it knows of: its database was restored.
    ReaderRestored,
}

/// What came of a part of a fold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folded {
    /// Tables that were emptied at once after the place given: of their rows that are older than capture only the
    /// receiving end knows the keys ([`Receiver::unversioned`]), which [`Sender::bury`] is to be told.
    pub emptied: Vec<usize>,
    /// Tables of which rows were written unseen before they were all compared with what the receiving end has: of rows
    /// older than capture only that shows which these are ([`Receiver::differing`]), which [`Sender::vouch`] is to be told.
    pub doubted: Vec<usize>,
    /// Whether there is more to be folded.
    pub more: bool,
    /// Whether there may be a flood of deletions among what was folded: all of it is folded then.
    pub many_deletions: bool,
}

/// Where one table goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Here.
    Place(Place),
    /// The two ends never met.
    Never,
    /// They did, but nobody knows any more what has happened since: all rows are compared.
    Lost,
    /// The table takes no part.
    Not,
}

/// What people have to look at, of one table and one sync, at the end that receives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Conflicts that wait for a person.
    pub open: u64,
    /// Changes that were refused.
    pub quarantined: u64,
    /// Changes that wait for a row that is held, or for a parent.
    pub waiting: u64,
}

/// Changes of all tables of a sync that stand together: taken in whole or not at all.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// By table; each at most once. Rows have the columns of [`Mapping::from`], keys those of [`Mapping::from_keys`], in
    /// the sender's types.
    pub changes: Vec<(usize, Changes)>,
    /// Where the receiving end stands once it has taken it in.
    pub places: Vec<Place>,
    /// What the site had given out when this was read; none: nothing yet, or it gives out none.
    pub seen: Option<Mark>,
    /// Whether the sender has more.
    pub more: bool,
}

/// What stands under keys that were asked for.
#[derive(Debug, Clone)]
pub struct Current {
    /// The rows and entries, in the sender's types; nothing for keys under which there never was a row.
    pub changes: Changes,
    /// Rows of the keys asked for that cannot be told just now: they are being written. Fold, and ask again.
    pub left_out: Vec<usize>,
    /// See [`Parcel::seen`].
    pub seen: Option<Mark>,
}

impl Current {
    /// As a parcel that moves no cursor.
    #[must_use]
    pub fn parcel(self, table: usize) -> Parcel {
        Parcel { changes: vec![(table, self.changes)], places: Vec::new(), seen: self.seen, more: false }
    }
}

/// Keys of rows that are asked for, with the columns of [`Mapping::from_keys`] or [`Mapping::to_keys`].
#[derive(Debug, Clone)]
pub enum Keys {
    /// In the sender's form.
    Sent(Batch),
    /// In the receiver's form.
    Received(Batch),
}

/// On which terms a parcel is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Written under capture: [`Mapping::rule`] settles conflicts.
    Written,
    /// The two ends meet for the first time: [`Route::first_run`] settles rows that differ.
    Meeting,
}

/// Which of the receiving end's rows are meant whose deletion the sender cannot name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unnamed {
    /// Those that nobody has written since capture began; where the sender keeps no books, those that came from there or that
    /// both had when they met.
    Unversioned,
    /// Those that may have been deleted where this is all that is known of deleted rows, and whether it is known that the
    /// receiving end was ever read there; where they come in through a condition, of those that are shared.
    Forgotten(Vector, bool),
}

/// Which rows count as other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differing {
    /// What is to be settled when the two ends meet: rows that are lacked, otherwise, or cannot be taken; where rows come
    /// in through a condition, or the sender keeps no books, all, so that it is noted which are shared.
    Meeting,
    /// Those that are lacked, otherwise or cannot be taken.
    Any,
    /// Those that are there and hold something else, or nothing, in a column that was not sent before and where the sender's
    /// hold something; a default is less than what somebody wrote.
    Poorer,
}

/// The end whose changes go out.
#[async_trait]
pub trait Sender: Send {
    /// Where each table goes on, by where the receiving end says that it stands; that is noted, so that nothing is
    /// forgotten that it still needs. Asked before anything is folded or taken in, and once more at the end.
    ///
    /// `CursorLost` when the receiving end knows a later state of this site than this site: the database was restored,
    /// or it is a copy. It goes on under another name then, and both ends have to be opened anew.
    async fn resume(&mut self, reader: &Standings) -> Result<Resumed>;

    /// What it has seen of the receiving site.
    async fn seen(&mut self) -> Result<Option<Seen>>;

    /// Gives versions to what was written to these tables and is not yet among the changes, all of it.
    async fn fold(&mut self, tables: &[Place]) -> Outcome<Folded>;

    /// As [`Self::fold`], but not more than one transaction takes, where the rest may follow while changes are read. What
    /// holds many deletions is folded whole, so that whoever looks for floods of them sees them all.
    async fn fold_part(&mut self, tables: &[Place]) -> Outcome<Folded> {
        self.fold(tables).await
    }

    /// These are keys, in the receiver's form, of rows that were there before the table was emptied, or whose deletion may be
    /// `forgotten`: those of which nothing is known here, and under which nothing stands, become deletions among the
    /// changes, of now or as old as can be. The places of all of which no more is known then than that they were deleted.
    async fn bury(&mut self, table: usize, keys: &Batch, forgotten: bool) -> Outcome<Vec<usize>>;

    /// These are keys, in the sender's form, of rows that the receiving end has otherwise or lacks: what stands here under
    /// them counts as written here. Of rows that were never written under capture only, or of `all`.
    async fn vouch(&mut self, table: usize, keys: &Batch, all: bool) -> Outcome<()>;

    /// What was written after these places, read at one point, in the order in which the site gave out its numbers over
    /// all tables, as far as the limits reach. The parcel's places are those of all tables asked for, none before the one
    /// given; equal ones say that there is nothing new.
    async fn changes(&mut self, after: &[Place], limits: BatchLimits) -> Outcome<Parcel>;

    /// Keys of rows that were deleted after this place, at most `limit` of them, and the place up to which that is all;
    /// none: no more were.
    async fn deleted(&mut self, after: Place, limit: usize) -> Outcome<(Batch, Place)>;

    /// What stands under these keys now.
    async fn current(&mut self, table: usize, keys: &Keys) -> Outcome<Current>;

    /// All rows of a table in the order of its key, with the columns of [`Mapping::from`]; as a stream that ends when it
    /// is dropped. No misfits are found yet.
    async fn rows(&mut self, table: usize, limits: BatchLimits) -> Outcome<Reading>;
}

/// The end that takes changes in.
#[async_trait]
pub trait Receiver: Send {
    /// How far it has read the sender's changes.
    async fn cursors(&mut self) -> Result<Standings>;

    /// What the sending end has seen of this site. Asked where changes go this way only, so that no [`Sender`] stands at
    /// this end; `CursorLost` as in [`Sender::resume`].
    async fn judge(&mut self, seen: Seen) -> Result<()>;

    /// Its database was restored: it goes on under another name, and has to be opened anew.
    async fn renew(&mut self) -> Result<()>;

    /// How many rows it has under these keys of the sender's; without keys, in all.
    async fn rows(&mut self, table: usize, keys: Option<&Batch>) -> Outcome<u64>;

    /// Which of these rows of the sender's are other here.
    async fn differing(&mut self, table: usize, rows: &Batch, how: Differing) -> Outcome<Vec<usize>>;

    /// Keys of its rows whose deletion the sender cannot name, in the order of the key, of about `limit` rows after the last
    /// one of `after`; and where to go on, `None` at the end.
    async fn unnamed(
        &mut self,
        table: usize,
        which: &Unnamed,
        after: Option<&Batch>,
        limit: usize,
    ) -> Outcome<(Batch, Option<Batch>)>;

    /// The sending end has forgotten this of deleted rows, and nobody tells this end of these deletions any more: it doubts
    /// what comes from others as if it had forgotten them itself.
    async fn inherit(&mut self, table: usize, floor: &Vector) -> Outcome<()>;

    /// Takes a parcel in, in one transaction: rows, entries, records, and the cursors (those of [`Parcel::places`]).
    /// What became of the changes of each table, in their order. What it refuses goes to its quarantine; what someone
    /// else holds, or what has no parent yet, waits there.
    async fn take(&mut self, parcel: &Parcel, basis: Basis) -> Outcome<Vec<Applied>>;

    /// All rows of these tables were compared with the columns that are sent now, and each that holds more at the sending end
    /// has a version that says so: none of the columns is new any more.
    async fn settle(&mut self, tables: &[usize]) -> Result<()>;

    /// The keys of changes of this table that it has set aside from this sync, in its own form, those first that were
    /// tried longest ago, at most `limit`.
    async fn aside(&mut self, table: usize, limit: usize) -> Outcome<Batch>;

    /// What people have to look at, by table.
    async fn outstanding(&mut self) -> Result<Vec<Outstanding>>;

    /// After rows of some tables came in, and of others went: sets the numbering of the first past the highest number
    /// present; one sentence for each foreign key to the others that does not hold. What comes in without its parent waits,
    /// so that only what goes can leave rows without theirs; and a look at all rows costs what there is, not what changed.
    async fn verify(&mut self, came: &[usize], went: &[usize]) -> Result<Vec<String>>;
}
