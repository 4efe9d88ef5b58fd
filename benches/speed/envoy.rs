//! The agent against what Envoy has built in: SDS from files that it watches itself.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::beds::{Beds, SITE, kubelet_bed, new_generation};
use crate::stats::{Durations, line, title};
use crate::util::{Bed, Envoy, Host, Https, Protocol, Way, eventually_true, require, tools};

const ROTATIONS: usize = 200;

/// From a kubelet swap to the first handshake that shows the new certificate, both ways, in turns. Each Envoy has
/// its own root, so that they don't affect each other.
pub(crate) fn against_its_own_file_watch(_: &Beds) {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    title("kubelet swap to handshake with a real Envoy, including the writing");
    let hosts = [Host::new("site.test", SITE)];
    let own = kubelet_bed(1);
    let own_envoy = Envoy::start_from(&program, file_source(&own), &hosts);
    let with_agent = [Protocol::Delta, Protocol::Sotw].map(|protocol| {
        let bed = kubelet_bed(1);
        let agent = bed.agent();
        let envoy = Envoy::start(&program, &bed.socket(), protocol, &hosts);
        (bed, agent, envoy)
    });
    let own = [("Envoy's own file watch", &own, own_envoy.https("site.test"))];
    let with_agent = ["the agent, delta", "the agent, SotW"]
        .into_iter()
        .zip(&with_agent);
    let with_agent =
        with_agent.map(|(name, (bed, _, envoy))| (name, bed, envoy.https("site.test")));
    let contenders: Vec<_> = own.into_iter().chain(with_agent).collect();
    for (_, _, https) in &contenders {
        eventually_true("the first certificate", || https.get().is_ok());
    }
    let mut times: Vec<Vec<Duration>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROTATIONS {
        for ((_, bed, https), times) in contenders.iter().zip(&mut times) {
            times.push(rotate(bed, https));
        }
    }
    let times: Vec<_> = times.into_iter().map(Durations::new).collect();
    for ((name, ..), times_of_it) in contenders.iter().zip(&times) {
        let ratio = times_of_it.median().as_secs_f64() / times[0].median().as_secs_f64();
        line(name, format!("{times_of_it}   ratio {ratio:.2}"));
    }
}

fn rotate(bed: &Bed, https: &Https) -> Duration {
    let identity = bed.ca.server(&["site.test"]);
    let generation = new_generation(bed);
    let start = Instant::now();
    Way::Kubelet.write(&bed.root, SITE, generation, &identity);
    while https.leaf().unwrap() != identity.der {}
    start.elapsed()
}

/// The files of the credential as Envoy's own source of secrets.
fn file_source(bed: &Bed) -> Value {
    let folder = bed.root.credential(SITE);
    let secret = json!({"resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "site",
        "tls_certificate": {
            "certificate_chain": {"filename": folder.join("tls.crt")},
            "private_key": {"filename": folder.join("tls.key")},
            "watched_directory": {"path": folder},
        },
    }]});
    let path = bed.scratch("secret.json");
    fs::write(&path, secret.to_string()).unwrap();
    json!({"resource_api_version": "V3", "path_config_source": {"path": path}})
}
