//! A bad network between a node and who calls it: one exchange over HTTP after the other, each as it is told.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It comes late.
    Late(Duration),
    /// Of the request only so many bytes arrive, then both ends are cut.
    RequestCut(usize),
    /// It is done, and of the answer only so many bytes arrive.
    AnswerCut(usize),
    /// The request arrives twice.
    Twice,
    /// The request arrives, then all requests before it once more.
    Again,
    /// The answer is that to the request before.
    OldAnswer,
    /// It is done, and nothing comes back, for ever.
    Silence,
    /// Something else answers that all is well.
    Portal,
}

/// A way to a node.
pub struct Wire {
    /// Where it listens: host and port.
    pub address: String,
    state: Arc<State>,
}

/// Which fault an exchange meets, by its number from 1.
type Plan = Box<dyn FnMut(usize) -> Option<Fault> + Send>;

struct State {
    server: Mutex<String>,
    plan: Mutex<Plan>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    exchanges: usize,
    requests: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
}

impl Wire {
    /// To the node that listens there.
    pub fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let state = Arc::new(State {
            server: Mutex::new(server.to_owned()),
            plan: Mutex::new(Box::new(|_| None)),
            seen: Mutex::default(),
        });
        let wire = Self { address: listener.local_addr().expect("its address").to_string(), state: state.clone() };
        // It ends with the test's process: a listener cannot be told to stop.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, state) = (client.expect("a client"), state.clone());
                std::thread::spawn(move || converse(client, &state));
            }
        });
        wire
    }

    /// From now on exchanges, counted anew, meet what this says.
    pub fn plan(&self, plan: impl FnMut(usize) -> Option<Fault> + Send + 'static) {
        *self.state.plan.lock().expect("a lock") = Box::new(plan);
        *self.state.seen.lock().expect("a lock") = Seen::default();
    }

    /// The node listens elsewhere now.
    pub fn leads_to(&self, server: &str) {
        server.clone_into(&mut self.state.server.lock().expect("a lock"));
    }

    /// Bytes of requests and answers since the plan was made.
    pub fn bytes(&self) -> usize {
        let seen = self.state.seen.lock().expect("a lock");
        seen.requests.iter().chain(&seen.answers).map(Vec::len).sum()
    }

    /// Exchanges since the plan was made.
    pub fn exchanges(&self) -> usize {
        self.state.seen.lock().expect("a lock").exchanges
    }
}

/// The exchanges of one connection.
fn converse(mut client: TcpStream, state: &State) {
    while let Some(request) = message(&mut client) {
        let number = {
            let mut seen = state.seen.lock().expect("a lock");
            seen.exchanges += 1;
            seen.exchanges
        };
        let fault = (state.plan.lock().expect("a lock"))(number);
        let answer = exchange(&request, fault, state);
        let Some(answer) = answer else { return };
        if client.write_all(&answer).is_err() {
            return;
        }
        if matches!(fault, Some(Fault::AnswerCut(_))) {
            return;
        }
    }
}

/// What comes back; `None`: the connection ends.
fn exchange(request: &[u8], fault: Option<Fault>, state: &State) -> Option<Vec<u8>> {
    let server = state.server.lock().expect("a lock").clone();
    let before = {
        let mut seen = state.seen.lock().expect("a lock");
        seen.requests.push(request.to_vec());
        (seen.requests[..seen.requests.len() - 1].to_vec(), seen.answers.last().cloned())
    };
    let answer = match fault {
        Some(Fault::RequestCut(at)) => {
            let _ = TcpStream::connect(&server).map(|mut to| to.write_all(&request[..at.min(request.len() - 1)]));
            return None;
        }
        Some(Fault::Portal) => {
            let page = "<html>Welcome! Please log in.</html>";
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html";
            return Some(format!("{head}\r\nContent-Length: {}\r\n\r\n{page}", page.len()).into_bytes());
        }
        Some(Fault::Late(time)) => {
            std::thread::sleep(time);
            ask(&server, request)?
        }
        _ => ask(&server, request)?,
    };
    state.seen.lock().expect("a lock").answers.push(answer.clone());
    match fault {
        Some(Fault::AnswerCut(at)) => return Some(answer[..at.min(answer.len() - 1)].to_vec()),
        Some(Fault::Twice) => drop(ask(&server, request)),
        Some(Fault::Again) => {
            for old in &before.0 {
                drop(ask(&server, old));
            }
        }
        Some(Fault::OldAnswer) => return Some(before.1.unwrap_or(answer)),
        Some(Fault::Silence) => {
            // Longer than whoever waits.
            std::thread::sleep(Duration::from_secs(20));
            return None;
        }
        _ => {}
    }
    Some(answer)
}

/// A request over a connection of its own, with its whole answer.
fn ask(server: &str, request: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(server).ok()?;
    stream.write_all(request).ok()?;
    message(&mut stream)
}

/// One whole message of HTTP.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(byte(stream)?);
    }
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let start = bytes.len();
            while !bytes[start..].ends_with(b"\r\n") {
                bytes.push(byte(stream)?);
            }
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[start..bytes.len() - 2]).ok()?, 16).ok()?;
            read(stream, &mut bytes, size + 2)?;
            if size == 0 {
                return Some(bytes);
            }
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(Some(0), |text| text.trim().parse().ok())?;
    read(stream, &mut bytes, length)?;
    Some(bytes)
}

fn byte(stream: &mut TcpStream) -> Option<u8> {
    let mut one = [0];
    stream.read_exact(&mut one).ok()?;
    Some(one[0])
}

fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>, length: usize) -> Option<()> {
    let start = bytes.len();
    bytes.resize(start + length, 0);
    stream.read_exact(&mut bytes[start..]).ok()
}
