//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Keeps SQLite, MySQL/MariaDB and PostgreSQL databases in step.
///
/// Exit codes: 0 done; 1 it ran and something fell short; 2 usage or configuration error, nothing
/// was touched; 3 a database could not be reached; 130 interrupted, the same command resumes.
#[derive(Debug, Parser)]
#[command(name = "rowferry", version, propagate_version = true)]
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
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Output for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON document
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
    /// Look at everything a sync will meet, and change nothing
    Check {
        /// These syncs; all by default
        syncs: Vec<String>,
    },
    /// Write a commented rowferry.yaml
    Init {
        /// Print the JSON Schema of the configuration instead
        #[arg(long)]
        schema: bool,
    },
    /// See it work on two SQLite databases of its own: no config, no server, no network
    Demo(DemoArgs),
    /// Print shell completions
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CopyArgs {
    /// Where rows come from: a URL (sqlite:PATH, mysql://…, mariadb://…, postgres://…) or a database's name in the config
    pub source: String,
    /// Where rows go
    pub target: String,
    /// Tables or globs, comma-separated; all by default
    #[arg(long, value_delimiter = ',')]
    pub tables: Vec<String>,
    /// Tables or globs to leave out
    #[arg(long, value_delimiter = ',')]
    pub exclude: Vec<String>,
    /// full: rows that only the target has stay; mirror: they go
    #[arg(long, value_enum, default_value_t = CopyMode::Full)]
    pub mode: CopyMode,
    /// Only rows of table T that match EXPR, in the source's SQL; may be repeated
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
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CopyMode {
    Full,
    Mirror,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// A database: a URL or a name in the config
    pub a: String,
    /// The other one
    pub b: String,
    /// Tables or globs, comma-separated; all by default
    #[arg(long, value_delimiter = ',')]
    pub tables: Vec<String>,
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
    /// Accept deleting more than half of a table
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Keep the two databases in this folder instead of a temporary one
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// How large: 1 is some thousand rows
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub scale: u32,
}
