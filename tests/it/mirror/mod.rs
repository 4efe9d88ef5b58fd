//! `sds-mirror` against a real kube-apiserver and etcd.

mod cluster;
mod latency;
mod output;
mod rights;
mod said;
mod scale;
mod secrets;
mod unit;
mod walk;

use std::process::Command;
use std::sync::LazyLock;

use output::Output;

use crate::util::Ca;

/// The keys of a Secret, each with its content.
type Keys = Vec<(&'static str, &'static str)>;

/// A certificate with its key, in Istio's convention, and another one.
static PAIR: LazyLock<Keys> = LazyLock::new(|| new_pair("cert", "key"));
static OTHER: LazyLock<Keys> = LazyLock::new(|| new_pair("cert", "key"));
/// One in Kubernetes' convention.
static TLS: LazyLock<Keys> = LazyLock::new(|| new_pair("tls.crt", "tls.key"));
/// A bundle of CAs.
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

/// The agent neither contains nor needs any of the mirror.
#[test]
fn without_the_feature_nothing_of_kubernetes_is_built() {
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
