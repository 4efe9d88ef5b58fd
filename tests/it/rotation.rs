//! Five ways of replacing a pair: every rotation arrives, and only complete generations do.

use std::fs;
use std::os::unix::fs::symlink;

use crate::util::sds::Served;
use crate::util::{Bed, Envoy, Host, Identity, Protocol, Way, eventually_true, require, tools};

/// The number of rotations in each way that a real Envoy must have received.
const AT_ENVOY: usize = 20;

/// The number of consecutive rotations, of which none may be lost: similar agents are known to stop working after
/// some hundred.
const IN_A_ROW: usize = 1_000;

#[test]
fn every_way_of_rotating_arrives_at_envoy_with_sotw() {
    rotate_at_envoy(Protocol::Sotw);
}

#[test]
fn every_way_of_rotating_arrives_at_envoy_with_delta() {
    rotate_at_envoy(Protocol::Delta);
}

fn rotate_at_envoy(protocol: Protocol) {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let bed = Bed::new();
    for way in Way::ALL {
        way.write(&bed.root, way.name(), 0, &bed.ca.server(&[way.host()]));
    }
    let _agent = bed.agent();
    let hosts = Way::ALL.map(|way| Host::new(way.host(), way.name()));
    let envoy = Envoy::start(&program, &bed.socket(), protocol, &hosts);

    for way in Way::ALL {
        for generation in 1..=AT_ENVOY {
            let identity = bed.ca.server(&[way.host()]);
            way.write(&bed.root, way.name(), generation, &identity);
            let https = envoy.https(way.host()).ca(bed.ca.pem());
            eventually_true(&format!("{way:?}, rotation {generation}"), || {
                https.leaf().is_ok_and(|leaf| leaf == identity.der)
            });
        }
    }
    envoy.assert_no_rejection();
}

#[test]
fn a_thousand_rotations_as_kubelet_does_it() {
    a_thousand_rotations(Way::Kubelet);
}

#[test]
fn a_thousand_rotations_by_rename() {
    a_thousand_rotations(Way::Rename);
}

#[test]
fn a_thousand_rotations_by_copy() {
    a_thousand_rotations(Way::Copy);
}

#[test]
fn a_thousand_rotations_by_slow_copy() {
    a_thousand_rotations(Way::SlowCopy);
}

#[test]
fn a_thousand_rotations_as_certbot_does_it() {
    a_thousand_rotations(Way::Certbot);
}

fn a_thousand_rotations(way: Way) {
    let bed = Bed::new();
    // With an intermediate, so that a chain cut at a certificate boundary would be seen.
    let issuer = bed.ca.intermediate("Intermediate");
    let first = issuer.server(&["site.test"]);
    way.write(&bed.root, "site", 0, &first);
    let _agent = bed.agent();
    let (mut sotw, mut delta) = (bed.client().sotw(), bed.client().delta());
    sotw.subscribe(&["site"]);
    delta.subscribe(&["site"]);
    assert_generation(0, &first, &sotw.secret());
    assert_generation(0, &first, &delta.secret());

    for generation in 1..=IN_A_ROW {
        let next = issuer.server(&["site.test"]);
        way.write(&bed.root, "site", generation, &next);
        // It is neither the previous one nor a mixture: exactly this is sent next.
        assert_generation(generation, &next, &sotw.secret());
        assert_generation(generation, &next, &delta.secret());
    }
    sotw.stream.assert_silent();
    delta.0.assert_silent();
}

fn assert_generation(generation: usize, due: &Identity, served: &Served) {
    assert!(
        served.is_pair(&due.chain, &due.key),
        "expected generation {generation}:\n{}\ngot:\n{served:?}",
        due.chain
    );
}

/// dehydrated keeps every file that it has written, and switches links.
#[test]
fn leftover_files_of_a_tool_do_not_prevent_a_renewal() {
    const OLD: usize = 1000;
    let bed = Bed::new();
    let folder = bed.root.credential("site");
    fs::create_dir_all(&folder).unwrap();
    let renew = |generation: usize| {
        let identity = bed.ca.server(&["site.test"]);
        for (kind, content) in [("privkey", &identity.key), ("fullchain", &identity.chain)] {
            let file = format!("{kind}-{generation}.pem");
            fs::write(folder.join(&file), content).unwrap();
            symlink(&file, folder.join("new")).unwrap();
            fs::rename(folder.join("new"), folder.join(format!("{kind}.pem"))).unwrap();
        }
        identity
    };
    for generation in 0..OLD {
        for kind in ["cert", "chain", "fullchain", "privkey"] {
            fs::write(folder.join(format!("{kind}-{generation}.pem")), "old").unwrap();
        }
    }
    let first = renew(OLD);
    let agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    assert!(stream.secret().is_pair(&first.chain, &first.key));
    let second = renew(OLD + 1);
    while !stream.secret().is_pair(&second.chain, &second.key) {}
    assert!(agent.lines_with(&["more than"]).is_empty());
}
