//! Warnings about private keys that users of the agent's socket can also read directly.

use sds_agent::config::{Config, Root};
use sds_agent::exposure::Clients;
use sds_agent::inventory::Snapshot;
use sds_agent::problem::{Problem, Reason};
use sds_agent::report::Report;

use super::rights;

/// Adds a warning for each such key of a credential in one of the `configured` roots.
pub(super) fn warn(report: &mut Report, snapshot: &Snapshot, configured: &[Root], config: &Config) {
    // If the packages' user does not exist, the agent is assumed to run as the user who runs `check`.
    let own = rustix::process::geteuid().as_raw();
    let clients = Clients::of(config, rights::agent_user().unwrap_or(own));
    for credential in snapshot.credentials() {
        let folder = credential.path();
        let mut roots = configured.iter();
        let Some(key) = credential.key_file() else {
            continue;
        };
        if !roots.any(|root| folder.starts_with(&root.path)) {
            continue;
        }
        for exposure in clients.exposures([&*key]) {
            let what = format!(
                "the user {} may open the agent's socket, and can also read this private key \
                 directly, which bypasses the access rules",
                exposure.user
            );
            let remedy = "let only the agent's group read it, and put that user into another \
                          group, which may open the socket";
            report.warn(
                credential,
                &Problem::new(Reason::LooseMode, &key, what, remedy),
            );
        }
    }
}
