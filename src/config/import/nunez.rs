//! The Nunez sync server's `config.json`, whole or in parts.

use serde_json::Value;

use super::BLANK;
use super::draft::{Draft, list, quoted, server_url};

/// `None` when it is none.
pub(super) fn from(json: &Value) -> Option<Draft> {
    let known = ["mode", "databases", "replication", "remoteEnvironments", "api", "syncInterval"];
    if !known.iter().any(|key| json.get(key).is_some()) {
        return None;
    }
    let mut draft = Draft::of("Nunez");
    let mode = json["mode"].as_str();
    if let Some(port) = json["port"].as_u64() {
        draft.head.push(format!("listen: 127.0.0.1:{port}"));
    }
    databases(json, mode.is_some(), &mut draft);
    let tables = tables(json);
    let names: Vec<String> = tables.iter().map(|(name, _)| name.clone()).collect();
    let mut syncs = Vec::new();
    if let Some(mode) = mode {
        local(json, mode, &tables, &mut draft);
        syncs.push("local".to_owned());
    }
    remotes(json, &tables, &mut draft, &mut syncs);
    let keys = json["api"]["keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for (n, key) in (1..).zip(keys) {
        let (key, names) = (quoted(key), list(&names));
        draft.keys.push(format!("- {{ name: client-{n}, key: {key}, role: peer, tables: {{ master: {names} }} }}"));
    }
    draft.seeds.push(format!("nunez: {{ database: master, tables: {}, syncs: {} }}", list(&names), list(&syncs)));
    replaced(json, mode, &mut draft);
    Some(draft)
}

fn databases(json: &Value, with_slave: bool, draft: &mut Draft) {
    for name in ["master", "slave"] {
        let there = &json["databases"][name];
        if name == "slave" && !with_slave && there.is_null() {
            continue;
        }
        let text = |key: &str| there[key].as_str();
        let port = there["port"].as_u64().map(|port| port.to_string()).or_else(|| text("port").map(str::to_owned));
        let account = (text("user"), text("password"));
        let url = server_url("mysql://", account, text("host"), port.as_deref(), text("database"));
        draft.databases.push(format!("{name}: {{ url: {} }}", quoted(&url)));
    }
    if !json["databases"]["stats"].is_null() {
        draft.notes.push("databases.stats is not needed: the node keeps its history in its own state store".to_owned());
    }
}

/// The tables, each with its entry in a sync.
fn tables(json: &Value) -> Vec<(String, String)> {
    let listed = json["replication"]["tables"].as_array().into_iter().flatten();
    let mut tables: Vec<(String, String)> =
        listed.filter_map(|table| Some((table["name"].as_str()?.to_owned(), entry(table)?))).collect();
    if tables.is_empty() {
        tables.push((BLANK.to_owned(), quoted(BLANK)));
    }
    tables
}

fn entry(table: &Value) -> Option<String> {
    let mut entry = format!("{{ source: {}", quoted(table["name"].as_str()?));
    if let Some(column) = table["timestampColumn"].as_str() {
        entry += &format!(", timestamp: {}", quoted(column));
    }
    let ignored: Vec<&str> =
        table["ignoreColumns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !ignored.is_empty() {
        entry += &format!(", exclude: {}", list(&ignored));
    }
    Some(entry + " }")
}

fn local(json: &Value, mode: &str, tables: &[(String, String)], draft: &mut Draft) {
    draft.syncs.push("local:".to_owned());
    draft.syncs.push("  source: master".to_owned());
    draft.syncs.push("  target: slave".to_owned());
    if mode == "master-master" {
        draft.syncs.push("  direction: bidirectional".to_owned());
        draft.syncs.push("  mode: incremental".to_owned());
        draft.syncs.push("  conflict: last-write-wins".to_owned());
    } else {
        draft.syncs.push("  direction: push".to_owned());
        draft.syncs.push("  mode: mirror               # rows that only the slave has go, as before".to_owned());
    }
    if let Some(cron) = json["syncInterval"].as_str() {
        draft.syncs.push(format!("  schedule: {}", quoted(cron)));
    }
    listed(tables, draft);
}

fn listed(tables: &[(String, String)], draft: &mut Draft) {
    draft.syncs.push("  tables:".to_owned());
    draft.syncs.extend(tables.iter().map(|(_, entry)| format!("    - {entry}")));
}

fn remotes(json: &Value, tables: &[(String, String)], draft: &mut Draft, syncs: &mut Vec<String>) {
    for (name, remote) in json["remoteEnvironments"].as_object().into_iter().flatten() {
        let text = |key: &str| remote[key].as_str();
        draft.peer(name, text("url"), text("apiKey"), remote["timeout"].as_u64());
        draft.syncs.push(format!("with-{name}:"));
        draft.syncs.push("  source: master".to_owned());
        draft.syncs.push(format!("  target: {name}"));
        draft.syncs.push(format!("  direction: {}", text("syncMode").unwrap_or("bidirectional")));
        draft.syncs.push("  mode: incremental".to_owned());
        if json["mode"].is_string() {
            draft.syncs.push("  after: [local]".to_owned());
        }
        listed(tables, draft);
        syncs.push(format!("with-{name}"));
    }
    if !draft.peers.is_empty() {
        draft.notes.push(
            "peers are taken for rowferry nodes; write kind: nunez at one where the old server still runs".to_owned(),
        );
    }
}

fn replaced(json: &Value, mode: Option<&str>, draft: &mut Draft) {
    if mode.is_some() {
        draft.replace("php src/sync.php [CONFIG]", "rowferry sync local");
    }
    if json["remoteEnvironments"].is_object() {
        draft.replace("php src/sync_multi.php [CONFIG]", "rowferry sync");
        draft.replace(
            "cron: */15 * * * * php src/sync_multi.php",
            "schedule: \"*/15 * * * *\" in the syncs, and rowferry serve",
        );
        draft.replace("getRemoteStatuses()", "rowferry status");
    }
    if mode.is_some() {
        draft.replace(
            "cron: */5 * * * * php src/sync.php",
            "schedule: \"*/5 * * * *\" in sync local, and rowferry serve",
        );
    }
    draft.replace("php -S … public/index.php", "rowferry serve");
    draft.replace(
        "GET /api/status, /api/config, /api/metadata, /api/pull, POST /api/push",
        "the same URLs of rowferry serve",
    );
    draft.replace("POST /api/sync", "the same URL of rowferry serve, with a key; or rowferry jobs start SYNC");
}
