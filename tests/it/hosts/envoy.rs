//! One listener of a real Envoy that serves every host with a certificate.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{configured, ending, write};
use crate::util::hello::{Answer, begin_hello, hello, hello_within};
use crate::util::tools::ENVOY;
use crate::util::{Agent, Bed, Ca, Envoy, Identity, eventually_true, require};

/// How long a refusal may take that does not have to wait: far less than any timeout of Envoy.
const AT_ONCE: Duration = Duration::from_secs(10);

/// An agent, and an Envoy that requests each host's certificate from it.
struct OnDemand {
    bed: Bed,
    agent: Agent,
    envoy: Envoy,
    port: u16,
}

impl OnDemand {
    /// With this configuration of the agent.
    fn start(program: &Path, bed: Bed, config: &str) -> Self {
        let agent = configured(&bed, config);
        let envoy = Envoy::on_demand(program, &bed.socket(), "no-host", None);
        let port = envoy.port();
        Self {
            bed,
            agent,
            envoy,
            port,
        }
    }

    fn hello(&self, host: &str) -> Answer {
        hello(self.port, Some(host.as_bytes()))
    }

    #[track_caller]
    fn assert_serves(&self, host: &str, identity: &Identity) {
        let answer = self.hello(host);
        assert!(answer.shows(&identity.der), "{host}: {answer:?}");
    }

    #[track_caller]
    fn wait_until_served(&self, host: &str, identity: &Identity) {
        eventually_true(&format!("the certificate of {host}"), || {
            self.hello(host).shows(&identity.der)
        });
    }

    #[track_caller]
    fn wait_until_refused(&self, host: &str) {
        eventually_true(&format!("a refusal of {host}"), || {
            self.hello(host) == Answer::Refused
        });
    }
}

#[test]
fn five_hundred_hosts_are_added_while_envoy_runs() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let running = OnDemand::start(&program, Bed::new(), "");
    assert_eq!(running.hello("h0.exact.test"), Answer::Refused);
    let mut hosts: Vec<(String, Identity)> = Vec::new();
    for number in 0..250 {
        let host = format!("h{number}.exact.test");
        let identity = write(&running.bed, &format!("exact-{number}"), &[&host]);
        hosts.push((host, identity));
    }
    for number in 0..25 {
        let domain = format!("d{number}.test");
        let names = [format!("*.{domain}"), domain.clone()];
        let names = names.each_ref().map(String::as_str);
        let identity = write(&running.bed, &format!("wildcard-{number}"), &names);
        let below = (0..9).map(|host| format!("h{host}.{domain}"));
        hosts.extend(
            below
                .chain([domain.clone()])
                .map(|host| (host, identity.clone())),
        );
    }
    assert_eq!(hosts.len(), 500);
    for (host, identity) in &hosts {
        running.wait_until_served(host, identity);
    }
    // A complete handshake with a request, by a client that checks the certificate.
    let https = running.envoy.https("h8.d24.test").ca(running.bed.ca.pem());
    assert_eq!(https.get().unwrap().chain[0], hosts[498].1.der);
    assert_eq!(running.hello("deeper.h1.d1.test"), Answer::Refused);

    // One is rotated: its hosts get the new certificate, and nothing is sent for the others.
    let sent = || running.agent.lines_with(&["key_delivered"]).len();
    eventually_true("a line for each delivery", || sent() == hosts.len());
    let renewed = write(&running.bed, "wildcard-3", &["*.d3.test", "d3.test"]);
    for (host, _) in hosts.iter().filter(|(host, _)| host.ends_with("d3.test")) {
        running.wait_until_served(host, &renewed);
    }
    eventually_true("ten deliveries", || sent() >= hosts.len() + 10);
    running.assert_serves("h0.d4.test", &hosts[250 + 40].1);
    assert_eq!(sent(), hosts.len() + 10);
    running.envoy.assert_no_rejection();
}

#[test]
fn a_better_certificate_takes_over_until_it_is_removed() {
    if let Some(program) = require(&ENVOY) {
        hosts_change_hands(&program);
    }
}

/// With that Envoy.
pub(crate) fn hosts_change_hands(program: &Path) {
    let bed = Bed::new();
    let wildcard = write(&bed, "wildcard", &["*.example.test"]);
    let running = OnDemand::start(program, bed, "");
    let bed = &running.bed;
    running.assert_serves("www.example.test", &wildcard);
    running.assert_serves("api.example.test", &wildcard);

    let exact = write(bed, "exact", &["www.example.test", "old.test"]);
    running.wait_until_served("www.example.test", &exact);
    running.assert_serves("api.example.test", &wildcard);
    running.assert_serves("old.test", &exact);

    // Of two exact certificates, the one that expires last is served.
    let longer = ending(bed, &["www.example.test"], 200);
    bed.root.write_pair("longer", &longer);
    running.wait_until_served("www.example.test", &longer);
    bed.root.remove("longer");
    running.wait_until_served("www.example.test", &exact);

    // A name that the renewed certificate no longer has is served by the wildcard, or not at all.
    let renewed = write(bed, "exact", &["new.test"]);
    running.wait_until_served("www.example.test", &wildcard);
    running.wait_until_refused("old.test");
    running.wait_until_served("new.test", &renewed);

    bed.root.remove("wildcard");
    running.wait_until_refused("www.example.test");
    running.wait_until_refused("api.example.test");
    let back = write(bed, "wildcard", &["*.example.test"]);
    running.wait_until_served("www.example.test", &back);
    running.wait_until_served("api.example.test", &back);
    running.envoy.assert_no_rejection();
}

#[test]
fn every_host_name_that_a_client_sends_is_answered_immediately() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let site = write(&bed, "site", &["www.example.test"]);
    bed.root.write("site", &[("ca.crt", bed.ca.pem())]);
    let running = OnDemand::start(&program, bed, "");
    let long = "a".repeat(250);
    let labels = ["a".repeat(62).as_str(); 4].join(".");
    for name in [
        "*",
        "*.example.test",
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "tab\there",
        "www.example.test\n",
        " www.example.test",
        "www..example.test",
        ".example.test",
        "..",
        "unknown.example.test",
        "www.example.test-cacert",
        "site-cacert",
        "no-such-site-cacert",
        "\u{fc}mlaut.example.test",
        &long,
        &labels,
    ] {
        let answer = hello_within(AT_ONCE, running.port, Some(name.as_bytes()));
        assert_eq!(answer, Answer::Refused, "{name:?}");
        // Once more: what Envoy still has of the first attempt must not delay the second one.
        let answer = hello_within(AT_ONCE, running.port, Some(name.as_bytes()));
        assert_eq!(answer, Answer::Refused, "{name:?}");
    }
    assert_eq!(hello_within(AT_ONCE, running.port, None), Answer::Refused);
    for name in [
        "www.example.test",
        "WWW.Example.TEST",
        "www.example.test.",
        "site",
    ] {
        running.assert_serves(name, &site);
    }
    assert!(running.agent.lines_with(&["panic"]).is_empty());
}

/// No response can have such a name, so these handshakes wait for the timeout that `envoy-config` sets. There is no
/// other effect: the requests are not repeated, and other hosts, including new ones, are answered immediately.
#[test]
fn host_names_that_are_not_utf_8_delay_no_other_host() {
    const NAMES: usize = 300;
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let site = write(&bed, "site", &["*.example.test"]);
    let running = OnDemand::start(&program, bed, "");
    running.assert_serves("www.example.test", &site);
    let held: Vec<TcpStream> = (0..NAMES)
        .map(|number| {
            let name = [b"\xff\xfe", format!("{number}.example.test").as_bytes()].concat();
            begin_hello(running.port, Some(&name))
        })
        .collect();
    eventually_true("a stream for each name", || {
        let state = crate::util::admin::status(&running.bed.admin());
        state["agent"]["streams"]["delta"].as_u64() >= Some(NAMES as u64)
    });
    running.agent.wait_for_line(&["subscribed", "\u{fffd}"]);
    let asked = || running.envoy.stat("cluster.sds_agent.upstream_rq_total");
    let before = asked();
    for number in 0..20 {
        running.assert_serves(&format!("{number}.example.test"), &site);
        assert_eq!(
            running.hello(&format!("{number}.unknown.test")),
            Answer::Refused
        );
    }
    // A changed certificate reaches Envoy as before, and only these hosts were requested.
    let renewed = write(&running.bed, "site", &["*.example.test"]);
    running.wait_until_served("www.example.test", &renewed);
    let more = asked() - before;
    assert!(more < NAMES as u64, "{more} requests");
    assert_eq!(running.agent.lines_with(&["stream ended"]), [""; 0]);
    drop(held);
    running.assert_serves("later.example.test", &renewed);
}

#[test]
fn five_thousand_unknown_hosts_cost_little_memory_and_affect_no_known_host() {
    const UNKNOWN: usize = 5_000;
    const THREADS: usize = 4;
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let site = write(&bed, "site", &["*.example.test"]);
    let running = OnDemand::start(&program, bed, "log_level = \"warn\"\n");
    let burst = |round: usize| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let running = &running;
                scope.spawn(move || {
                    for number in 0..UNKNOWN / THREADS {
                        let name = format!("{round}-{thread}-{number}.unknown.test");
                        assert_eq!(running.hello(&name), Answer::Refused, "{name}");
                    }
                });
            }
            for number in 0..20 {
                running.assert_serves(&format!("{round}-{number}.example.test"), &site);
            }
        });
    };
    running.assert_serves("www.example.test", &site);
    // Memory that was allocated for the first ones is used again.
    let before = running.agent.resident_kib();
    burst(0);
    let after = running.agent.resident_kib();
    assert!(
        after < before + 16 * 1024,
        "resident memory went from {before} KiB to {after} KiB"
    );
    running.assert_serves("www.example.test", &site);
    eventually_true("the end of the streams for unknown hosts", || {
        let state = crate::util::admin::status(&running.bed.admin());
        state["agent"]["streams"]["delta"].as_u64() < Some(100)
    });
}

#[test]
fn clients_need_a_certificate_if_the_listener_requires_one() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let (bed, clients) = (Bed::new(), Ca::new("The clients' CA"));
    let site = write(&bed, "site", &["*.example.test"]);
    bed.root.write("clients", &[("ca.crt", clients.pem())]);
    let _agent = configured(&bed, "");
    let envoy = Envoy::on_demand(&program, &bed.socket(), "site", Some("clients-cacert"));
    let https = envoy.https("www.example.test").ca(bed.ca.pem());
    let known = https.clone().identity(&clients.client("me"));
    eventually_true("the certificate", || {
        known.get().is_ok_and(|served| served.chain[0] == site.der)
    });
    assert!(https.get().is_err());
    assert!(https.clone().identity(&bed.ca.client("me")).get().is_err());

    // The other authority is admitted once it is the bundle, without a change of Envoy.
    bed.root.write("clients", &[("ca.crt", bed.ca.pem())]);
    eventually_true("a client of the other authority", || {
        https.clone().identity(&bed.ca.client("me")).get().is_ok()
    });
    assert!(known.get().is_err());
}

#[test]
fn the_default_credential_is_served_for_hosts_that_no_certificate_covers() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let fallback = write(&bed, "fallback", &["fallback.test"]);
    let www = write(&bed, "www", &["www.test"]);
    let running = OnDemand::start(&program, bed, "default_credential = \"fallback\"\n");
    running.assert_serves("www.test", &www);
    running.assert_serves("whatever.test", &fallback);
    assert!(hello(running.port, None).shows(&fallback.der), "no host");
    assert_eq!(running.hello("../../etc/passwd"), Answer::Refused);

    let own = write(&running.bed, "own", &["whatever.test"]);
    running.wait_until_served("whatever.test", &own);
    running.bed.root.remove("own");
    running.wait_until_served("whatever.test", &fallback);
    let renewed = write(&running.bed, "fallback", &["fallback.test"]);
    running.wait_until_served("whatever.test", &renewed);
    running.bed.root.remove("fallback");
    running.wait_until_refused("whatever.test");
    running.assert_serves("www.test", &www);
}

#[test]
fn with_hosts_off_only_folder_names_are_served() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    write(&bed, "site", &["www.test"]);
    let named = write(&bed, "named.test", &["named.test"]);
    let running = OnDemand::start(&program, bed, "hosts = false\n");
    running.assert_serves("named.test", &named);
    assert_eq!(running.hello("www.test"), Answer::Refused);
}

#[test]
fn an_unknown_host_is_refused_within_a_second() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let running = OnDemand::start(&program, Bed::new(), "");
    // The fastest of several: the machine may be busy, and no timeout is this short.
    let fastest = (0..20)
        .map(|number| {
            let start = Instant::now();
            assert_eq!(running.hello(&format!("{number}.test")), Answer::Refused);
            start.elapsed()
        })
        .min();
    assert!(fastest < Some(Duration::from_secs(1)), "{fastest:?}");
}
