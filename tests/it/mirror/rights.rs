//! What the account may do: as little as possible, less than that, and tokens that come and go.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::secrets::ask;
use super::{OTHER, Output, PAIR};
use crate::util::kube::{self, ControlPlane, Mirror, Namespace, secret};
use crate::util::tools::{Tool, require};

const ROOT: Tool = Tool {
    name: "the rights of root",
    how: "run it as root",
    find: |_| match rustix::process::geteuid().is_root() {
        true => Ok("/".into()),
        false => Err("mounting takes them".into()),
    },
};

/// Applies examples/kubernetes/rbac.yaml to the namespace.
fn grant(cluster: &ControlPlane, namespace: &Namespace<'_>, output: &Output) {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes/rbac.yaml");
    let text = fs::read_to_string(example).unwrap();
    let file = output.beside("rbac.yaml");
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
fn the_example_gives_what_is_needed_and_nothing_else() {
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
fn lost_rights_change_nothing_on_disk_and_found_ones_go_on() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::new();
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
fn one_namespace_without_rights_does_not_hold_up_the_others() {
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
fn a_token_that_is_refused_is_read_again_until_it_is_taken() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::new();
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

/// In a pod the account's files are in a fixed place: here in a file system of the mirror's own.
#[test]
fn in_a_pod_the_account_of_the_pod_is_used() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    if require(&ROOT).is_none() {
        return;
    }
    let namespace = cluster.namespace();
    let output = Output::new();
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
    let Some(cluster) = kube::shared() else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::new();
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
