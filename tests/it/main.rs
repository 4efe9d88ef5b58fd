//! Tests through the real interfaces: the program, its socket, its files, and a real Envoy.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected comes"
)]

mod access;
mod bad_input;
mod check;
mod cli;
mod config;
mod confinement;
mod credential;
mod docs;
mod envoy_config;
mod envoy_releases;
mod examples;
mod expiry;
mod faults;
mod flat;
mod get;
mod health;
mod hostile;
mod hosts;
mod hygiene;
mod interrupted;
mod kinds;
mod lifecycle;
mod limits;
mod metrics;
#[cfg(feature = "mirror")]
mod mirror;
mod notify;
mod package;
mod page;
mod probe;
mod quickstart;
mod release;
mod rotation;
mod scripts;
mod soak;
mod starting_order;
mod status;
mod systemd;
mod tools;
mod troubleshooting;
#[allow(dead_code, reason = "benches/ and some features use more of it")]
mod util;
mod walk;
mod wire;
