//! Attacks of local users on a running agent: their cost is bounded, and other users are not affected.

mod admin;
mod connections;
mod hung;
mod raw;
mod requests;
mod sustained;
pub(crate) mod text;

use std::fs;

use crate::util::{Agent, Bed, Delta, Identity, Sds};

/// An agent with this configuration, on a bed with one pair, `site`.
#[track_caller]
fn start(config: &str) -> (Bed, Agent, Identity) {
    let bed = Bed::new();
    let site = bed.pair("site");
    let file = bed.scratch("sds-agent.toml");
    fs::write(&file, config).unwrap();
    let agent = bed.ready(bed.builder().arg("--config").arg(&file));
    (bed, agent, site)
}

/// Asserts that a well-behaved client is served, and gets a rotation.
#[track_caller]
fn assert_serves(bed: &Bed, client: &Sds) {
    assert_rotates(bed, &mut subscribed(client));
}

/// A stream of a well-behaved client, which has the secret.
#[track_caller]
fn subscribed(client: &Sds) -> Delta {
    let mut stream = client.delta();
    stream.subscribe(&["site"]);
    stream.secret();
    stream
}

/// Asserts that such a stream gets a rotation.
#[track_caller]
fn assert_rotates(bed: &Bed, stream: &mut Delta) {
    let renewed = bed.pair("site");
    assert!(stream.secret().is_pair(&renewed.chain, &renewed.key));
}

/// The bytes that the agent has logged so far.
fn logged(agent: &Agent) -> usize {
    agent.lines().iter().map(|line| line.len() + 1).sum()
}
