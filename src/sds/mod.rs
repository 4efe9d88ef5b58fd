//! The Secret Discovery Service, in the order of use:
//!
//! - [`access`]: who may have what
//! - [`hub`]: what is served, and which streams wait for which name
//! - `grpc`, `session`, `message`: frames, and what the two protocols have in common
//! - `sotw`, `delta`: the protocols as state machines without I/O
//! - [`ledger`], [`audit`], `throttle`: who is connected, who was sent what, and what is logged of it
//! - `shared`, `conversation`: what all streams share, and one of them
//! - `introspection`, [`service`], [`server`]: the calls, and the HTTP/2 server

pub mod access;
pub mod audit;
mod budget;
mod conversation;
mod delta;
mod grpc;
#[cfg(test)]
mod histories;
pub mod hub;
mod intake;
mod introspection;
pub mod ledger;
mod message;
pub mod server;
pub mod service;
mod session;
mod shared;
mod sotw;
mod throttle;
