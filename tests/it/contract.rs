//! The contract of `src/engine/mod.rs`, clause by clause, on every engine: a test for each pair.
//!
//! A clause is an async function that takes a [`Subject`], an empty database of one engine. Those
//! that need SQL of the engine's own (a view, a trigger) run where there is SQL.

#![allow(clippy::unwrap_used, reason = "a clause is a test, and the lint knows only functions marked as one")]

mod catalogue;
mod looking;
mod memory;
mod reading;
pub mod subject;
mod values;
mod writing;

/// A test for each of these clauses on one engine.
macro_rules! on {
    ($engine:ident: $subject:expr; $($clause:ident)*) => {
        mod $engine {
            use crate::contract::subject::Subject;
            #[allow(unused_imports, reason = "not each list of clauses runs in memory")]
            use crate::support::Engine;
            // Dropped connections are closed by another thread: a database cannot be dropped before that.
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                if let Some(subject) = $subject {
                    super::$clause(&subject).await;
                }
            })*
        }
    };
}

/// On every engine that has SQL.
macro_rules! on_servers {
    ($($clause:ident)*) => {
        mod servers {
            $(use super::$clause;)*
            crate::contract::on!(sqlite: Subject::new(Engine::Sqlite).await; $($clause)*);
            crate::contract::on!(postgres: Subject::new(Engine::Postgres).await; $($clause)*);
            crate::contract::on!(mariadb: Subject::new(Engine::Mariadb).await; $($clause)*);
            crate::contract::on!(mysql: Subject::new(Engine::Mysql).await; $($clause)*);
        }
    };
}

/// On every engine.
macro_rules! on_all {
    ($($clause:ident)*) => {
        crate::contract::on!(memory: Some(Subject::in_memory("contract")); $($clause)*);
        crate::contract::on!(sqlite: Subject::new(Engine::Sqlite).await; $($clause)*);
        crate::contract::on!(postgres: Subject::new(Engine::Postgres).await; $($clause)*);
        crate::contract::on!(mariadb: Subject::new(Engine::Mariadb).await; $($clause)*);
        crate::contract::on!(mysql: Subject::new(Engine::Mysql).await; $($clause)*);
    };
}

use {on, on_all, on_servers};
