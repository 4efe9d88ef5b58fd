//! The Secret Discovery Service, in the order of use:
//!
//! - [`access`]: the access rules
//! - [`hub`]: what is served, and the subscriptions of streams
//! - `grpc`, `session`, `message`: frames, and what the two protocols have in common
//! - `sotw`, `delta`: the protocols as state machines without I/O
//! - [`ledger`], [`audit`], `throttle`: the connected clients, what each was sent, and the log of it
//! - `shared`, `conversation`: what all streams share, and one of them
//! - `introspection`, [`service`], `outgoing`, [`threads`], [`server`]: the calls, and the HTTP/2 server

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
mod outgoing;
pub mod server;
pub mod service;
mod session;
mod shared;
mod sotw;
pub mod threads;
mod throttle;
