//! Envoy and the agent can start in any order. `systemd.rs` has the same with a socket of systemd.

use std::time::Instant;

use crate::util::{Bed, Envoy, Host, Protocol, eventually_true, require, tools};

#[test]
fn an_envoy_that_starts_first_is_served_once_the_agent_starts() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    for protocol in Protocol::BOTH {
        let bed = Bed::new();
        bed.pair("site");
        let hosts = [Host::new("site.test", "site")];
        let envoy = Envoy::start(&program, &bed.socket(), protocol, &hosts);
        eventually_true("an attempt to reach the agent", || {
            envoy.stat("cluster.sds_agent.upstream_cx_connect_fail") > 1
        });
        let _agent = bed.agent();
        assert_serves(&bed, &envoy, protocol);
    }
}

#[test]
fn an_agent_that_starts_first_serves_an_envoy_that_starts_later() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    for protocol in Protocol::BOTH {
        let bed = Bed::new();
        bed.pair("site");
        let _agent = bed.agent();
        let hosts = [Host::new("site.test", "site")];
        let envoy = Envoy::start(&program, &bed.socket(), protocol, &hosts);
        assert_serves(&bed, &envoy, protocol);
    }
}

/// Waits until Envoy serves the pair, and prints how long that took.
#[track_caller]
fn assert_serves(bed: &Bed, envoy: &Envoy, protocol: Protocol) {
    let both_up = Instant::now();
    let https = envoy.https("site.test").ca(bed.ca.pem());
    eventually_true("a handshake", || https.get().is_ok());
    eprintln!(
        "{protocol:?}: served {:?} after both were up",
        both_up.elapsed()
    );
    envoy.assert_no_rejection();
}
