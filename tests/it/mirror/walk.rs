//! The gateway task of Istio's documentation: `kubectl`, mirror, agent and a real Envoy together.

use super::Output;
use crate::util::envoy::TEAPOT;
use crate::util::kube::{self, Mirror};
use crate::util::{
    Agent, Ca, Envoy, Host, Https, Identity, Protocol, eventually_true, require, tools,
};

const CREDENTIAL: &str = "httpbin-credential";
const TRUST: &str = "httpbin-credential-cacert";
const HOST: &str = "httpbin.example.com";
const SECOND_CREDENTIAL: &str = "helloworld-credential";
const SECOND_HOST: &str = "helloworld.example.com";

#[test]
fn the_gateway_walk_with_kubectl_and_sotw() {
    walk(Protocol::Sotw);
}

#[test]
fn the_gateway_walk_with_kubectl_and_delta() {
    walk(Protocol::Delta);
}

fn walk(protocol: Protocol) {
    let (Some(program), Some(cluster)) = (require(&tools::ENVOY), kube::shared()) else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::new();
    let sockets = crate::util::agent::socket_folder();
    let socket = sockets.path().join("sds.sock");
    let mirror = Mirror::start(&namespace, &output.path());
    let agent = Agent::start(&output.path(), &socket);
    let hosts = [Host::new(HOST, CREDENTIAL)];
    let envoy = Envoy::start(&program, &socket, protocol, &hosts);
    let create = |name: &str, identity: &Identity| {
        let pair = [
            ("cert", identity.chain.as_str()),
            ("key", identity.key.as_str()),
        ];
        namespace.create_generic(name, &pair);
    };

    // Simple TLS: the credential is created after the listener that names it.
    let ca = Ca::new("First CA");
    assert!(
        envoy.https(HOST).get().is_err(),
        "served without a certificate"
    );
    namespace.create_tls(CREDENTIAL, &ca.server(&[HOST]));
    wait_until_served(&envoy.https(HOST).ca(ca.pem()));

    // Rotation by delete and create, with another CA.
    let other = Ca::new("Other CA");
    namespace.delete(CREDENTIAL);
    namespace.create_tls(CREDENTIAL, &other.server(&[HOST]));
    wait_until_served(&envoy.https(HOST).ca(other.pem()));
    assert!(envoy.https(HOST).ca(ca.pem()).get().is_err());

    // A second host on the same port.
    let second = Ca::new("Second CA");
    create(SECOND_CREDENTIAL, &second.server(&[SECOND_HOST]));
    let second_host = Host::new(SECOND_HOST, SECOND_CREDENTIAL);
    envoy.set_hosts(&[Host::new(HOST, CREDENTIAL), second_host.clone()]);
    wait_until_served(&envoy.https(SECOND_HOST).ca(second.pem()));
    wait_until_served(&envoy.https(HOST).ca(other.pem()));

    // Mutual TLS, the CA in the same Secret.
    let clients = Ca::new("Client CA");
    let identity = other.server(&[HOST]);
    namespace.delete(CREDENTIAL);
    namespace.create_generic(
        CREDENTIAL,
        &[
            ("tls.crt", &identity.chain),
            ("tls.key", &identity.key),
            ("ca.crt", clients.pem()),
        ],
    );
    envoy.set_hosts(&[Host::new(HOST, CREDENTIAL).client_ca(TRUST), second_host]);
    let https = envoy.https(HOST).ca(other.pem());
    let client = clients.client("client.example.com");
    wait_until_served(&https.clone().identity(&client));
    eventually_true("a refusal without a client certificate", || {
        https.get().is_err()
    });

    // The CA is moved to its own Secret.
    namespace.create_generic(TRUST, &[("cacert", clients.pem())]);
    let without = r#"{"data": {"ca.crt": null}}"#;
    namespace.kubectl(&["patch", "secret", CREDENTIAL, "--patch", without]);
    let pair = [
        ("tls.crt", identity.chain.as_str()),
        ("tls.key", identity.key.as_str()),
    ];
    output.wait_for_content(CREDENTIAL, &pair);
    wait_until_served(&https.clone().identity(&client));
    assert!(https.get().is_err());
    namespace.delete(CREDENTIAL);
    create(CREDENTIAL, &identity);
    output.wait_for(&[SECOND_CREDENTIAL, CREDENTIAL, TRUST]);
    wait_until_served(&https.clone().identity(&client));
    assert!(https.get().is_err());

    // While mirror and cluster are stopped, everything is still served.
    drop(mirror);
    for _ in 0..10 {
        let served = https.clone().identity(&client).get().unwrap();
        assert_eq!(served.status, TEAPOT);
    }
    envoy.assert_no_rejection();
    drop(agent);
}

#[track_caller]
fn wait_until_served(https: &Https) {
    eventually_true(&format!("the answer {TEAPOT}"), || {
        https.get().is_ok_and(|served| served.status == TEAPOT)
    });
}
