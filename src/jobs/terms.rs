//! What was said of a pair of sites by whoever drives it: two nodes may both drive one, and must mean the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::conflict::Rule;
use crate::endpoint::Route;
use crate::engine::{Error, ErrorKind, Result};

/// What somebody said so long ago may not hold any more.
const HOLDS: Duration = Duration::from_hours(1);
/// Tables and directions that are remembered.
const KNOWN_MAX: usize = 100_000;

/// The terms of the pairs that this node takes part in.
#[derive(Default)]
pub struct Terms {
    known: Mutex<BTreeMap<Place, Vec<Said>>>,
}

/// A table in one direction: site that sends, site that receives, the table's name there.
type Place = (u64, u64, String);

/// What one driver says.
struct Said {
    whose: String,
    rule: Rule,
    condition: Option<String>,
    at: Instant,
}

impl Terms {
    /// Takes note of what a driver says of a route.
    ///
    /// # Errors
    /// `Usage` where another driver of the same two sites says otherwise.
    pub fn settle(&self, whose: &str, route: &Route) -> Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for table in &route.tables {
            let place = (route.from.site.id, route.to.site.id, table.to.name.to_string());
            let condition = table.chosen();
            let mine = Said { whose: whose.to_owned(), rule: table.rule, condition, at: Instant::now() };
            let all = known.entry(place).or_default();
            all.retain(|said| said.at.elapsed() < HOLDS && said.whose != whose);
            let differs = |said: &&Said| said.rule != mine.rule || said.condition != mine.condition;
            if let Some(other) = all.iter().find(differs) {
                let what = match () {
                    () if other.rule.policy != mine.rule.policy => "conflict",
                    () if other.condition != mine.condition => "where",
                    () => "ids",
                };
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!(
                        "table {}: {} and {whose} bring the same two databases in step and do not agree on its {what}; \
                         write the same in both",
                        table.to.name, other.whose
                    ),
                ));
            }
            all.push(mine);
        }
        // Whoever names more than that is forgotten, and nothing but this comparison is lost.
        while known.len() > KNOWN_MAX {
            known.pop_first();
        }
        Ok(())
    }
}
