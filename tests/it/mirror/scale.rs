//! Thousands of Secrets.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rustix::process::Signal;

use super::{Output, PAIR};
use crate::util::kube::{self as control_plane, ControlPlane, Mirror, secret};
use crate::util::{Ca, eventually_true};

const SECRETS: usize = 5_000;

#[test]
fn five_thousand_secrets_and_their_changes_are_mirrored() {
    let Some(cluster) = control_plane::shared() else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::in_memory();
    let identity = Ca::new("CA").server(&["a.example.com"]);
    let pair = [
        ("tls.crt", identity.chain.as_str()),
        ("tls.key", identity.key.as_str()),
    ];
    create(cluster, &namespace.name, &pair);

    // Killed and stopped in the middle: every folder is complete.
    for signal in [Signal::KILL, Signal::TERM] {
        let before = output.names().len();
        let mut mirror = Mirror::start(&namespace, &output.path());
        eventually_true("some folders", || output.names().len() >= before + 500);
        mirror.signal(signal);
        assert_eq!(mirror.wait().success(), signal == Signal::TERM);
        let names = output.names();
        assert!(names.len() < SECRETS, "it was too fast for this");
        assert!(names.iter().all(|name| output.holds(name, &pair)));
    }

    let mut mirror = Mirror::start(&namespace, &output.path());
    eventually_true("all folders", || {
        assert!(mirror.is_running());
        output.names().len() == SECRETS
    });
    let names = output.names();
    assert!(names.iter().all(|name| output.holds(name, &pair)));
    namespace.create_generic("one-more", &PAIR);
    output.wait_for_content("one-more", &PAIR);
    namespace.delete("one-more");
    namespace.delete("s-7");
    eventually_true("two fewer", || output.names().len() == SECRETS - 1);
    let lines = mirror.lines_with(&["listed"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    // A queue that grows with the number of Secrets would be visible here: their data has 5 MB.
    assert!(
        mirror.resident_kib() < 200 * 1024,
        "{} KiB",
        mirror.resident_kib()
    );
}

/// Creates the Secrets, many at a time: kubectl would take minutes.
fn create(cluster: &ControlPlane, namespace: &str, pair: &[(&str, &str)]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(cluster.admin_kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let api: Api<Secret> = Api::namespaced(client, namespace);
        let object = |number: usize| -> Secret {
            let object = secret(&format!("s-{number}"), "kubernetes.io/tls", pair);
            serde_json::from_value(object).unwrap()
        };
        stream::iter(0..SECRETS)
            .map(|number| {
                let (api, object) = (api.clone(), object(number));
                async move { api.create(&PostParams::default(), &object).await }
            })
            .buffer_unordered(32)
            .try_for_each(|_| async { Ok(()) })
            .await
            .unwrap();
    });
}
