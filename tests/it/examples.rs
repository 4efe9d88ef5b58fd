//! The examples for containers are consistent.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::util::agent::{PROGRAM, socket_folder};
use crate::util::tools::Tool;
use crate::util::{Agent, Ca, Root, eventually_true, require};

const COMPOSE: &str = include_str!("../../examples/compose/envoy.yaml");
const SIDECAR: &str = include_str!("../../examples/kubernetes/sidecar.yaml");

const ROOT: Tool = Tool {
    name: "the user root",
    how: "run the tests as root",
    find: |_| match rustix::process::geteuid().is_root() {
        true => Ok("/".into()),
        false => Err("this user may not give files to another group".into()),
    },
};

/// The lines of a configuration without comments, which may be for another kind of machine.
fn settings(config: &str) -> Vec<&str> {
    let lines = config.lines().map(str::trim);
    lines.filter(|line| !line.starts_with('#')).collect()
}

/// The tests of `envoy-config` verify that Envoy accepts this output.
#[test]
fn envoy_configurations_of_the_examples_are_what_the_agent_writes() {
    let output = Command::new(PROGRAM)
        .args(["envoy-config", "site.example.com", "--full"])
        .args(["--listen", "0.0.0.0:8443"])
        .output()
        .unwrap();
    let config = String::from_utf8(output.stdout).unwrap();
    let written = settings(&config);
    assert!(!written.is_empty());
    assert_eq!(settings(COMPOSE), written);
    let (_, embedded) = SIDECAR.split_once("envoy.yaml: |\n").unwrap();
    let (embedded, _) = embedded.split_once("\n---\n").unwrap();
    assert_eq!(settings(embedded), written);
}

#[test]
fn the_compose_files_hook_gives_certbots_files_to_the_agent() {
    if require(&ROOT).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let lineage = scratch.path().join("live/site.example.com");
    let site = Ca::new("ACME").server(&["site.example.com"]);
    std::fs::create_dir_all(&lineage).unwrap();
    std::fs::write(lineage.join("fullchain.pem"), &site.chain).unwrap();
    std::fs::write(lineage.join("privkey.pem"), &site.key).unwrap();
    let root = Root::new();
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/compose/deploy-hook");
    let status = Command::new(hook)
        .env("RENEWED_LINEAGE", &lineage)
        .env("CREDENTIALS", root.path())
        .status();
    assert!(status.unwrap().success());
    let key = root.credential("site.example.com").join("privkey.pem");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o640);

    let sockets = socket_folder();
    let agent = Agent::start(&root.path(), &sockets.path().join("sds.sock"));
    let mut stream = agent.client().delta();
    stream.subscribe(&["site.example.com"]);
    eventually_true("the pair", || {
        stream.changes().secrets[0].is_pair(&site.chain, &site.key)
    });
}

#[cfg(feature = "mirror")]
#[test]
fn an_api_server_accepts_the_sidecar_and_refuses_an_invalid_one() {
    use crate::util::kube;

    let Some(cluster) = kube::shared() else {
        return;
    };
    let namespace = cluster.namespace();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("sidecar.yaml");
    let apply = |manifest: &str| {
        std::fs::write(&file, manifest).unwrap();
        let mut command = cluster.kubectl();
        command.args(["apply", "--dry-run=server", "--validate=strict"]);
        command.args(["--namespace", &namespace.name, "--filename"]);
        command.arg(&file).output().unwrap()
    };
    let taken = apply(SIDECAR);
    let printed = String::from_utf8_lossy(&taken.stdout).into_owned();
    assert!(taken.status.success(), "{taken:?}");
    for object in ["configmap/envoy", "deployment.apps/envoy", "service/envoy"] {
        assert!(printed.contains(&format!("{object} created")), "{printed}");
    }
    for (right, wrong) in [
        ("readOnlyRootFilesystem", "readOnlyRootFileSystem"),
        ("restartPolicy: Always", "restartPolicy: Allways"),
        ("targetPort: https", "targetPort: https_and_more_than_that"),
    ] {
        let refused = apply(&SIDECAR.replace(right, wrong));
        assert!(!refused.status.success(), "{wrong}: {refused:?}");
    }
}
