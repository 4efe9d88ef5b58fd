//! The gateway task of Istio's documentation with a real Envoy, and folders instead of Secrets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::util::envoy::TEAPOT;
use crate::util::{
    Agent, Bed, Ca, Envoy, Host, Https, Identity, Protocol, eventually_true, require, tools,
};

const CREDENTIAL: &str = "httpbin-credential";
const TRUST: &str = "httpbin-credential-cacert";
const HOST: &str = "httpbin.example.com";
const SECOND_CREDENTIAL: &str = "helloworld-credential";
const SECOND_HOST: &str = "helloworld.example.com";

/// How often the pair is replaced under constant handshakes.
const ROTATIONS: usize = 60;

#[test]
fn the_gateway_walk_with_sotw() {
    if let Some(program) = require(&tools::ENVOY) {
        walk(&program, Protocol::Sotw, ROTATIONS);
    }
}

#[test]
fn the_gateway_walk_with_delta() {
    if let Some(program) = require(&tools::ENVOY) {
        walk(&program, Protocol::Delta, ROTATIONS);
    }
}

/// The walk with that Envoy.
pub(crate) fn walk(program: &Path, protocol: Protocol, rotations: usize) {
    let bed = Bed::new();
    let agent = bed.agent();
    let hosts = [Host::new(HOST, CREDENTIAL)];
    let envoy = Envoy::start(program, &bed.socket(), protocol, &hosts);
    let walk = Walk {
        bed,
        envoy,
        rotations,
    };

    walk.a_credential_that_does_not_exist_yet_appears();
    walk.deleted_and_made_again_with_another_pair(&agent);
    walk.a_second_host_on_the_same_port();
    let client = walk.mutual_tls_with_the_ca_in_the_same_folder();
    let client = walk.the_ca_split_off(&client);
    walk.rotations_under_constant_handshakes(&client);
    walk.agent_killed_and_started_again(agent, &client);

    walk.envoy.assert_no_rejection();
}

struct Walk {
    bed: Bed,
    envoy: Envoy,
    rotations: usize,
}

impl Walk {
    fn https(&self) -> Https {
        self.envoy.https(HOST)
    }

    fn a_credential_that_does_not_exist_yet_appears(&self) {
        let statistic = format!("sds.{CREDENTIAL}.update_attempt");
        eventually_true("Envoy's subscription", || self.envoy.stat(&statistic) > 0);
        assert!(self.https().get().is_err(), "served without a certificate");

        self.bed
            .root
            .write_pair(CREDENTIAL, &self.bed.ca.server(&[HOST]));
        wait_until_served(&self.https().ca(self.bed.ca.pem()));
    }

    fn deleted_and_made_again_with_another_pair(&self, agent: &Agent) {
        // Immediately, like `kubectl delete` and `kubectl create` in one script.
        let other = Ca::new("Another CA");
        self.bed.root.remove(CREDENTIAL);
        self.bed.root.write_pair(CREDENTIAL, &other.server(&[HOST]));
        wait_until_served(&self.https().ca(other.pem()));
        assert_refused(&self.https().ca(self.bed.ca.pem()));

        // After the agent has noticed the removal, Envoy continues with what it has.
        let lines = agent.lines().len();
        self.bed.root.remove(CREDENTIAL);
        agent.wait_for_line_after(lines, &["removed", CREDENTIAL]);
        wait_until_served(&self.https().ca(other.pem()));
        self.bed
            .root
            .write_pair(CREDENTIAL, &self.bed.ca.server(&[HOST]));
        wait_until_served(&self.https().ca(self.bed.ca.pem()));
        assert_refused(&self.https().ca(other.pem()));
    }

    fn a_second_host_on_the_same_port(&self) {
        let second = Ca::new("Second CA");
        let identity = second.server(&[SECOND_HOST]);
        self.bed.root.write_pair(SECOND_CREDENTIAL, &identity);
        let hosts = [Host::new(HOST, CREDENTIAL), second_host()];
        self.envoy.set_hosts(&hosts);
        wait_until_served(&self.envoy.https(SECOND_HOST).ca(second.pem()));
        wait_until_served(&self.https().ca(self.bed.ca.pem()));
        assert_refused(&self.https().ca(second.pem()));
    }

    /// Returns a client that is served.
    fn mutual_tls_with_the_ca_in_the_same_folder(&self) -> Identity {
        let clients = Ca::new("Client CA");
        self.bed
            .root
            .write(CREDENTIAL, &[("cacert", clients.pem())]);
        let hosts = [Host::new(HOST, CREDENTIAL).client_ca(TRUST), second_host()];
        self.envoy.set_hosts(&hosts);

        let https = self.https().ca(self.bed.ca.pem());
        let client = clients.client("client.example.com");
        eventually_true("a refusal without a client certificate", || {
            https.get().is_err()
        });
        wait_until_served(&https.clone().identity(&client));
        assert_refused(&https);
        assert_refused(&https.identity(&Ca::new("Foreign CA").client("client.example.com")));
        client
    }

    /// Moves the bundle to its own folder, then replaces it there. Returns a client that is
    /// served after that.
    fn the_ca_split_off(&self, client: &Identity) -> Identity {
        let https = self.https().ca(self.bed.ca.pem());
        let here = self.bed.root.credential(CREDENTIAL).join("cacert");
        let bundle = std::fs::read_to_string(&here).unwrap();
        self.bed.root.write(TRUST, &[("cacert", &bundle)]);
        std::fs::remove_file(here).unwrap();
        wait_until_served(&https.clone().identity(client));
        assert_refused(&https);

        let clients = Ca::new("New client CA");
        self.bed.root.write(TRUST, &[("cacert", clients.pem())]);
        let new_client = clients.client("client.example.com");
        wait_until_served(&https.clone().identity(&new_client));
        assert_refused(&https.clone().identity(client));
        assert_refused(&https);
        new_client
    }

    fn rotations_under_constant_handshakes(&self, client: &Identity) {
        let https = self.https().ca(self.bed.ca.pem()).identity(client);
        let handshakes = Handshakes::start(https.clone());
        let folder = self.bed.root.credential(CREDENTIAL);
        for rotation in 0..self.rotations {
            let identity = self.bed.ca.server(&[HOST]);
            std::fs::write(folder.join("cert"), &identity.chain).unwrap();
            std::fs::write(folder.join("key"), &identity.key).unwrap();
            wait_until_leaf(&format!("rotation {rotation}"), &https, &identity);
        }
        let (made, failed) = handshakes.stop();
        assert_eq!(failed, Vec::<String>::new(), "of {made} handshakes");
        assert!(
            made >= self.rotations,
            "{made} handshakes for {} rotations",
            self.rotations
        );
    }

    fn agent_killed_and_started_again(&self, mut agent: Agent, client: &Identity) {
        let https = self.https().ca(self.bed.ca.pem()).identity(client);
        let before = https.leaf().unwrap();
        agent.kill();
        let identity = self.bed.ca.server(&[HOST]);
        self.bed.root.write_pair(CREDENTIAL, &identity);
        let second = Ca::new("Second CA of another time");
        self.bed
            .root
            .write_pair(SECOND_CREDENTIAL, &second.server(&[SECOND_HOST]));
        for _ in 0..20 {
            assert_eq!(
                https.leaf().unwrap(),
                before,
                "Envoy goes on with what it has"
            );
        }

        let _agent = self.bed.agent();
        wait_until_leaf("what changed meanwhile", &https, &identity);
        wait_until_served(&self.envoy.https(SECOND_HOST).ca(second.pem()));
    }
}

fn second_host() -> Host {
    Host::new(SECOND_HOST, SECOND_CREDENTIAL)
}

#[track_caller]
fn wait_until_served(https: &Https) {
    eventually_true(&format!("the answer {TEAPOT}"), || {
        https.get().is_ok_and(|served| served.status == TEAPOT)
    });
}

#[track_caller]
fn wait_until_leaf(what: &str, https: &Https, identity: &Identity) {
    eventually_true(what, || https.leaf().is_ok_and(|leaf| leaf == identity.der));
}

#[track_caller]
fn assert_refused(https: &Https) {
    let answer = https.get();
    assert!(answer.is_err(), "this was to be refused: {answer:?}");
}

/// A thread that sends requests without a pause, each with a handshake.
struct Handshakes {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<String>)>,
}

impl Handshakes {
    fn start(https: Https) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut made, mut failed) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                made += 1;
                match https.get() {
                    Ok(served) if served.status == TEAPOT => {}
                    other => failed.push(format!("{other:?}")),
                }
            }
            (made, failed)
        });
        Self { stop, thread }
    }

    /// The number of requests, and the errors of those that failed.
    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
