//! Which credentials `status` shows.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use sds_agent::admin::status::Status;
use sds_agent::name::{Coverage, Host, plain};
use sds_agent::report::{Credential, State};

use crate::cli::completions::secrets;

/// The options that select credentials.
#[derive(clap::Args)]
pub(super) struct Filter {
    /// Show all details of these credentials. NAME is the name of a credential or a secret, or a host
    #[arg(value_name = "NAME", add = secrets())]
    names: Vec<String>,

    /// Show only credentials in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = states())]
    states: Vec<State>,

    /// Show only credentials that expire within this time, such as 14d or 36h, or have expired
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires_within: Option<Duration>,
}

impl Filter {
    /// Whether credentials were selected by name.
    pub(super) fn is_of_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Removes from `status` what was not requested.
    ///
    /// # Errors
    /// No credential has one of the names.
    pub(super) fn apply(&self, status: &mut Status) -> Result<(), String> {
        let report = &mut status.report;
        for name in &self.names {
            if !report.credentials.iter().any(|one| is_named(one, name)) {
                return Err(format!(
                    "the agent has no credential `{name}`; `sds-agent status` lists all"
                ));
            }
        }
        if self.is_of_names() {
            // Waiting names and problems of roots were not requested.
            report.roots.clear();
            status.waiting = Default::default();
        }
        let now = report.now.get();
        let ends_in_time = |credential: &Credential| match self.expires_within {
            None => true,
            Some(within) => credential.not_after().is_some_and(|end| {
                // A time that can't be represented is later than every end.
                now.checked_add(within)
                    .is_none_or(|bound| end.get() <= bound)
            }),
        };
        report.retain(|credential| {
            let names = || self.names.iter().any(|name| is_named(credential, name));
            (self.names.is_empty() || names())
                && (self.states.is_empty() || self.states.contains(&credential.state))
                && ends_in_time(credential)
        });
        Ok(())
    }
}

/// Whether `name` is the name of a credential or of one of its secrets, or a host that its leaf covers, as clients
/// may spell it.
fn is_named(credential: &Credential, name: &str) -> bool {
    let leaf = credential.secrets.iter().filter_map(|secret| {
        let leaf = secret.certificates.first();
        leaf.filter(|_| secret.key_type.is_some())
    });
    let mut covered = leaf.flat_map(|leaf| &leaf.names);
    let name = plain(name);
    let host = Host::parse(name);
    let covers = |covered: &String| {
        let coverage = || Coverage::parse(covered);
        covered.eq_ignore_ascii_case(name)
            || host
                .as_ref()
                .is_some_and(|host| coverage().is_some_and(|one| one.covers(host)))
    };
    credential.name == name
        || credential.secrets.iter().any(|secret| secret.name == name)
        || covered.any(covers)
}

fn states() -> impl TypedValueParser<Value = State> {
    let names = State::ALL.map(State::as_str);
    PossibleValuesParser::new(names).try_map(|name| {
        let mut all = State::ALL.into_iter();
        all.find(|state| state.as_str() == name)
            .ok_or("there is no such state")
    })
}
