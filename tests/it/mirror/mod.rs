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

use output::Output;

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
