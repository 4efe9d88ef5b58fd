//! Session ticket keys: whose sessions are resumed, where and for how long.

use std::path::Path;

use super::envoys::{self, TlsHost};
use super::rotate;
use crate::util::s_client::{s_client, ticket_key_name};
use crate::util::{Bed, Envoy, eventually_true, require, tools};

const HOST: &str = "site.test";

#[test]
fn two_envoys_resume_each_others_sessions_until_the_key_is_removed() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let bed = Bed::new();
    bed.root
        .write_pair("site", &bed.ca.intermediate("between").server(&[HOST]));
    bed.root.write("tickets", &[("0.ticketkey", [b'0'; 80])]);
    let folder = bed.root.credential("tickets");
    let _agent = bed.ready_agent();
    let hosts = [TlsHost {
        name: HOST,
        pair: "site",
        ticket_keys: Some("tickets"),
    }];
    let envoys = [(); 2].map(|()| envoys::start(&program, &bed, &hosts, vec![], vec![]));
    let sessions = ["-tls1_2", "-tls1_3"].map(|version| {
        let file = bed.scratch(version);
        (version, file.to_str().unwrap().to_owned())
    });
    await_key(&envoys, &folder);
    for (version, file) in &sessions {
        let first = s_client(envoys[0].port(), HOST, &[version, "-sess_out", file]);
        assert!(first.contains("New, TLSv1"), "{first}");
    }
    let assert_resumed = |expected: bool| {
        for (version, file) in &sessions {
            for envoy in &envoys {
                let again = s_client(envoy.port(), HOST, &[version, "-sess_in", file]);
                assert_eq!(
                    again.contains("Reused, TLSv1"),
                    expected,
                    "{version}: {again}"
                );
                assert_eq!(
                    again.contains("New, TLSv1"),
                    !expected,
                    "{version}: {again}"
                );
            }
        }
    };
    assert_resumed(true);
    assert!(rotate(&folder, "2").status.success());
    await_key(&envoys, &folder);
    assert_resumed(true);
    assert!(rotate(&folder, "2").status.success());
    await_key(&envoys, &folder);
    assert_resumed(false);
    for envoy in &envoys {
        envoy.assert_no_rejection();
    }
}

/// Waits until tickets are encrypted with the newest key in `folder`.
#[track_caller]
fn await_key(envoys: &[Envoy], folder: &Path) {
    let files = std::fs::read_dir(folder).unwrap();
    let newest = files.map(|entry| entry.unwrap().path()).max().unwrap();
    let name = std::fs::read(newest).unwrap()[..16].to_vec();
    for envoy in envoys {
        eventually_true("a ticket of the newest key", || {
            let printed = s_client(envoy.port(), HOST, &["-tls1_2"]);
            ticket_key_name(&printed).as_ref() == Some(&name)
        });
    }
}
