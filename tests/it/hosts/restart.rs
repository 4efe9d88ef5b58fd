//! Credentials that were served before a restart and can't be read after it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{configured, write};
use crate::util::admin;
use crate::util::hello::{Answer, hello};
use crate::util::tools::ENVOY;
use crate::util::{Agent, Bed, Envoy, Identity, eventually_true, require};

/// Makes the files of a credential folder invalid.
type Spoil = fn(&Bed, &Path);

/// The ways in which files become invalid, each with a name.
const WAYS: [(&str, Spoil); 7] = [
    ("another-key", |bed, folder| {
        fs::write(folder.join("key"), bed.ca.server(&["x.test"]).key).unwrap();
    }),
    ("no-key", |_, folder| {
        fs::remove_file(folder.join("key")).unwrap()
    }),
    ("no-certificate", |_, folder| {
        fs::remove_file(folder.join("cert")).unwrap();
    }),
    ("empty-key", |_, folder| {
        fs::write(folder.join("key"), "").unwrap()
    }),
    ("empty-folder", |_, folder| {
        fs::remove_file(folder.join("key")).unwrap();
        fs::remove_file(folder.join("cert")).unwrap();
    }),
    // Root can read every file, but not a link that leads to itself.
    ("unreadable", |_, folder| {
        fs::remove_file(folder.join("key")).unwrap();
        symlink("key", folder.join("key")).unwrap();
    }),
    ("too-large", |_, folder| {
        fs::write(folder.join("cert"), vec![b'\n'; (1 << 20) + 1]).unwrap();
    }),
];

fn host(name: &str) -> String {
    format!("www.{name}.test")
}

/// Waits until Envoy has requested that many secrets from a restarted agent.
#[track_caller]
fn wait_for_streams(bed: &Bed, count: u64) {
    eventually_true("Envoy's streams", || {
        let state = admin::status(&bed.admin());
        state["agent"]["streams"]["delta"].as_u64() >= Some(count)
    });
}

#[track_caller]
fn assert_served(port: u16, hosts: &[(String, Identity)]) {
    for (host, identity) in hosts {
        let answer = hello(port, Some(host.as_bytes()));
        assert!(answer.shows(&identity.der), "{host}: {answer:?}");
    }
}

/// No removal has reached Envoy: nothing that it was sent since the restart removes anything.
#[track_caller]
fn assert_nothing_withdrawn(agent: &Agent) {
    let lines = agent.lines_with(&["reported as nonexistent"]);
    assert!(lines.is_empty(), "{lines:#?}");
}

#[test]
fn a_restart_over_bad_files_withdraws_nothing_from_envoy() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let debug = "log_level = \"debug\"\n";
    let bed = Bed::new();
    let names = WAYS.map(|(name, _)| name);
    let mut hosts: Vec<_> = names
        .iter()
        .map(|name| (host(name), write(&bed, name, &[&host(name)])))
        .collect();
    let gone = (host("gone"), write(&bed, "gone", &[&host("gone")]));
    let mut agent = configured(&bed, debug);
    let envoy = Envoy::on_demand(&program, &bed.socket(), "no-host", None);
    let port = envoy.port();
    assert_served(port, &hosts);
    assert_served(port, std::slice::from_ref(&gone));

    agent.kill();
    for (name, spoil) in WAYS {
        spoil(&bed, &bed.root.credential(name));
    }
    let agent = configured(&bed, debug);
    wait_for_streams(&bed, hosts.len() as u64 + 1);
    assert_served(port, &hosts);
    assert_nothing_withdrawn(&agent);
    for name in names.iter().filter(|name| **name != "empty-folder") {
        agent.wait_for_line(&["rejected", name]);
    }
    drop(agent);

    // A folder that is deleted while the agent is down may be what an invalid folder covered before: as long as
    // there is an invalid folder, its host is not removed either.
    bed.root.remove("gone");
    let agent = configured(&bed, debug);
    wait_for_streams(&bed, hosts.len() as u64 + 1);
    assert_served(port, &hosts);
    assert_served(port, std::slice::from_ref(&gone));
    assert_nothing_withdrawn(&agent);

    // Valid files again: a rotation for those that have another certificate.
    for (name, (host, identity)) in names.iter().zip(&mut hosts) {
        let _ = fs::remove_file(bed.root.credential(name).join("key"));
        *identity = write(&bed, name, &[host]);
    }
    for (host, identity) in &hosts {
        eventually_true(&format!("the certificate of {host}"), || {
            hello(port, Some(host.as_bytes())).shows(&identity.der)
        });
    }
    eventually_true("a refusal of what is gone", || {
        hello(port, Some(gone.0.as_bytes())) == Answer::Refused
    });
    envoy.assert_no_rejection();
}

#[test]
fn what_is_deleted_while_the_agent_is_stopped_is_withdrawn() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let stays = (
        "stays.test".to_owned(),
        write(&bed, "stays", &["stays.test"]),
    );
    write(&bed, "gone", &["gone.test"]);
    let mut agent = configured(&bed, "");
    let envoy = Envoy::on_demand(&program, &bed.socket(), "no-host", None);
    let port = envoy.port();
    assert_served(port, std::slice::from_ref(&stays));
    assert_ne!(hello(port, Some(b"gone.test")), Answer::Refused);
    agent.kill();
    bed.root.remove("gone");
    let _agent = configured(&bed, "");
    eventually_true("a refusal of what is gone", || {
        hello(port, Some(b"gone.test")) == Answer::Refused
    });
    assert_served(port, &[stays]);
}

#[test]
fn a_root_that_is_missing_at_the_start_is_reported_and_withdraws_nothing() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let other = bed.root.beside("other");
    let config = format!(
        "log_level = \"debug\"\n[[root]]\npath = {:?}\n[[root]]\npath = {other:?}\n",
        bed.root.path()
    );
    let hosts: Vec<_> = ["a", "b"]
        .map(|name| (host(name), write(&bed, name, &[&host(name)])))
        .into();
    crate::util::folders::write_files(
        &other.join("elsewhere"),
        &[("cert", &hosts[0].1.chain), ("key", &hosts[0].1.key)],
    );
    let start = || {
        let path = bed.scratch("sds-agent.toml");
        fs::write(&path, &config).unwrap();
        let builder = Agent::builder(&bed.socket()).arg("--config").arg(path);
        bed.ready(builder)
    };
    let mut agent = start();
    let envoy = Envoy::on_demand(&program, &bed.socket(), "no-host", None);
    let port = envoy.port();
    assert_served(port, &hosts);
    assert_eq!(admin::get(&bed.admin(), "/readyz").status, 200);
    assert!(
        !admin::get(&bed.admin(), "/readyz")
            .body
            .contains("degraded")
    );

    agent.kill();
    let away = bed.root.beside("away");
    fs::rename(bed.root.path(), &away).unwrap();
    let agent = start();
    wait_for_streams(&bed, 2);
    assert_served(port, &hosts);
    assert_nothing_withdrawn(&agent);

    let path = bed.root.path().display().to_string();
    let readyz = admin::get(&bed.admin(), "/readyz");
    assert_eq!(readyz.status, 200);
    assert!(
        readyz.body.contains("degraded") && readyz.body.contains(&path),
        "{readyz:?}"
    );
    let listed = |root: &Path| format!("sds_agent_root_listed{{root=\"{}\"}}", root.display());
    assert_eq!(
        admin::metric(&bed.admin(), &listed(&bed.root.path())),
        Some(0.0)
    );
    assert_eq!(admin::metric(&bed.admin(), &listed(&other)), Some(1.0));
    let state = admin::status(&bed.admin());
    assert!(
        state["agent"]["degraded"][0]
            .as_str()
            .unwrap()
            .contains(&path)
    );
    assert_eq!(state["roots"][0]["listed"], false);
    let output = std::process::Command::new(crate::util::agent::PROGRAM)
        .arg("status")
        .arg("--admin-socket")
        .arg(bed.admin())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        shown.contains("degraded: ") && shown.contains(&path),
        "{shown}"
    );

    // The root is mounted again, with one certificate renewed and one removed.
    fs::remove_dir_all(away.join("b")).unwrap();
    fs::rename(&away, bed.root.path()).unwrap();
    let renewed = write(&bed, "a", &[&hosts[0].0]);
    eventually_true("the renewed certificate", || {
        hello(port, Some(hosts[0].0.as_bytes())).shows(&renewed.der)
    });
    eventually_true("a refusal of what is gone", || {
        hello(port, Some(hosts[1].0.as_bytes())) == Answer::Refused
    });
    assert!(
        !admin::get(&bed.admin(), "/readyz")
            .body
            .contains("degraded")
    );
    assert_eq!(
        admin::metric(&bed.admin(), &listed(&bed.root.path())),
        Some(1.0)
    );
}
