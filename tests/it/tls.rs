//! Passwords and TLS: every way in, what is said where there is none, and that no password is ever said.

use std::path::Path;
use std::process::Command;

use crate::support::{Engine, Output, Server, TestDb, command, output};

const SECRET: &str = "canary-4711";

/// A source with one table.
fn source() -> TestDb {
    let db = TestDb::new(Engine::Sqlite);
    db.execute("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    db
}

/// The program, plainly. Where it fails, also for programs and with all that it can log: what each
/// way leaves holds no password, and the code is the same.
#[track_caller]
fn runs(folder: &Path, args: &[&str]) -> Output {
    let run = |way: &[&str]| output(command(folder).args(args).args(way).env("PASSWORD", SECRET));
    let plain = run(&[]);
    for way in [&["--format", "json"][..], &["-vvv"]] {
        let other = if plain.code == 0 { continue } else { run(way) };
        assert!(!format!("{other:?}").contains(SECRET), "{args:?}: {other:?}");
        assert_eq!(other.code, plain.code, "{args:?}: {other:?}");
    }
    assert!(!format!("{plain:?}").contains(SECRET), "{args:?}: {plain:?}");
    plain
}

/// URL, exit code, and words of the sentence.
type Way = (String, i32, &'static str);

fn check(ways: &[Way]) {
    let source = source();
    let folder = tempfile::tempdir().expect("a folder");
    for (url, code, words) in ways {
        let run = runs(folder.path(), &["copy", source.url(), url]);
        assert_eq!(run.code, *code, "{url}: {run:?}");
        assert!(run.stderr.contains(words), "{url}: {run:?}");
        assert_eq!(run.stderr.lines().count(), usize::from(*code != 0), "{url}: {run:?}");
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let run = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().expect("openssl");
    assert!(run.status.success(), "{arguments}: {}", String::from_utf8_lossy(&run.stderr));
}

/// An authority (`ca.pem`) and a certificate of it for the name `localhost` (`server.pem`,
/// `server.key`), one of nobody for the same name (`self.pem`, `self.key`), and no certificate (`no.pem`).
fn certificates(folder: &Path) {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").expect("written");
    std::fs::write(folder.join("no.pem"), "nothing\n").expect("written");
    openssl(folder, &format!("req -x509 {KEY} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    openssl(folder, &format!("req {KEY} -keyout server.key -out server.csr -subj /CN=server"));
    let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names";
    openssl(folder, &format!("x509 -req -in server.csr {sign} -out server.pem"));
    let own = "-days 2 -subj /CN=self -addext subjectAltName=DNS:localhost";
    openssl(folder, &format!("req -x509 {KEY} -keyout self.key -out self.pem {own}"));
}

/// Gives the keys to whoever the server runs as, who alone may read them.
fn lend_keys(server: &Server) {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let owner = std::fs::metadata(server.folder().join("data")).expect("the data").uid();
    for key in ["server.key", "self.key"] {
        let key = server.folder().join(key);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("permissions");
        chown(key, Some(owner), None).expect("the key's owner");
    }
}

fn postgres_with(certificate: &str) -> Option<Server> {
    let server = Server::new(Engine::Postgres)?;
    let folder = server.folder().to_owned();
    certificates(&folder);
    lend_keys(&server);
    let place = folder.display();
    std::fs::write(
        folder.join("data/pg_hba.conf"),
        "host all postgres 127.0.0.1/32 trust\n\
         hostssl all tls_only 127.0.0.1/32 scram-sha-256\n\
         host all scram 127.0.0.1/32 scram-sha-256\n\
         host all old 127.0.0.1/32 md5\n",
    )
    .expect("written");
    let mut server = server.options(&[
        "--ssl=on".to_owned(),
        format!("--ssl_cert_file={place}/{certificate}.pem"),
        format!("--ssl_key_file={place}/{certificate}.key"),
    ]);
    server.start();
    for (role, kind) in [("scram", "scram-sha-256"), ("tls_only", "scram-sha-256"), ("old", "md5")] {
        let create = format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{SECRET}'");
        server.execute("", &format!("SET password_encryption = '{kind}'; {create}"));
    }
    Some(server)
}

#[test]
fn postgres_lets_in_whom_it_should_and_tls_means_what_libpq_means() {
    let Some(server) = postgres_with("server") else { return };
    let folder = server.folder().display();
    let url = |account: &str, parameters: &str| server.url(account, &format!("postgres?{parameters}"));
    let secret = |user: &str| format!("{user}:{SECRET}");
    let named = |parameters: &str| url(&secret("tls_only"), parameters).replace("127.0.0.1", "localhost");
    let ca = format!("sslrootcert={folder}/ca.pem");
    check(&[
        (url(&secret("scram"), "sslmode=disable"), 0, ""),
        (url(&secret("scram"), "sslmode=require"), 0, ""),
        (url("scram:wrong", "sslmode=disable"), 2, "refused the user 'scram'"),
        (url("scram", "sslmode=disable"), 2, "asks for a password of 'scram'"),
        (url(&secret("old"), "sslmode=disable"), 0, ""),
        (url("old:wrong", "sslmode=disable"), 2, "refused the user 'old'"),
        (url(&secret("nobody"), ""), 2, "refused the user 'nobody'"),
        (url(&secret("tls_only"), "sslmode=disable"), 2, "no encryption"),
        (url(&secret("tls_only"), ""), 0, ""),
        (url(&secret("tls_only"), "sslmode=prefer"), 0, ""),
        (url(&secret("tls_only"), "sslmode=require"), 0, ""),
        (url(&secret("tls_only"), &format!("sslmode=require&sslrootcert={folder}/self.pem")), 3, "sslrootcert=FILE"),
        (url(&secret("tls_only"), "sslmode=verify-ca"), 3, "sslrootcert=FILE"),
        (url(&secret("tls_only"), "sslmode=verify-full&sslrootcert=system"), 3, "sslrootcert=FILE"),
        (url(&secret("tls_only"), &format!("sslmode=verify-ca&{ca}")), 0, ""),
        (url(&secret("tls_only"), &format!("sslmode=verify-full&{ca}")), 3, "another name"),
        (named(&format!("sslmode=verify-full&{ca}")), 0, ""),
        (named(&format!("sslmode=verify-full&sslrootcert={folder}/no.pem")), 2, "no certificate in PEM form"),
        (named(&format!("sslmode=verify-full&sslrootcert={folder}/none.pem")), 2, "none.pem"),
        (named("sslmode=verify"), 2, "sslmode 'verify'"),
    ]);
}

#[test]
fn a_certificate_that_signs_itself_is_trusted_where_it_is_named() {
    let Some(server) = postgres_with("self") else { return };
    let folder = server.folder().display();
    let account = format!("tls_only:{SECRET}");
    let url = |parameters: &str| server.url(&account, &format!("postgres?{parameters}"));
    let own = format!("sslrootcert={folder}/self.pem");
    check(&[
        (url("sslmode=verify-ca"), 3, "signs itself: name it with sslrootcert=FILE"),
        (url(&format!("sslmode=verify-ca&{own}")), 0, ""),
        (url(&format!("sslmode=verify-full&{own}")), 3, "another name"),
        (url(&format!("sslmode=verify-full&{own}")).replace("127.0.0.1", "localhost"), 0, ""),
    ]);
}

#[test]
fn a_server_without_tls_is_named_when_tls_is_asked_for() {
    let Some(server) = Server::new(Engine::Mariadb) else { return };
    let mut server = server.options(&["--skip-ssl".to_owned()]);
    server.start();
    server.execute("", "CREATE DATABASE d");
    let postgres = TestDb::new(Engine::Postgres);
    check(&[
        (server.url("", "d?ssl-mode=preferred"), 0, ""),
        (server.url("", "d?ssl-mode=required"), 3, "offers no TLS, which ssl-mode=required asks for"),
        (server.url("", "d?ssl-mode=verify_identity"), 3, "offers no TLS, which ssl-mode=verify_identity asks for"),
        (format!("{}?sslmode=prefer", postgres.url()), 0, ""),
        (format!("{}?sslmode=require", postgres.url()), 3, "offers no TLS, which sslmode=require asks for"),
        (format!("{}?sslmode=verify-full", postgres.url()), 3, "offers no TLS, which sslmode=verify-full asks for"),
    ]);
}

/// What MariaDB and MySQL must do alike; `url` makes one from an account and parameters.
fn my_ways(url: &dyn Fn(&str, &str) -> String, user: &str, ca: &str, other: &str) -> Vec<Way> {
    let right = format!("{user}:{SECRET}");
    let tls_only = format!("{user}_tls:{SECRET}");
    let ca = format!("ssl-ca={ca}");
    let other = format!("ssl-ca={other}");
    vec![
        (url(&right, "ssl-mode=disabled"), 0, ""),
        (url(&right, ""), 0, ""),
        (url(&format!("{user}:wrong"), "ssl-mode=disabled"), 2, "refused the user"),
        (url(&format!("{user}:wrong"), "ssl-mode=required"), 2, "refused the user"),
        (url(user, ""), 2, "using password: NO"),
        (url(&tls_only, "ssl-mode=disabled"), 2, "whether it must use TLS"),
        (url(&tls_only, ""), 0, ""),
        (url(&tls_only, "ssl-mode=REQUIRED"), 0, ""),
        (url(&tls_only, "ssl-mode=verify_ca"), 3, "ssl-ca=FILE"),
        (url(&tls_only, &format!("ssl-mode=verify_ca&{ca}")), 0, ""),
        (url(&tls_only, &format!("ssl-mode=verify_ca&{other}")), 3, "ssl-ca=FILE"),
        (url(&tls_only, &other), 3, "ssl-ca=FILE"),
        (url(&tls_only, &ca), 0, ""),
        (url(&tls_only, &format!("ssl-mode=verify_identity&{ca}")), 3, "another name"),
        (url(&tls_only, "ssl-ca=/none.pem"), 2, "none.pem"),
        (url(&tls_only, "ssl-mode=verify"), 2, "ssl-mode"),
    ]
}

fn create_accounts(user: &str, rights: &str) -> String {
    format!(
        "CREATE USER {user}@'%' IDENTIFIED BY '{SECRET}'; GRANT ALL ON {rights}.* TO {user}@'%';
         CREATE USER {user}_tls@'%' IDENTIFIED BY '{SECRET}' REQUIRE SSL; GRANT ALL ON {rights}.* TO {user}_tls@'%'"
    )
}

#[test]
fn mariadb_lets_in_whom_it_should_and_tls_means_what_its_client_means() {
    let Some(server) = Server::new(Engine::Mariadb) else { return };
    let folder = server.folder().to_owned();
    certificates(&folder);
    lend_keys(&server);
    let at = |file: &str| folder.join(file).display().to_string();
    let mut server = server.options(&[
        format!("--ssl-cert={}", at("server.pem")),
        format!("--ssl-key={}", at("server.key")),
        format!("--ssl-ca={}", at("ca.pem")),
    ]);
    server.start();
    server.execute("", &format!("CREATE DATABASE d; {}", create_accounts("app", "d")));
    let url = |account: &str, parameters: &str| server.url(account, &format!("d?{parameters}"));
    let mut ways = my_ways(&url, "app", &at("ca.pem"), &at("self.pem"));
    let named = url(&format!("app_tls:{SECRET}"), &format!("ssl-mode=verify_identity&ssl-ca={}", at("ca.pem")));
    ways.push((named.replace("127.0.0.1", "localhost"), 0, ""));
    check(&ways);
}

#[test]
fn mysql_lets_in_whom_it_should_with_its_own_certificates() {
    if !Engine::available().contains(&Engine::Mysql) {
        eprintln!("left out: no MySQL");
        return;
    }
    let db = TestDb::new(Engine::Mysql);
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let ca = folder.path().join("mysql.pem");
    std::fs::write(&ca, db.value("SELECT LOAD_FILE(CONCAT(@@datadir, 'ca.pem'))")).expect("written");
    let name = db.url().rsplit('/').next().expect("a name").to_owned();
    db.execute(&create_accounts(&name, &name));
    let url = |account: &str, parameters: &str| format!("{}?{parameters}", db.url().replace("root", account));
    let other = folder.path().join("self.pem");
    check(&my_ways(&url, &name, &ca.display().to_string(), &other.display().to_string()));
    db.execute(&format!("DROP USER {name}@'%', {name}_tls@'%'"));
}

#[test]
fn a_password_comes_from_the_environment_or_a_file_and_is_never_said() {
    let Some(server) = postgres_with("server") else { return };
    let source = source();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("secret"), format!("{SECRET}\n")).expect("written");
    let config = |url: &str| {
        let text = format!("databases:\n  from: {{ url: \"{}\" }}\n  to: {{ url: \"{url}\" }}\n", source.url());
        std::fs::write(folder.path().join("rowferry.yaml"), text).expect("written");
    };
    for (account, code) in [("scram:${PASSWORD}", 0), ("scram:${file:secret}", 0), ("scram:${PASSWORD}x", 2)] {
        config(&server.url(account, "postgres"));
        let run = runs(folder.path(), &["copy", "from", "to"]);
        assert_eq!(run.code, code, "{account}: {run:?}");
    }
    for url in [
        "oracle://u:${PASSWORD}@h/d",
        "u:${PASSWORD}@h/d",
        "postgres://u:${PASSWORD}@h:port/d",
        "mysql://u:${PASSWORD}@h:port/d",
        "mysql://u:${PASSWORD}@h",
        "mysql://u@h/d?password=${PASSWORD}",
        "postgres://u@h/d?passwort=${PASSWORD}",
        "postgres://u:${PASSWORD}@h/d?sslmode=maybe",
        "postgres://u:${PASSWORD}@[h/d",
        "mysql://u:${PASSWORD}@[h/d",
        "mysql://u:%FF${PASSWORD}@h/d",
    ] {
        config(url);
        let run = runs(folder.path(), &["copy", "from", "to"]);
        assert_eq!(run.code, 2, "{url}: {run:?}");
        let typed = url.replace("${PASSWORD}", SECRET);
        let run = runs(folder.path(), &["copy", source.url(), &typed]);
        assert_eq!(run.code, 2, "{url}: {run:?}");
    }
    for url in ["postgres://u:${PASSWORD}@127.0.0.1:1/d?password=${PASSWORD}", "mysql://u:${PASSWORD}@127.0.0.1:1/d"] {
        config(url);
        let run = runs(folder.path(), &["copy", "from", "to"]);
        assert_eq!(run.code, 3, "{url}: {run:?}");
    }
}
