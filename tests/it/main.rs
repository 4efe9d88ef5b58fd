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
mod credential;
mod docs;
mod envoy_config;
mod faults;
mod hygiene;
mod interrupted;
mod lifecycle;
mod limits;
#[cfg(feature = "mirror")]
mod mirror;
mod package;
mod quickstart;
mod rotation;
mod soak;
mod starting_order;
mod systemd;
mod tools;
mod util;
mod walk;
mod wire;
