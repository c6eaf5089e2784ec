//! Every integration test, in one binary. `./test.sh` starts the servers that it needs.

mod copy;
mod sample;
mod shape;
mod smoke;
#[allow(dead_code, unused_imports, reason = "what the tests of each area share, before all of them are there")]
mod support;
mod types;
