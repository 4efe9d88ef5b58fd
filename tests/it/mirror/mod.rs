//! `sds-mirror` against a real kube-apiserver and etcd.

mod cluster;
mod disk;
mod health;
mod holds;
mod latency;
mod log;
mod output;
mod protocol;
mod rights;
mod scale;
mod secrets;
mod selection;
mod text;
mod unit;
mod walk;

use std::process::{Command, Output as Ended};
use std::sync::LazyLock;

use output::Output;

use crate::util::Ca;
use crate::util::kube::{self, ControlPlane, Mirror, Namespace, PROGRAM};

/// The keys of a Secret, each with its content.
type Keys = Vec<(&'static str, &'static str)>;

/// A certificate with its key, in Istio's convention, and another one.
static PAIR: LazyLock<Keys> = LazyLock::new(|| new_pair("cert", "key"));
static OTHER: LazyLock<Keys> = LazyLock::new(|| new_pair("cert", "key"));
/// One in Kubernetes' convention.
static TLS: LazyLock<Keys> = LazyLock::new(|| new_pair("tls.crt", "tls.key"));
/// A trust bundle.
static BUNDLE: LazyLock<&'static str> = LazyLock::new(|| leak(Ca::new("Bundle").pem()));

fn new_pair(certificate: &'static str, key: &'static str) -> Keys {
    let identity = Ca::new("CA").server(&["a.example.com"]);
    vec![
        (certificate, leak(&identity.chain)),
        (key, leak(&identity.key)),
    ]
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// The control plane, with a namespace and an output folder for the test; `None` if programs are missing.
fn bench() -> Option<(&'static ControlPlane, Namespace<'static>, Output)> {
    let cluster = kube::shared()?;
    Some((cluster, cluster.namespace(), Output::new()))
}

/// One pass over these namespaces.
fn once(cluster: &ControlPlane, namespaces: &[&str], output: &Output, more: &[&str]) -> Ended {
    let mut command = Mirror::command(cluster, namespaces, &output.path());
    command.arg("--once").args(more).output().unwrap()
}

fn log(ended: &Ended) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

/// A mirror of a namespace that checks the disk frequently, with its admin socket next to the
/// output folder.
fn watching(cluster: &ControlPlane, namespace: &str, output: &Output) -> Command {
    let mut command = Mirror::command(cluster, &[namespace], &output.path());
    command.args(["--check-interval", "300ms", "--admin-socket"]);
    command.arg(output.socket());
    command
}

/// Runs a command of `sds-mirror` that queries the mirror of this output folder.
fn asking(output: &Output, arguments: &[&str]) -> Ended {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).arg("--admin-socket");
    command.arg(output.socket()).output().unwrap()
}

/// The agent neither contains nor needs any of the mirror.
#[test]
fn without_the_feature_no_kubernetes_dependency_is_built() {
    let tree = |features: &str| {
        let mut command = Command::new(env!("CARGO"));
        command.args(["tree", "--offline", "--edges=normal", "--prefix=none"]);
        command.args(["--features", features]);
        let output = command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let has = |tree: &str| {
        tree.lines()
            .any(|line| line.starts_with("kube") || line.starts_with("k8s"))
    };
    assert!(has(&tree("mirror")));
    assert!(!has(&tree("")));
}
