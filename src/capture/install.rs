//! Puts capture into a database, with all that is kept of the rows that stand there.

use std::sync::Arc;

use super::facets::keep_facets;
use super::reform::reform;
use crate::engine::{Database, Result};
use crate::model::TableName;
use crate::site::{self, Site};

/// Captures these tables, besides those that are captured already ([`site::install`]). Of those that are `merged` column by
/// column, facets are kept. What is known of the rows is brought in line with the columns that their tables have now.
///
/// # Errors
/// What the database says.
pub async fn install(database: &Arc<dyn Database>, tables: &[TableName], merged: &[TableName]) -> Result<Site> {
    let site = site::install(database, tables).await?;
    for reformed in &site.reformed {
        reform(&site, reformed, database.target().await?.as_mut()).await?;
    }
    // Last: by a digest that is not of its row, the row would pass for written.
    keep_facets(site, merged).await
}
