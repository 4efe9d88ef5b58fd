//! State of the world: each response has all existing secrets that the stream is subscribed to.
//!
//! A removal is never announced: Envoy ignores that a resource is missing in a response, and a response without
//! any resource is never sent. Envoy keeps the last certificate either way.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use tonic::Status;

use super::message;
use super::session::{
    ClientState, Effect, InFlight, Named, Response, Session, Subscription, Subscriptions, View,
    check_count, check_type_url,
};
use crate::inventory::Found;
use crate::name::is_requestable;
use crate::proto::discovery::DiscoveryRequest;
use crate::secret::{Name, Version};

/// One SotW stream.
pub(crate) struct Sotw {
    max_names: usize,
    /// Names that were requested, or changed, since the last response.
    due: BTreeSet<Name>,
    in_flight: InFlight,
    version_info: String,
}

impl Sotw {
    /// A stream that may subscribe to at most `max_names` names.
    pub(crate) fn new(max_names: usize) -> Self {
        Self {
            max_names,
            due: BTreeSet::new(),
            in_flight: InFlight::default(),
            version_info: String::new(),
        }
    }

    /// A request without a nonce starts over, unless it is an ACK from a client that omits the nonce: answering
    /// that would cause an endless loop.
    fn starts_over(&self, request: &DiscoveryRequest) -> bool {
        self.in_flight.is_empty()
            || request.response_nonce.is_empty()
                && (request.version_info.is_empty() || request.version_info != self.version_info)
    }

    /// Subscribes the stream to exactly `wanted`. New names are due, and so are all names when the client starts
    /// over.
    fn subscribe(
        &mut self,
        wanted: BTreeSet<Name>,
        restarted: Option<ClientState>,
        names: &mut Subscriptions,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        names.retain(|name, _| {
            let stays = wanted.contains(name);
            if !stays {
                self.due.remove(name);
                effects.push(Effect::Unsubscribe(name.clone()));
            }
            stays
        });
        for name in wanted {
            let known = names.get_mut(&name);
            match (&restarted, known) {
                (None, Some(_)) => continue,
                (Some(client_state), Some(known)) => known.renew(client_state.clone()),
                (client_state, None) => {
                    let client_state = client_state.clone().unwrap_or(ClientState::Nothing);
                    names.insert(name.clone(), Subscription::new(client_state));
                }
            }
            self.due.insert(name.clone());
            effects.push(Effect::Subscribe(name));
        }
        effects
    }
}

impl Session for Sotw {
    type Request = DiscoveryRequest;

    fn request(
        &mut self,
        request: DiscoveryRequest,
        names: &mut Subscriptions,
    ) -> Result<Vec<Effect>, Status> {
        check_type_url(&request.type_url)?;
        let restarted = self.starts_over(&request);
        let nonce = &request.response_nonce;
        if !restarted && !nonce.is_empty() && !self.in_flight.is_last(nonce) {
            // Stale: the client had not seen the last response yet, and will answer that one too.
            return Ok(Vec::new());
        }
        check_count(request.resource_names.len(), self.max_names)?;
        let requested = request.resource_names.iter();
        let wanted: BTreeSet<_> = requested
            .filter(|name| is_requestable(name))
            .map(|name| Name::from(name.as_str()))
            .collect();
        // The version of a response with one secret is that of the secret.
        let held =
            self.in_flight.is_empty() && wanted.len() == 1 && !request.version_info.is_empty();
        let restarted = restarted.then(|| match held {
            true => ClientState::Held(request.version_info.as_str().into()),
            false => ClientState::Nothing,
        });

        let mut effects: Vec<_> = request.node.map(Effect::Node).into_iter().collect();
        effects.extend(self.in_flight.answered(nonce, request.error_detail));
        effects.extend(self.subscribe(wanted, restarted, names));
        Ok(effects)
    }

    fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    fn changed(&mut self, mut names: BTreeSet<Name>) {
        self.due.append(&mut names);
    }

    fn respond(&mut self, names: &mut Subscriptions, view: &impl View) -> Option<Response> {
        let now = view.now();
        let news = std::mem::take(&mut self.due).into_iter().any(|name| {
            let known = names.get(&name);
            let found = known.and_then(|known| found(known, &name, view));
            let (Some(known), Some(found)) = (known, found) else {
                return false;
            };
            !known.keeps_its_own(&found, now)
                && known.client_state != ClientState::Version(found.secret.version())
        });
        if !news {
            return None;
        }
        let mut secrets = Vec::with_capacity(names.len());
        for (name, known) in names {
            if let Some(found) = found(known, name, view) {
                known.note_sent(&found);
                let name = name.clone();
                secrets.push(Named { name, found });
            }
        }
        self.version_info = version_info(&secrets);
        let sent = secrets.iter().map(|secret| secret.name.clone());
        let nonce = self.in_flight.sent(sent.collect());
        Some(Response {
            frame: message::sotw(&self.version_info, &nonce, &secrets),
            secrets,
            removed: Vec::new(),
        })
    }
}

/// What to send for a name. A client that has a version of an unknown name keeps it.
fn found(known: &Subscription, name: &str, view: &impl View) -> Option<Found> {
    known.lookup(name, view)?.found()
}

/// The version of a response: that of its only secret, or a hash of all names and versions. Like the versions,
/// it only depends on the content, since clients keep it across restarts.
pub(crate) fn version_info(secrets: &[Named]) -> String {
    if let [one] = secrets {
        return one.found.secret.version().to_string();
    }
    let mut hash = Sha256::new();
    for Named { name, found } in secrets {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(found.secret.version().to_string());
        hash.update([0]);
    }
    Version::of(hash).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::collections::BTreeMap;

    use super::*;
    use crate::proto::discovery::DiscoveryResponse;
    use crate::proto::{SECRET_TYPE_URL, rpc, tls};
    use crate::sds::session::tests::{World, change, decode, names};
    use prost::Message;

    /// A client that follows the protocol.
    struct Client {
        session: Sotw,
        names: Subscriptions,
        wanted: Vec<&'static str>,
        nonce: String,
        version: String,
        /// What it has: name → version.
        has: BTreeMap<String, String>,
    }

    impl Client {
        fn new() -> Self {
            Self {
                session: Sotw::new(100),
                names: Subscriptions::new(),
                wanted: Vec::new(),
                nonce: String::new(),
                version: String::new(),
                has: BTreeMap::new(),
            }
        }

        fn request(&self) -> DiscoveryRequest {
            DiscoveryRequest {
                version_info: self.version.clone(),
                resource_names: self.wanted.iter().map(ToString::to_string).collect(),
                type_url: SECRET_TYPE_URL.into(),
                response_nonce: self.nonce.clone(),
                ..Default::default()
            }
        }

        fn send(&mut self, request: DiscoveryRequest) -> Vec<Effect> {
            self.session.request(request, &mut self.names).unwrap()
        }

        fn subscribe(&mut self, names: &[&'static str]) -> Vec<Effect> {
            self.wanted = names.to_vec();
            self.send(self.request())
        }

        /// Handles the next response, and checks it against the world.
        fn receive(&mut self, world: &World) -> Option<Vec<String>> {
            let message: DiscoveryResponse =
                decode(&mut self.session.respond(&mut self.names, world)?);
            let secrets: Vec<_> = message
                .resources
                .iter()
                .map(|any| tls::Secret::decode(&*any.value).unwrap().name)
                .collect();
            let exist = |name: &&&str| world.version(name).is_some();
            let mut expected: Vec<_> = self
                .wanted
                .iter()
                .filter(exist)
                .map(ToString::to_string)
                .collect();
            expected.sort();
            assert_eq!(secrets, expected, "the state of the world, all of it");
            assert!(!secrets.is_empty());
            for name in &secrets {
                self.has.insert(name.clone(), world.version(name).unwrap());
            }
            self.nonce = message.nonce;
            self.version = message.version_info;
            Some(secrets)
        }

        fn ack(&mut self) -> Vec<Effect> {
            self.send(self.request())
        }

        fn nack(&mut self, accepted: &str) -> Vec<Effect> {
            self.send(DiscoveryRequest {
                version_info: accepted.into(),
                error_detail: Some(rpc::Status {
                    code: 13,
                    message: "no".into(),
                }),
                ..self.request()
            })
        }
    }

    fn world(secrets: &[(&'static str, u8)]) -> World {
        World(secrets.iter().copied().collect())
    }

    #[test]
    fn an_ack_is_answered_with_silence() {
        let world = world(&[("a", 1)]);
        let mut client = Client::new();
        assert_eq!(client.subscribe(&["a"]), [Effect::Subscribe("a".into())]);
        assert_eq!(client.receive(&world).unwrap(), ["a"]);
        assert_eq!(client.ack(), [Effect::Ack(vec!["a".into()])]);
        assert_eq!(client.receive(&world), None);
        client.session.changed(["a".into()].into());
        assert_eq!(client.receive(&world), None, "woken, but nothing is new");
    }

    #[test]
    fn a_nack_is_answered_with_silence_until_the_content_changes() {
        let mut world = world(&[("a", 1)]);
        let mut client = Client::new();
        client.subscribe(&["a"]);
        client.receive(&world).unwrap();
        assert_eq!(
            client.nack(""),
            [Effect::Nack(vec!["a".into()], "no".into())]
        );
        assert_eq!(client.receive(&world), None);
        world.0.insert("a", 2);
        client.session.changed(["a".into()].into());
        assert_eq!(client.receive(&world).unwrap(), ["a"]);
    }

    #[test]
    fn a_stale_nonce_is_ignored() {
        let mut world = world(&[("a", 1), ("b", 1)]);
        let mut client = Client::new();
        client.subscribe(&["a"]);
        client.receive(&world).unwrap();
        let mut stale = client.request();
        stale.resource_names.push("b".into());
        world.0.insert("a", 2);
        client.session.changed(["a".into()].into());
        client.receive(&world).unwrap();
        assert_eq!(client.send(stale), []);
        assert_eq!(client.receive(&world), None);
    }

    #[test]
    fn unknown_names_wait_in_silence() {
        let mut world = world(&[]);
        let mut client = Client::new();
        client.subscribe(&["a"]);
        assert_eq!(client.receive(&world), None);
        world.0.insert("a", 1);
        client.session.changed(["a".into()].into());
        assert_eq!(client.receive(&world).unwrap(), ["a"]);
        world.0.remove("a");
        client.session.changed(["a".into()].into());
        assert_eq!(client.receive(&world), None, "a removal is not announced");
    }

    #[test]
    fn a_reconnecting_stream_is_answered_though_it_has_the_version() {
        let world = world(&[("a", 1)]);
        let mut client = Client::new();
        client.version = world.version("a").unwrap();
        client.subscribe(&["a"]);
        assert_eq!(client.receive(&world).unwrap(), ["a"]);
    }

    #[test]
    fn a_subscription_of_the_same_name_is_always_answered() {
        let world = world(&[("a", 1)]);
        let mut client = Client::new();
        client.subscribe(&["a"]);
        client.receive(&world).unwrap();
        client.subscribe(&[]);
        assert_eq!(client.receive(&world), None);
        client.subscribe(&["a"]);
        assert_eq!(
            client.receive(&world).unwrap(),
            ["a"],
            "dropped and asked for again"
        );
        client.send(DiscoveryRequest {
            response_nonce: String::new(),
            version_info: String::new(),
            ..client.request()
        });
        assert_eq!(client.receive(&world).unwrap(), ["a"], "started over");
    }

    #[test]
    fn an_ack_without_a_nonce_does_not_go_round_for_ever() {
        let world = world(&[("a", 1)]);
        let mut client = Client::new();
        client.subscribe(&["a"]);
        client.receive(&world).unwrap();
        client.nonce.clear();
        client.ack();
        assert_eq!(client.receive(&world), None);
    }

    #[test]
    fn no_wildcard_and_no_empty_subscription_is_answered() {
        let world = world(&[("a", 1), ("*", 1)]);
        for names in [&[][..], &["*"], &[""]] {
            let mut client = Client::new();
            assert_eq!(client.subscribe(names), []);
            assert!(client.session.respond(&mut client.names, &world).is_none());
        }
    }

    #[test]
    fn another_type_and_too_many_names_end_the_stream() {
        let (mut session, mut waiting) = (Sotw::new(2), Subscriptions::new());
        let request = |type_url: &str, names: usize| DiscoveryRequest {
            type_url: type_url.into(),
            resource_names: (0..names).map(|i| i.to_string()).collect(),
            ..Default::default()
        };
        assert!(session.request(request("", 2), &mut waiting).is_ok());
        let status = session
            .request(request("type.googleapis.com/x", 1), &mut waiting)
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let status = session.request(request("", 3), &mut waiting).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Subscribe(Vec<&'static str>),
        Change(&'static str, Option<u8>),
        Ack,
        Nack,
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            names().prop_map(Step::Subscribe),
            change().prop_map(|(name, content)| Step::Change(name, content)),
            Just(Step::Ack),
            Just(Step::Nack),
            Just(Step::Reconnect),
        ]
    }

    proptest! {
        /// After any steps, the client has the current version of all existing names that it is subscribed to,
        /// and was sent nothing unnecessary.
        #[test]
        fn a_client_always_has_the_latest(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut world, mut client) = (World::default(), Client::new());
            // Subscriptions without a response so far: the name did not exist.
            let mut asked = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Subscribe(names) => {
                        asked.extend(names.iter().filter(|name| !client.wanted.contains(name)));
                        asked.retain(|name| names.contains(name));
                        client.subscribe(&names);
                    }
                    Step::Change(name, content) => {
                        match content {
                            Some(content) => world.0.insert(name, content),
                            None => world.0.remove(name),
                        };
                        client.session.changed([name.into()].into());
                    }
                    Step::Ack => { client.ack(); }
                    Step::Nack => { client.nack(""); }
                    Step::Reconnect => {
                        asked.extend(&client.wanted);
                        client.session = Sotw::new(100);
                        client.nonce.clear();
                        client.ack();
                    }
                }
                let stale = |client: &Client, name: &&str| {
                    world.version(name).is_some_and(|v| client.has.get(*name) != Some(&v))
                };
                let needed = asked.iter().any(|name| world.version(name).is_some())
                    || client.wanted.iter().any(|name| stale(&client, name));
                let received = client.receive(&world);
                prop_assert_eq!(received.is_some(), needed);
                asked.retain(|name| !received.iter().flatten().any(|got| got == name));
                prop_assert_eq!(client.receive(&world), None);
                prop_assert!(!client.wanted.iter().any(|name| stale(&client, name)));
            }
        }
    }
}
