//! How a conflict of a table is settled.

/// One of the two that meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What stands at the site that decides.
    Local,
    /// What the feed brings.
    Incoming,
}

/// Who survives when neither site knew of the other's write. Each conflict is recorded with both images, whatever the
/// policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The higher version. Nothing is minted: every site comes to the same end in every order of arrival.
    LastWriteWins,
    /// Of each column the higher version: only a column that both sides changed is a conflict. Nothing is minted.
    MergeColumns,
    /// What stands at the site that decides, under the version that it has: for one way only.
    KeepExisting,
    /// This side, under a *new* version above both: with its old one it would be overturned at a third site. What
    /// `source-wins` and `target-wins` mean to the site that decides.
    Prefer(Side),
    /// Neither: both sites keep theirs until a person decides.
    Manual,
}

/// What holds for a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How conflicts are settled.
    pub policy: Policy,
    /// Whether each site numbers its new rows itself (and rows are re-keyed): two births under one key are then two
    /// rows.
    pub generated_keys: bool,
}
