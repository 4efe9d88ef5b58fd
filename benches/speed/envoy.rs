//! The agent against what Envoy has built in: SDS from files that it watches itself.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::stats::{Durations, line, title};
use crate::util::{
    Bed, Envoy, Host, Https, Identity, Protocol, Way, eventually_true, require, tools,
};

const ROTATIONS: usize = 200;

/// From a kubelet swap to the first handshake that shows the new certificate, both ways.
pub(crate) fn against_its_own_file_watch() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    title("kubelet swap to handshake with a real Envoy, the writing included");
    let bed = Bed::new();
    Way::Kubelet.write(&bed.root, "site", 0, &bed.ca.server(&["site.test"]));
    let _agent = bed.agent();
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let hosts = [Host::new("site.test", "site")];
        let envoy = Envoy::start(&program, &bed.socket(), protocol, &hosts);
        let what = format!("the agent, {protocol:?}");
        line(&what, measure(&bed, &envoy.https("site.test")));
    }

    let hosts = [Host::new("site.test", "site")];
    let envoy = Envoy::start_from(&program, file_source(&bed), &hosts);
    line(
        "Envoy's own file watch",
        measure(&bed, &envoy.https("site.test")),
    );
}

fn measure(bed: &Bed, https: &Https) -> Durations {
    eventually_true("the first certificate", || https.get().is_ok());
    let rotate = |identity: &Identity| {
        let start = Instant::now();
        // kubelet's names are the time; here a number that was not used yet.
        let folders = fs::read_dir(bed.root.beside("")).unwrap().count();
        fs::create_dir(bed.root.beside(&format!("used-{folders}"))).unwrap();
        Way::Kubelet.write(&bed.root, "site", folders, identity);
        while https.leaf().unwrap() != identity.der {}
        start.elapsed()
    };
    let times = (0..ROTATIONS).map(|_| rotate(&bed.ca.server(&["site.test"])));
    Durations::new(times.collect())
}

/// The files of the credential as Envoy's own source of secrets.
fn file_source(bed: &Bed) -> Value {
    let folder = bed.root.credential("site");
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
