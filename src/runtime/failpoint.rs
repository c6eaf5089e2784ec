//! Places at which a test ends the process, as a power failure would: before and after each effect
//! that lasts. In a release build they are nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

macro_rules! failpoints {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place before or after an effect that lasts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Failpoint {
            $($(#[$doc])* $point,)*
        }

        impl Failpoint {
            /// Each of them: a test goes through the list, so none is left out.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// As it is named to [`Self::arm`].
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

failpoints! {
    /// Tables are about to be made, and noted as ours.
    TablesNoted = "tables-noted",
    /// A table has been made, where that is part of a transaction not yet committed.
    TableMade = "table-made",
    /// All of these tables have been made.
    TablesMade = "tables-made",
    /// Rows were accepted by the target, not yet committed.
    LoadWritten = "load-written",
    /// Rows of a new or empty table are committed.
    LoadCommitted = "load-committed",
    /// The indexes of a table that was made have been built.
    IndexesBuilt = "indexes-built",
    /// Differences are written, not yet committed.
    MergeWritten = "merge-written",
    /// Differences are committed.
    MergeCommitted = "merge-committed",
    /// Changes are written, with their entries and the cursor, not yet committed.
    ChangesWritten = "changes-written",
    /// Changes are committed.
    ChangesCommitted = "changes-committed",
    /// Changes have got their versions, not yet committed.
    FoldWritten = "fold-written",
    /// The versions of changes are committed.
    FoldCommitted = "fold-committed",
    /// A foreign key has been added.
    ForeignKeyAdded = "foreign-key-added",
    /// Numbering is set and foreign keys are verified.
    Verified = "verified",
    /// The copy has taken its notes back.
    NotesGone = "notes-gone",
}

struct Armed {
    point: Failpoint,
    /// Times that it is passed before it strikes.
    left: AtomicU32,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

impl Failpoint {
    /// Ends the process at `NAME`, or at the Nth time that it is reached with `NAME:N`. Once per process.
    ///
    /// # Errors
    /// A sentence for a name that is none, and in a release build.
    pub fn arm(text: &str) -> Result<(), String> {
        let (name, times) = text.split_once(':').unwrap_or((text, "1"));
        let point = Self::ALL.iter().copied().find(|p| p.name() == name);
        match (point, times.parse()) {
            _ if !cfg!(debug_assertions) => Err("a release build has no failpoints".to_owned()),
            (Some(point), Ok(times)) if times > 0 => {
                ARMED.set(Armed { point, left: AtomicU32::new(times) }).map_err(|_| "a failpoint is armed".to_owned())
            }
            _ => Err(format!("'{text}' is no failpoint")),
        }
    }

    /// Passes this place; the process ends here if it was armed.
    pub fn reach(self) {
        if cfg!(debug_assertions)
            && let Some(armed) = ARMED.get()
            && armed.point == self
            && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            // No destructor runs and no buffer is flushed.
            std::process::abort();
        }
    }
}
