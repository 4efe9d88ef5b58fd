//! Permissions of the account: exactly those that are needed, fewer, and tokens that are replaced.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::health::ask;
use super::selection::with_gateways;
use super::{OTHER, Output, PAIR, bench, log};
use crate::util::kube::{self, ControlPlane, Mirror, Namespace, secret};
use crate::util::users::ROOT;
use crate::util::{Ca, eventually_true, require};

/// Applies examples/kubernetes/rbac.yaml to the namespace.
fn grant(cluster: &ControlPlane, namespace: &Namespace<'_>, output: &Output) {
    grant_by("rbac.yaml", cluster, namespace, output);
}

fn grant_by(name: &str, cluster: &ControlPlane, namespace: &Namespace<'_>, output: &Output) {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes");
    let text = fs::read_to_string(format!("{examples}/{name}")).unwrap();
    let file = output.beside(name);
    fs::write(
        &file,
        text.replace(": gateways", &format!(": {}", namespace.name)),
    )
    .unwrap();
    kube::run(cluster.kubectl().arg("apply").arg("-f").arg(file));
}

fn mirror_with_token(cluster: &ControlPlane, namespaces: &[&str], output: &Output) -> Command {
    let mut command = Mirror::without_access(namespaces, &output.path());
    command.arg("--server").arg(cluster.url());
    command.arg("--ca-file").arg(cluster.ca_file());
    command.arg("--token-file").arg(output.beside("token"));
    command
}

#[test]
fn the_example_role_grants_exactly_what_is_needed() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let (namespace, other) = (cluster.namespace(), cluster.namespace());
    let output = Output::new();
    grant(cluster, &namespace, &output);
    let account = format!("--as=system:serviceaccount:{}:sds-mirror", namespace.name);
    let may = |verb: &str, what: &str, namespace: &str| {
        let mut command = cluster.kubectl();
        command.args(["auth", "can-i", verb, what, "-n", namespace, &account]);
        command.output().unwrap().status.success()
    };
    for verb in ["get", "list", "watch"] {
        assert!(may(verb, "secrets", &namespace.name), "{verb}");
        assert!(!may(verb, "secrets", &other.name), "{verb}");
        assert!(!may(verb, "configmaps", &namespace.name), "{verb}");
    }
    for verb in ["create", "update", "patch", "delete"] {
        assert!(!may(verb, "secrets", &namespace.name), "{verb}");
    }
}

#[test]
fn the_example_role_for_options_grants_what_each_needs() {
    let Some(cluster) = with_gateways() else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::new();
    grant(cluster, &namespace, &output);
    let token = namespace.kubectl(&["create", "token", "sds-mirror"]);
    fs::write(output.beside("token"), token).unwrap();
    namespace.create_generic("a", &PAIR);
    namespace.apply(&secret("bad", "Opaque", &[PAIR[0], OTHER[1]]));
    let run = || {
        let mut command = mirror_with_token(cluster, &[&namespace.name], &output);
        command.args(["--configmaps", "", "--events", "--admin-socket"]);
        Mirror::spawn(command.arg(output.socket()))
    };
    let mirror = run();
    mirror.wait_for_line(&["WARN", "forbidden", "get, list and watch on configmaps"]);
    mirror.wait_for_line(&[
        "WARN",
        "Events can't be reported",
        "create and patch on events",
    ]);
    drop(mirror);
    grant_by("rbac-options.yaml", cluster, &namespace, &output);
    let mirror = run();
    mirror.wait_for_line(&["listed", "configmaps"]);
    output.wait_for(&["a"]);
    eventually_true("the event", || {
        let arguments = [
            "get",
            "events",
            "-o",
            "jsonpath={.items[*].involvedObject.name}",
        ];
        namespace.kubectl(&arguments).contains("bad")
    });
    eventually_true("the cluster's uid", || {
        output.manifest("a")["cluster"]["uid"].is_string()
    });
    let account = format!("--as=system:serviceaccount:{}:sds-mirror", namespace.name);
    for resource in ["gateways", "referencegrants"] {
        let resource = format!("{resource}.gateway.networking.k8s.io");
        let mut command = cluster.kubectl();
        command.args([
            "auth",
            "can-i",
            "watch",
            &resource,
            "-n",
            &namespace.name,
            &account,
        ]);
        assert!(command.output().unwrap().status.success(), "{resource}");
    }
}

#[test]
fn losing_permissions_changes_nothing_on_disk_and_regaining_them_resumes() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    grant(cluster, &namespace, &output);
    // An editor leaves a newline.
    let token = namespace.kubectl(&["create", "token", "sds-mirror"]);
    fs::write(output.beside("token"), format!("{}\n", token.trim())).unwrap();
    for name in ["a", "b"] {
        namespace.create_generic(name, &PAIR);
    }
    let socket = output.beside("admin.sock");
    let mut command = mirror_with_token(cluster, &[&namespace.name], &output);
    command.arg("--admin-socket").arg(&socket);
    let mirror = Mirror::spawn(&mut command);
    output.wait_for(&["a", "b"]);
    drop(mirror);

    namespace.kubectl(&["delete", "rolebinding", "sds-mirror"]);
    let mut once = mirror_with_token(cluster, &[&namespace.name], &output);
    let ended = once.arg("--once").output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(log.contains("get, list and watch on secrets"), "{log}");

    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["WARN", "forbidden", "get, list and watch on secrets"]);
    let ready = ask(&socket, "/readyz");
    assert!(
        ready.contains("503") && ready.contains("waiting for the first list"),
        "{ready}"
    );
    let metrics = ask(&socket, "/metrics");
    assert!(metrics.contains("kind=\"forbidden\""), "{metrics}");
    assert!(output.holds("a", &PAIR) && output.holds("b", &PAIR));

    namespace.apply(&secret("a", "Opaque", &OTHER));
    grant(cluster, &namespace, &output);
    output.wait_for_content("a", &OTHER);
    assert!(ask(&socket, "/readyz").contains("200 OK"));
}

#[test]
fn a_namespace_without_permissions_does_not_delay_the_others() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let (allowed, forbidden) = (cluster.namespace(), cluster.namespace());
    let output = Output::new();
    grant(cluster, &allowed, &output);
    let token = allowed.kubectl(&["create", "token", "sds-mirror"]);
    fs::write(output.beside("token"), token).unwrap();
    allowed.create_generic("a", &PAIR);
    forbidden.create_generic("b", &PAIR);
    let namespaces = [allowed.name.as_str(), forbidden.name.as_str()];
    let mirror = Mirror::spawn(&mut mirror_with_token(cluster, &namespaces, &output));
    output.wait_for(&["a"]);
    mirror.wait_for_line(&["WARN", "forbidden", &forbidden.name]);
}

#[test]
fn a_refused_token_is_read_again_until_it_is_accepted() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    grant(cluster, &namespace, &output);
    namespace.create_generic("a", &PAIR);
    fs::write(output.beside("token"), "expired").unwrap();
    let command = &mut mirror_with_token(cluster, &[&namespace.name], &output);
    let mirror = Mirror::spawn(command);
    mirror.wait_for_line(&["WARN", "unauthorized", "renew it"]);
    for line in mirror.lines() {
        assert!(
            !line.contains("expired") || line.contains("may have expired"),
            "{line}"
        );
    }
    let token = namespace.kubectl(&["create", "token", "sds-mirror"]);
    fs::write(output.beside("token"), token).unwrap();
    output.wait_for_content("a", &PAIR);
}

/// In a pod, the files of the service account have fixed paths: here in the mirror's own mount namespace.
#[test]
fn in_a_pod_its_service_account_is_used() {
    if require(&ROOT).is_none() {
        return;
    }
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    grant(cluster, &namespace, &output);
    namespace.create_generic("a", &PAIR);
    let token = namespace.kubectl(&["create", "token", "sds-mirror"]);
    fs::write(output.beside("token"), token).unwrap();
    const POD: &str = r#"
        account=/run/secrets/kubernetes.io/serviceaccount
        mount -t tmpfs tmpfs /run && mkdir -p "$account" &&
        cp "$1" "$account/token" && cp "$2" "$account/ca.crt" && echo ns >"$account/namespace" &&
        shift 2 && exec "$@""#;
    let mirror = Mirror::without_access(&[&namespace.name], &output.path());
    let port = cluster.url().rsplit(':').next().unwrap().to_owned();
    let ended = Command::new("unshare")
        .args(["--mount", "sh", "-c", POD, "pod"])
        .arg(output.beside("token"))
        .arg(cluster.ca_file())
        .arg(mirror.get_program())
        .args(mirror.get_args())
        .arg("--once")
        .env("HOME", "/nonexistent")
        .env_remove("KUBECONFIG")
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", port)
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(output.holds("a", &PAIR));
}

#[test]
fn a_kubeconfig_that_is_replaced_is_read_again() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    let kubeconfig = output.beside("kubeconfig");
    let nobody = cluster.kubeconfig_with(&json!({"token": "expired"}));
    fs::write(&kubeconfig, nobody).unwrap();
    let mut command = Mirror::without_access(&[&namespace.name], &output.path());
    command.arg("--kubeconfig").arg(&kubeconfig);
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["WARN", "unauthorized"]);
    fs::copy(cluster.admin_kubeconfig(), &kubeconfig).unwrap();
    output.wait_for_content("a", &PAIR);
}

#[test]
fn a_ca_file_that_is_replaced_is_read_again_at_once() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    grant(cluster, &namespace, &output);
    namespace.create_generic("a", &PAIR);
    let token = namespace.kubectl(&["create", "token", "sds-mirror"]);
    fs::write(output.beside("token"), token).unwrap();
    let ca = output.beside("ca.crt");
    fs::write(&ca, Ca::new("Another").pem()).unwrap();
    let mut command = Mirror::without_access(&[&namespace.name], &output.path());
    command
        .arg("--server")
        .arg(cluster.url())
        .arg("--ca-file")
        .arg(&ca);
    command.arg("--token-file").arg(output.beside("token"));
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["WARN", "network", "certificate"]);
    fs::copy(cluster.ca_file(), &ca).unwrap();
    mirror.wait_for_line(&["reading address and credentials of the cluster again"]);
    output.wait_for_content("a", &PAIR);
}

#[test]
fn of_several_kubeconfigs_those_that_are_missing_are_skipped() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    // One has the current context, the other its definition.
    let all = fs::read_to_string(cluster.admin_kubeconfig()).unwrap();
    let mut all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let first = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c"});
    all["current-context"] = "another".into();
    fs::write(output.beside("first"), first.to_string()).unwrap();
    fs::write(output.beside("second"), all.to_string()).unwrap();
    let run = |names: &[&str]| {
        let paths = names.iter().map(|name| output.beside(name));
        let mut command = Mirror::without_access(&[&namespace.name], &output.path());
        command.env("KUBECONFIG", std::env::join_paths(paths).unwrap());
        command.arg("--once").output().unwrap()
    };
    let ended = run(&["missing", "first", "second"]);
    assert!(ended.status.success(), "{}", log(&ended));
    assert!(output.holds("a", &PAIR));
    let ended = run(&["missing", "also-missing"]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(log(&ended).contains("also-missing"), "{}", log(&ended));
}

#[test]
fn http_to_a_tls_port_is_reported() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let output = Output::new();
    let mut command = Mirror::without_access(&["n"], &output.path());
    command
        .arg("--server")
        .arg(cluster.url().replace("https:", "http:"));
    let ended = command.arg("--once").output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(log(&ended).contains("write https://"), "{}", log(&ended));
}

/// A proxy for HTTPS; counts the connections.
fn proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            seen.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || tunnel(stream));
        }
    });
    (url, count)
}

fn tunnel(mut client: TcpStream) {
    let mut lines = BufReader::new(client.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    while lines.next().is_some_and(|line| !line.is_empty()) {}
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let Ok(mut server) = TcpStream::connect(target) else {
        return;
    };
    let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
}

#[test]
fn the_environments_proxy_is_used_except_for_no_proxy_hosts() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    let (url, count) = proxy();
    let run = |variables: &[(&str, &str)]| {
        let mut command = Mirror::command(cluster, &[&namespace.name], &output.path());
        for name in [
            "HTTPS_PROXY",
            "https_proxy",
            "NO_PROXY",
            "no_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command
            .arg("--once")
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    };
    for name in ["HTTPS_PROXY", "https_proxy"] {
        let before = count.load(Ordering::Relaxed);
        let ended = run(&[(name, &url)]);
        assert!(ended.status.success(), "{}", log(&ended));
        assert!(count.load(Ordering::Relaxed) > before, "{name}");
    }
    assert!(output.holds("a", &PAIR));
    let before = count.load(Ordering::Relaxed);
    for excepted in ["127.0.0.1", "127.0.0.0/8", "*", "example.com,127.0.0.1"] {
        let ended = run(&[("HTTPS_PROXY", &url), ("NO_PROXY", excepted)]);
        assert!(ended.status.success(), "{excepted}: {}", log(&ended));
    }
    assert_eq!(count.load(Ordering::Relaxed), before);

    // A value that can't be used is named with its source, and without its password.
    for (value, expected) in [
        (
            "socks5://user:secret@127.0.0.1:1",
            "HTTPS_PROXY is not the URL of an HTTP proxy",
        ),
        (
            "http://user:secret@127.0.0.1:9",
            "127.0.0.1:9 from HTTPS_PROXY",
        ),
    ] {
        let ended = run(&[("HTTPS_PROXY", value)]);
        assert_eq!(ended.status.code(), Some(2));
        assert!(log(&ended).contains(expected), "{}", log(&ended));
        assert!(!log(&ended).contains("secret@"), "{}", log(&ended));
    }
}
