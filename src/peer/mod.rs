//! Nodes among each other, and what both ends of an HTTP exchange share.

mod encoding;

pub use encoding::{Decoder, Encoder, Encoding, TooMuch};
