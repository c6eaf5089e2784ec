//! The `config.php` of the two laptops.

use super::draft::{Draft, list, quoted, server_url};
use super::{BLANK, Constants, value};

/// Riders and drivers before the bookings that name them.
const TABLES: [&str; 6] = ["clients", "riders", "drivers", "bookings", "notifications", "password_resets"];

/// `None` when nothing in it is known.
pub(super) fn from(constants: &Constants) -> Option<Draft> {
    let known = ["MASTER_SERVER", "SLAVE_SERVER", "SYNC_API_KEY", "THIS_SERVER"];
    if !known.iter().any(|name| constants.contains_key(*name)) {
        return None;
    }
    let get = |name: &str| value(constants, name);
    let mut draft = Draft::of("two laptops");
    let second = get("THIS_SERVER").is_some() && get("THIS_SERVER") == get("SLAVE_SERVER");
    let (own, other, address) = if second {
        ("laptop-b", "laptop-a", get("MASTER_SERVER"))
    } else {
        ("laptop-a", "laptop-b", get("SLAVE_SERVER"))
    };
    draft.head.push(format!("node: {own}"));
    draft.head.push(
        "#listen: 0.0.0.0:8080           # one of the two must be reached by the other; with the next line".to_owned(),
    );
    draft.head.push("#tls: self-signed".to_owned());
    let account = (get("DB_USER"), constants.get("DB_PASS").or(constants.get("DB_PASSWORD")).map(String::as_str));
    let url = server_url("mysql://", account, get("DB_HOST"), get("DB_PORT"), get("DB_NAME"));
    draft.databases.push(format!("app: {{ url: {} }}", quoted(&url)));
    let key = get("SYNC_API_KEY");
    draft.peer(other, address, key, get("SYNC_TIMEOUT").and_then(|seconds| seconds.parse().ok()));
    let tables = list(&TABLES);
    let quoted_key = quoted(key.unwrap_or(BLANK));
    draft.keys.push(format!("- {{ name: {other}, key: {quoted_key}, role: peer, tables: {{ app: {tables} }} }}"));
    for line in [
        "laptops:",
        "  source: app",
        &format!("  target: {other}"),
        "  direction: bidirectional",
        "  mode: incremental",
        "  conflict: last-write-wins",
        &format!("  every: {}s", get("SYNC_INTERVAL").unwrap_or("300")),
        &format!("  tables: {tables}"),
    ] {
        draft.syncs.push(line.to_owned());
    }
    let prefix = quoted("/CAMPUS-LINK");
    draft.seeds.push(format!(
        "campus_link: {{ database: app, tables: {tables}, prefix: {prefix}, syncs: [laptops], key_in_query: false }}"
    ));
    if !second {
        let there = get("MASTER_SERVER").unwrap_or("this one's address");
        draft.notes.push(format!(
            "this is the first laptop's file; at the second write node: laptop-b and the peer laptop-a with {there}"
        ));
    }
    draft.notes.push("the application needs no DatabaseWithSync any more: triggers note what it writes".to_owned());
    draft.replace("new DatabaseWithSync()", "the application's own database class, as it was");
    draft.replace("sync/sync_cron.sh, the task every 5 minutes", "every: 300s in the file, and rowferry serve");
    draft.replace(
        "GET /api/sync_trigger.php?api_key=…",
        "rowferry sync laptops; the same URL of rowferry serve (the key in the query only with key_in_query: true)",
    );
    draft.replace("POST /api/sync_receive.php", "the same URL of rowferry serve");
    draft.replace("sync_monitor.php", "rowferry status, rowferry quarantine list");
    draft.replace("SELECT … FROM sync_queue", "rowferry capture status");
    draft.replace("DELETE FROM sync_queue …", "nothing: what is brought over is not kept");
    Some(draft)
}
