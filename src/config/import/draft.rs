//! The new file while it is written.

use std::fmt::Write as _;

use super::{BLANK, Imported};

/// What the old file said, in the sections of the new one; each line without its indentation.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) system: &'static str,
    /// Lines before all sections.
    pub(super) head: Vec<String>,
    pub(super) databases: Vec<String>,
    pub(super) peers: Vec<String>,
    pub(super) keys: Vec<String>,
    pub(super) defaults: Vec<String>,
    pub(super) syncs: Vec<String>,
    pub(super) seeds: Vec<String>,
    pub(super) replaces: Vec<(String, String)>,
    pub(super) notes: Vec<String>,
}

/// A text in quotes, in which nothing is taken for a reference.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::String(text.replace("${", "$${")).to_string()
}

/// A list in one line.
pub(super) fn list<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name.as_ref())).collect();
    format!("[{}]", names.join(", "))
}

/// The URL of a database server; what is not known is blank. `scheme` with `://`.
pub(super) fn server_url(
    scheme: &str,
    (user, password): (Option<&str>, Option<&str>),
    host: Option<&str>,
    port: Option<&str>,
    database: Option<&str>,
) -> String {
    let part = |text: Option<&str>| match text {
        Some(text) => url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20"),
        None => BLANK.to_owned(),
    };
    let password = match password {
        Some("") => String::new(),
        other => format!(":{}", part(other)),
    };
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    format!("{scheme}{}{password}@{}{port}/{}", part(user), host.unwrap_or(BLANK), part(database))
}

impl Draft {
    pub(super) fn of(system: &'static str) -> Self {
        Self { system, ..Self::default() }
    }

    pub(super) fn replace(&mut self, old: impl Into<String>, new: impl Into<String>) {
        self.replaces.push((old.into(), new.into()));
    }

    /// A peer. Plain HTTP is what the old system used; it is kept, and said.
    pub(super) fn peer(&mut self, name: &str, url: Option<&str>, key: Option<&str>, timeout: Option<u64>) {
        let address = url.map_or_else(|| format!("https://{BLANK}"), |url| url.trim_end_matches('/').to_owned());
        let mut line = format!("{name}: {{ url: {}, api_key: {}", quoted(&address), quoted(key.unwrap_or(BLANK)));
        if let Some(seconds) = timeout {
            let _ = write!(line, ", timeout: {seconds}s");
        }
        if address.starts_with("http://") {
            line.push_str(", insecure: true");
            self.notes
                .push(format!("peer {name} is asked over plain HTTP, as before: keys and rows can be read on the way"));
        }
        self.peers.push(format!("{line} }}"));
    }

    /// The new file. Lines with blanks are marked.
    pub(super) fn finish(self, from: &str) -> Imported {
        let mut yaml = format!("# Made from {from} ({}) by rowferry init.\n", self.system);
        for line in &self.head {
            let _ = writeln!(yaml, "{line}");
        }
        let sections = [
            ("databases:", self.databases, "  "),
            ("peers:", self.peers, "  "),
            ("api:\n  keys:", self.keys, "    "),
            ("defaults:", self.defaults, "  "),
            ("syncs:", self.syncs, "  "),
            ("seeds:                           # the interfaces that the old clients know", self.seeds, "  "),
        ];
        for (title, lines, indent) in sections {
            if lines.is_empty() {
                continue;
            }
            let _ = write!(yaml, "\n{title}\n");
            for line in lines {
                let _ = writeln!(yaml, "{indent}{line}");
            }
        }
        let marked = |line: &str| {
            if line.contains(BLANK) && !line.trim_start().starts_with('#') {
                format!("{line}   # {BLANK}: the old file does not say this\n")
            } else {
                format!("{line}\n")
            }
        };
        let yaml: String = yaml.lines().map(marked).collect();
        let blanks = yaml.lines().filter(|line| line.ends_with("does not say this")).count();
        Imported { system: self.system, yaml, blanks, replaces: self.replaces, notes: self.notes }
    }
}
