//! What operators and monitoring query from a running program: metrics, health, state. Read-only, except that
//! `sds-agent probe` reports its results.

pub mod exposition;
pub mod health;
pub mod http;
pub mod live;
mod metrics;
mod page;
mod pages;
pub mod probes;
pub mod process;
pub mod status;
mod survey;

pub use pages::{AdminPages, With};
pub use survey::Sources;
