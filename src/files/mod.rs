//! Credential folders on disk: one consistent, bounded read of each, and what may have changed.

pub mod read;
pub mod resolve;
pub mod roots;
pub mod stamps;
pub mod watch;
