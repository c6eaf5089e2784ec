//! Whether this account may capture tables.

use super::Sqlite;
use crate::engine::Result;
use crate::model::TableName;

/// See [`crate::engine::Database::capture_faults`]: there are no rights here but those of the file.
#[allow(clippy::unused_async, reason = "as on the other engines")]
pub(super) async fn capture_faults(database: &Sqlite, _tables: &[TableName]) -> Result<Vec<String>> {
    let path = &database.settings.path;
    let locked = std::fs::metadata(path).is_ok_and(|file| file.permissions().readonly());
    let sentence =
        format!("{} cannot be written to: give this account the right to write it and its folder", path.display());
    Ok(locked.then_some(sentence).into_iter().collect())
}
