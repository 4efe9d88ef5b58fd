//! Tests through the real interfaces: the program, its socket, its files, and a real Envoy.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected comes"
)]

mod cli;
mod envoy_config;
mod systemd;
mod util;
