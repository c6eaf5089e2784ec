//! Every integration test, in one binary. `./test.sh` starts the servers that it needs.

mod capture_cli;
mod change_log;
mod change_log_mysql;
mod changes;
mod contract;
mod copy;
mod crash;
mod definition;
mod faults;
mod http;
mod names;
mod output;
mod parcels;
mod plan;
mod random;
mod sample;
mod shape;
mod simulation;
mod smoke;
mod support;
mod sync;
mod tls;
mod types;
