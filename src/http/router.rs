//! The whole API on one page: each route with what it asks of its caller, and what answers it.

use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};

use super::answer::{Answer, Problem, Reply};
use super::auth::{Access, Needs, Way};
use super::peer::Sessions;
use super::{metadata, node_status, peer, pull, push};
use crate::config::Config;
use crate::jobs::Node;
use crate::peer::path;

/// A route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    /// What it asks of its caller.
    pub needs: Needs,
    does: Does,
}

#[derive(Debug, Clone, Copy)]
enum Does {
    Health,
    Ready,
    Push,
    Pull,
    Metadata,
    Status,
    Config,
    Handshake,
    Prepare,
    Changes,
    Snapshot,
    Apply,
    Digests,
    Rows,
}

/// Every route that there is.
pub static ROUTES: &[Route] = &[
    route("GET", "/healthz", Needs::Nothing, Does::Health),
    route("GET", "/readyz", Needs::Nothing, Does::Ready),
    route("POST", "/api/push", Needs::Rows(Way::In), Does::Push),
    route("GET", "/api/pull", Needs::Rows(Way::Out), Does::Pull),
    route("GET", "/api/metadata", Needs::Tables, Does::Metadata),
    route("GET", "/api/status", Needs::Looking, Does::Status),
    route("GET", "/api/config", Needs::Everything, Does::Config),
    route("POST", path::HANDSHAKE, Needs::Peering, Does::Handshake),
    route("POST", path::PREPARE, Needs::Peering, Does::Prepare),
    route("POST", path::CHANGES, Needs::Rows(Way::Out), Does::Changes),
    route("POST", path::SNAPSHOT, Needs::Rows(Way::Out), Does::Snapshot),
    route("POST", path::APPLY, Needs::Rows(Way::In), Does::Apply),
    route("POST", path::DIGESTS, Needs::Rows(Way::Out), Does::Digests),
    route("POST", path::ROWS, Needs::Rows(Way::In), Does::Rows),
];

const fn route(method: &'static str, path: &'static str, needs: Needs, does: Does) -> Route {
    Route { method, path, needs, does }
}

impl Route {
    /// Whether requests count for the limit of their key: those of a sync that runs do not, they wait for each other.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        !matches!(self.does, Does::Prepare | Does::Changes | Does::Snapshot | Does::Apply | Does::Digests | Does::Rows)
    }
}

/// A request that was let in.
pub(super) struct Call {
    pub(super) node: Arc<Node>,
    pub(super) config: Arc<Config>,
    /// What peers have open here.
    pub(super) sessions: Arc<Sessions>,
    /// Who asks; `None` on the routes that need no key.
    pub(super) caller: Option<(Arc<Vec<Access>>, usize)>,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Call {
    /// The caller of a route that needs a key.
    pub(super) fn access(&self) -> Result<&Access, Problem> {
        let (keys, at) = self.caller.as_ref().ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "no key"))?;
        Ok(&keys[*at])
    }

    /// A parameter of the query, unless it is empty.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }
}

/// The route of this path and method; the methods that the path knows where it is not this one.
pub(super) fn find(method: &str, path: &str) -> Result<&'static Route, Problem> {
    if let Some(route) = ROUTES.iter().find(|route| route.path == path && route.method == method) {
        return Ok(route);
    }
    let others: Vec<&str> = ROUTES.iter().filter(|route| route.path == path).map(|route| route.method).collect();
    if others.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is no such path; /api/status is one"));
    }
    let what = format!("this path knows {} only", others.join(", "));
    Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, what).allowing(others.join(", ")))
}

/// Does what the route is for.
pub(super) async fn run(route: &Route, call: Call) -> Reply {
    match route.does {
        Does::Health => Ok(Answer::json(&serde_json::json!({ "status": "ok" }))),
        Does::Ready if call.node.stop.is_cancelled() => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this node is stopping").retry_after(5))
        }
        Does::Ready => Ok(Answer::json(&serde_json::json!({ "status": "ready" }))),
        Does::Push => push::push(call).await,
        Does::Pull => pull::pull(call).await,
        Does::Metadata => metadata::metadata(call).await,
        Does::Status => node_status::status(call).await,
        Does::Config => node_status::config(&call),
        Does::Handshake => peer::handshake(call).await,
        Does::Prepare => peer::prepare(call).await,
        Does::Changes => peer::send(call).await,
        Does::Snapshot => peer::snapshot(call).await,
        Does::Apply => peer::receive(call).await,
        Does::Digests => peer::compare(call).await,
        Does::Rows => peer::rewrite(call).await,
    }
}
