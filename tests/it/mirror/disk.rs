//! The folders on disk: rejected content, removed folders, and modes changed by hand.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use serde_json::{Value, json};

use super::health::{ask, value};
use super::{BUNDLE, OTHER, Output, PAIR, TLS, bench, log, once, watching};
use crate::util::kube::{self, Mirror, secret};
use crate::util::users::ROOT;
use crate::util::{eventually_true, require};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn content_that_the_agent_would_reject_replaces_nothing() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.apply(&secret("a", "Opaque", &PAIR));
    let mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    output.wait_for_content("a", &PAIR);
    for bad in [
        [("cert", ""), ("key", "")],
        [PAIR[0], OTHER[1]],
        [("cert", "nonsense"), PAIR[1]],
    ] {
        let lines = mirror.lines().len();
        namespace.apply(&secret("a", "Opaque", &bad));
        mirror.wait_for_line_after(lines, &["ERROR", "/a: sds-agent would reject it"]);
        assert!(output.holds("a", &PAIR), "{bad:?}");
    }
    let ready = ask(&output.socket(), "/readyz");
    assert!(
        ready.contains("degraded") && ready.contains("would reject"),
        "{ready}"
    );
    assert_eq!(
        value(&output.socket(), "sds_mirror_problems{kind=\"content\"}"),
        Some(1.0)
    );
    // The same after a restart, and with another convention's keys.
    namespace.kubectl(&["delete", "secret", "a"]);
    namespace.apply(&secret(
        "a",
        "kubernetes.io/tls",
        &[("tls.crt", ""), ("tls.key", "")],
    ));
    drop(mirror);
    let mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    mirror.wait_for_line(&["ERROR", "/a: sds-agent would reject it"]);
    assert!(output.holds("a", &PAIR));

    namespace.kubectl(&["delete", "secret", "a"]);
    namespace.apply(&secret("a", "kubernetes.io/tls", &TLS));
    output.wait_for_content("a", &TLS);
    mirror.wait_for_line(&["/a: no longer a problem"]);
}

#[test]
fn an_empty_ca_next_to_a_valid_pair_is_left_out_and_a_previous_valid_one_stays() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    let with = |ca: &str| secret("a", "Opaque", &[TLS[0], TLS[1], ("ca.crt", ca)]);
    namespace.apply(&with(""));
    let mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    output.wait_for_content("a", &TLS);
    mirror.wait_for_line(&["ERROR", "/a: sds-agent would reject it", "CA bundle"]);
    namespace.apply(&with(*BUNDLE));
    let all = [("ca.crt", *BUNDLE), TLS[0], TLS[1]];
    output.wait_for_content("a", &all);
    let lines = mirror.lines().len();
    namespace.apply(&with("broken"));
    mirror.wait_for_line_after(lines, &["ERROR", "/a: sds-agent would reject it"]);
    assert!(output.holds("a", &all));
    // A bundle that is removed from the Secret is removed from the folder.
    namespace.kubectl(&["delete", "secret", "a"]);
    namespace.apply(&secret("a", "Opaque", &TLS));
    output.wait_for_content("a", &TLS);
}

#[test]
fn content_that_is_invalid_from_the_start_creates_no_folder() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.apply(&secret("bad", "Opaque", &[PAIR[0], OTHER[1]]));
    namespace.apply(&secret("good", "Opaque", &PAIR));
    let ended = once(cluster, &[&namespace.name], &output, &[]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        log(&ended).contains("/bad: sds-agent would reject it"),
        "{}",
        log(&ended)
    );
    assert_eq!(output.names(), ["good"]);
}

#[test]
fn three_hundred_removed_folders_are_restored_with_one_list() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::in_memory();
    let names: Vec<String> = (0..300).map(|number| format!("s-{number:03}")).collect();
    let objects: Vec<Value> = names
        .iter()
        .map(|name| secret(name, "Opaque", &PAIR))
        .collect();
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
    let mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    eventually_true("all folders", || output.names().len() == 300);
    let socket = output.socket();
    eventually_true("in step", || {
        value(&socket, "sds_mirror_not_in_step") == Some(0.0)
    });
    let lists = || value(&socket, "sds_mirror_lists_total").unwrap();
    assert_eq!(lists(), 1.0);
    for name in &names {
        fs::remove_dir_all(output.folder(name)).unwrap();
    }
    // It still notices changes in the meantime.
    namespace.create_generic("one-more", &PAIR);
    output.wait_for_content("one-more", &PAIR);
    eventually_true("all folders again", || output.names().len() == 301);
    mirror.wait_for_line(&["folders are missing or were changed"]);
    // The check may have run when only some of them had been removed.
    assert!(lists() <= 3.0, "{} lists", lists());
    eventually_true("in step again", || {
        value(&socket, "sds_mirror_not_in_step") == Some(0.0)
    });
}

#[test]
fn health_shows_folders_that_can_not_be_restored() {
    let Some(programs) = require(&kube::KUBE) else {
        return;
    };
    let mut cluster = kube::ControlPlane::start(&programs);
    let name = {
        let namespace = cluster.namespace();
        namespace.create_generic("a", &PAIR);
        namespace.create_generic("b", &PAIR);
        namespace.name.clone()
    };
    let output = Output::new();
    let mirror = Mirror::spawn(&mut watching(&cluster, &name, &output));
    output.wait_for(&["a", "b"]);
    cluster.kill_api_server();
    mirror.wait_for_line(&["WARN", "network"]);
    fs::remove_dir_all(output.folder("a")).unwrap();
    // A mode is corrected without the cluster.
    let key = output.folder("b/..data/key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o666)).unwrap();
    eventually_true("the mode", || mode(&key) == 0o640);
    let socket = output.socket();
    eventually_true("health", || {
        ask(&socket, "/readyz").contains("not in step: 1 objects")
    });
    eventually_true("not ready", || ask(&socket, "/readyz").contains("503"));
    assert_eq!(value(&socket, "sds_mirror_folders"), Some(1.0));
    cluster.start_api_server();
    output.wait_for_content("a", &PAIR);
    eventually_true("ready", || ask(&socket, "/readyz").contains("200 OK"));
}

#[test]
fn files_and_modes_changed_by_hand_are_corrected() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    let mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    output.wait_for_content("a", &PAIR);
    let key = output.folder("a/..data/key");
    for (path, changed, right) in [
        (key.clone(), 0o666, 0o640),
        (output.folder("a"), 0o777, 0o750),
        (output.folder("a/..data/"), 0o755, 0o750),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(changed)).unwrap();
        eventually_true("the mode", || mode(&path) == right);
    }
    mirror.wait_for_line(&["WARN", "corrected", "key"]);
    fs::write(&key, "other").unwrap();
    output.wait_for_content("a", &PAIR);
    fs::remove_file(output.folder("a/cert")).unwrap();
    output.wait_for_content("a", &PAIR);
    fs::write(output.folder("a/..data/more"), "x").unwrap();
    eventually_true("the stranger gone", || {
        !output.folder("a/..data/more").exists()
    });
    assert!(output.holds("a", &PAIR));
}

#[test]
fn a_second_mirror_never_runs_whatever_is_deleted() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    let _mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    output.wait_for_content("a", &PAIR);
    for entry in fs::read_dir(output.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    let ended = once(cluster, &[&namespace.name], &output, &[]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        log(&ended).contains("another sds-mirror uses"),
        "{}",
        log(&ended)
    );
}

#[test]
fn modes_and_owner_can_be_chosen() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    let modes = ["--file-mode", "0600", "--dir-mode", "0755"];
    assert!(
        once(cluster, &[&namespace.name], &output, &modes)
            .status
            .success()
    );
    assert_eq!(mode(&output.folder("a/..data/key")), 0o600);
    assert_eq!(mode(&output.folder("a")), 0o755);
    if require(&ROOT).is_none() {
        return;
    }
    let owner = ["--owner", "61234"];
    assert!(
        once(cluster, &[&namespace.name], &output, &owner)
            .status
            .success()
    );
    let metadata = fs::metadata(output.folder("a/..data/key")).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (61_234, 0o640));
    chown(output.path(), Some(0), Some(0)).unwrap();
}
