//! The `.env` of the Laravel master and slave.

use super::draft::{Draft, list, quoted, server_url};
use super::{BLANK, Constants, value};

/// The tables, parents first.
const TABLES: [&str; 5] = ["inventory", "transactions", "company_settings", "users", "inventory_adjustments"];

pub(super) fn from(variables: &Constants) -> Draft {
    let mut draft = Draft::of("Laravel");
    let zone = value(variables, "APP_TIMEZONE").unwrap_or("Africa/Lagos");
    draft.head.push(format!("timezone: {zone}"));
    draft.databases.push(format!("app: {{ url: {} }}", quoted(&database(variables))));
    let key = value(variables, "SYNC_API_KEY");
    let slave = value(variables, "APP_MODE") == Some("slave") || value(variables, "MASTER_URL").is_some();
    if slave {
        slave_of(variables, key, &mut draft);
    } else {
        let tables = list(&TABLES);
        let key = quoted(key.unwrap_or(BLANK));
        draft.keys.push(format!("- {{ name: slave, key: {key}, role: peer, tables: {{ app: {tables} }} }}"));
        draft.seeds.push(format!("laravel: {{ database: app, tables: {tables} }}"));
        draft.replace("POST /api/sync/push, GET /api/sync/pull", "the same URLs of rowferry serve");
        draft.replace("curl -H \"X-Sync-API-Key: …\" …/api/sync/pull?table=inventory", "the same");
    }
    draft
}

fn database(variables: &Constants) -> String {
    let get = |name: &str| value(variables, name);
    let account = (get("DB_USERNAME"), variables.get("DB_PASSWORD").map(String::as_str));
    let url = |scheme| server_url(scheme, account, get("DB_HOST"), get("DB_PORT"), get("DB_DATABASE"));
    match get("DB_CONNECTION") {
        Some("mysql") => url("mysql://"),
        Some("mariadb") => url("mariadb://"),
        Some("pgsql") => url("postgres://"),
        // The framework's own place of the file.
        _ => format!("sqlite:{}", get("DB_DATABASE").unwrap_or("database/database.sqlite")),
    }
}

fn slave_of(variables: &Constants, key: Option<&str>, draft: &mut Draft) {
    draft.peer("master", value(variables, "MASTER_URL"), key, Some(30));
    let schedule = match value(variables, "SYNC_INTERVAL") {
        Some(minutes) => format!("every: {minutes}m"),
        None => "schedule: \"*/15 * * * *\"".to_owned(),
    };
    for line in [
        "inventory:                     # the master's list replaces this one's",
        "  source: app",
        "  target: master",
        "  direction: pull",
        "  mode: mirror",
        "  conflict: target-wins",
        &format!("  {schedule}"),
        "  tables: [inventory]",
        "sales:",
        "  source: app",
        "  target: master",
        "  direction: bidirectional",
        "  mode: incremental",
        &format!("  {schedule}"),
        "  tables:",
        "    - { source: users, exclude: [password], fill: { password: \"!\" } }   # passwords never travelled",
        "    - transactions",
        "    - inventory_adjustments",
        "company:",
        "  source: app",
        "  target: master",
        "  direction: pull",
        "  mode: incremental",
        "  schedule: \"0 0 * * *\"",
        "  tables: [{ source: company_settings, exclude: [smtp_password] }]",
    ] {
        draft.syncs.push(line.to_owned());
    }
    draft.replace("php artisan sync:run", "rowferry sync inventory sales");
    draft.replace(
        "php artisan sync:run --force",
        "rowferry sync inventory sales; to rebuild a broken file: rowferry recover",
    );
    draft.replace("php artisan sync:company-settings", "rowferry sync company");
    draft.replace(
        "$schedule->command('sync:run')->everyFifteenMinutes()",
        "the schedules in the file, and rowferry serve",
    );
    draft.replace("$schedule->command('sync:company-settings')->daily()", "schedule: \"0 0 * * *\" of sync company");
    draft.replace("recovery at application boot", "rowferry recover --check, then rowferry recover");
    draft.replace("SELECT * FROM sync_logs", "rowferry status");
}
