//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{Direction, Role};
use crate::engine::URLS;

/// Keeps SQLite, MySQL/MariaDB and PostgreSQL databases in step.
///
/// Exit codes: 0 done; 1 it ran and something fell short; 2 usage or configuration error, nothing
/// was touched; 3 a database could not be reached; 130 interrupted, the same command resumes.
#[derive(Debug, Parser)]
#[command(name = "rowferry", version, propagate_version = true, after_help = URLS)]
pub struct Args {
    /// Configuration; without it $ROWFERRY_CONFIG, ./rowferry.yaml, then the user's config folder
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What stands on stdout
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Say more; twice: debug, three times: trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Where to die, in a test
    #[arg(long, global = true, hide = true, env = "ROWFERRY_FAILPOINT")]
    pub failpoint: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Output for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON document; {"error": {"kind", "message"}} when there is nothing else to tell
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy tables from one database to another, once
    Copy(CopyArgs),
    /// Compare two databases row by row; exit code 1 when they differ
    Diff(DiffArgs),
    /// Run the syncs of the config once, in the order of the file
    Sync(SyncArgs),
    /// Be a node: answer over HTTP, and run the syncs that run by themselves (every: …)
    Serve,
    /// How the syncs stand: counted in the databases, whether or not a node runs
    Status,
    /// Keys of the HTTP interface
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Pair this node with others
    #[command(subcommand)]
    Peers(PeersCommand),
    /// Look at everything a sync will meet, and change nothing
    Check {
        /// These syncs; all by default
        syncs: Vec<String>,
    },
    /// Put capture of changes into the databases of incremental syncs, look at it, take it out
    #[command(subcommand)]
    Capture(CaptureCommand),
    /// What two databases both changed, with both images
    #[command(subcommand)]
    Conflicts(ConflictsCommand),
    /// Changes that a database refused
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Rebuild SQLite databases that are missing, damaged or empty from what their syncs bring
    Recover(RecoverArgs),
    /// Write a commented rowferry.yaml
    Init(InitArgs),
    /// See it work on two SQLite databases of its own, which sync while both are written: no config, no server, no network
    Demo(DemoArgs),
    /// Print shell completions, as they are whatever --format says
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page with all commands, as it is whatever --format says
    Man,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecoverArgs {
    /// These databases of the config; all that are SQLite files and take part in syncs by default
    pub databases: Vec<String>,
    /// Only say what is wrong; exit code 1 when something is
    #[arg(long)]
    pub check: bool,
    /// Rebuild them even if nothing is wrong
    #[arg(long, conflicts_with = "check")]
    pub force: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = URLS)]
pub(crate) struct CopyArgs {
    /// Where rows come from: a URL (sqlite:PATH, mysql://…, mariadb://…, postgres://…) or a database's name in the config
    pub source: String,
    /// Where rows go
    pub target: String,
    /// Tables or globs (* and ?), comma-separated, \ before a comma, * or ? that belongs to a name; all by default
    #[arg(long)]
    pub tables: Vec<String>,
    /// Tables or globs to leave out, likewise
    #[arg(long)]
    pub exclude: Vec<String>,
    /// full: rows that only the target has stay; mirror: they go, with --where also those that do not meet it
    #[arg(long, value_enum, default_value_t = CopyMode::Full)]
    pub mode: CopyMode,
    /// Only rows of table T that match EXPR, in the source's SQL; may be repeated, for another table each
    #[arg(long = "where", value_name = "T=EXPR")]
    pub filters: Vec<String>,
    /// Refuse when a table is missing at the target
    #[arg(long)]
    pub no_create: bool,
    /// Make the tables and stop there
    #[arg(long, conflicts_with = "no_create")]
    pub schema_only: bool,
    /// Accept what the plan declares as lost
    #[arg(long)]
    pub allow_loss: bool,
    /// Rows that the target cannot take go here, as JSON lines
    #[arg(long, value_name = "FILE", default_value = "rowferry-rejects.jsonl")]
    pub rejects: PathBuf,
    /// Accept deleting more than half of a table, and user triggers that cannot be silenced
    #[arg(long)]
    pub force: bool,
    /// Tables at a time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
    /// Rows of a batch
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch_size: u32,
    /// Print the plan and change nothing; of a mirror also how many rows would change
    #[arg(long)]
    pub dry_run: bool,
}

/// The patterns of lists that commas divide; one behind `\\` belongs to its name.
pub(crate) fn patterns(lists: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    for list in lists {
        let (mut pattern, mut escaped) = (String::new(), false);
        for c in list.chars() {
            if c == ',' && !escaped {
                out.push(std::mem::take(&mut pattern));
            } else {
                pattern.push(c);
            }
            escaped = c == '\\' && !escaped;
        }
        out.push(pattern);
    }
    out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CopyMode {
    Full,
    Mirror,
}

#[derive(Debug, clap::Args)]
#[command(after_help = URLS)]
pub(crate) struct DiffArgs {
    /// A database: a URL, a name in the config, or PEER/DATABASE
    pub a: String,
    /// The other one
    pub b: String,
    /// Tables or globs (* and ?), comma-separated, \ before a comma, * or ? that belongs to a name; all by default
    #[arg(long)]
    pub tables: Vec<String>,
    /// Tables or globs to leave out, likewise
    #[arg(long)]
    pub exclude: Vec<String>,
    /// List each row that differs
    #[arg(long)]
    pub rows: bool,
    /// Write what differs, so that the second-named side equals the first-named
    #[arg(long, value_enum)]
    pub repair: Option<Repair>,
    /// Accept deleting more than half of a table
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Repair {
    AToB,
    BToA,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SyncArgs {
    /// These syncs; all enabled ones by default
    pub names: Vec<String>,
    /// Compare all rows once, also where nothing says that they changed
    #[arg(long)]
    pub full: bool,
    /// Accept deleting more than half of a table
    #[arg(long)]
    pub force: bool,
    /// Go on until stopped
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaptureCommand {
    /// Put triggers and bookkeeping in place; what is there already stays
    Install {
        /// At both ends of these syncs; of all enabled incremental ones by default
        syncs: Vec<String>,
    },
    /// Show what is in place; exit code 1 when something is missing or switched off
    Status {
        /// At both ends of these syncs; in every database of the config by default
        syncs: Vec<String>,
    },
    /// Take triggers and bookkeeping out again, without a trace
    Remove {
        /// At both ends of these syncs, where no other needs it; from every database of the config by default
        syncs: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConflictsCommand {
    /// List them
    List,
    /// Show both images of one
    Show {
        /// As the list has it
        id: String,
    },
    /// Write the row of one side at both ends, as a new change: settles an open conflict, brings back what lost
    Resolve {
        /// As the list has it
        id: String,
        /// Whose row both ends get
        #[arg(long, value_enum)]
        keep: KeepArg,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeepArg {
    /// That of the sync's source
    Source,
    /// That of the sync's target
    Target,
    /// The one that was merged of both, where the policy merges
    Merged,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List them
    List,
    /// Show one with its image
    Show {
        /// As the list has it
        id: String,
    },
    /// Try again to write them, as their rows stand now; exit code 1 when one is refused again
    Retry {
        /// As the list has them; all by default
        ids: Vec<String>,
    },
    /// Forget one; the row's next change is tried all the same
    Discard {
        /// As the list has it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make one; it is shown only then
    Create(KeyArgs),
    /// List them, without the keys themselves
    List,
    /// Take one back
    Revoke {
        /// As the list has it
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// Make a key for another node, and print the line that it joins with; it is shown only then
    Invite(InviteArgs),
    /// Take an invitation: greet the node that gave it, and write it into the config
    Join(JoinArgs),
    /// Greet each peer of the config
    List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InviteArgs {
    /// The other node's name, which logs show
    pub name: String,
    /// A table that it may exchange, as DATABASE/TABLE; DATABASE/* stands for all that are there now; may be repeated
    #[arg(long = "table", value_name = "DATABASE/TABLE", required = true)]
    pub tables: Vec<String>,
    /// Who may send rows
    #[arg(long, value_enum, default_value_t = KeyDirection::Bidirectional)]
    pub direction: KeyDirection,
    /// Only rows of that table that meet a condition, in the database's SQL, which then can only be fetched; may be repeated
    #[arg(long = "where", value_name = "DATABASE/TABLE=EXPR")]
    pub filters: Vec<String>,
    /// Only requests from this address or range, such as 10.0.0.0/8; may be repeated
    #[arg(long)]
    pub from: Vec<String>,
    /// Where the other node finds this one; default: where it listens
    #[arg(long)]
    pub url: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct JoinArgs {
    /// The line that the other node printed; - reads it from standard input
    #[arg(required = true)]
    pub line: Vec<String>,
    /// What to call that node in the config; default: its own name
    #[arg(long)]
    pub name: Option<String>,
    /// Which of its databases to look at, where its key opens several
    #[arg(long)]
    pub database: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct KeyArgs {
    /// The name that logs show
    pub name: String,
    /// What its owner may do; a peer exchanges rows of the tables that are named here, and nothing else
    #[arg(long, value_enum)]
    pub role: KeyRole,
    /// For peers: who may send rows
    #[arg(long, value_enum, default_value_t = KeyDirection::Bidirectional)]
    pub direction: KeyDirection,
    /// For peers: a table as DATABASE/TABLE; may be repeated
    #[arg(long = "table", value_name = "DATABASE/TABLE")]
    pub tables: Vec<String>,
    /// Only rows of that table that meet a condition, in the database's SQL; may be repeated
    #[arg(long = "where", value_name = "DATABASE/TABLE=EXPR")]
    pub filters: Vec<String>,
    /// Only requests from this address or range, such as 10.0.0.0/8; may be repeated
    #[arg(long)]
    pub from: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyRole {
    Admin,
    Operator,
    Viewer,
    Peer,
}

impl From<KeyRole> for Role {
    fn from(role: KeyRole) -> Self {
        match role {
            KeyRole::Admin => Self::Admin,
            KeyRole::Operator => Self::Operator,
            KeyRole::Viewer => Self::Viewer,
            KeyRole::Peer => Self::Peer,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyDirection {
    Push,
    Pull,
    Bidirectional,
}

impl From<KeyDirection> for Direction {
    fn from(direction: KeyDirection) -> Self {
        match direction {
            KeyDirection::Push => Self::Push,
            KeyDirection::Pull => Self::Pull,
            KeyDirection::Bidirectional => Self::Bidirectional,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Translate another system's: config.json (Nunez), .env (Laravel), config.yaml or a JSON body (DB-Taxi),
    /// .env.local (slave to production), config.php (two laptops); what it does not say stands as a marked blank
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Print the JSON Schema of the configuration instead
    #[arg(long, conflicts_with = "from")]
    pub schema: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Keep the two databases in this folder instead of a temporary one
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// How large: 1 is some thousand rows
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub scale: u32,
    /// How long both sites write
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Where the first site's node answers while they do; with port 0 the system chooses one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_divides_unless_it_is_escaped() {
        let split = |list: &str| patterns(&[list.to_owned()]);
        assert_eq!(split("a,b*"), ["a", "b*"]);
        assert_eq!(split(r"a\,b,c"), [r"a\,b", "c"]);
        assert_eq!(split(r"a\\,b"), [r"a\\", "b"], "the escape is escaped");
        assert_eq!(split(r"a\"), [r"a\"]);
        assert_eq!(patterns(&["a,b".to_owned(), "c".to_owned()]), ["a", "b", "c"]);
    }
}
