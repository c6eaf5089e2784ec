//! The configuration as users write it: every key in three languages, and every mistake.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::load::{find_in, load_with, parse_with};
use super::*;

const FULL_YAML: &str = include_str!("testdata/full.yaml");
const FULL_TOML: &str = include_str!("testdata/full.toml");

fn variable(name: &str) -> Option<OsString> {
    let value = match name {
        "PROD_PASSWORD" => "pr0d-passw0rd",
        "PROD_KEY" => "prod-key-value",
        "OPS_KEY" => "ops-key-value",
        "B_KEY" => "b-key-value",
        "HOOK_SECRET" => "hook-secret-value",
        "QSTASH_CURRENT" => "qstash-1",
        "QSTASH_NEXT" => "qstash-2",
        "DIRECTION" => "pull",
        "HOSTNAME" => "host-1",
        _ => return None,
    };
    Some(value.into())
}

fn read(text: &str, format: Format) -> Result<Config, ConfigError> {
    let name = if format == Format::Yaml { "rowferry.yaml" } else { "rowferry.toml" };
    parse_with(text, format, name, Path::new("/srv/site"), &variable)
}

fn yaml(text: &str) -> Result<Config, ConfigError> {
    read(text, Format::Yaml)
}

fn message(text: &str) -> String {
    yaml(text).expect_err("it must be refused").message
}

/// A file with two databases, a peer and one sync with these lines.
fn with_sync(lines: &str) -> String {
    let lines = format!("    {}\n", lines.replace('\n', "\n    "));
    format!(
        "databases:\n  app: {{ url: 'sqlite:app.db' }}\n  copy: {{ url: 'sqlite:copy.db' }}\n\
         peers:\n  production: {{ url: 'https://prod.example.com' }}\nsyncs:\n  riders:\n{lines}"
    )
}

fn assert_full(config: &Config) {
    assert_eq!(config.node, "laptop-a");
    assert_eq!(config.listen, "0.0.0.0:8080");
    let tls = Tls::Files { cert: "/srv/site/cert.pem".into(), key: "/srv/site/key.pem".into() };
    assert_eq!(config.tls, Some(tls));
    assert_eq!(config.state.expose(), "sqlite:/srv/site/rowferry-state.db");
    assert_eq!(config.timezone.name(), "Africa/Lagos");
    assert_eq!(config.log, Log { level: LogLevel::Debug, format: LogFormat::Json });
    assert_eq!(config.limits, Limits { body_bytes: 64 << 20, requests_per_minute: 60 });
    assert_eq!(config.databases["app"].url.expose(), "sqlite:/srv/site/app.db");
    assert_eq!(config.databases["app"].timezone.name(), "Africa/Lagos");
    assert_eq!(
        config.databases["prod"].url.expose(),
        "mysql://sync:pr0d-passw0rd@prod-db:3306/production?ssl-mode=verify_identity"
    );
    assert_eq!(config.databases["prod"].timezone.name(), "UTC");

    let peer = &config.peers["production"];
    assert_eq!(peer.api_key.as_ref().map(Secret::expose), Some("prod-key-value"));
    assert_eq!(peer.timeout, Duration::from_secs(10));
    assert_eq!(peer.ca, Some("/srv/site/ca.pem".into()));
    assert_eq!(peer.pin.as_deref(), Some("ab".repeat(32).as_str()));
    assert_eq!((peer.kind, peer.insecure), (PeerKind::Rowferry, false));
    assert_eq!((config.peers["old"].kind, config.peers["old"].insecure), (PeerKind::CampusLink, true));

    let key = &config.api_keys[1];
    assert_eq!((key.role, key.direction), (Role::Peer, Direction::Bidirectional));
    assert!(key.from[0].contains("10.2.3.4".parse().unwrap()));
    assert_eq!(key.tables["app"][0], KeyTable { table: "riders".into(), filter: None });
    assert_eq!(key.tables["app"][1].filter.as_deref(), Some("branch = 7"));

    assert_eq!((config.defaults.batch_size, config.defaults.concurrency, config.defaults.retries), (500, 2, 5));
    assert_eq!(config.defaults.retry_delay, Duration::from_secs(10));
    assert_eq!(config.defaults.keep_tombstones, Duration::from_hours(60 * 24));

    let names: Vec<&str> = config.syncs.iter().map(|sync| sync.name.as_str()).collect();
    assert_eq!(names, ["people", "riders", "archive", "a-last"]);
    let riders = config.sync("riders").unwrap();
    assert_eq!(riders.target, Endpoint::Peer { peer: "production".into(), database: None });
    assert_eq!((riders.direction, riders.mode), (Direction::Bidirectional, Mode::Incremental));
    assert_eq!((riders.capture, riders.conflict), (Capture::Trigger, Conflict::MergeColumns));
    assert_eq!(riders.first_run, FirstRun::TargetWins);
    assert!(riders.enabled && !riders.create && riders.allow_loss);
    assert_eq!(riders.after, ["people"]);
    assert_eq!(riders.when, When::Cron("*/15 * * * *".into()));
    assert_eq!((riders.settings.batch_size, riders.settings.retries), (50, 5));
    assert_eq!(riders.tables[0].source, "riders");
    assert_eq!(riders.tables[0].timestamp, StampColumn::Auto);
    assert_eq!(riders.tables[0].conflict, Conflict::MergeColumns);
    let orders = &riders.tables[1];
    assert_eq!((orders.source.as_str(), orders.target.as_str()), ("orders", "shop_orders"));
    assert_eq!(orders.columns.as_ref().unwrap().len(), 3);
    assert_eq!((orders.filter.as_deref(), orders.ids), (Some("tenant_id = 7"), Some(Ids::Rekey)));
    let users = &riders.tables[2];
    assert_eq!(users.rename["mail"], "email");
    assert_eq!(users.fill["password_hash"], serde_json::json!("!"));
    assert_eq!(users.fill["attempts"], serde_json::json!(0));
    assert_eq!(users.timestamp, StampColumn::Named("updated_at".into()));
    assert_eq!((users.soft_delete.as_deref(), users.conflict), (Some("deleted_at"), Conflict::Manual));
    let sheet = &riders.tables[3];
    assert_eq!((sheet.source.as_str(), sheet.timestamp.clone()), ("Sheet 1", StampColumn::None));
    assert_eq!(sheet.key.as_ref().unwrap(), &["tool", "vendor"]);
    let archive = config.sync("archive").unwrap();
    assert_eq!(archive.target, Endpoint::Peer { peer: "production".into(), database: Some("archive".into()) });
    assert_eq!((archive.when.clone(), archive.enabled), (When::Interval(Duration::from_secs(5)), false));
    assert!(archive.tables[0].is_pattern());
    assert_eq!(config.sync("people").unwrap().when, When::Live);

    assert_eq!(config.webhooks[0].on, [Event::Failure, Event::Conflict, Event::Quarantine, Event::Success]);
    assert_eq!(config.webhooks[0].secret.as_ref().unwrap().expose(), "hook-secret-value");
    let seeds = &config.seeds;
    assert_eq!(seeds.nunez.as_ref().unwrap().syncs, ["riders"]);
    assert_eq!(seeds.laravel.as_ref().unwrap().tables[1].key.as_ref().unwrap(), &["sku"]);
    assert_eq!(seeds.campus_link.as_ref().unwrap().prefix, "/CAMPUS-LINK");
    assert_eq!(seeds.db_taxi.as_ref().unwrap().keyless.as_ref().unwrap().role, Role::Operator);
    let slave = seeds.slave_to_prod.as_ref().unwrap();
    assert_eq!((slave.sync.as_str(), slave.manual_get, slave.signing_keys.len()), ("people", true, 2));
}

#[test]
fn every_key_in_yaml() {
    assert_full(&yaml(FULL_YAML).unwrap());
}

#[test]
fn every_key_in_toml() {
    assert_full(&read(FULL_TOML, Format::Toml).unwrap());
}

#[test]
fn every_key_in_json() {
    let value: serde_json::Value = serde_saphyr::from_str(FULL_YAML).unwrap();
    let config = yaml(&serde_json::to_string_pretty(&value).unwrap()).unwrap();
    // serde_json's map is sorted, so the order is this document's, not the YAML file's.
    let mut sorted = config;
    let rank = |name: &str| ["people", "riders", "archive", "a-last"].iter().position(|known| *known == name);
    assert_eq!(sorted.syncs[0].name, "a-last");
    sorted.syncs.sort_by_key(|sync| rank(&sync.name));
    assert_full(&sorted);
}

#[test]
fn an_unknown_key_is_named_with_line_and_nearest() {
    let text = with_sync("source: app\ntarget: copy\ncaptur: auto\ntables: [riders]");
    assert_eq!(message(&text), "rowferry.yaml, line 10: unknown key 'captur'; did you mean 'capture'?");
    let text = with_sync("source: app\ntarget: copy\ntables:\n  - riders\n  - { source: x, wher: y }");
    assert_eq!(message(&text), "rowferry.yaml, line 12: unknown key 'wher'; did you mean 'where'?");
    let toml = "node = 'a'\n\n[databses.app]\nurl = 'sqlite:app.db'\n";
    let error = read(toml, Format::Toml).unwrap_err().message;
    assert_eq!(error, "rowferry.toml, line 3: unknown key 'databses'; did you mean 'databases'?");
    let json = "{\n  \"node\": \"a\",\n  \"qqq\": 1\n}";
    let error = message(json);
    assert!(error.starts_with("rowferry.yaml, line 3: unknown key 'qqq'; known here: node, listen"), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_line_and_choice() {
    let error = message(&with_sync("source: app\ntarget: copy\nmode: miror\ntables: [riders]"));
    assert_eq!(
        error,
        "rowferry.yaml, line 10: unknown value 'miror'; did you mean 'mirror'? It may be incremental, full, mirror"
    );
    let error = message("defaults: { retry_delay: 30 }");
    assert!(error.starts_with("rowferry.yaml, line 1: '30' is no duration"), "{error}");
    let error = message("limits:\n  body: 256XB\n");
    assert!(error.starts_with("rowferry.yaml, line 2: '256XB' is no size"), "{error}");
    let error = message("databases:\n  app: { timezone: UTC }\n");
    assert_eq!(error, "rowferry.yaml, line 2: the key 'url' is missing here; add it");
}

#[test]
fn a_duplicate_key_is_refused() {
    let error = message("node: a\nlisten: 127.0.0.1:1\nnode: b\n");
    assert_eq!(error, "rowferry.yaml, line 3: the key 'node' is there twice; keep one");
    let error = message("databases:\n  app: { url: 'sqlite:a' }\n  app: { url: 'sqlite:b' }\n");
    assert!(error.starts_with("rowferry.yaml, line 3:") && error.contains("'app' is there twice"), "{error}");
    let error = read("node = 'a'\nnode = 'b'\n", Format::Toml).unwrap_err().message;
    assert_eq!(error, "rowferry.toml, line 2: this key is there twice; keep one");
}

#[test]
fn variables_and_files_are_put_in_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "from a file\n").unwrap();
    std::fs::write(
        folder.path().join("c.yaml"),
        "node: '${HOSTNAME}-$${HOSTNAME}-$5'\n\
         databases:\n  app: { url: 'sqlite:app.db' }\n  copy: { url: 'sqlite:/abs/c.db?mode=ro' }\n\
         api:\n  keys: [{ name: a, key: '${file:password}', role: viewer }]\n\
         syncs:\n  one: { source: app, target: copy, direction: \"${DIRECTION}\", tables: ['t'] }\n",
    )
    .unwrap();
    let config = load_with(&folder.path().join("c.yaml"), &variable).unwrap();
    assert_eq!(config.node, "host-1-${HOSTNAME}-$5");
    assert_eq!(config.api_keys[0].key.expose(), "from a file");
    assert_eq!(config.syncs[0].direction, Direction::Pull);
    assert_eq!(config.syncs[0].first_run, FirstRun::TargetWins);
    assert_eq!(config.databases["copy"].url.expose(), "sqlite:/abs/c.db?mode=ro");
    let app = format!("sqlite:{}", folder.path().join("app.db").display());
    assert_eq!(config.databases["app"].url.expose(), app);
}

#[test]
fn a_missing_variable_is_named_with_its_line() {
    let error = message("databases:\n  app:\n    url: \"mysql://u:${NOT_THERE}@h/d\"\n");
    assert!(error.starts_with("rowferry.yaml, line 3: the environment variable NOT_THERE is not set"), "{error}");
    let error = read("node = 'a'\ntimezone = '${NOT_THERE}'\n", Format::Toml).unwrap_err().message;
    assert!(error.starts_with("rowferry.toml, line 2: the environment variable NOT_THERE"), "{error}");
    assert!(message("node: '${file:/no/such}'").contains("/no/such of '${file:/no/such}' cannot be read"));
    assert!(message("node: '${open'").contains("never closed"));
    assert!(message("node: '${a b}'").contains("neither ${VARIABLE} nor"));
}

#[test]
fn syncs_that_make_no_sense_are_refused() {
    let cases = [
        ("source: app\ntarget: production\ndirection: bidirectional\nmode: mirror\ntables: [t]", "goes one way only"),
        (
            "source: app\ntarget: production\ndirection: bidirectional\nmode: full\ntables: [t]",
            "mode full goes one way",
        ),
        ("source: ap\ntarget: copy\ntables: [t]", "'ap' is not under databases; did you mean 'app'?"),
        ("source: app\ntarget: prduction\ntables: [t]", "did you mean 'production'?"),
        ("source: production\ntarget: app\ntables: [t]", "write direction: pull"),
        ("source: app\ntarget: app\ntables: [t]", "both 'app'"),
        ("source: app\ntarget: copy", "names no table"),
        ("source: app\ntarget: copy\ntables: []", "names no table"),
        ("source: app\ntarget: copy\ntables: ['']", "without a name"),
        ("source: app\ntarget: copy\ntables: [t, t]", "'t' twice"),
        ("source: app\ntarget: copy\ntables: [t, { source: u, target: t }]", "go to 't'"),
        ("source: app\ntarget: copy\ntables: [t]\nafter: [rider]", "no sync 'rider'; did you mean 'riders'?"),
        ("source: app\ntarget: copy\ntables: [t]\nafter: [riders]", "round in a circle"),
        ("source: app\ntarget: copy\ntables: [t]\nevery: 5s\nschedule: '* * * * *'", "both schedule and every"),
        ("source: app\ntarget: copy\ntables: [t]\nschedule: 'hourly'", "no cron expression"),
        ("source: app\ntarget: copy\ntables: [t]\nevery: often", "is no duration"),
        ("source: app\ntarget: copy\ntables: [t]\nbatch_size: 0", "batch_size must be at least 1"),
        ("source: app\ntarget: copy\ntables: [{ source: t, columns: [a], exclude: [a] }]", "under exclude"),
        (
            "source: app\ntarget: production\ndirection: bidirectional\nconflict: keep-existing\ntables: [t]",
            "keep-existing goes one way only",
        ),
    ];
    for (lines, part) in cases {
        let error = message(&with_sync(lines));
        assert!(error.contains(part), "{lines}\n  gave: {error}");
        assert!(error.contains("'riders'") || error.contains("line "), "{error}");
    }
}

/// Three databases and syncs with these lines, each on the table `t`.
fn among_three(syncs: &[&str]) -> Result<Config, ConfigError> {
    let databases =
        "databases:\n  a: { url: 'sqlite:a' }\n  b: { url: 'sqlite:b' }\n  c: { url: 'sqlite:c' }\nsyncs:\n";
    let syncs = syncs.iter().enumerate().map(|(n, entry)| {
        let tables = if entry.contains("tables") { "" } else { ", tables: [t]" };
        format!("  s{n}: {{ {entry}{tables} }}\n")
    });
    yaml(&format!("{databases}{}", syncs.collect::<String>()))
}

#[test]
fn preferences_that_go_round_are_refused() {
    let ab = "source: a, target: b, direction: bidirectional, conflict: source-wins";
    let bc = "source: b, target: c, direction: bidirectional, conflict: source-wins";
    let ca = "source: c, target: a, direction: bidirectional, conflict: source-wins";
    let ac = "source: c, target: a, direction: bidirectional, conflict: target-wins";
    let error = among_three(&[ab, bc, ca]).expect_err("a circle").message;
    assert!(error.contains("'s0', 's1', 's2'") && error.contains("table 't'"), "{error}");
    among_three(&[ab, bc, ac]).expect("a is above all");
    among_three(&[ab, bc]).expect("a chain");
    let back = "source: b, target: a, conflict: source-wins";
    assert!(among_three(&[ab, back]).is_err());
    among_three(&[ab, "source: b, target: a, conflict: source-wins, enabled: false"]).expect("one of them is off");
    among_three(&[ab, &format!("{back}, tables: [u]")]).expect("another table");
    assert!(among_three(&[ab, &format!("{back}, tables: ['*']")]).is_err(), "a pattern is every table");
    let renamed = "source: b, target: c, conflict: source-wins, tables: [{ source: t, target: u }]";
    let other = "source: c, target: a, conflict: source-wins, tables: [{ source: u, target: t }]";
    assert!(among_three(&[ab, renamed, other]).is_err(), "the same rows under another name");
    let one_table = "source: b, target: a, tables: [{ source: t, conflict: source-wins }]";
    assert!(among_three(&[ab, one_table]).is_err(), "a table's own policy counts");
}

#[test]
fn keeping_and_mirroring_both_ways_are_refused() {
    for (entry, words) in
        [("conflict: keep-existing", "keep-existing goes round"), ("mode: mirror", "mirror goes round")]
    {
        let (there, back) = (format!("source: a, target: b, {entry}"), format!("source: b, target: a, {entry}"));
        let pulled = format!("source: a, target: b, direction: pull, {entry}");
        for other in [&back, &pulled] {
            let error = among_three(&[&there, other]).expect_err("both ways").message;
            assert!(error.contains(words), "{error}");
        }
        among_three(&[&there, &format!("source: c, target: b, {entry}")]).expect("two into one");
    }
}

#[test]
fn a_filter_on_a_column_that_is_left_out_is_refused() {
    let entry =
        |filter: &str| format!("source: a, target: b, tables: [{{ source: t, exclude: [secret], where: {filter:?} }}]");
    let error = among_three(&[&entry("branch = 7 and \"Secret\" is null")]).expect_err("left out").message;
    assert!(error.contains("'secret'"), "{error}");
    for filter in ["branch = 7", "note = 'secret'", "secrets = 1"] {
        among_three(&[&entry(filter)]).expect(filter);
    }
    among_three(&[&format!("{}, mode: full", entry("secret = 1"))]).expect("a full sync asks at the source alone");
}

#[test]
fn the_rest_is_checked_too() {
    let cases = [
        ("listen: 0.0.0.0:8080", "needs tls"),
        ("listen: nowhere", "no address with a port"),
        ("state: 'mysql://h/d'", "state must be"),
        ("databases: { app: { url: 'oracle://h/d' } }", "must begin with sqlite:"),
        ("databases: { app: { url: 'sqlite:' } }", "names no file"),
        ("peers: { p: { url: 'http://prod.example.com' } }", "or insecure: true"),
        ("peers: { p: { url: 'https://h', pin: abc } }", "64 hexadecimal"),
        ("tls: self-sined", "tls is 'self-signed' or"),
        ("api: { keys: [{ name: a, key: k, role: peer, tables: { app: [t] } }] }", "no database 'app'"),
        ("api: { keys: [{ name: a, key: k, role: peer, from: [10.0.0.0/40] }] }", "no address range"),
        ("timezone: 'Af rica'", "no time zone"),
        (
            "databases: { a: { url: 'sqlite:a' }, b: { url: 'sqlite:b' } }\nsyncs:\n  \
             x: { source: a, target: b, tables: [{ source: t, where: 'n = 1' }] }\n  \
             y: { source: a, target: b, tables: [{ source: t, where: 'n = 2' }] }",
            "syncs 'x' and 'y' both bring 't'",
        ),
        ("seeds: { nunez: { database: app, tables: [t] } }", "seed 'nunez': there is no database 'app'"),
        ("webhooks: [{ url: 'ftp://x' }]", "must begin with https://"),
    ];
    for (text, part) in cases {
        let error = message(text);
        assert!(error.contains(part), "{text}\n  gave: {error}");
    }
    assert!(yaml("listen: 0.0.0.0:8080\ntls: self-signed").is_ok());
    assert!(yaml("listen: '[::1]:8080'").is_ok());
    assert!(yaml("peers: { p: { url: 'http://127.0.0.1:8081/' } }").is_ok());
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", yaml(FULL_YAML).unwrap());
    let secrets = ["pr0d-passw0rd", "prod-key-value", "ops-key-value", "b-key-value", "hook-secret-value", "qstash-1"];
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} is in the debug output");
    }
    assert_eq!(Secret::new("x").to_string(), "***");
    for (text, format) in [("log: { level: '${OPS_KEY}' }", Format::Yaml), ("log.level = '${OPS_KEY}'", Format::Toml)] {
        let error = read(text, format).unwrap_err().message;
        assert!(error.contains("what '${OPS_KEY}' stands for does not fit here"), "{error}");
    }
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = load(Path::new("/no/such/rowferry.yaml")).unwrap_err().message;
    assert!(error.contains("there is no configuration file /no/such/rowferry.yaml; `rowferry init`"), "{error}");
    assert!(load(Path::new("/no/such/rowferry.ini")).unwrap_err().message.contains("ends in .yaml"));
}

#[test]
fn the_file_is_found_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (current, home) = (folder.path().join("current"), folder.path().join("home"));
    let user = home.join(".config/rowferry");
    std::fs::create_dir_all(&current).unwrap();
    std::fs::create_dir_all(&user).unwrap();
    let set = |name: &str| (name == "HOME" || name == "APPDATA").then(|| home.clone().into_os_string());
    assert_eq!(find_in(None, &current, &set), None);
    if !cfg!(windows) {
        std::fs::write(user.join("rowferry.yaml"), "").unwrap();
        assert_eq!(find_in(None, &current, &set), Some(user.join("rowferry.yaml")));
    }
    std::fs::write(current.join("rowferry.toml"), "").unwrap();
    assert_eq!(find_in(None, &current, &set), Some(current.join("rowferry.toml")));
    let named = |name: &str| (name == "ROWFERRY_CONFIG").then(|| "named.yaml".into());
    assert_eq!(find_in(None, &current, &named), Some(PathBuf::from("named.yaml")));
    assert_eq!(find_in(Some(Path::new("own.yaml")), &current, &named), Some(PathBuf::from("own.yaml")));
}

#[test]
fn empty_documents_have_every_default() {
    for text in ["", "# nothing\n", "databases:\nsyncs:\n", "{}"] {
        let config = yaml(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!((config.node.as_str(), config.listen.as_str()), ("host-1", "127.0.0.1:8080"));
        assert_eq!(config.defaults, Defaults::default());
        assert!(config.syncs.is_empty());
    }
}

#[test]
fn the_template_loads() {
    let config = parse_with(template(), Format::Yaml, "rowferry.yaml", Path::new("/srv"), &|_| None).unwrap();
    assert_eq!(config.syncs[0].tables[0].source, "customers");
}

#[test]
fn the_schema_is_strict_and_described() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["properties"]["listen"]["description"].as_str().unwrap().contains("loopback"));
    assert_eq!(schema["properties"]["syncs"]["additionalProperties"]["$ref"], "#/$defs/Sync");
}

#[test]
fn durations_sizes_and_networks() {
    assert_eq!(parse_duration("1h30m"), Ok(Duration::from_mins(90)));
    assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse_duration("30d"), Ok(Duration::from_hours(720)));
    for wrong in ["", "30", "s", "-1s", "1y", "99999999999999999999s", "18446744073709551615d"] {
        assert!(parse_duration(wrong).is_err(), "{wrong}");
    }
    assert_eq!(parse_size("256MiB"), Ok(268_435_456));
    assert_eq!(parse_size("10MB"), Ok(10_000_000));
    assert_eq!(parse_size("77"), Ok(77));
    assert!(parse_size("-1").is_err() && parse_size("18446744073709551615k").is_err());
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let network: Network = "10.0.0.0/8".parse().unwrap();
    assert!(network.contains(address("10.255.0.1")) && !network.contains(address("11.0.0.1")));
    assert!(network.contains(address("::ffff:10.0.0.1")));
    let all: Network = "0.0.0.0/0".parse().unwrap();
    assert!(all.contains(address("1.2.3.4")) && !all.contains(address("::1")));
    let six: Network = "fd00::/8".parse().unwrap();
    assert!(six.contains(address("fd12::1")) && !six.contains(address("fe80::1")));
}
