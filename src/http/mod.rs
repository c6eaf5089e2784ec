//! A node to the outside: HTTP/1.1 for any client.
//!
//! A request goes through one line of hands: `server` takes the connection, `router` knows the route and what it
//! asks, `auth` lets the caller in, `body` reads within bounds, a handler answers. Row data goes out as it is read.

mod answer;
mod arrow;
pub mod auth;
mod body;
mod limit;
mod metadata;
mod node_status;
mod peer;
mod pull;
mod push;
pub mod router;
mod rows;
mod server;
mod since;
mod tls;

pub use crate::peer::fingerprint;
pub use server::{Server, bind};
pub use tls::own_pin;
