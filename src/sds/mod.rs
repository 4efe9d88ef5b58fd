//! The Secret Discovery Service: the two xDS protocols as state machines without I/O, the service
//! that drives them, and who may have what.

pub mod access;
pub mod audit;
mod budget;
mod conversation;
mod delta;
mod grpc;
mod intake;
mod introspection;
pub mod ledger;
mod message;
pub mod server;
pub mod service;
mod session;
mod sotw;
mod throttle;
