//! A hint for when the user who runs `check` can't read files that the agent can read.

use std::io;

use rustix::io::Errno;
use sds_agent::config::Account;
use sds_agent::peer;
use sds_agent::report::{Problem, Report};

/// The user that the packages create for the agent.
const AGENT_USER: &str = "sds-agent";

/// The id of that user, if it exists.
pub(super) fn agent_user() -> Option<u32> {
    let agent = peer::user_id(&Account::Name(AGENT_USER.to_owned()));
    agent.ok().flatten()
}

/// Whether something could not be read because this user has no permission.
pub(super) fn are_missing(report: &Report) -> bool {
    let denied = io::Error::from(Errno::ACCESS).to_string();
    let is_denied = |problem: &Problem| problem.what.contains(&denied);
    let of_roots = report.roots.iter().flat_map(|root| &root.problems);
    let of_credentials = report.credentials.iter().flat_map(|one| &one.problems);
    of_roots.chain(of_credentials).any(is_denied)
}

/// What to do about it.
pub(super) fn hint() -> String {
    let sudo = match agent_user() {
        Some(_) => format!("sudo -u {AGENT_USER}"),
        None => "sudo".to_owned(),
    };
    format!(
        "this user is not allowed to read everything, but the agent may be; to see what the agent \
         sees, run the same command with `{sudo}`"
    )
}
