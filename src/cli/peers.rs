//! `rowferry peers`: one node invites, the other joins.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::args::{Args, InviteArgs, JoinArgs, PeersCommand};
use super::keys::{grant, is_taken};
use super::output::{Output, columns, shown};
use super::serve::state_place;
use super::{Outcome, connect};
use crate::config::{self, Config, Peer, PeerKind, Role, Secret};
use crate::engine::{Error, ErrorKind, Result};
use crate::http;
use crate::peer::{Link, RemoteEndpoint};
use crate::pipeline::matches_pattern;
use crate::runtime::owners_alone;
use crate::state::{State, new_key};

pub(crate) async fn run(args: &Args, command: &PeersCommand, output: &Output) -> Result<Outcome> {
    match command {
        PeersCommand::Invite(typed) => invite(args, typed, output).await,
        PeersCommand::Join(typed) => join(args, typed, output).await,
        PeersCommand::List => list(args, output).await,
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// Makes a key, and the line that the other node joins with.
async fn invite(args: &Args, typed: &InviteArgs, output: &Output) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let state = State::open(&state_place(&config)).await?;
    let pin = http::own_pin(&config, &state).await?;
    let url = reached_at(&config, typed.url.as_deref())?;
    let mut issued = new_key(Role::Peer)?;
    issued.record.direction = typed.direction.into();
    issued.record.from.clone_from(&typed.from);
    grant(&config, &mut issued.record, &spelled_out(&config, &typed.tables).await?, &typed.filters)?;
    is_taken(&config, &typed.name)?;
    state.add_key(&typed.name, &issued.record).await?;
    let pin = pin.map(|pin| format!(" sha256:{pin}")).unwrap_or_default();
    let line = format!("{url} {}{pin} node:{}", issued.key, config.node.replace(char::is_whitespace, "-"));
    output.line(&line);
    output.document(&serde_json::json!({ "name": typed.name, "url": url, "line": line }));
    Ok(Outcome::Done)
}

/// Where the other node finds this one.
fn reached_at(config: &Config, typed: Option<&str>) -> Result<String> {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    if let Some(typed) = typed {
        let url = url::Url::parse(typed).ok().filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
        return url
            .map(|_| typed.trim_end_matches('/').to_owned())
            .ok_or_else(|| usage(format!("--url {typed} is no URL of a node; write https://HOST:PORT")));
    }
    let everywhere = ["0.0.0.0:", "[::]:"].iter().any(|any| config.listen.starts_with(any));
    if everywhere || config.listen.ends_with(":0") {
        return Err(usage(format!(
            "the node listens on {}: say where the other one finds it, with --url {scheme}://HOST:PORT",
            config.listen
        )));
    }
    Ok(format!("{scheme}://{}", config.listen))
}

/// The tables that are typed, patterns spelled out: a key names each of them.
async fn spelled_out(config: &Config, typed: &[String]) -> Result<Vec<String>> {
    let mut tables = Vec::new();
    for typed in typed {
        match typed.split_once('/').filter(|(_, table)| table.contains('*')) {
            None => tables.push(typed.clone()),
            Some((name, pattern)) => {
                let all = connect::named(config, name, false).await?.tables(None).await?;
                let found: Vec<String> =
                    all.iter().map(ToString::to_string).filter(|table| matches_pattern(pattern, table)).collect();
                if found.is_empty() {
                    return Err(usage(format!("--table {typed}: '{name}' has no such table")));
                }
                tables.extend(found.into_iter().map(|table| format!("{name}/{table}")));
            }
        }
    }
    Ok(tables)
}

/// What an invitation says.
struct Invitation {
    name: String,
    peer: Peer,
    key: String,
}

/// Reads an invitation.
fn read(line: &str, name: Option<&str>) -> Result<Invitation> {
    let wrong =
        || usage("this is no invitation; 'rowferry peers invite' at the other node prints one line: URL, key, pin");
    let words: Vec<&str> = line.split_whitespace().collect();
    let [url, key, rest @ ..] = words.as_slice() else { return Err(wrong()) };
    let url = url::Url::parse(url).ok().filter(|u| u.has_host() && matches!(u.scheme(), "http" | "https"));
    let url = url.ok_or_else(wrong)?;
    let told = |prefix: &str| rest.iter().find_map(|word| word.strip_prefix(prefix));
    let pin = told("sha256:").map(str::to_ascii_lowercase);
    let sound = |pin: &String| pin.len() == 64 && pin.bytes().all(|b| b.is_ascii_hexdigit());
    if key.contains(':') || pin.as_ref().is_some_and(|pin| !sound(pin)) {
        return Err(wrong());
    }
    let name = name.or_else(|| told("node:")).or_else(|| url.host_str()).unwrap_or("peer");
    let plain = name.chars().map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' }).collect();
    let peer = Peer {
        insecure: url.scheme() == "http",
        url: url.as_str().trim_end_matches('/').to_owned(),
        api_key: Some(Secret::new(*key)),
        timeout: Duration::from_secs(30),
        ca: None,
        pin,
        kind: PeerKind::Rowferry,
    };
    Ok(Invitation { name: plain, peer, key: (*key).to_owned() })
}

/// Takes an invitation: greets the other node, then writes it into the configuration.
async fn join(args: &Args, typed: &JoinArgs, output: &Output) -> Result<Outcome> {
    let mut line = typed.line.join(" ");
    if line == "-" {
        line.clear();
        std::io::stdin().read_to_string(&mut line).map_err(|e| usage(format!("no line can be read: {e}")))?;
    }
    let Invitation { name, peer, key } = read(&line, typed.name.as_deref())?;
    let path = config::find(args.config.as_deref()).unwrap_or_else(|| "rowferry.yaml".into());
    let known = if path.is_file() { Some(connect::configuration(args)?) } else { None };
    let taken = |config: &Config| config.peers.contains_key(&name) || config.databases.contains_key(&name);
    if known.as_ref().is_some_and(taken) {
        return Err(usage(format!("'{name}' is in {} already; take another name with --name", path.display())));
    }
    let node = known.map_or_else(|| "a node that joins".to_owned(), |config| config.node);
    let link = std::sync::Arc::new(Link::new(&name, &peer, &config::proxies())?);
    let met = RemoteEndpoint::meet(link, &node, typed.database.as_deref()).await?;
    let key_file = format!("rowferry-peer-{name}.key");
    enter(&path, &name, &peer, &key_file, &key)?;
    let welcome = &met.welcome;
    let tables: Vec<&str> = welcome.tables.iter().map(|(table, _)| table.as_str()).collect();
    output.line(format!("peer '{name}' is in {}, its key in {key_file} beside it", path.display()));
    let listed = if tables.is_empty() { "no table yet".to_owned() } else { tables.join(", ") };
    output.line(shown(&format!("node {}, database {}: {listed}", welcome.node, welcome.database)));
    output.line("a sync with it, under syncs:");
    output.line(format!(
        "  {name}: {{ source: DATABASE, target: {name}, direction: bidirectional, every: live, tables: [{}] }}",
        tables.join(", ")
    ));
    output.document(&serde_json::json!({ "peer": name, "url": peer.url, "written": path, "node": welcome.node,
        "database": welcome.database, "tables": tables }));
    Ok(Outcome::Done)
}

/// Writes a peer into a configuration, which is left as it is where that does not come out well.
fn enter(path: &Path, name: &str, peer: &Peer, key_file: &str, key: &str) -> Result<()> {
    let old = if path.is_file() {
        std::fs::read_to_string(path).map_err(|e| usage(format!("{} cannot be read: {e}", path.display())))?
    } else {
        String::new()
    };
    let by_hand = || {
        let entry = entry(peer, key_file);
        usage(format!("{} cannot be written to by itself; put this under peers: {name}: {entry}", path.display()))
    };
    let yaml = path.extension().is_none_or(|ending| ending == "yaml" || ending == "yml");
    let new = if yaml { with_peer(&old, name, &entry(peer, key_file)) } else { None };
    let new = new.ok_or_else(by_hand)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    write_private(&folder.join(key_file), &format!("{key}\n"))?;
    let beside = folder.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    write_private(&beside, &new)?;
    let mode = std::fs::metadata(path).map(|meta| meta.permissions());
    // Read as it will be, before it takes the place of what was there.
    let sound = config::parse(&new, config::Format::Yaml, &path.display().to_string(), folder);
    if sound.is_ok_and(|config| config.peers.contains_key(name)) {
        if let Ok(mode) = mode {
            // It keeps its mode; where that cannot be, it is its owner's alone.
            let _ = std::fs::set_permissions(&beside, mode);
        }
        return std::fs::rename(&beside, path).map_err(|e| usage(format!("{} cannot be written: {e}", path.display())));
    }
    let _ = std::fs::remove_file(&beside);
    Err(by_hand())
}

/// What stands behind a peer's name.
fn entry(peer: &Peer, key_file: &str) -> String {
    let pin = peer.pin.as_ref().map(|pin| format!(", pin: \"{pin}\"")).unwrap_or_default();
    let loopback = ["http://127.", "http://localhost", "http://[::1]"].iter().any(|start| peer.url.starts_with(start));
    let insecure = if peer.insecure && !loopback { ", insecure: true" } else { "" };
    format!("{{ url: \"{}\", api_key: \"${{file:{key_file}}}\"{pin}{insecure} }}", peer.url)
}

/// The text of a configuration with one more peer; `None` where its peers are written in another way.
fn with_peer(text: &str, name: &str, entry: &str) -> Option<String> {
    let line = format!("  {name}: {entry}\n");
    let mut out = String::new();
    let mut entered = false;
    for old in text.split_inclusive('\n') {
        out.push_str(old);
        if let Some(rest) = old.strip_prefix("peers:") {
            if entered || !matches!(rest.split('#').next().map(str::trim), Some("")) {
                return None;
            }
            if !old.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(&line);
            entered = true;
        }
    }
    if !entered {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(&format!("peers:\n{line}"));
    }
    Some(out)
}

/// Writes a file that its owner alone reads.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let failed = |e: std::io::Error| usage(format!("{} cannot be written: {e}", path.display()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = owners_alone(options.write(true).create(true).truncate(true)).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Greets each peer.
async fn list(args: &Args, output: &Output) -> Result<Outcome> {
    let config = connect::configuration(args)?;
    let mut documents = Vec::new();
    let mut rows = vec![["peer", "url", "node", "database", "tables", "clock"].map(str::to_owned).to_vec()];
    let mut away = Vec::new();
    for (name, peer) in &config.peers {
        let met = async { RemoteEndpoint::meet(connect::peer(&config, name)?, &config.node, None).await };
        let mut document = serde_json::json!({ "peer": name, "url": peer.url });
        let cells = match met.await {
            Ok(met) => {
                let welcome = &met.welcome;
                let ahead = met.ahead / 1000;
                document["node"] = welcome.node.clone().into();
                document["database"] = welcome.database.clone().into();
                document["tables"] = welcome.tables.iter().map(|(table, _)| table.clone()).collect();
                document["clock_offset_ms"] = ahead.into();
                let clock = format!(
                    "{}{}.{} s",
                    if ahead < 0 { "-" } else { "+" },
                    ahead.abs() / 1000,
                    ahead.abs() % 1000 / 100
                );
                vec![welcome.node.clone(), welcome.database.clone(), welcome.tables.len().to_string(), clock]
            }
            Err(e) => {
                document["error"] = e.message().into();
                away.push(e.message().to_owned());
                ["?", "?", "?", "?"].map(str::to_owned).to_vec()
            }
        };
        rows.push([vec![name.clone(), peer.url.clone()], cells].concat());
        documents.push(document);
    }
    if documents.is_empty() {
        output.line("the config has no peer; 'rowferry peers invite' at another node prints the line to join with");
    } else {
        for line in columns(&rows).iter().chain(&away) {
            output.line(line);
        }
    }
    output.document(&documents);
    Ok(if away.is_empty() { Outcome::Done } else { Outcome::Short })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_entered_beside_what_stands_there() {
        let entered = |text: &str| with_peer(text, "office", "{ url: x }");
        assert_eq!(entered("").as_deref(), Some("peers:\n  office: { url: x }\n"));
        assert_eq!(entered("node: a").as_deref(), Some("node: a\npeers:\n  office: { url: x }\n"));
        assert_eq!(
            entered("peers: # others\n  b: { url: y }\nsyncs:\n").as_deref(),
            Some("peers: # others\n  office: { url: x }\n  b: { url: y }\nsyncs:\n")
        );
        assert_eq!(entered("peers: { b: { url: y } }\n"), None);
    }

    #[test]
    fn an_invitation_is_one_line() {
        let pin = "ab".repeat(32);
        let line = format!("https://office.example:8443/ rowferry_00ff sha256:{pin} node:head.office");
        let invitation = read(&line, None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((invitation.name.as_str(), invitation.key.as_str()), ("head-office", "rowferry_00ff"));
        assert_eq!((invitation.peer.url.as_str(), invitation.peer.pin), ("https://office.example:8443", Some(pin)));
        assert_eq!(read("http://10.0.0.5:8080 key", Some("b")).unwrap_or_else(|e| panic!("{e}")).name, "b");
        for wrong in ["", "https://x", "rowferry_00 https://x", "ftp://x key", "https://x key sha256:12"] {
            let refused = read(wrong, None).err().map(|e| e.message().to_owned());
            assert!(refused.is_some_and(|why| why.contains("invite") && !why.contains("rowferry_00")), "{wrong}");
        }
    }
}
