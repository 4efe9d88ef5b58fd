//! Credential folders on disk: one consistent, bounded read of each, and what may have changed.

mod arm;
mod filesystem;
mod folder;
pub mod read;
mod resolve;
pub mod roots;
mod slurp;
mod stamps;
pub mod watch;
