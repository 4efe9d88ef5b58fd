//! The time from `kubectl apply` to the new certificate in a handshake. This measures, and asserts nothing about
//! speed: `cargo test --release --features mirror --test it -- --ignored --nocapture latency`.

use std::time::{Duration, Instant};

use super::Output;
use crate::util::kube::{self, Mirror, secret};
use crate::util::{Agent, Ca, Envoy, Host, Protocol, eventually_true, require, tools};

const HOST: &str = "a.example.com";
const ROUNDS: usize = 50;

#[test]
#[ignore = "a measurement"]
fn latency_from_apply_to_handshake() {
    let (Some(program), Some(cluster)) = (require(&tools::ENVOY), kube::shared()) else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::new();
    let sockets = crate::util::agent::socket_folder();
    let socket = sockets.path().join("sds.sock");
    let _mirror = Mirror::start(&namespace, &output.path());
    let _agent = Agent::start(&output.path(), &socket);
    let hosts = [Host::new(HOST, "credential")];
    let envoy = Envoy::start(&program, &socket, Protocol::Delta, &hosts);
    let https = envoy.https(HOST);
    let ca = Ca::new("CA");
    let apply = |identity: &crate::util::Identity| {
        let pair = [
            ("cert", identity.chain.as_str()),
            ("key", identity.key.as_str()),
        ];
        namespace.apply(&secret("credential", "Opaque", &pair));
    };
    apply(&ca.server(&[HOST]));
    eventually_true("the first one", || https.get().is_ok());

    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let identity = ca.server(&[HOST]);
            // Measured from the response to kubectl, because starting kubectl takes longer than everything else.
            apply(&identity);
            let started = Instant::now();
            while !https.leaf().is_ok_and(|leaf| leaf == identity.der) {
                assert!(started.elapsed() < crate::util::BOUND);
            }
            started.elapsed()
        })
        .collect();
    times.sort();
    eprintln!(
        "from the end of kubectl apply to the new certificate in a handshake: median {:?}, longest {:?} of {ROUNDS}",
        times[ROUNDS / 2],
        times[ROUNDS - 1]
    );
}
