//! Which objects are mirrored: ConfigMaps, the references of a Gateway, mapped keys, annotations; and `--dry-run`.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::health::ask;
use super::{BUNDLE, OTHER, Output, PAIR, TLS, asking, bench, log, once, watching};
use crate::util::kube::{self, ControlPlane, Mirror, secret};
use crate::util::wait::QUIET;
use crate::util::{Ca, eventually_true, require};

fn configmap(name: &str, data: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).into()))
        .collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[test]
fn bundles_from_configmaps_are_created_updated_and_removed() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    let bundle = |name: &str, key: &str, text: &str| {
        let mut object = configmap(name, &[(key, text), ("other", "x")]);
        object["metadata"]["labels"] = json!({"trust": "yes"});
        object
    };
    namespace.apply(&bundle("web", "ca.crt", *BUNDLE));
    namespace.apply(&bundle("api", "trust-bundle.pem", *BUNDLE));
    let mut named = bundle("named", "ca.crt", *BUNDLE);
    named["metadata"]["annotations"] = json!({"sds-agent/folder": "chosen"});
    namespace.apply(&named);
    namespace.apply(&configmap("not-selected", &[("ca.crt", *BUNDLE)]));
    namespace.create_generic("web", &PAIR);
    let mut command = watching(cluster, &namespace.name, &output);
    command.args(["--configmaps", "trust=yes"]);
    let mut mirror = Mirror::spawn(&mut command);
    output.wait_for(&["api-cacert", "chosen", "web", "web-cacert"]);
    let file = [("ca.crt", *BUNDLE)];
    for name in ["api-cacert", "chosen", "web-cacert"] {
        assert!(output.holds(name, &file), "{name}");
    }
    assert_eq!(output.manifest("web-cacert")["kind"], "ConfigMap");
    let other = Ca::new("Other");
    namespace.apply(&bundle("web", "ca.crt", other.pem()));
    output.wait_for_content("web-cacert", &[("ca.crt", other.pem())]);
    let lines = mirror.lines().len();
    namespace.apply(&bundle("web", "ca.crt", "broken"));
    mirror.wait_for_line_after(
        lines,
        &["ERROR", "ConfigMap", "/web: sds-agent would reject it"],
    );
    assert!(output.holds("web-cacert", &[("ca.crt", other.pem())]));
    namespace.kubectl(&["delete", "configmap", "api"]);
    output.wait_for(&["chosen", "web", "web-cacert"]);
    mirror.signal(Signal::TERM);
    assert!(mirror.wait().success());

    // Another key, another name.
    let output = Output::new();
    namespace.apply(&configmap("mine", &[("my.pem", *BUNDLE)]));
    let more = [
        "--configmaps",
        "",
        "--configmap-key",
        "my.pem",
        "--configmap-name-template",
        "{name}-trust",
    ];
    let ended = once(cluster, &[&namespace.name], &output, &more);
    assert!(ended.status.success(), "{}", log(&ended));
    assert_eq!(output.names(), ["mine-trust", "web"]);
}

#[test]
fn keys_are_mapped_to_files_and_annotations_name_folders() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    let both = format!("{}{}", TLS[1].1, TLS[0].1);
    let combined = [("tls-combined.pem", both.as_str()), ("password", "P")];
    namespace.apply(&secret("combined", "Opaque", &combined));
    let mut annotated = secret("a", "Opaque", &PAIR);
    annotated["metadata"]["annotations"] = json!({"sds-agent/folder": "web.example.com"});
    namespace.apply(&annotated);
    let mut bad = secret("bad", "Opaque", &PAIR);
    bad["metadata"]["annotations"] = json!({"sds-agent/folder": "../escaped"});
    namespace.apply(&bad);
    let keys = ["--key", "tls-combined.pem=combined.pem"];
    let ended = once(cluster, &[&namespace.name], &output, &keys);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        log(&ended).contains("change the annotation sds-agent/folder"),
        "{}",
        log(&ended)
    );
    assert_eq!(
        output.names(),
        ["combined", "web.example.com"],
        "{}",
        log(&ended)
    );
    assert!(output.holds("combined", &[("combined.pem", &both)]));
    assert!(!output.beside("escaped").exists());
}

#[test]
fn a_dry_run_prints_what_would_change_and_changes_nothing() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    for name in ["changed", "gone", "same"] {
        namespace.create_generic(name, &PAIR);
    }
    let run = |more: &[&str]| {
        let mut command = Mirror::command(cluster, &[&namespace.name], &output.path());
        let ended = command.arg("--dry-run").args(more).output().unwrap();
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        (text, ended)
    };
    let (text, ended) = run(&[]);
    assert!(ended.status.success(), "{}", log(&ended));
    assert_eq!(text.matches("create").count(), 3, "{text}");
    assert!(!output.path().exists(), "it was made");

    assert!(
        once(cluster, &[&namespace.name], &output, &[])
            .status
            .success()
    );
    namespace.apply(&secret("changed", "Opaque", &OTHER));
    namespace.delete("gone");
    namespace.create_generic("new", &PAIR);
    namespace.apply(&secret("bad", "Opaque", &[PAIR[0], OTHER[1]]));
    let generation = fs::read_link(output.folder("changed/..data")).unwrap();
    // It also works next to a running mirror.
    let mut command = Mirror::command(cluster, &["nothing-here"], &output.path());
    let running = Mirror::spawn(&mut command);
    running.wait_for_line(&["listed"]);
    let (text, ended) = run(&[]);
    assert_eq!(ended.status.code(), Some(1), "{text}");
    let expected = [
        format!("change  changed  ({}/changed)", namespace.name),
        "remove  gone".to_owned(),
        format!("create  new  ({}/new)", namespace.name),
    ];
    for line in expected {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    assert!(text.contains("bad: sds-agent would reject it"), "{text}");
    assert!(text.ends_with("1 unchanged\n"), "{text}");
    assert!(!text.contains("PRIVATE"), "{text}");
    assert_eq!(output.names(), ["changed", "gone", "same"]);
    assert_eq!(
        fs::read_link(output.folder("changed/..data")).unwrap(),
        generation
    );
}

/// The control plane, with Gateway API installed.
pub(super) fn with_gateways() -> Option<&'static ControlPlane> {
    let cluster = kube::shared()?;
    let crds = require(&kube::GATEWAY_API)?;
    let mut command = cluster.kubectl();
    kube::run(
        command
            .args(["apply", "--server-side", "--force-conflicts", "-f"])
            .arg(&crds),
    );
    for name in ["gateways", "referencegrants"] {
        let crd = format!("crd/{name}.gateway.networking.k8s.io");
        let mut command = cluster.kubectl();
        kube::run(command.args(["wait", "--for=condition=Established", "--timeout=60s", &crd]));
    }
    Some(cluster)
}

fn gateway(certificates: &[(&str, Option<&str>)], cas: &[&str]) -> Value {
    let certificates: Vec<Value> = certificates
        .iter()
        .map(|(name, namespace)| match namespace {
            Some(namespace) => json!({"name": name, "namespace": namespace}),
            None => json!({"name": name}),
        })
        .collect();
    let cas: Vec<Value> = cas
        .iter()
        .map(|name| json!({"group": "", "kind": "ConfigMap", "name": name}))
        .collect();
    let mut gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "public"},
        "spec": {"gatewayClassName": "sds-agent", "listeners": [{
            "name": "https", "port": 443, "protocol": "HTTPS",
            "tls": {"mode": "Terminate", "certificateRefs": certificates},
        }]},
    });
    if !cas.is_empty() {
        gateway["spec"]["tls"] =
            json!({"frontend": {"default": {"validation": {"caCertificateRefs": cas}}}});
    }
    gateway
}

#[test]
fn a_gateway_selects_exactly_what_its_listeners_refer_to() {
    let Some(cluster) = with_gateways() else {
        return;
    };
    let (infra, shop) = (cluster.namespace(), cluster.namespace());
    for name in ["a", "b", "not-referred-to"] {
        infra.create_generic(name, &PAIR);
    }
    shop.create_generic("web", &PAIR);
    infra.apply(&configmap("clients", &[("ca.crt", *BUNDLE)]));
    infra.apply(&configmap("not-referred-to", &[("ca.crt", *BUNDLE)]));
    infra.apply(&gateway(&[("a", None)], &["clients"]));
    let output = Output::new();
    let mut command = Mirror::command(cluster, &[], &output.path());
    command.args(["--gateway", &format!("{}/public", infra.name)]);
    command
        .args(["--check-interval", "300ms", "--admin-socket"])
        .arg(output.socket());
    let mirror = Mirror::spawn(&mut command);
    output.wait_for(&["a", "clients-cacert"]);
    assert!(output.holds("a", &PAIR) && output.holds("clients-cacert", &[("ca.crt", *BUNDLE)]));

    // Changes of the Gateway and of what it refers to.
    infra.apply(&gateway(&[("a", None), ("b", None)], &["clients"]));
    output.wait_for(&["a", "b", "clients-cacert"]);
    infra.apply(&secret("b", "Opaque", &OTHER));
    output.wait_for_content("b", &OTHER);
    infra.apply(&gateway(&[("a", None)], &["clients"]));
    output.wait_for(&["a", "clients-cacert"]);

    // A reference to another namespace requires a grant there.
    infra.apply(&gateway(
        &[("a", None), ("web", Some(&shop.name))],
        &["clients"],
    ));
    mirror.wait_for_line(&["ERROR", "/web", "no ReferenceGrant"]);
    assert_eq!(output.names(), ["a", "clients-cacert"]);
    shop.apply(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "gateways"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": infra.name}],
            "to": [{"group": "", "kind": "Secret", "name": "web"}],
        },
    }));
    output.wait_for(&["a", "clients-cacert", "web"]);

    // Deleting the Gateway removes nothing.
    infra.kubectl(&["delete", "gateway", "public"]);
    mirror.wait_for_line(&["ERROR", "held back"]);
    mirror.wait_for_line(&["ERROR", "the Gateway does not exist"]);
    std::thread::sleep(QUIET);
    assert_eq!(output.names(), ["a", "clients-cacert", "web"]);
    infra.apply(&gateway(&[("a", None)], &["clients"]));
    eventually_true("fewer holds", || {
        ask(&output.socket(), "/readyz").contains("folders held back: 1")
    });
    assert!(asking(&output, &["release", "web"]).status.success());
    output.wait_for(&["a", "clients-cacert"]);
}

#[test]
fn without_gateway_api_nothing_changes_and_the_reason_is_reported() {
    let Some(programs) = require(&kube::KUBE) else {
        return;
    };
    let cluster = ControlPlane::start(&programs);
    let output = Output::new();
    let mut command = Mirror::command(&cluster, &[], &output.path());
    command.args(["--gateway", "default/public", "--once"]);
    let ended = command.output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    let expected = "is the API of this resource installed";
    assert!(log(&ended).contains(expected), "{}", log(&ended));
}

#[test]
fn a_refusal_is_reported_as_an_event_on_the_secret() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.apply(&secret("half", "Opaque", &[PAIR[0]]));
    namespace.apply(&secret("bad", "Opaque", &[PAIR[0], OTHER[1]]));
    namespace.apply(&secret("good", "Opaque", &PAIR));
    let mut command = watching(cluster, &namespace.name, &output);
    command.arg("--events");
    let _mirror = Mirror::spawn(&mut command);
    let events = || {
        let text = namespace.kubectl(&["get", "events", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        list["items"].as_array().unwrap().clone()
    };
    eventually_true("two events", || events().len() >= 2);
    let of = |name: &str| {
        let found = events()
            .into_iter()
            .find(|event| event["involvedObject"]["name"] == name);
        found.map(|event| (event["reason"].clone(), event["message"].to_string()))
    };
    let (reason, message) = of("half").unwrap();
    assert_eq!(reason, "Refused");
    assert!(message.contains("lacks key"), "{message}");
    let (reason, message) = of("bad").unwrap();
    assert_eq!(reason, "Rejected");
    assert!(!message.contains("PRIVATE"), "{message}");
    assert_eq!(of("good"), None);
}
