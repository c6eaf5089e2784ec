//! A way to a server that a test cuts.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::Engine;

/// What happens to the connections at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The moment: with this message of the client's, counted over all connections, from 1.
    pub message: usize,
    /// Whether the server still gets that message; its answer never comes back.
    pub delivered: bool,
    /// Whether all connections end, as when the server restarts, or only the one that the message is on.
    pub all: bool,
}

/// Passes on what comes, up to the cut, and again after it.
pub struct Relay {
    url: String,
    port: u16,
    state: Arc<State>,
}

struct State {
    cut: Option<Cut>,
    messages: AtomicUsize,
    over: AtomicBool,
    open: Mutex<Vec<(TcpStream, TcpStream)>>,
    /// The connection that was cut, from 0.
    hit: Mutex<Option<usize>>,
}

impl Relay {
    /// To the server of this URL.
    pub fn new(engine: Engine, url: &str, cut: Option<Cut>) -> Self {
        let (account, rest) = url.rsplit_once('@').expect("an account");
        let (place, database) = rest.split_once('/').expect("a database");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let plain = if engine == Engine::Postgres { "sslmode=disable" } else { "ssl-mode=disabled" };
        let relay = Self {
            port,
            url: format!("{account}@127.0.0.1:{port}/{database}?{plain}"),
            state: Arc::new(State {
                cut,
                messages: AtomicUsize::new(0),
                over: AtomicBool::new(false),
                open: Mutex::default(),
                hit: Mutex::default(),
            }),
        };
        let (state, place) = (relay.state.clone(), place.to_owned());
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                if state.over.load(Ordering::SeqCst) {
                    break;
                }
                let client = client.expect("a client");
                let Ok(server) = TcpStream::connect(&place) else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("no delay");
                }
                state.open.lock().expect("a lock").push((again(&client), again(&server)));
                let (back_from, back_to, there) = (again(&server), again(&client), state.clone());
                std::thread::spawn(move || pass(back_from, back_to, |_| true));
                std::thread::spawn(move || {
                    pass(again(&client), again(&server), |rest| there.take(number, &client, &server, rest));
                });
            }
        });
        relay
    }

    /// As rowferry takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Messages of the client's so far.
    pub fn messages(&self) -> usize {
        self.state.messages.load(Ordering::SeqCst)
    }

    /// Which connection was cut, from 0.
    pub fn hit(&self) -> Option<usize> {
        *self.state.hit.lock().expect("a lock")
    }
}

/// Thousands follow each other in one process, which may have only so many connections open.
impl Drop for Relay {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        self.state.open.lock().expect("a lock").clear();
        // A listener that waits is told by a connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    /// Takes note of a message; whether it is to be passed on.
    fn take(&self, connection: usize, client: &TcpStream, server: &TcpStream, message: &[u8]) -> bool {
        let number = self.messages.fetch_add(1, Ordering::SeqCst) + 1;
        let Some(cut) = self.cut.filter(|cut| cut.message == number) else { return true };
        *self.hit.lock().expect("a lock") = Some(connection);
        // The client must not see an answer, so its end goes first.
        let mut ends = vec![(again(client), again(server))];
        if cut.all {
            ends.append(&mut self.open.lock().expect("a lock"));
        }
        for (client, _) in &ends {
            end(client);
        }
        if cut.delivered {
            let _ = (&*server).write_all(message);
        }
        for (_, server) in &ends {
            end(server);
        }
        false
    }
}

/// The other end may have closed it already.
fn end(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

fn again(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("another handle")
}

/// Passes on what comes until one end closes or `may` says no.
fn pass(mut from: TcpStream, mut to: TcpStream, may: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || !may(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    end(&from);
    end(&to);
}
