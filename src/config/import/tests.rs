//! Every shape of configuration that the old systems' guides show, down to the partial ones: the result passes the
//! check, says what the old file said, and marks what it did not say.

use std::path::Path;

use super::super::load::{Format, parse_with};
use super::super::{Capture, Config, Conflict, Direction, Endpoint, Mode, When};
use super::{BLANK, Imported, translate};

#[track_caller]
fn imported(name: &str, text: &str) -> (Imported, Config) {
    let draft = translate(name, text).unwrap_or_else(|e| panic!("{name}: {}", e.message));
    let imported = draft.finish(name);
    let config = parse_with(&imported.yaml, Format::Yaml, "rowferry.yaml", Path::new("/srv"), &|_| None);
    let config = config.unwrap_or_else(|e| panic!("{}\n{}", e.message, imported.yaml));
    let marked = imported.yaml.lines().filter(|line| line.contains(BLANK) && !line.trim_start().starts_with('#'));
    assert_eq!(marked.count(), imported.blanks, "each blank is marked:\n{}", imported.yaml);
    assert!(!imported.replaces.is_empty(), "{name}: nothing is said of the old commands");
    (imported, config)
}

fn tables(config: &Config, sync: &str) -> Vec<String> {
    config.sync(sync).expect("the sync").tables.iter().map(|t| t.source.clone()).collect()
}

const NUNEZ: &str = r#"{
  "mode": "master-slave", "syncInterval": "*/5 * * * *", "port": 8081,
  "databases": {
    "master": { "host": "db1", "port": 3306, "user": "u", "password": "p@ss/w${x}", "database": "main" },
    "slave": { "host": "db2", "user": "u", "password": "", "database": "copy" },
    "stats": { "host": "db1", "user": "u", "password": "x", "database": "stats" }
  },
  "api": { "keys": ["one-key", "two-key"] },
  "replication": { "tables": [
    { "name": "users", "primaryKey": "id", "timestampColumn": "updated_at", "ignoreColumns": ["token"] },
    { "name": "orders", "primaryKey": "id" }
  ] },
  "remoteEnvironments": {
    "dr": { "url": "https://dr.example.com/", "apiKey": "dr-key", "syncMode": "bidirectional", "timeout": 60 },
    "staging": { "url": "https://staging.example.com", "apiKey": "staging-key", "syncMode": "push", "timeout": 30 }
  }
}"#;

#[test]
fn a_whole_nunez_file() {
    let (told, config) = imported("config.json", NUNEZ);
    assert_eq!(told.blanks, 0, "{}", told.yaml);
    assert_eq!(config.listen, "127.0.0.1:8081");
    assert_eq!(config.databases["master"].url.expose(), "mysql://u:p%40ss%2Fw%24%7Bx%7D@db1:3306/main");
    assert_eq!(config.databases["slave"].url.expose(), "mysql://u@db2/copy");
    let local = config.sync("local").expect("the local sync");
    assert_eq!((local.mode, local.direction), (Mode::Mirror, Direction::Push));
    assert_eq!(local.when, When::Cron("*/5 * * * *".to_owned()));
    assert_eq!(local.tables[0].exclude, ["token"]);
    let dr = config.sync("with-dr").expect("the remote");
    assert_eq!(
        (dr.direction, dr.mode, &dr.after),
        (Direction::Bidirectional, Mode::Incremental, &vec!["local".to_owned()])
    );
    assert_eq!(config.sync("with-staging").expect("the remote").direction, Direction::Push);
    assert_eq!(config.peers["dr"].timeout.as_secs(), 60);
    assert_eq!(config.api_keys.len(), 2);
    assert_eq!(config.seeds.nunez.as_ref().expect("the interface").syncs, ["local", "with-dr", "with-staging"]);
    for old in ["php src/sync.php [CONFIG]", "php src/sync_multi.php [CONFIG]", "POST /api/sync"] {
        assert!(told.replaces.iter().any(|(was, _)| was == old), "{old}: {:?}", told.replaces);
    }
}

#[test]
fn nunez_files_in_parts_and_with_comments() {
    let master_master = NUNEZ.replace("master-slave", "master-master");
    let (_, config) = imported("config.json", &master_master);
    let local = config.sync("local").expect("the local sync");
    assert_eq!((local.mode, local.direction), (Mode::Incremental, Direction::Bidirectional));

    let (told, config) = imported("config.json", r#"{ "api": { "keys": ["a-key", "b-key"] } }"#);
    assert!(told.blanks > 0 && config.syncs.is_empty(), "{}", told.yaml);
    assert_eq!(config.api_keys.len(), 2);

    let (_, config) = imported(
        "config.json",
        r#"{ "remoteEnvironments": { "production": {
            "url": "https://prod.example.com",  // HTTPS!
            "apiKey": "prod-key"
        } } }"#,
    );
    assert_eq!(config.peers["production"].url, "https://prod.example.com");
    let sync = config.sync("with-production").expect("the sync");
    assert_eq!((sync.direction, sync.tables[0].source.as_str()), (Direction::Bidirectional, BLANK));

    for (mode, direction) in
        [("pull", Direction::Pull), ("push", Direction::Push), ("bidirectional", Direction::Bidirectional)]
    {
        let text = format!(
            r#"{{ "mode": "master-slave", "api": {{ "keys": ["k"] }}, "remoteEnvironments": {{ "production":
               {{ "url": "https://p.example.com", "apiKey": "p", "syncMode": "{mode}", "timeout": 30 }} }} }}"#
        );
        let (told, config) = imported("config.staging.json", &text);
        assert_eq!(config.sync("with-production").expect("the sync").direction, direction);
        assert!(told.yaml.contains("mysql://FILL-IN:FILL-IN@FILL-IN/FILL-IN"), "{}", told.yaml);
    }
}

#[test]
fn the_laravel_files() {
    let slave = "# mode\nAPP_MODE=slave\n\nMASTER_URL=https://master.example.com\nSYNC_API_KEY=\"a secret\" # same\nAPP_TIMEZONE=Africa/Lagos\n";
    let (told, config) = imported(".env", slave);
    assert_eq!((told.blanks, config.timezone.name()), (0, "Africa/Lagos"), "{}", told.yaml);
    assert_eq!(config.peers["master"].api_key.as_ref().expect("a key").expose(), "a secret");
    let inventory = config.sync("inventory").expect("a sync");
    assert_eq!(
        (inventory.mode, inventory.direction, inventory.conflict),
        (Mode::Mirror, Direction::Pull, Conflict::TargetWins)
    );
    let sales = config.sync("sales").expect("a sync");
    assert_eq!((sales.direction, &sales.when), (Direction::Bidirectional, &When::Cron("*/15 * * * *".to_owned())));
    assert_eq!(tables(&config, "sales"), ["users", "transactions", "inventory_adjustments"]);
    assert_eq!(sales.tables[0].exclude, ["password"]);
    assert!(config.databases["app"].url.expose().ends_with("/srv/database/database.sqlite"));

    let (told, config) =
        imported(".env", "APP_MODE=slave\nMASTER_URL=https://m.example.com\nSYNC_API_KEY=k\nDB_CONNECTION=pgsql\n");
    assert!(told.blanks > 0 && config.databases["app"].url.expose().starts_with("postgres://FILL-IN"), "{}", told.yaml);

    let (told, config) = imported(".env", "APP_MODE=master\nSYNC_API_KEY=k\n");
    assert_eq!((told.blanks, config.api_keys.len()), (0, 1));
    assert_eq!(config.seeds.laravel.as_ref().expect("the interface").tables.len(), 5);
    assert_eq!(imported(".env", "APP_MODE=slave\n").1.peers["master"].url, "https://FILL-IN");
}

#[test]
fn the_taxi_files() {
    let sync = "sync:\n  enabled: true\n  max_concurrency: 5\n  batch_size: 500\n  retry_attempts: 2\n  retry_delay: \"30s\"\n  job_timeout: \"1h\"\n  cleanup_age: \"30d\"\n";
    let (told, config) = imported("config.yaml", sync);
    assert_eq!((config.defaults.concurrency, config.defaults.batch_size, config.defaults.retries), (5, 500, 2));
    assert_eq!(config.defaults.keep_history.as_secs(), 30 * 24 * 3600);
    assert!(told.blanks > 0 && config.seeds.db_taxi.is_some(), "{}", told.yaml);
    let whole = format!(
        "server: {{ port: 9090 }}\ndatabase: {{ host: h, port: 3307, username: u, password: p, database: d, ssl: true }}\n{sync}"
    );
    let (told, config) = imported("config.yaml", &whole);
    assert_eq!(told.blanks, 0, "{}", told.yaml);
    assert_eq!(config.databases["local"].url.expose(), "mysql://u:p@h:3307/d?ssl-mode=required");

    let connection = r#"{ "name": "Production DB", "host": "prod-db.example.com", "port": 3306, "username": "u",
        "password": "p", "database": "production", "local_db_name": "prod_sync", "ssl": true }"#;
    let (_, config) = imported("connection.json", connection);
    assert_eq!(
        config.databases["production-db"].url.expose(),
        "mysql://u:p@prod-db.example.com:3306/production?ssl-mode=required"
    );
    assert!(config.databases["local"].url.expose().ends_with("/prod_sync"));

    let configuration = r#"{ "connection_id": "c", "name": "User Data Sync", "sync_mode": "incremental", "enabled": true,
        "tables": [
            { "source_table": "users", "target_table": "people", "sync_mode": "incremental", "enabled": true },
            { "source_table": "orders", "target_table": "orders", "sync_mode": "full", "enabled": true, "where_clause": "paid = 1" },
            { "source_table": "old", "target_table": "old", "sync_mode": "full", "enabled": false } ],
        "options": { "batch_size": 1000, "max_concurrency": 3, "enable_compression": true, "conflict_resolution": "overwrite" } }"#;
    let (told, config) = imported("sync.json", configuration);
    let users = config.sync("user-data-sync-incremental").expect("a sync");
    assert_eq!((users.conflict, users.settings.concurrency, users.capture), (Conflict::SourceWins, 3, Capture::Auto));
    assert_eq!(users.tables[0].target, "people");
    assert_eq!(tables(&config, "user-data-sync-full"), ["orders"]);
    assert_eq!(config.sync("user-data-sync-full").expect("a sync").tables[0].filter.as_deref(), Some("paid = 1"));
    assert!(told.notes.iter().any(|note| note.contains("compression")), "{:?}", told.notes);
}

#[test]
fn the_file_of_the_production_sync() {
    let text = "QSTASH_URL=\"https://qstash.example.com\"\nQSTASH_TOKEN=\"t\"\nQSTASH_CURRENT_SIGNING_KEY=\"now\"\n\
        QSTASH_NEXT_SIGNING_KEY=\"next\"\nNEXT_PUBLIC_APP_URL=\"https://app.example.com\"\n\
        NEXT_PUBLIC_SUPABASE_URL=\"https://abc.supabase.co\"\nSUPABASE_SERVICE_ROLE_KEY=\"s\"\n";
    let (told, config) = imported(".env.local", text);
    let sync = config.sync("slave-to-prod").expect("the sync");
    assert_eq!((&sync.when, sync.settings.retries), (&When::Cron("0 */6 * * *".to_owned()), 2));
    assert_eq!(sync.target, Endpoint::Database("prod".to_owned()));
    let seed = config.seeds.slave_to_prod.as_ref().expect("the interface");
    assert_eq!(seed.signing_keys.iter().map(super::super::Secret::expose).collect::<Vec<_>>(), ["now", "next"]);
    assert!(config.databases["prod"].url.expose().contains("db.abc.supabase.co"));
    assert!(told.blanks > 0, "the password and the table are not told: {}", told.yaml);
    for action in ["create", "pause", "resume", "delete", "trigger-manual"] {
        assert!(told.replaces.iter().any(|(old, _)| old.contains(&format!("\"{action}\""))), "{action}");
    }
    let blank =
        imported(".env.local", "QSTASH_URL=\"https://q.example.com\"\nNEXT_PUBLIC_SUPABASE_URL=\"your-url\"\n").0;
    assert!(blank.yaml.contains("@FILL-IN:5432"), "{}", blank.yaml);
}

#[test]
fn the_two_laptops_files() {
    let guide = "<?php\ndefine('MASTER_SERVER', 'http://172.19.25.101');  // first\ndefine('SLAVE_SERVER', 'http://172.19.25.102');\n";
    let (told, config) = imported("config.php", guide);
    let peer = &config.peers["laptop-b"];
    assert_eq!((peer.url.as_str(), peer.insecure), ("http://172.19.25.102", true));
    assert!(told.blanks > 0 && told.notes.iter().any(|note| note.contains("plain HTTP")), "{:?}", told.notes);
    let sync = config.sync("laptops").expect("the sync");
    assert_eq!(
        (sync.direction, &sync.when),
        (Direction::Bidirectional, &When::Interval(std::time::Duration::from_mins(5)))
    );
    assert_eq!(sync.conflict, Conflict::LastWriteWins);
    let whole = format!(
        "{guide}define(\"SYNC_API_KEY\", \"k'ey\");\nconst DB_HOST = 'localhost';\ndefine('DB_USER', 'root');\ndefine('DB_PASS', '');\n\
         define('DB_NAME', 'campuslink');\ndefine('DB_PORT', 3306);\ndefine('SYNC_INTERVAL', 120);\n// define('DB_NAME', 'old');\n\
         define('THIS_SERVER', 'http://172.19.25.102');\n"
    );
    let (told, config) = imported("config.php", &whole);
    assert_eq!((told.blanks, config.node.as_str()), (0, "laptop-b"), "{}", told.yaml);
    assert_eq!(config.databases["app"].url.expose(), "mysql://root@localhost:3306/campuslink");
    assert_eq!(config.peers["laptop-a"].url, "http://172.19.25.101");
    assert_eq!(config.seeds.campus_link.as_ref().expect("the interface").prefix, "/CAMPUS-LINK");
}

#[test]
fn other_files_are_refused_by_name() {
    for (name, text) in [
        ("package.json", "{ \"name\": \"x\" }"),
        ("list.json", "[1]"),
        (".env", "PATH=/bin"),
        ("config.php", "<?php define('A', 'b');"),
        ("docker.yaml", "services: {}"),
        ("notes.txt", "hello"),
    ] {
        let error = translate(name, text).expect_err(name).message;
        assert!(error.contains("none of the systems"), "{name}: {error}");
    }
    assert!(translate("config.json", "{ \"mode\": ").expect_err("broken").message.contains("no JSON"));
}
