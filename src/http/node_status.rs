//! `GET /api/status` and `GET /api/config`: how the node stands, and what it was told, without secrets.

use serde_json::{Value, json};

use super::answer::{Answer, Reply};
use super::router::Call;
use crate::config::{Config, Endpoint, Sync, Tls, When};
use crate::jobs::standing;

/// The node and its syncs.
pub(super) async fn status(call: Call) -> Reply {
    let syncs = standing(&call.config, &call.node.state, &call.node.databases).await?;
    let uptime = call.node.started.elapsed().as_secs();
    Ok(Answer::json(&json!({
        "success": true,
        "status": "ok",
        "node": call.config.node,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": uptime,
        "timestamp": jiff::Timestamp::now().to_string(),
        "syncs": syncs,
    })))
}

/// Names and settings. No URL of a database stands in it, and no key.
pub(super) fn config(call: &Call) -> Reply {
    Ok(Answer::json(&json!({ "success": true, "config": shown(&call.config) })))
}

fn shown(config: &Config) -> Value {
    let tls = config.tls.as_ref().map(|tls| if *tls == Tls::SelfSigned { "self-signed" } else { "files" });
    let keys: Vec<Value> = config
        .api_keys
        .iter()
        .map(|key| {
            let tables: serde_json::Map<String, Value> = key
                .tables
                .iter()
                .map(|(database, tables)| (database.clone(), tables.iter().map(|table| table.table.clone()).collect()))
                .collect();
            json!({ "name": key.name, "role": key.role, "direction": key.direction, "tables": tables })
        })
        .collect();
    json!({
        "node": config.node,
        "listen": config.listen,
        "insecure": config.insecure,
        "tls": tls,
        "timezone": config.timezone.name(),
        "limits": { "body": config.limits.body_bytes, "requests_per_minute": config.limits.requests_per_minute },
        "databases": config.databases.keys().collect::<Vec<_>>(),
        "peers": config.peers.keys().collect::<Vec<_>>(),
        "api": { "keys": keys },
        "syncs": config.syncs.iter().map(sync).collect::<Vec<_>>(),
    })
}

fn sync(sync: &Sync) -> Value {
    let target = match &sync.target {
        Endpoint::Database(name) => name.clone(),
        Endpoint::Peer { peer, database: None } => peer.clone(),
        Endpoint::Peer { peer, database: Some(database) } => format!("{peer}/{database}"),
    };
    let when = match &sync.when {
        When::Asked => Value::Null,
        When::Cron(cron) => json!({ "schedule": cron }),
        When::Interval(pause) => json!({ "every_seconds": pause.as_secs_f64() }),
        When::Live => json!({ "every": "live" }),
    };
    let tables: Vec<&str> = sync.tables.iter().map(|table| table.source.as_str()).collect();
    json!({ "name": sync.name, "source": sync.source, "target": target, "enabled": sync.enabled,
        "direction": sync.direction, "mode": format!("{:?}", sync.mode).to_lowercase(), "when": when, "tables": tables })
}
