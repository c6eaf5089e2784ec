//! Who may do what: one function, asked for every route, that says no unless something says yes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;

use super::answer::Problem;
use crate::config::{Config, Direction, Network, Role};
use crate::engine::Result;
use crate::state::{Grant, State, digest_of};

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: the only routes without a key.
    Nothing,
    /// To look: a viewer, an operator, an admin.
    Looking,
    /// To see what tables there are: those, and a peer for its own.
    Tables,
    /// To speak as a node: an admin, or a peer.
    Peering,
    /// To bring rows in or to take them out: an admin, or a peer whose key goes that way. Which tables is asked of
    /// [`Access::grant`].
    Rows(Way),
    /// Everything: an admin.
    Everything,
}

/// Which way rows go, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The client sends them.
    In,
    /// The client gets them.
    Out,
}

/// What a key opens.
#[derive(Debug)]
pub struct Access {
    /// Its name, which logs show.
    pub name: String,
    /// What its owner may do.
    pub role: Role,
    direction: Direction,
    from: Vec<Network>,
    /// Tables by database.
    pub tables: BTreeMap<String, Vec<Grant>>,
    digest: String,
}

impl Access {
    /// What this key opens of a table of a database; none: nothing. An admin's opens every row.
    #[must_use]
    pub fn grant(&self, database: &str, table: &str) -> Option<Grant> {
        if self.role == Role::Admin {
            return Some(Grant { table: table.to_owned(), filter: None });
        }
        let tables = self.tables.get(database).filter(|_| self.role == Role::Peer)?;
        tables.iter().find(|grant| grant.table == table).cloned()
    }

    /// Whether rows may go this way.
    fn goes(&self, way: Way) -> bool {
        match self.direction {
            Direction::Bidirectional => true,
            Direction::Push => way == Way::In,
            Direction::Pull => way == Way::Out,
        }
    }

    /// Whether it opens everything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Whether it opens what a route asks.
    #[must_use]
    pub fn may(&self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing => true,
            Needs::Peering => matches!(self.role, Role::Admin | Role::Peer),
            Needs::Looking => matches!(self.role, Role::Viewer | Role::Operator | Role::Admin),
            Needs::Tables => true,
            Needs::Rows(way) => self.role == Role::Admin || (self.role == Role::Peer && self.goes(way)),
            Needs::Everything => self.role == Role::Admin,
        }
    }
}

/// The keys that hold now: those of the configuration and those in the state.
pub struct Keyring {
    known: Mutex<Option<(Instant, Arc<Vec<Access>>)>>,
}

/// After this long the keys are read again: within it one that was revoked still opens.
const FRESH: Duration = Duration::from_secs(1);

impl Keyring {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self { known: Mutex::new(None) }
    }

    /// The keys.
    ///
    /// # Errors
    /// What the state says: nobody comes in while it cannot be read.
    pub async fn keys(&self, config: &Config, state: &State) -> Result<Arc<Vec<Access>>> {
        let mut known = self.known.lock().await;
        if let Some((at, keys)) = known.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(keys.clone());
        }
        *known = None;
        let keys = Arc::new(read(config, state).await?);
        *known = Some((Instant::now(), keys.clone()));
        Ok(keys)
    }
}

impl Default for Keyring {
    fn default() -> Self {
        Self::new()
    }
}

async fn read(config: &Config, state: &State) -> Result<Vec<Access>> {
    let configured = config.api_keys.iter().map(|key| Access {
        name: key.name.clone(),
        role: key.role,
        direction: key.direction,
        from: key.from.clone(),
        tables: key.tables.iter().map(|(name, tables)| (name.clone(), tables.iter().map(grant).collect())).collect(),
        digest: digest_of(key.key.expose()),
    });
    let stored = state.keys().await?.into_iter().filter_map(|(name, key)| {
        // A range that cannot be read must not become "from anywhere".
        let from = key.from.iter().map(|text| text.parse()).collect::<std::result::Result<_, _>>().ok()?;
        Some(Access { name, role: key.role, direction: key.direction, from, tables: key.tables, digest: key.digest })
    });
    Ok(configured.chain(stored).collect())
}

fn grant(table: &crate::config::KeyTable) -> Grant {
    Grant { table: table.table.clone(), filter: table.filter.clone() }
}

/// The key that a request shows, in one of the headers that keys travel in.
#[must_use]
pub fn shown(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    };
    text("x-api-key").or_else(bearer).or_else(|| text("x-sync-api-key")).filter(|key| !key.is_empty())
}

/// Lets the owner of a key in, or says why not. The one place where that is decided; `None` is who needs no key.
///
/// Every known key is compared, in constant time: how long it takes tells nothing of how near a wrong one is.
///
/// # Errors
/// 401 for no or an unknown key, 403 for one that does not open this.
pub fn authorize(
    keys: &[Access],
    needs: Needs,
    shown: Option<&str>,
    from: IpAddr,
) -> std::result::Result<Option<usize>, Problem> {
    if needs == Needs::Nothing {
        return Ok(None);
    }
    let Some(shown) = shown else {
        let what = "this needs a key: send it as X-API-Key, or as Authorization: Bearer";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, what));
    };
    let digest = digest_of(shown);
    let mut found = None;
    for (at, key) in keys.iter().enumerate() {
        if bool::from(key.digest.as_bytes().ct_eq(digest.as_bytes())) {
            found = Some(at);
        }
    }
    let Some(at) = found else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "this key is unknown here, or was revoked"));
    };
    let key = &keys[at];
    if !key.from.is_empty() && !key.from.iter().any(|network| network.contains(from)) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this key does not hold for requests from this address"));
    }
    if !key.may(needs) {
        let role = format!("{:?}", key.role).to_lowercase();
        let what = match needs {
            Needs::Rows(_) if key.role == Role::Peer => {
                let way = format!("{:?}", key.direction).to_lowercase();
                format!("the direction of key '{}' is {way}, which does not allow this", key.name)
            }
            _ => format!("the role of key '{}' is {role}, which does not allow this", key.name),
        };
        return Err(Problem::new(StatusCode::FORBIDDEN, what));
    }
    Ok(Some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(role: Role, direction: Direction) -> Access {
        Access {
            name: "k".to_owned(),
            role,
            direction,
            from: vec!["10.0.0.0/8".parse().unwrap()],
            tables: [("app".to_owned(), vec![Grant { table: "t".to_owned(), filter: None }])].into(),
            digest: digest_of("right"),
        }
    }

    fn status(answer: std::result::Result<Option<usize>, Problem>) -> u16 {
        answer.map_or_else(|problem| super::super::answer::Answer::from(problem).status.as_u16(), |_| 200)
    }

    #[test]
    fn nobody_comes_in_by_default() {
        let (near, far): (IpAddr, IpAddr) = ("10.1.2.3".parse().unwrap(), "11.1.2.3".parse().unwrap());
        let everything = [
            Needs::Looking,
            Needs::Tables,
            Needs::Peering,
            Needs::Rows(Way::In),
            Needs::Rows(Way::Out),
            Needs::Everything,
        ];
        for needs in everything {
            for (keys, shown) in [(vec![], Some("right")), (vec![access(Role::Admin, Direction::Push)], None)] {
                assert_eq!(status(authorize(&keys, needs, shown, near)), 401);
            }
            let admin = [access(Role::Admin, Direction::Push)];
            assert_eq!(status(authorize(&admin, needs, Some("wrong"), near)), 401);
            assert_eq!(status(authorize(&admin, needs, Some(&digest_of("right")), near)), 401, "the digest is no key");
            assert_eq!(status(authorize(&admin, needs, Some("right"), far)), 403);
            assert_eq!(status(authorize(&admin, needs, Some("right"), near)), 200);
        }
        for (role, direction, opens) in [
            (Role::Operator, Direction::Bidirectional, vec![Needs::Looking, Needs::Tables]),
            (Role::Viewer, Direction::Bidirectional, vec![Needs::Looking, Needs::Tables]),
            (Role::Peer, Direction::Push, vec![Needs::Tables, Needs::Peering, Needs::Rows(Way::In)]),
            (Role::Peer, Direction::Pull, vec![Needs::Tables, Needs::Peering, Needs::Rows(Way::Out)]),
        ] {
            let keys = [access(role, direction)];
            for needs in everything {
                let expected = if opens.contains(&needs) { 200 } else { 403 };
                assert_eq!(status(authorize(&keys, needs, Some("right"), near)), expected, "{role:?} {needs:?}");
            }
        }
    }

    #[test]
    fn a_grant_is_of_one_table_of_one_database() {
        let peer = access(Role::Peer, Direction::Bidirectional);
        assert!(peer.grant("app", "t").is_some());
        for (database, table) in [("app", "T"), ("app", "u"), ("other", "t"), ("", ""), ("app", "t\" OR 1=1")] {
            assert!(peer.grant(database, table).is_none(), "{database} {table}");
            assert!(access(Role::Viewer, Direction::Bidirectional).grant(database, table).is_none());
        }
    }
}
