//! Which Secrets become which folders, and when those change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use super::{BUNDLE, OTHER, Output, PAIR, TLS, bench, log, once};
use crate::util::kube::{self, Mirror, secret};
use crate::util::{Ca, eventually_true};

#[test]
fn a_secrets_folder_is_created_updated_and_removed() {
    let Some((_, namespace, output)) = bench() else {
        return;
    };
    let identity = Ca::new("CA").server(&["a.example.com"]);
    namespace.create_tls("first", &identity);
    let mut mirror = Mirror::start(&namespace, &output.path());
    let pair = [
        ("tls.crt", identity.chain.as_str()),
        ("tls.key", identity.key.as_str()),
    ];
    output.wait_for_content("first", &pair);

    let three = [("cacert", *BUNDLE), PAIR[0], PAIR[1]];
    namespace.apply(&secret("second", "Opaque", &three));
    output.wait_for_content("second", &three);
    namespace.apply(&secret("second", "Opaque", &OTHER));
    output.wait_for_content("second", &OTHER);
    namespace.delete("second");
    output.wait_for(&["first"]);

    mirror.signal(Signal::TERM);
    assert!(mirror.wait().success());
    for line in mirror.lines() {
        assert!(!line.contains("PRIVATE KEY"), "{line}");
    }
}

#[test]
fn modes_group_and_manifest_are_as_documented() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    // Root may give files to any group, others only to one of their own.
    let group = if rustix::process::geteuid().is_root() {
        "4711".to_owned()
    } else {
        rustix::process::getegid().as_raw().to_string()
    };
    let ended = once(cluster, &[&namespace.name], &output, &["--group", &group]);
    assert!(ended.status.success(), "{}", log(&ended));
    let expect = |path: &str, mode: u32| {
        let metadata = fs::symlink_metadata(output.folder(path)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode, "{path}");
        assert_eq!(metadata.gid().to_string(), group, "{path}");
    };
    let generation = fs::read_link(output.folder("a/..data")).unwrap();
    expect("a", 0o750);
    expect(&format!("a/{}", generation.display()), 0o750);
    for file in ["cert", "key", "..sds-mirror.json"] {
        expect(&format!("a/..data/{file}"), 0o640);
    }
    let manifest = fs::read(output.folder("a/..data/..sds-mirror.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let field = |path: &str| {
        namespace.kubectl(&["get", "secret", "a", "-o", &format!("jsonpath={{{path}}}")])
    };
    assert_eq!(manifest["namespace"], namespace.name.as_str());
    assert_eq!(manifest["name"], "a");
    assert_eq!(manifest["uid"], field(".metadata.uid").as_str());
    assert_eq!(
        manifest["resourceVersion"],
        field(".metadata.resourceVersion").as_str()
    );
    assert_eq!(manifest["cluster"]["server"], format!("{}/", cluster.url()));
}

#[test]
fn objects_that_are_not_credentials_are_skipped_and_half_a_pair_is_refused() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    let tls = &*TLS;
    for (name, type_, data) in [
        ("good", "Opaque", &PAIR[..]),
        ("tls", "kubernetes.io/tls", tls),
        (
            "as-istio-documents",
            "Opaque",
            &[tls[0], tls[1], ("ca.crt", *BUNDLE)],
        ),
        ("good-cacert", "Opaque", &[("cacert", *BUNDLE)]),
        ("istio-ca", "Opaque", &PAIR),
        ("prometheus-x", "Opaque", &PAIR),
        ("with-token", "Opaque", &[PAIR[0], PAIR[1], ("token", "T")]),
        ("helm", "helm.sh/release.v1", &PAIR),
        ("other", "example.com/type", &PAIR),
        ("password", "Opaque", &[("password", "P")]),
        ("half", "Opaque", &[PAIR[0]]),
        ("more", "Opaque", &[PAIR[0], PAIR[1], ("password", "P")]),
    ] {
        namespace.apply(&secret(name, type_, data));
    }
    let ended = once(cluster, &[&namespace.name], &output, &[]);
    let log = log(&ended);
    let names = ["as-istio-documents", "good", "good-cacert", "more", "tls"];
    assert_eq!(output.names(), names, "{log}");
    assert!(
        output.holds("more", &PAIR),
        "other keys stay in the cluster"
    );
    assert_eq!(ended.status.code(), Some(1), "half a pair is refused");
    let half = format!("{}/half: it has cert and lacks key", namespace.name);
    assert!(log.contains(&half), "{log}");
}

#[test]
fn folder_names_follow_the_template_and_a_clash_names_both_objects() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let (one, two) = (cluster.namespace(), cluster.namespace());
    for namespace in [&one, &two] {
        namespace.create_generic("web", &PAIR);
    }
    let namespaces = [one.name.as_str(), two.name.as_str()];

    let output = Output::new();
    let template = ["--name-template", "{namespace}.{name}"];
    let ended = once(cluster, &namespaces, &output, &template);
    assert!(ended.status.success(), "{}", log(&ended));
    let names = namespaces.map(|namespace| format!("{namespace}.web"));
    assert_eq!(output.names(), names);

    let output = Output::new();
    let ended = once(cluster, &namespaces, &output, &[]);
    assert_eq!(ended.status.code(), Some(1));
    let log = log(&ended);
    for (this, that) in [(&one, &two), (&two, &one)] {
        let clash = format!(
            "{}/web: it is not mirrored: {}/web has or would have",
            this.name, that.name
        );
        assert!(log.contains(&clash), "{log}");
    }
    assert!(
        output.names().is_empty(),
        "neither object gets the folder that both would have"
    );
}

#[test]
fn names_that_are_too_long_are_refused() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic(&"n".repeat(250), &PAIR);
    namespace.create_generic("short", &PAIR);
    let template = ["--name-template", "{namespace}.{name}"];
    let ended = once(cluster, &[&namespace.name], &output, &template);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        log(&ended).contains("longer than 253 bytes"),
        "{}",
        log(&ended)
    );
    assert_eq!(output.names(), [format!("{}.short", namespace.name)]);
}

#[test]
fn a_foreign_folder_is_not_changed_until_it_is_moved_away() {
    let Some((_, namespace, output)) = bench() else {
        return;
    };
    fs::create_dir_all(output.folder("a")).unwrap();
    fs::write(output.folder("a").join("cert"), "mine").unwrap();
    namespace.create_generic("a", &PAIR);
    let mirror = Mirror::start(&namespace, &output.path());
    mirror.wait_for_line(&["ERROR", "/a: it is not mirrored", "did not make"]);
    namespace.delete("a");
    mirror.wait_for_line(&["/a: no longer a problem"]);
    namespace.create_generic("a", &OTHER);
    assert!(output.holds("a", &[("cert", "mine")]));

    fs::rename(output.folder("a"), output.beside("moved")).unwrap();
    output.wait_for_content("a", &OTHER);
}

#[test]
fn changes_made_while_the_mirror_was_stopped_are_applied() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    for name in ["changed", "deleted", "made-again", "stays"] {
        namespace.create_generic(name, &PAIR);
    }
    assert!(
        once(cluster, &[&namespace.name], &output, &[])
            .status
            .success()
    );

    namespace.apply(&secret("changed", "Opaque", &OTHER));
    namespace.delete("deleted");
    namespace.delete("made-again");
    namespace.create_generic("made-again", &OTHER);
    namespace.create_generic("new", &PAIR);
    let generation = |name: &str| fs::read_link(output.folder(name).join("..data")).unwrap();
    let untouched = generation("stays");
    let ended = once(cluster, &[&namespace.name], &output, &[]);
    assert!(ended.status.success(), "{}", log(&ended));
    assert_eq!(output.names(), ["changed", "made-again", "new", "stays"]);
    assert!(output.holds("changed", &OTHER) && output.holds("made-again", &OTHER));
    assert_eq!(
        generation("stays"),
        untouched,
        "the same content is not written anew"
    );
}

#[test]
fn a_secret_that_is_no_longer_selected_is_removed() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    let labelled = |name: &str| {
        let mut object = secret(name, "Opaque", &PAIR);
        object["metadata"]["labels"] = json!({"mirror": "yes"});
        object
    };
    namespace.apply(&labelled("a"));
    namespace.apply(&labelled("b"));
    namespace.create_generic("c", &PAIR);
    let mut command = Mirror::command(cluster, &[&namespace.name], &output.path());
    command.args([
        "--selector",
        "mirror=yes",
        "--field-selector",
        "metadata.name!=b",
    ]);
    let _mirror = Mirror::spawn(&mut command);
    output.wait_for(&["a"]);
    namespace.kubectl(&["label", "secret", "a", "mirror-"]);
    output.wait_for(&[]);
}

#[test]
fn a_secret_that_becomes_invalid_keeps_its_folder() {
    let Some((_, namespace, output)) = bench() else {
        return;
    };
    namespace.apply(&secret("a", "Opaque", &PAIR));
    let mirror = Mirror::start(&namespace, &output.path());
    output.wait_for_content("a", &PAIR);
    namespace.apply(&secret("a", "Opaque", &[OTHER[0]]));
    mirror.wait_for_line(&["ERROR", "/a: it has cert and lacks key"]);
    assert!(output.holds("a", &PAIR));
    namespace.apply(&secret("a", "Opaque", &OTHER));
    output.wait_for_content("a", &OTHER);
}

#[test]
fn a_configuration_file_has_the_same_options_and_an_unknown_key_is_an_error() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    let config = output.beside("sds-mirror.toml");
    let text = format!(
        "kubeconfig = {:?}\nnamespace = [{:?}]\noutput = \"credentials\"\nonce = true\nname_template = \"x-{{name}}\"\n",
        cluster.admin_kubeconfig(),
        namespace.name
    );
    let run = |text: &str| {
        fs::write(&config, text).unwrap();
        let mut command = Command::new(kube::PROGRAM);
        command.arg("--config").arg(&config).env_remove("RUST_LOG");
        command.output().unwrap()
    };
    let ended = run(&format!("{text}log_format = \"json\"\n"));
    assert!(ended.status.success(), "{}", log(&ended));
    assert_eq!(output.names(), ["x-a"]);
    for line in log(&ended).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }

    let ended = run(&format!("{text}fieldselector = \"a=b\"\n"));
    assert_eq!(ended.status.code(), Some(2));
    let log = log(&ended);
    assert!(
        log.contains(":6:1: ") && log.contains("did you mean `field_selector`?"),
        "{log}"
    );
}

#[test]
fn a_folder_removed_by_hand_is_restored() {
    let Some((_, namespace, output)) = bench() else {
        return;
    };
    // The foreign folder makes the mirror check the disk every few seconds.
    fs::create_dir_all(output.folder("in-the-way")).unwrap();
    for name in ["a", "in-the-way"] {
        namespace.create_generic(name, &PAIR);
    }
    let _mirror = Mirror::start(&namespace, &output.path());
    output.wait_for_content("a", &PAIR);
    fs::remove_dir_all(output.folder("a")).unwrap();
    eventually_true("the folder again", || output.holds("a", &PAIR));
}
