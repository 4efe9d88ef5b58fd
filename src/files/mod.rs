//! Credential folders on disk: one consistent, bounded read of each, and what may have changed.

mod arm;
mod filesystem;
mod flat;
mod folder;
pub mod follow;
mod ownership;
pub mod read;
mod resolve;
pub mod roots;
mod route;
mod slurp;
mod stamps;
pub mod watch;

/// kubelet's way of writing, which the tests of the whole agent imitate too.
#[cfg(test)]
#[path = "../../tests/it/util/kubelet.rs"]
mod kubelet;
