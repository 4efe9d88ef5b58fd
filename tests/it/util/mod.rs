//! Helpers of the tests: processes, certificates, clients, and waiting for a condition.
//!
//! All functions block, and every wait has a bound; see [`wait::eventually`].

pub(crate) mod admin;
pub(crate) mod agent;
pub(crate) mod bed;
pub(crate) mod clock;
pub(crate) mod envoy;
pub(crate) mod folders;
pub(crate) mod hello;
#[cfg(feature = "mirror")]
pub(crate) mod http_server;
pub(crate) mod https;
pub(crate) mod judge;
#[cfg(feature = "mirror")]
pub(crate) mod kube;
pub(crate) mod kubelet;
pub(crate) mod machine;
pub(crate) mod ocsp;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod s_client;
pub(crate) mod sds;
pub(crate) mod steps;
pub(crate) mod terminal;
pub(crate) mod tools;
pub(crate) mod users;
pub(crate) mod wait;

pub(crate) use agent::Agent;
pub(crate) use bed::Bed;
pub(crate) use envoy::{Envoy, Host, Protocol};
pub(crate) use folders::{Root, Way};
pub(crate) use https::Https;
pub(crate) use pki::{Ca, Identity};
pub(crate) use sds::{Delta, Sds};
pub(crate) use tools::require;
pub(crate) use wait::{BOUND, eventually, eventually_true};
