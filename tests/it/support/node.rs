//! Nodes of a test's own, as the real program, and an HTTP client that sends what it is told, wrong things too.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::program::program;

/// `rowferry serve` in a folder. It is killed when this goes.
pub struct Node {
    child: Child,
    /// Where it listens: host and port.
    pub address: String,
    /// What it has said so far, on both streams.
    said: Arc<Mutex<String>>,
}

/// Writes `rowferry.yaml` and starts a node that listens on a free port.
#[track_caller]
pub fn node(folder: &Path, config: &str) -> Node {
    std::fs::write(folder.join("rowferry.yaml"), config).expect("the config");
    Node::start(folder)
}

impl Node {
    /// Starts one with the configuration that stands in `folder`.
    #[track_caller]
    pub fn start(folder: &Path) -> Self {
        Self::of(folder, &["serve"])
    }

    /// Starts a command that listens, and says where.
    #[track_caller]
    pub fn of(folder: &Path, args: &[&str]) -> Self {
        Self::with(folder, args, &[])
    }

    /// The same, with these variables.
    #[track_caller]
    pub fn with(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = program(folder, args);
        command.envs(variables.iter().copied());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut node = Self { child, address: String::new(), said: Arc::default() };
        let (send, lines) = mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(node.child.stdout.take().expect("its output")),
            Box::new(node.child.stderr.take().expect("its errors")),
        ];
        for stream in streams {
            let (said, send) = (node.said.clone(), send.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    said.lock().expect("no panic").push_str(&format!("{line}\n"));
                    let _ = send.send(line);
                }
            });
        }
        drop(send);
        let limit = Instant::now() + Duration::from_mins(1);
        while let Ok(line) = lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            if let Some((_, address)) = line.split_once("://")
                && line.contains("listens on")
            {
                address.trim().clone_into(&mut node.address);
                return node;
            }
        }
        panic!("the node did not start: {}", node.said());
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    /// Waits until it has said this.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        wait("what the node should say", || self.said().contains(text).then_some(()));
    }

    /// Sends it a signal.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Asks it to stop; its exit code and how long that took.
    #[cfg(unix)]
    pub fn stop(mut self) -> (i32, Duration) {
        let started = Instant::now();
        self.signal("TERM");
        let status = self.child.wait().expect("it ends");
        (status.code().unwrap_or(-1), started.elapsed())
    }

    /// A request with a key.
    #[track_caller]
    pub fn get(&self, path: &str, key: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n"), b"")
    }

    /// A JSON body with a key.
    #[track_caller]
    pub fn post(&self, path: &str, key: &str, body: &serde_json::Value) -> Answer {
        self.post_bytes(path, key, "Content-Type: application/json\r\n", body.to_string().as_bytes())
    }

    /// A body of any kind.
    #[track_caller]
    pub fn post_bytes(&self, path: &str, key: &str, headers: &str, body: &[u8]) -> Answer {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.send(&head, body)
    }

    /// These bytes, and what comes back until the node closes.
    #[track_caller]
    pub fn send(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("the node listens");
        stream.set_read_timeout(Some(Duration::from_mins(1))).expect("a time limit");
        stream.write_all(head.as_bytes()).expect("sent");
        // A node that refuses by the head alone need not read the body.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Answer::read(&bytes)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nothing is left to do when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Whether a chunked body came to its end.
    pub whole: bool,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let (mut body, mut whole) = (bytes[end..].to_vec(), true);
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            (body, whole) = unchunked(&body);
        }
        Self { status, head, body, whole }
    }

    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> String {
        let found =
            self.head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    /// The JSON document.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert!(self.whole, "cut off: {}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON: {e}\n{}{}", self.head, String::from_utf8_lossy(&self.body)))
    }
}

fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|w| w == b"\r\n") else { return (body, false) };
        let size = std::str::from_utf8(&rest[..line]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(size) = size else { return (body, false) };
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = rest.get(line + 2..line + 2 + size) else { return (body, false) };
        body.extend_from_slice(chunk);
        rest = rest.get(line + 4 + size..).unwrap_or_default();
    }
}

/// Waits until there is what is looked for, half a minute at most.
#[track_caller]
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < limit, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
