//! Removals that are held back, until the Secret is back or the operator decides.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::health::{ask, check_metrics, value};
use super::{Output, PAIR, asking, bench, log, once, watching};
use crate::util::kube::{self, ControlPlane, Mirror, Namespace, PROGRAM, secret};
use crate::util::users::ROOT;
use crate::util::wait::QUIET;
use crate::util::{eventually_true, require};

const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

fn labelled(name: &str) -> Value {
    let mut object = secret(name, "Opaque", &PAIR);
    object["metadata"]["labels"] = json!({"mirror": "yes"});
    object
}

fn list(objects: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": objects})
}

/// Ten Secrets with a label, mirrored by it.
fn ten(cluster: &ControlPlane, namespace: &Namespace<'_>, output: &Output) -> (Mirror, Command) {
    namespace.apply(&list(TEN.map(labelled).into()));
    let mut command = watching(cluster, &namespace.name, output);
    command.args(["--selector", "mirror=yes"]);
    let mirror = Mirror::spawn(&mut command);
    output.wait_for(&TEN);
    (mirror, command)
}

fn held(output: &Output) -> f64 {
    value(&output.socket(), "sds_mirror_held_folders").unwrap()
}

fn end(mut mirror: Mirror) {
    mirror.signal(Signal::TERM);
    assert!(mirror.wait().success());
}

#[test]
fn each_held_folder_stays_held_whatever_happens_to_others() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    let (mirror, mut command) = ten(cluster, &namespace, &output);
    end(mirror);
    namespace.kubectl(&["delete", "secret", "--all"]);
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["ERROR", "the removal of 10 folders is held back"]);
    let ready = ask(&output.socket(), "/readyz");
    assert!(ready.contains("\r\n\r\ndegraded\n"), "{ready}");
    assert!(ready.contains("folders held back: 10"), "{ready}");
    check_metrics(&ask(&output.socket(), "/metrics"));

    // Eleven others are created, then the first five again, one by one.
    let new: Vec<String> = (0..11).map(|number| format!("new-{number:02}")).collect();
    for name in &new {
        namespace.apply(&labelled(name));
    }
    for (number, name) in TEN[..5].iter().enumerate() {
        namespace.apply(&labelled(name));
        let left = f64::from(9 - i32::try_from(number).unwrap());
        eventually_true("one hold less", || held(&output) == left);
    }
    let mut names: Vec<&str> = TEN
        .iter()
        .copied()
        .chain(new.iter().map(String::as_str))
        .collect();
    names.sort_unstable();
    output.wait_for(&names);
    // Another process decides the same, although half of the ten are back.
    end(mirror);
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["ERROR", "the removal of 5 folders is held back"]);
    std::thread::sleep(QUIET);
    assert_eq!(output.names(), names);
    assert_eq!(output.manifest("f")["held"], true);
    assert_eq!(output.manifest("a")["held"], Value::Null);

    // The operator releases one folder, one that is not held, and then all.
    let ended = asking(&output, &["release", "f", "a"]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        log(&ended).contains("a: its removal is not held back"),
        "{}",
        log(&ended)
    );
    eventually_true("f gone", || !output.names().contains(&"f".to_owned()));
    assert!(asking(&output, &["release", "--all"]).status.success());
    names.retain(|name| !TEN[5..].contains(name));
    output.wait_for(&names);
    eventually_true("ready", || {
        ask(&output.socket(), "/readyz").contains("\r\n\r\nready\n")
    });
    assert_eq!(held(&output), 0.0);
}

#[test]
fn removing_all_secrets_at_once_is_held_back() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    for arguments in [
        &["delete", "secret", "--all"][..],
        &["label", "secret", "--all", "mirror-"],
    ] {
        let namespace = cluster.namespace();
        let output = Output::new();
        let (mirror, _) = ten(cluster, &namespace, &output);
        namespace.kubectl(arguments);
        mirror.wait_for_line(&["ERROR", "folders is held back"]);
        eventually_true("ten holds", || held(&output) == 10.0);
        assert_eq!(output.names(), TEN, "{arguments:?}");
    }
}

#[test]
fn removals_above_the_share_within_the_window_are_held_and_both_are_configurable() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    for name in ["a", "b", "c", "d"] {
        namespace.create_generic(name, &PAIR);
    }
    let mut command = watching(cluster, &namespace.name, &output);
    command.args(["--mass-removal-percent", "25"]);
    let mirror = Mirror::spawn(&mut command);
    output.wait_for(&["a", "b", "c", "d"]);
    namespace.delete("a");
    output.wait_for(&["b", "c", "d"]);
    namespace.delete("b");
    mirror.wait_for_line(&["ERROR", "the removal of 1 folders is held back"]);
    end(mirror);

    let namespace = cluster.namespace();
    let output = Output::new();
    for name in ["a", "b"] {
        namespace.create_generic(name, &PAIR);
    }
    let mut command = watching(cluster, &namespace.name, &output);
    command.args(["--mass-removal-window", "1ms"]);
    let _mirror = Mirror::spawn(&mut command);
    output.wait_for(&["a", "b"]);
    namespace.delete("a");
    output.wait_for(&["b"]);
    namespace.delete("b");
    output.wait_for(&[]);
}

#[test]
fn a_mistyped_selector_does_not_remove_the_only_folder() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let (full, empty) = (cluster.namespace(), cluster.namespace());
    let output = Output::new();
    full.create_generic("a", &PAIR);
    assert!(once(cluster, &[&full.name], &output, &[]).status.success());
    let wrong = ["--selector", "no=such"];
    let ended = once(cluster, &[&full.name], &output, &wrong);
    assert_eq!(ended.status.code(), Some(1));
    let expected = "the removal of 1 folders is held back";
    assert!(log(&ended).contains(expected), "{}", log(&ended));
    // Another namespace is a separate mistake.
    let ended = once(cluster, &[&empty.name], &output, &[]);
    assert!(
        log(&ended).contains("no longer mirrored"),
        "{}",
        log(&ended)
    );
    assert_eq!(output.names(), ["a"]);
    // It is intended.
    let allowed = [&wrong[..], &["--allow-mass-removal"]].concat();
    assert!(
        once(cluster, &[&full.name], &output, &allowed)
            .status
            .success()
    );
    assert!(output.names().is_empty());
}

/// A user other than root, whose folder root also uses.
const USER: u32 = 61_234;
const GROUP: u32 = 61_235;

#[test]
fn a_pass_as_root_leaves_files_that_the_folders_owner_can_use() {
    if require(&ROOT).is_none() {
        return;
    }
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    for name in ["a", "b"] {
        namespace.create_generic(name, &PAIR);
    }
    fs::create_dir(output.path()).unwrap();
    chown(output.path(), Some(USER), Some(GROUP)).unwrap();
    chown(output.beside(""), Some(USER), Some(GROUP)).unwrap();
    let kubeconfig = output.beside("kubeconfig");
    fs::copy(cluster.admin_kubeconfig(), &kubeconfig).unwrap();
    chown(&kubeconfig, Some(USER), None).unwrap();
    let socket = ["--admin-socket", output.socket().to_str().unwrap()].map(str::to_owned);
    let socket = socket.each_ref().map(String::as_str);
    assert!(
        once(cluster, &[&namespace.name], &output, &socket)
            .status
            .success()
    );
    assert!(!output.socket().exists(), "a pass needs no admin socket");
    let owners = |path: &str| {
        let metadata = fs::symlink_metadata(output.folder(path)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    for path in [
        "",
        "a",
        "a/..data/",
        "a/..data/key",
        "a/..data/..sds-mirror.json",
    ] {
        assert_eq!(owners(path), (USER, GROUP), "{path}");
    }

    // The unit's user can continue with the folder, and reports what it can't read.
    let locked = output.folder("b");
    fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    chown(&locked, Some(0), Some(0)).unwrap();
    let mut command = Mirror::without_access(&[&namespace.name], &output.path());
    command.arg("--kubeconfig").arg(&kubeconfig);
    command.args(["--check-interval", "300ms", "--admin-socket"]);
    command.arg(output.socket()).uid(USER).gid(GROUP);
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["ERROR", "folder b", "can't be read"]);
    let ready = ask(&output.socket(), "/readyz");
    assert!(
        ready.contains("503") && ready.contains("folders unreadable: 1"),
        "{ready}"
    );
    assert!(!ready.contains("not made by"), "{ready}");
    assert_eq!(
        value(&output.socket(), "sds_mirror_unreadable_folders"),
        Some(1.0)
    );
    chown(&locked, Some(USER), Some(GROUP)).unwrap();
    eventually_true("ready", || {
        ask(&output.socket(), "/readyz").contains("200 OK")
    });
    end(mirror);
}

#[test]
fn other_users_can_not_release_folders() {
    if require(&ROOT).is_none() {
        return;
    }
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    assert!(
        once(cluster, &[&namespace.name], &output, &[])
            .status
            .success()
    );
    let mut command = watching(cluster, &namespace.name, &output);
    command.args(["--selector", "no=such", "--group", &GROUP.to_string()]);
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["held back"]);
    fs::set_permissions(
        output.beside(""),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let ended = Command::new(PROGRAM)
        .args(["release", "--all", "--admin-socket"])
        .arg(output.socket())
        .uid(USER)
        .gid(GROUP)
        .output();
    // The program itself may be inaccessible for that user.
    if let Ok(ended) = ended {
        assert_eq!(ended.status.code(), Some(2));
        assert!(log(&ended).contains("only root"), "{}", log(&ended));
    }
    assert_eq!(output.names(), ["a"]);
}
