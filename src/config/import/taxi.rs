//! DB-Taxi: its `config.yaml`, and the bodies by which connections and sync configurations were made.

use serde_json::Value;

use super::BLANK;
use super::draft::{Draft, list, quoted, server_url};

/// `None` when it is no `config.yaml` of it.
pub(super) fn from_yaml(yaml: &Value) -> Option<Draft> {
    if yaml.get("sync").is_none() && yaml.get("database").is_none() {
        return None;
    }
    let mut draft = Draft::of("DB-Taxi");
    if let Some(port) = yaml["server"]["port"].as_u64() {
        draft.head.push(format!("listen: 127.0.0.1:{port}"));
    }
    if let Some(level) = yaml["logging"]["level"].as_str().filter(|l| ["error", "warn", "info", "debug"].contains(l)) {
        draft.head.push(format!("log: {{ level: {level} }}"));
    }
    draft.databases.push(format!("local: {{ url: {} }}", quoted(&connection(&yaml["database"], None))));
    let sync = &yaml["sync"];
    for (old, new) in [
        ("max_concurrency", "concurrency"),
        ("batch_size", "batch_size"),
        ("retry_attempts", "retries"),
        ("retry_delay", "retry_delay"),
        ("job_timeout", "job_timeout"),
        ("cleanup_age", "keep_history"),
    ] {
        match &sync[old] {
            Value::Number(number) => draft.defaults.push(format!("{new}: {number}")),
            Value::String(text) => draft.defaults.push(format!("{new}: {text}")),
            _ => {}
        }
    }
    served(&mut draft);
    Some(draft)
}

/// `None` when it is neither a connection nor a sync configuration.
pub(super) fn from_json(json: &Value) -> Option<Draft> {
    let is_connection = json["host"].is_string() && (json["username"].is_string() || json["local_db_name"].is_string());
    let is_sync =
        json["tables"].is_array() && (json["connection_id"].is_string() || json["source_connection_id"].is_string());
    if !is_connection && !is_sync {
        return None;
    }
    let mut draft = Draft::of("DB-Taxi");
    if is_connection {
        let name = word(json["name"].as_str().unwrap_or("remote"));
        draft.databases.push(format!("{name}: {{ url: {} }}", quoted(&connection(json, None))));
        let local = json["local_db_name"].as_str();
        draft.databases.push(format!("local: {{ url: {} }}", quoted(&connection(&Value::Null, local))));
        draft.notes.push(
            "the tables were chosen elsewhere: translate the sync's configuration too, or name them here".to_owned(),
        );
        one_sync(&mut draft, "copy", &name, "full", &[BLANK.to_owned()], None);
    } else {
        draft.databases.push(format!("remote: {{ url: {} }}", quoted(&connection(&Value::Null, None))));
        draft.databases.push(format!("local: {{ url: {} }}", quoted(&connection(&Value::Null, None))));
        syncs(json, &mut draft);
    }
    served(&mut draft);
    Some(draft)
}

/// The URL of a connection; `database` where it is told elsewhere.
fn connection(json: &Value, database: Option<&str>) -> String {
    let text = |key: &str| json[key].as_str();
    let port = json["port"].as_u64().map(|port| port.to_string());
    let account = (text("username"), text("password"));
    let url = server_url(
        "mysql://",
        account,
        text("host"),
        port.as_deref(),
        database.or(text("database")).filter(|d| !d.is_empty()),
    );
    if json["ssl"].as_bool() == Some(true) { format!("{url}?ssl-mode=required") } else { url }
}

/// One sync for each mode: in rowferry the mode is the sync's.
fn syncs(json: &Value, draft: &mut Draft) {
    let name = word(json["name"].as_str().unwrap_or("copy"));
    let listed: Vec<&Value> = json["tables"].as_array().into_iter().flatten().collect();
    for mode in ["incremental", "full"] {
        let of_mode = |table: &&&Value| {
            table["enabled"].as_bool() != Some(false)
                && table["sync_mode"].as_str().or(json["sync_mode"].as_str()).unwrap_or("full") == mode
        };
        let tables: Vec<String> = listed.iter().filter(of_mode).filter_map(|table| entry(table)).collect();
        if tables.is_empty() {
            continue;
        }
        let policy = match json["options"]["conflict_resolution"].as_str() {
            Some("overwrite") => Some("source-wins"),
            Some("skip") => Some("keep-existing"),
            Some("error") => Some("manual"),
            _ => None,
        };
        one_sync(draft, &format!("{name}-{mode}"), "remote", mode, &tables, policy.filter(|_| mode == "incremental"));
        for (old, new) in [("batch_size", "batch_size"), ("max_concurrency", "concurrency")] {
            if let Some(number) = json["options"][old].as_u64() {
                draft.syncs.push(format!("  {new}: {number}"));
            }
        }
        if json["enabled"].as_bool() == Some(false) {
            draft.syncs.push("  enabled: false".to_owned());
        }
    }
    if json["options"]["enable_compression"].as_bool() == Some(true) {
        draft.notes.push("enable_compression is not needed: nodes compress what they send to each other".to_owned());
    }
}

fn entry(table: &Value) -> Option<String> {
    let source = table["source_table"].as_str()?;
    let mut entry = format!("{{ source: {}", quoted(source));
    if let Some(target) = table["target_table"].as_str().filter(|target| *target != source) {
        entry += &format!(", target: {}", quoted(target));
    }
    if let Some(filter) = table["where_clause"].as_str().filter(|filter| !filter.is_empty()) {
        entry += &format!(", where: {}", quoted(filter));
    }
    Some(entry + " }")
}

fn one_sync(draft: &mut Draft, name: &str, source: &str, mode: &str, tables: &[String], policy: Option<&str>) {
    draft.syncs.push(format!("{name}:"));
    draft.syncs.push(format!("  source: {source}"));
    draft.syncs.push("  target: local".to_owned());
    draft.syncs.push("  direction: push".to_owned());
    draft.syncs.push(format!("  mode: {mode}"));
    if let Some(policy) = policy {
        draft.syncs.push(format!("  conflict: {policy}"));
    }
    draft.syncs.push(format!("  tables: [{}]", tables.join(", ")));
}

/// A name as the new file allows it.
fn word(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(plain).collect();
    let name = name.trim_matches('-');
    // `local` is the other end's name.
    if name.is_empty() || name == "local" { "remote".to_owned() } else { name.to_owned() }
}

fn served(draft: &mut Draft) {
    draft.seeds.push("db_taxi: { local: local }".to_owned());
    draft.notes.push(format!(
        "the old interface asked for no key: give its users one, or allow addresses with seeds.db_taxi.keyless: {{ from: {}, role: operator }}",
        list(&["127.0.0.1/32"])
    ));
    draft.replace("db-taxi -config config.yaml", "rowferry serve");
    draft.replace("source migrations/b-002_create_sync_tables.sql", "nothing: the node makes its state store itself");
    draft.replace("/api/sync/connections, /configs, /jobs, /status, /stats", "the same URLs of rowferry serve");
    draft.replace(
        "POST /api/sync/jobs {\"config_id\"}",
        "the same URL, or rowferry jobs start SYNC, or rowferry sync SYNC",
    );
    draft.replace("GET /api/sync/jobs/ID, /logs", "the same URLs, or rowferry jobs show ID, rowferry jobs logs ID");
    draft.replace("db-taxi fix-jobs", "nothing: a node takes up its own unfinished jobs");
}
