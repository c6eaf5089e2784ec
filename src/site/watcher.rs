//! Whoever waits for something new at a site, and asks again and again: with one short question while nothing happens.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{Books, Site};
use crate::engine::{Looked, Result, Target, WriteOptions};
use crate::model::TableName;
use crate::runtime::Pace;

/// A connection that only looks.
pub struct Watcher {
    site: Site,
    /// The tables that are watched.
    tables: Vec<TableName>,
    /// The site's row, and the logs of these tables.
    looked: Vec<Looked>,
    connection: Box<dyn Target>,
    /// The number above which nothing was found, and the database's stamp before that was asked.
    nothing: Option<(i64, String)>,
    /// When something was last found.
    found: Instant,
}

impl Watcher {
    /// One of these tables, those of them that are captured.
    ///
    /// # Errors
    /// Those of a new connection.
    pub async fn open(site: &Site, tables: &[TableName]) -> Result<Self> {
        let watched: HashSet<&TableName> = tables.iter().collect();
        let logs = site.tables.iter().filter(|book| watched.contains(&book.logged.table.name));
        let all = std::iter::once(&site.books.site).chain(logs.map(|book| &book.log.table));
        Ok(Self {
            looked: all.map(|table| Looked { table: table.clone(), above: None }).collect(),
            tables: tables.to_vec(),
            connection: site.database.target().await?,
            site: site.clone(),
            nothing: None,
            found: Instant::now(),
        })
    }

    /// Whether it is one of these tables.
    #[must_use]
    pub fn is_of(&self, tables: &[TableName]) -> bool {
        self.tables == tables
    }

    /// The last number that the site has given out.
    ///
    /// # Errors
    /// What the database says.
    pub async fn last_number(&mut self) -> Result<i64> {
        self.connection.begin(WriteOptions { point: true, ..WriteOptions::default() }).await?;
        let number = self.site.last_number(self.connection.as_mut()).await;
        self.connection.rollback().await?;
        number
    }

    /// Whether the site has given out a number above this one, or something was written to the tables that has none yet.
    /// Where nobody has committed anything since the same was asked, the database's stamp says it all.
    ///
    /// # Errors
    /// What the database says.
    pub async fn finds(&mut self, above: i64) -> Result<bool> {
        // Before all that is looked at: what is committed meanwhile gives it another.
        let stamp = self.connection.stamp().await?;
        if let (Some(now), Some((looked_above, before))) = (&stamp, &self.nothing)
            && (above, now) == (*looked_above, before)
        {
            return Ok(false);
        }
        self.nothing = None;
        self.looked[0].above = Some((Books::SEQ, above));
        let found = self.connection.holding(&self.looked).await?.contains(&true);
        if found {
            self.found = Instant::now();
        } else {
            self.nothing = stamp.map(|stamp| (above, stamp));
        }
        Ok(found)
    }

    /// When to look again, after a look that took so long.
    #[must_use]
    pub fn pause(&self, looked: Duration) -> Duration {
        Pace::LIVE.wait(self.found.elapsed(), looked)
    }
}
