//! Nodes among each other: what they say, how it travels, and a peer's database as an end of a sync.
//!
//! ```text
//! pipeline ──▶ RemoteEndpoint, RemoteSender, RemoteReceiver ──▶ link ──▶ HTTP(S) ──▶ the peer's http::peer ──▶ its database
//! ```
//!
//! A body is whole and an answer to this very request, or it is none; a call is done once, or nobody knows and the cursors
//! are asked. So whatever the network does, cutting, repeating, keeping back, a sync goes on from where the databases stand.

mod comparing;
mod encoding;
mod guard;
mod link;
mod message;
mod proxy;
mod remote;
mod rewriting;
mod session;
mod tls;

pub use crate::endpoint::codec::{Damaged, Nonce, Reader, Writer};
pub use comparing::{Comparing, WireComparison};
pub use encoding::{Decoder, Encoder, Encoding, TooMuch};
pub use guard::guarded;
pub use link::Link;
pub use message::{
    About, Asked, Hello, MIME, Numbered, PROTOCOL, Prepared, Preparing, Receiving, Sending, Told, Welcome,
    WireCaptured, WireMapping, WireOptions, WireOrigin, WirePlace, WirePlan, WireRoute, WireStandings, basis, path,
    refused,
};
pub use remote::{RemoteEndpoint, clock_told};
pub use rewriting::{Rewriting, WireRewrite};
pub use session::Piece;
pub use tls::fingerprint;
