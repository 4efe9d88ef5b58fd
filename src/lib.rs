//! A file-based SDS server: folders of PEM files in, Envoy secrets out.
//!
//! # Layout
//!
//! In the order of the flow; a module knows only the ones before it.
//!
//! - [`text`]: text from outside, escaped for people to read
//! - [`times`]: points and lengths of time, as every output writes them
//! - [`validity`]: how near its end a certificate is
//! - [`name`]: all rules of names: folders, secrets, hosts
//! - [`lines`]: log lines on their way to standard error
//! - [`problem`]: the vocabulary of what can be wrong with a file, and what to do about it
//! - [`metrics`]: what is counted while the agent works
//! - [`config`]: the configuration
//! - [`logging`]: log lines as text or JSON, with levels that can change
//! - [`rights`]: who may read a file
//! - [`files`]: credential folders on disk: one consistent read of each, and what may have changed
//! - [`credential`]: file names and PEM bytes → a credential that Envoy accepts, or the reasons why not
//! - [`proto`]: the xDS messages, generated from `proto/`
//! - [`secret`]: a part of a credential → an SDS resource, encoded once, versioned, wiped when dropped
//! - [`inventory`]: the one owner of state: roots → folders → parts, and name → secret
//! - [`pool`]: work that may block, on a few threads of its own
//! - [`peer`]: who is at the other end of a Unix socket
//! - [`exposure`]: users who may open the socket, and can read keys without it
//! - [`harden`]: what keeps keys out of core dumps, other processes and the swap
//! - [`systemd`]: ready, reload, stop, and the watchdog
//! - [`fdstore`]: previous versions, kept beyond the end of the process
//! - [`listen`]: the Unix socket
//! - [`sds`]: the protocols as state machines, and the service that drives them
//! - [`agent`]: wires all of the above
//! - [`report`]: what is shown of credentials, and its JSON
//! - [`admin`]: metrics, health and state for operators
//! - [`envoy_config`]: the Envoy configuration that goes with the agent

pub mod admin;
pub mod agent;
pub mod config;
pub mod credential;
pub mod envoy_config;
pub mod exposure;
pub mod fdstore;
pub mod files;
pub mod harden;
pub mod inventory;
pub mod lines;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod name;
pub mod peer;
pub mod pool;
pub mod problem;
pub mod proto;
pub mod report;
pub mod rights;
pub mod sds;
pub mod secret;
pub mod systemd;
pub mod text;
pub mod times;
pub mod validity;

/// The version of this program, with the commit that it was built from where that is known.
pub const VERSION: &str = env!("SDS_AGENT_VERSION");

/// What `--version` prints: [`VERSION`], and the target that the program was built for.
pub const BUILD: &str = env!("SDS_AGENT_BUILD");
