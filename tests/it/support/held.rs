//! A connection that stays: it holds locks and transactions while a test goes on.

use std::sync::mpsc::{Receiver, Sender, channel};

use mysql_async::prelude::Queryable as _;

use super::database::{Engine, TestDb};

type Answer = Result<(), String>;

/// An open connection. Dropping it rolls back and releases what it holds.
pub struct Held {
    work: Sender<String>,
    answers: Receiver<Answer>,
}

impl Held {
    /// A connection to the test's database.
    pub fn new(db: &TestDb) -> Self {
        let (work, todo) = channel::<String>();
        let (done, answers) = channel();
        let (engine, url) = (db.engine(), db.url().to_owned());
        std::thread::spawn(move || serve(engine, &url, &todo, &done));
        Self { work, answers }
    }

    /// Runs a statement to its end.
    pub fn execute(&self, sql: &str) -> Answer {
        self.work.send(sql.to_owned()).map_err(|e| e.to_string())?;
        self.answers.recv().map_err(|e| e.to_string())?
    }
}

/// Runs what comes until nobody asks any more; then the connection closes.
fn serve(engine: Engine, url: &str, todo: &Receiver<String>, done: &Sender<Answer>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match engine {
        Engine::Sqlite => {
            let connection = rusqlite::Connection::open(url.trim_start_matches("sqlite:")).expect("a connection");
            for sql in todo {
                let _ = done.send(connection.execute_batch(&sql).map_err(|e| e.to_string()));
            }
        }
        Engine::Postgres => runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("a connection");
            let driver = tokio::spawn(connection);
            for sql in todo {
                let _ = done.send(client.batch_execute(&sql).await.map_err(|e| e.to_string()));
            }
            drop(client);
            let _ = driver.await;
        }),
        Engine::Mariadb | Engine::Mysql => runtime.block_on(async {
            let mut connection = mysql_async::Conn::from_url(url).await.expect("a connection");
            for sql in todo {
                let _ = done.send(connection.query_drop(sql).await.map_err(|e| e.to_string()));
            }
            let _ = connection.disconnect().await;
        }),
    }
}
