//! A node over HTTP, as any client sees it: the real program, a real socket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rowferry::http::auth::{Needs, Way};
use rowferry::http::router::ROUTES;
use serde_json::json;

use crate::support::{Node, TestDb, node, rowferry_in, wait};

const CANARIES: [&str; 5] =
    ["canary-admin-1", "canary-viewer-2", "canary-operator-3", "canary-push-4", "canary-pull-5"];

fn config(db: &TestDb) -> String {
    let [admin, viewer, operator, push, pull] = CANARIES;
    let url = db.url();
    format!(
        "node: n\nlisten: 127.0.0.1:0\ndatabases:\n  app: {{ url: \"{url}\" }}\napi:\n  keys:\n\
         \x20   - {{ name: boss, key: {admin}, role: admin }}\n\
         \x20   - {{ name: looker, key: {viewer}, role: viewer }}\n\
         \x20   - {{ name: worker, key: {operator}, role: operator }}\n\
         \x20   - {{ name: sender, key: {push}, role: peer, direction: push, tables: {{ app: [t] }} }}\n\
         \x20   - {{ name: getter, key: {pull}, role: peer, direction: pull, tables: {{ app: [t] }} }}\n"
    )
}

fn table(db: &TestDb) {
    let id = if db.engine() == crate::support::Engine::Sqlite { "INTEGER" } else { "BIGINT" };
    db.execute(&format!(
        "CREATE TABLE t (id {id} NOT NULL PRIMARY KEY, name VARCHAR(20), price DECIMAL(12,2), updated_at TIMESTAMP NULL);
         CREATE TABLE secret (id {id} NOT NULL PRIMARY KEY, name VARCHAR(20))"
    ));
}

#[test]
fn each_route_opens_to_whom_it_should_and_to_nobody_else() {
    let db = TestDb::new(crate::support::Engine::Sqlite);
    table(&db);
    let folder = tempfile::tempdir().expect("a folder");
    let push = json!({ "table": "t", "data": [] });
    let mut at_node = None;
    for (number, route) in ROUTES.iter().enumerate() {
        // Each node lets only so many requests fail in a minute.
        if number % 4 == 0 {
            at_node = Some(node(folder.path(), &config(&db)));
        }
        let node = at_node.as_ref().expect("a node");
        let path = if route.path == "/api/pull" { "/api/pull?table=t" } else { route.path };
        let ask = |key: &str| match route.method {
            "POST" => node.post(path, key, &push),
            _ => node.get(path, key),
        };
        for (at, key) in CANARIES.iter().enumerate() {
            let opens = match route.needs {
                Needs::Nothing | Needs::Tables => true,
                Needs::Looking => at < 3,
                Needs::Everything => at == 0,
                Needs::Peering => at == 0 || at >= 3,
                Needs::Rows(Way::In) => at == 0 || at == 3,
                Needs::Rows(Way::Out) => at == 0 || at == 4,
            };
            let answer = ask(key);
            // What nodes say to each other is no JSON: who is let in is told so.
            let let_in = if route.path.starts_with("/api/peer/") { 400 } else { 200 };
            assert_eq!(
                answer.status,
                if opens { let_in } else { 403 },
                "{} {} {key}: {answer:?}",
                route.method,
                route.path
            );
            assert_eq!(answer.header("Cache-Control"), "no-store");
        }
        let nobody = if route.needs == Needs::Nothing { 200 } else { 401 };
        assert_eq!(ask("").status, nobody, "{} without a key", route.path);
        assert_eq!(ask("wrong").status, nobody, "{} with a wrong key", route.path);
        let other =
            if route.method == "GET" { node.post(path, CANARIES[0], &push) } else { node.get(path, CANARIES[0]) };
        assert_eq!((other.status, other.header("Allow")), (405, route.method.to_owned()), "{}", route.path);
    }
    let said_before = at_node.map(|node| node.said()).unwrap_or_default();
    let node = node(folder.path(), &config(&db));
    // Tables that a key does not name stay closed, also to a key that opens another one.
    let closed = node.get("/api/pull?table=secret", CANARIES[4]);
    assert_eq!((closed.status, closed.header("Content-Type").as_str()), (403, "application/problem+json"));
    let document = closed.json();
    assert_eq!((&document["success"], &document["status"]), (&json!(false), &json!(403)));
    assert_eq!(document["error"], document["detail"]);
    let push = json!({ "table": "secret", "data": [{ "id": 1 }] });
    assert_eq!(node.post("/api/push", CANARIES[3], &push).status, 403);
    let seen = node.get("/api/metadata", CANARIES[4]).json();
    assert_eq!(seen["tables"].as_array().map(Vec::len), Some(1), "{seen}");
    // A key in the URL is refused, the other headers are taken, what is no route tells nothing to strangers.
    assert_eq!(node.get(&format!("/api/status?api_key={}", CANARIES[0]), CANARIES[0]).status, 400);
    for header in ["Authorization: Bearer", "X-Sync-API-Key:"] {
        let head =
            format!("GET /api/status HTTP/1.1\r\nHost: x\r\n{header} {}\r\nConnection: close\r\n\r\n", CANARIES[1]);
        assert_eq!(node.send(&head, b"").status, 200, "{header}");
    }
    assert_eq!(node.get(&format!("/{}", CANARIES[0]), "").status, 401);
    assert_eq!(node.get(&format!("/{}", CANARIES[0]), CANARIES[0]).status, 404);
    // No key in anything that was said or answered.
    let told = node.get("/api/config", CANARIES[0]);
    let listed = rowferry_in(folder.path(), &["keys", "list", "--format", "json"]);
    let said = format!(
        "{said_before}{}{}{}{}",
        node.said(),
        String::from_utf8_lossy(&told.body),
        listed.stdout,
        listed.stderr
    );
    assert!(said.contains("GET /api/status 200, key looker from 127.0.0.1"), "{said}");
    for canary in CANARIES {
        assert!(!said.contains(canary), "{canary} in {said}");
    }
}

#[test]
fn rows_go_in_and_come_out_on_each_engine() {
    for db in TestDb::on_all() {
        table(&db);
        let folder = tempfile::tempdir().expect("a folder");
        let node = node(folder.path(), &config(&db));
        let [_, _, _, sender, getter] = CANARIES;
        let push = |data: serde_json::Value| node.post("/api/push", sender, &json!({ "table": "t", "data": data }));
        let answer = push(json!([
            { "id": 1, "name": "Ada ☕", "price": "12.50", "updated_at": "2026-03-01T10:00:00Z" },
            { "id": 2, "name": "Bo", "price": 7, "updated_at": "2026-03-01 10:00:00" },
        ]));
        assert_eq!(answer.status, 200, "{:?}: {}", db.engine(), answer.json());
        let result = |answer: &crate::support::Answer| answer.json()["result"].clone();
        assert_eq!(result(&answer)["inserted"], 2);
        // Only the columns given change; an older row changes nothing; the same again writes nothing.
        let later = json!([{ "id": 1, "price": "13.75", "updated_at": "2026-03-02T10:00:00Z" }]);
        assert_eq!(result(&push(later.clone()))["updated"], 1);
        assert_eq!(result(&push(later))["unchanged"], 1);
        let old = json!([{ "id": 1, "name": "old", "updated_at": "2026-01-01T00:00:00Z" }]);
        for _ in 0..3 {
            let answer = push(old.clone());
            assert_eq!((answer.status, &result(&answer)["older"]), (200, &json!(1)), "{:?}", db.engine());
        }
        assert_eq!(db.value("SELECT name FROM t WHERE id = 1"), "Ada ☕");
        assert_eq!(db.value("SELECT count(*) FROM _rowferry_conflicts"), "1", "{:?}: recorded once", db.engine());
        // One bad row, and none of them is written; the answer names it.
        let answer = push(json!([{ "id": 3, "name": "good" }, { "id": 4, "name": "x".repeat(40) }]));
        let too_long = answer.json();
        assert_eq!((answer.status, &too_long["rows"][0]["row"]), (422, &json!(1)), "{:?}: {too_long}", db.engine());
        assert_eq!(too_long["rows"][0]["column"], "name");
        assert_eq!(db.value("SELECT count(*) FROM t"), "2");
        for (bad, column) in [
            (json!([{ "id": 5, "nmae": "x" }]), "nmae"),
            (json!([{ "name": "no key" }]), "id"),
            (json!([{ "id": null }]), "id"),
            (json!([{ "id": 5, "price": "much" }]), "price"),
            (json!([{ "id": 5, "t\"; DROP TABLE t; --": 1 }]), "t\"; DROP TABLE t; --"),
        ] {
            let answer = push(bad);
            assert_eq!(
                (answer.status, &answer.json()["rows"][0]["column"]),
                (422, &json!(column)),
                "{:?}",
                db.engine()
            );
        }
        // Out again: whole, since, by pages.
        let pulled = |query: &str| node.get(&format!("/api/pull?table=t{query}"), getter);
        let all = pulled("").json();
        assert_eq!((&all["success"], all["data"].as_array().map(Vec::len)), (&json!(true), Some(2)));
        let first = all["data"].as_array().and_then(|rows| rows.iter().find(|row| row["id"] == 1)).expect("row 1");
        assert_eq!((&first["name"], &first["price"]), (&json!("Ada ☕"), &json!("13.75")), "{:?}", db.engine());
        let young = pulled("&since=2026-03-02T11:00:00%2B01:00").json();
        assert_eq!(
            young["data"].as_array().map(|rows| rows.iter().filter(|row| row["id"] == 1).count()),
            Some(1),
            "{young}"
        );
        assert!(young["data"].as_array().is_some_and(|rows| rows.iter().all(|row| row["id"] != 2)), "{young}");
        assert_eq!(pulled("&since=lately").status, 400);
        let (mut seen, mut cursor) = (0, String::new());
        loop {
            let page = pulled(&format!("&limit=1{cursor}")).json();
            seen += page["data"].as_array().map_or(0, Vec::len);
            if page["more"] != json!(true) {
                break;
            }
            cursor = format!("&cursor={}", page["cursor"].as_str().expect("a cursor"));
        }
        assert_eq!(Some(seen), all["data"].as_array().map(Vec::len), "{:?}", db.engine());
    }
}

#[test]
fn a_cursor_brings_what_changed_and_what_is_gone() {
    for db in TestDb::on_all() {
        table(&db);
        db.execute("INSERT INTO t (id, name) VALUES (1, 'one'), (2, 'two'), (3, 'three')");
        let folder = tempfile::tempdir().expect("a folder");
        let other = TestDb::new(crate::support::Engine::Sqlite);
        let text = format!(
            "{}syncs:\n  s: {{ source: app, target: other, mode: incremental, tables: [t] }}\n",
            config(&db).replace("api:\n", &format!("  other: {{ url: \"{}\" }}\napi:\n", other.url()))
        );
        let node = node(folder.path(), &text);
        let ran = rowferry_in(folder.path(), &["sync"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let pulled = |query: &str| node.get(&format!("/api/pull?table=t{query}"), CANARIES[4]);
        let start = pulled("").json();
        let cursor = |document: &serde_json::Value| document["cursor"].as_str().expect("a cursor").to_owned();
        let nothing = pulled(&format!("&cursor={}", cursor(&start))).json();
        assert_eq!(nothing["count"], 0, "{:?}", db.engine());
        db.execute("DELETE FROM t WHERE id = 1; UPDATE t SET name = 'second' WHERE id = 2; INSERT INTO t (id, name) VALUES (4, 'four')");
        let news = pulled(&format!("&cursor={}", cursor(&start))).json();
        let mut rows: Vec<String> = news["data"]
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| {
                if row["_deleted"] == json!(true) {
                    format!("-{}", row["id"])
                } else {
                    format!("{}{}", row["id"], row["name"])
                }
            })
            .collect();
        rows.sort();
        assert_eq!(rows, ["-1", "2\"second\"", "4\"four\""], "{:?}", db.engine());
        assert_eq!(pulled(&format!("&cursor={}", cursor(&news))).json()["count"], 0);
        // A row that was deleted does not come back by an older image of it, and goes by a pushed deletion.
        let push = |data: serde_json::Value| {
            node.post("/api/push", CANARIES[3], &json!({ "table": "t", "data": data })).json()["result"].clone()
        };
        let result = push(json!([{ "id": 1, "name": "back", "updated_at": "2001-01-01T00:00:00Z" }]));
        assert_eq!((&result["older"], &result["inserted"]), (&json!(1), &json!(0)), "{:?}", db.engine());
        assert_eq!(push(json!([{ "id": 3, "_deleted": true }]))["deleted"], 1);
        let gone = pulled(&format!("&cursor={}", cursor(&news))).json();
        assert_eq!(gone["data"], json!([{ "id": 3, "_deleted": true }]), "{:?}", db.engine());
        for wrong in ["zz", "7b7d", &cursor(&start)[2..]] {
            assert_eq!(pulled(&format!("&cursor={wrong}")).status, 400, "{wrong}");
        }
    }
}

#[test]
fn bodies_have_bounds() {
    let db = TestDb::new(crate::support::Engine::Sqlite);
    table(&db);
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("limits: {{ body: 100KiB }}\n{}", config(&db));
    let node = node(folder.path(), &text);
    let (admin, json_type) = (CANARIES[0], "Content-Type: application/json\r\n");
    let post = |headers: &str, body: &[u8]| node.post_bytes("/api/push", admin, headers, body);
    let large = json!({ "table": "t", "data": [{ "id": 1, "name": "x".repeat(200_000) }] }).to_string();
    let answer = post(json_type, large.as_bytes());
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.json()["detail"].as_str().is_some_and(|text| text.contains("limits.body")));
    // A thousand to one, gzip and zstd.
    let zeros = vec![b' '; 64 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&zeros).expect("packed");
    let gzip = gzip.finish().expect("packed");
    let zstd = zstd::encode_all(&zeros[..], 3).expect("packed");
    for (name, body) in [("gzip", &gzip), ("zstd", &zstd)] {
        assert!(body.len() < 100 << 10);
        let answer = post(&format!("{json_type}Content-Encoding: {name}\r\n"), body);
        assert_eq!(answer.status, 413, "{name}: {answer:?}");
    }
    let fine = json!({ "table": "t", "data": [{ "id": 1, "name": "x" }] }).to_string();
    let packed = zstd::encode_all(fine.as_bytes(), 3).expect("packed");
    assert_eq!(post(&format!("{json_type}Content-Encoding: zstd\r\n"), &packed).status, 200);
    for (headers, body, status) in [
        ("Content-Type: text/plain\r\n", fine.as_bytes(), 415),
        ("Content-Type: application/json\r\nContent-Encoding: br\r\n", fine.as_bytes(), 415),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", fine.as_bytes(), 400),
        (json_type, b"{\"table\": \"t\"", 400),
        (json_type, b"[]", 400),
        (json_type, b"\xff\xfe", 400),
        (json_type, b"{\"table\":\"nothing\",\"data\":[]}", 404),
    ] {
        assert_eq!(post(headers, body).status, status, "{headers} {body:?}");
    }
    let deep =
        format!("{{\"table\":\"t\",\"data\":[{{\"id\":9,\"name\":{}1{}}}]}}", "[".repeat(40_000), "]".repeat(40_000));
    assert!(matches!(post(json_type, deep.as_bytes()).status, 400 | 422));
    // Answers are packed for who takes that.
    let head = format!(
        "GET /api/pull?table=t HTTP/1.1\r\nHost: x\r\nX-API-Key: {admin}\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    );
    let answer = node.send(&head, b"");
    assert_eq!(answer.header("Content-Encoding"), "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut text).expect("gzip");
    assert!(text.contains("\"count\":1"), "{text}");
    assert_eq!(node.get("/healthz", "").status, 200, "it is well after all that");
}

#[test]
fn a_flood_of_requests_is_slowed_down() {
    let db = TestDb::new(crate::support::Engine::Sqlite);
    table(&db);
    let folder = tempfile::tempdir().expect("a folder");
    let node = node(folder.path(), &format!("limits: {{ requests_per_minute: 5 }}\n{}", config(&db)));
    let statuses: Vec<u16> = (0..7).map(|_| node.get("/api/status", CANARIES[1]).status).collect();
    assert_eq!(statuses[..5], [200; 5]);
    let refused = node.get("/api/status", CANARIES[1]);
    assert_eq!(refused.status, 429);
    assert!(refused.header("Retry-After").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{refused:?}");
    assert_eq!(node.get("/api/status", CANARIES[2]).status, 200, "another key has its own");
    let wrong: Vec<u16> = (0..40).map(|_| node.get("/api/status", "guess").status).collect();
    assert_eq!((wrong[0], wrong[39]), (401, 429));
}

#[test]
fn idle_connections_do_not_keep_others_out() {
    let db = TestDb::new(crate::support::Engine::Sqlite);
    table(&db);
    let folder = tempfile::tempdir().expect("a folder");
    let node = node(folder.path(), &config(&db));
    let mut idle = Vec::new();
    for at in 0..2000 {
        let mut stream = TcpStream::connect(&node.address).unwrap_or_else(|e| panic!("connection {at}: {e}"));
        if at % 2 == 0 {
            stream.write_all(b"GET /api/status HTTP/1.1\r\n").expect("sent");
        }
        idle.push(stream);
    }
    assert_eq!(node.get("/api/status", CANARIES[1]).status, 200);
    assert_eq!(idle.len(), 2000);
}

#[cfg(unix)]
#[test]
fn a_node_makes_its_first_key_and_stops_when_asked() {
    let db = TestDb::new(crate::support::Engine::Sqlite);
    table(&db);
    let folder = tempfile::tempdir().expect("a folder");
    let bare = format!("node: n\nlisten: 127.0.0.1:0\ndatabases:\n  app: {{ url: \"{}\" }}\n", db.url());
    let first = node(folder.path(), &bare);
    let said = first.said();
    let key = said.split_whitespace().find(|word| word.starts_with("rowferry_")).expect("a key").to_owned();
    assert_eq!(first.get("/api/config", &key).status, 200);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(folder.path().join("rowferry-state.db")).expect("the state").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // Keys come and go while it runs.
    let made = rowferry_in(
        folder.path(),
        &["keys", "create", "b", "--role", "peer", "--table", "app/t", "--direction", "pull", "--format", "json"],
    );
    let made = made.json()["key"].as_str().expect("a key").to_owned();
    wait("the new key", || (first.get("/api/pull?table=t", &made).status == 200).then_some(()));
    assert_eq!(rowferry_in(folder.path(), &["keys", "create", "b", "--role", "admin"]).code, 2, "the name is taken");
    assert_eq!(rowferry_in(folder.path(), &["keys", "revoke", "b"]).code, 0);
    wait("the end of the key", || (first.get("/api/pull?table=t", &made).status == 401).then_some(()));
    let (code, took) = first.stop();
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(30));
    let again = Node::start(folder.path());
    assert!(!again.said().contains("rowferry_"), "the key is shown once");
    assert_eq!(again.get("/api/config", &key).status, 200);
    // A bad configuration leaves the old one in force.
    std::fs::write(folder.path().join("rowferry.yaml"), format!("{bare}nonsense: 1\n")).expect("the config");
    again.signal("HUP");
    again.wait_for("the one before stays in force");
    assert_eq!(again.get("/api/config", &key).json()["config"]["node"], "n");
    std::fs::write(folder.path().join("rowferry.yaml"), bare.replace("node: n", "node: renamed")).expect("the config");
    again.signal("HUP");
    again.wait_for("is in force");
    assert_eq!(again.get("/api/config", &key).json()["config"]["node"], "renamed");
}
