//! Secrets that are requested by the name of a host.

pub(crate) mod envoy;
mod lookup;
mod many;
mod reload;
mod restart;
mod shown;
mod validity;

use std::fs;

use time::{Duration, OffsetDateTime};

use crate::util::{Agent, Bed, Identity};

/// A certificate of the bed's authority for `hosts`, which expires in this number of days.
fn ending(bed: &Bed, hosts: &[&str], days: i64) -> Identity {
    bed.ca.server_with(hosts, |params| {
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
    })
}

/// Writes a certificate for `hosts` as the credential `name`.
fn write(bed: &Bed, name: &str, hosts: &[&str]) -> Identity {
    let identity = ending(bed, hosts, 90);
    bed.root.write_pair(name, &identity);
    identity
}

/// An agent with this configuration for the bed's root, which has read everything.
#[track_caller]
fn configured(bed: &Bed, config: &str) -> Agent {
    let path = bed.scratch("sds-agent.toml");
    fs::write(&path, format!("# A test.\n{config}")).unwrap();
    bed.ready(bed.builder().arg("--config").arg(path))
}
