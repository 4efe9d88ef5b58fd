//! Delta: each response has only what changed, and the names that don't exist.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use tonic::Status;

use super::message;
use super::session::{
    Answer, ClientState, Delivery, Effect, InFlight, Named, Refused, Response, Session,
    Subscription, Subscriptions, View, check_count, check_type_url,
};
use crate::config::Absent;
use crate::inventory::{Found, Lookup};
use crate::name::{Host, is_requestable, plain};
use crate::proto::discovery::DeltaDiscoveryRequest;
use crate::secret::{Kind, Name};

/// How many bytes of secrets go into one response, unless a single secret is larger: clients
/// other than Envoy refuse messages over 4 MiB by default. The rest follows at once.
const RESPONSE_BYTES: usize = 1024 * 1024;

/// One delta stream.
pub(crate) struct Delta {
    max_names: usize,
    /// Names that were requested, or changed, since the last response.
    due: BTreeSet<Name>,
    /// Requested names that are not valid: reported as nonexistent, and not stored.
    impossible: BTreeSet<Name>,
    in_flight: InFlight,
    started: bool,
}

impl Delta {
    /// A stream that may subscribe to at most `max_names` names.
    pub(crate) fn new(max_names: usize) -> Self {
        Self {
            max_names,
            due: BTreeSet::new(),
            impossible: BTreeSet::new(),
            in_flight: InFlight::default(),
            started: false,
        }
    }

    fn unsubscribe(&mut self, unwanted: Vec<String>, names: &mut Subscriptions) -> Vec<Effect> {
        let mut effects = Vec::new();
        for name in unwanted {
            if let Some((name, _)) = names.remove_entry(name.as_str()) {
                self.due.remove(&name);
                effects.push(Effect::Unsubscribe(name));
            }
        }
        effects
    }

    /// A name that is subscribed again is sent again. `versions` are those that a reconnecting client still
    /// has.
    fn subscribe(
        &mut self,
        wanted: Vec<String>,
        mut versions: HashMap<String, String>,
        names: &mut Subscriptions,
    ) -> Result<Vec<Effect>, Status> {
        let mut effects = Vec::new();
        for name in wanted {
            if !is_requestable(&name) {
                self.impossible.insert(name.into());
                check_count(names.len() + self.impossible.len(), self.max_names)?;
                continue;
            }
            let client_state = versions
                .remove(&name)
                .map_or(ClientState::Nothing, |version| {
                    ClientState::Held(version.into())
                });
            let name = Name::from(name);
            match names.get_mut(&name) {
                Some(known) => known.renew(client_state),
                None => {
                    names.insert(name.clone(), Subscription::new(client_state));
                    check_count(names.len(), self.max_names)?;
                }
            }
            if self.due.insert(name.clone()) {
                effects.push(Effect::Subscribe(name));
            }
        }
        Ok(effects)
    }

    /// After a client rejects the kind of a secret, the name is reported as nonexistent: otherwise Envoy would
    /// keep the handshakes of a host waiting for which it got a bundle.
    fn note_refusals(&mut self, effect: Option<&Effect>, names: &mut Subscriptions) {
        let Some(Effect::Nack(refused, reason)) = effect else {
            return;
        };
        let answer = Answer::Nack(SystemTime::now(), reason.as_str().into());
        for name in refused {
            let Some(known) = names.get_mut(name) else {
                continue;
            };
            if Host::parse(plain(name)).is_some() && known.kind == Some(Kind::TrustBundle) {
                let delivery = Delivery {
                    answer: answer.clone(),
                    ..known.delivery()
                };
                let kind = Kind::TrustBundle;
                known.refused = Some(Box::new(Refused { kind, delivery }));
                self.due.insert(name.clone());
            }
        }
    }
}

/// What to send about a name.
enum News {
    Secret(Found),
    Removed,
}

/// What to send to a client with this subscription.
fn news(known: &mut Subscription, name: &str, view: &impl View) -> Option<News> {
    let absent = match known.lookup(name, view)? {
        Lookup::Found(found) if known.refuses(found.secret.kind()) => Absent::SaySo,
        Lookup::Found(found) => {
            if known.keeps_its_own(&found, view.now()) {
                return None;
            }
            let version = found.secret.version();
            let has = match &known.client_state {
                ClientState::Held(held) => version == **held,
                ClientState::Version(sent) => version == *sent,
                ClientState::Nothing | ClientState::Absent => false,
            };
            known.note_sent(&found);
            return (!has).then_some(News::Secret(found));
        }
        // `Unknown` is never nested.
        Lookup::Unknown(..) => return None,
        Lookup::Absent(absent) => absent,
    };
    if absent == Absent::Wait || known.client_state == ClientState::Absent {
        return None;
    }
    known.client_state = ClientState::Absent;
    Some(News::Removed)
}

impl Session for Delta {
    type Request = DeltaDiscoveryRequest;

    fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        names: &mut Subscriptions,
    ) -> Result<Vec<Effect>, Status> {
        check_type_url(&request.type_url)?;
        let first = !std::mem::replace(&mut self.started, true);
        let versions = if first {
            request.initial_resource_versions
        } else {
            HashMap::new()
        };

        let mut effects: Vec<_> = request.node.map(Effect::Node).into_iter().collect();
        let nonce = &request.response_nonce;
        let answer = self.in_flight.answered(nonce, request.error_detail);
        self.note_refusals(answer.as_ref(), names);
        effects.extend(answer);
        if first && request.resource_names_subscribe.is_empty() {
            // Envoy sends this for a handshake with the host name `*`, and waits for an answer.
            self.impossible.insert(Name::from("*"));
        }
        effects.extend(self.unsubscribe(request.resource_names_unsubscribe, names));
        effects.extend(self.subscribe(request.resource_names_subscribe, versions, names)?);
        Ok(effects)
    }

    fn is_due(&self) -> bool {
        !self.due.is_empty() || !self.impossible.is_empty()
    }

    fn changed(&mut self, mut names: BTreeSet<Name>) {
        self.due.append(&mut names);
    }

    fn respond(&mut self, names: &mut Subscriptions, view: &impl View) -> Option<Response> {
        let mut removed: Vec<_> = std::mem::take(&mut self.impossible).into_iter().collect();
        let (mut secrets, mut bytes) = (Vec::new(), 0);
        while bytes < RESPONSE_BYTES
            && let Some(name) = self.due.pop_first()
        {
            let Some(known) = names.get_mut(&name) else {
                continue;
            };
            match news(known, &name, view) {
                Some(News::Secret(found)) => {
                    bytes += found.secret.resource_len(&name);
                    secrets.push(Named { name, found });
                }
                Some(News::Removed) => {
                    bytes += name.len();
                    removed.push(name);
                }
                None => {}
            }
        }
        if self.due.is_empty() {
            // A set that was not empty once keeps room for eleven names.
            self.due = BTreeSet::new();
        }
        if secrets.is_empty() && removed.is_empty() {
            return None;
        }
        let sent = secrets.iter().map(|secret| secret.name.clone());
        // Invalid names are not stored: they may be as long as a request.
        let absent = removed.iter().filter(|name| is_requestable(name)).cloned();
        let nonce = self.in_flight.sent(sent.chain(absent).collect());
        Some(Response {
            frame: message::delta(&nonce, &secrets, &removed),
            secrets,
            removed,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::collections::BTreeMap;

    use super::*;
    use crate::proto::discovery::DeltaDiscoveryResponse;
    use crate::proto::rpc;
    use crate::sds::session::tests::{NAMES, World, change, decode, names};

    /// A client that follows the protocol.
    struct Client {
        session: Delta,
        names: Subscriptions,
        wanted: BTreeSet<&'static str>,
        nonce: String,
        /// What it has: name → version.
        has: BTreeMap<String, String>,
    }

    /// The names in a response: those with a secret, and those without.
    type Received = (Vec<String>, Vec<String>);

    impl Client {
        fn new() -> Self {
            Self {
                session: Delta::new(100),
                names: Subscriptions::new(),
                wanted: BTreeSet::new(),
                nonce: String::new(),
                has: BTreeMap::new(),
            }
        }

        fn send(&mut self, request: DeltaDiscoveryRequest) -> Vec<Effect> {
            self.session.request(request, &mut self.names).unwrap()
        }

        fn subscribe(&mut self, names: &[&'static str]) -> Vec<Effect> {
            self.wanted.extend(names);
            self.send(DeltaDiscoveryRequest {
                resource_names_subscribe: strings(names),
                ..Default::default()
            })
        }

        fn unsubscribe(&mut self, names: &[&'static str]) -> Vec<Effect> {
            for name in names {
                self.wanted.remove(name);
                self.has.remove(*name);
            }
            self.send(DeltaDiscoveryRequest {
                resource_names_unsubscribe: strings(names),
                ..Default::default()
            })
        }

        /// A new stream, which starts with what the client still has.
        fn reconnect(&mut self) {
            self.session = Delta::new(100);
            self.names.clear();
            let wanted: Vec<_> = self.wanted.iter().copied().collect();
            self.send(DeltaDiscoveryRequest {
                resource_names_subscribe: strings(&wanted),
                initial_resource_versions: self.has.clone().into_iter().collect(),
                ..Default::default()
            });
        }

        fn answer(&mut self, error: Option<&str>) -> Vec<Effect> {
            self.send(DeltaDiscoveryRequest {
                response_nonce: self.nonce.clone(),
                error_detail: error.map(|message| rpc::Status {
                    code: 13,
                    message: message.into(),
                }),
                ..Default::default()
            })
        }

        /// Handles the next response, and checks it against the world.
        fn receive(&mut self, world: &World) -> Option<Received> {
            let mut message: DeltaDiscoveryResponse =
                decode(&mut self.session.respond(&mut self.names, world)?);
            self.nonce = message.nonce;
            let mut names = Vec::new();
            for resource in message.resources {
                assert_eq!(
                    Some(&resource.version),
                    world.version(&resource.name).as_ref()
                );
                self.has.insert(resource.name.clone(), resource.version);
                names.push(resource.name);
            }
            // What an empty first request is answered with.
            message.removed_resources.retain(|name| name != "*");
            for name in &message.removed_resources {
                assert_eq!(world.version(name), None);
                self.has.remove(name);
            }
            let received = (names, message.removed_resources);
            Some(received).filter(|(names, removed)| !names.is_empty() || !removed.is_empty())
        }
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn world(secrets: &[(&'static str, u8)]) -> World {
        World(secrets.iter().copied().collect())
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut world = world(&[("a", 1), ("b", 1)]);
        let mut client = Client::new();
        client.subscribe(&["a", "b"]);
        assert_eq!(client.receive(&world).unwrap().0, ["a", "b"]);
        assert_eq!(
            client.answer(None),
            [Effect::Ack(vec!["a".into(), "b".into()])]
        );
        assert_eq!(client.receive(&world), None);
        world.0.insert("b", 2);
        client.session.changed(["b".into()].into());
        assert_eq!(client.receive(&world).unwrap(), (strings(&["b"]), vec![]));
    }

    #[test]
    fn unknown_and_removed_names_are_reported_once() {
        let mut world = world(&[("a", 1)]);
        let mut client = Client::new();
        client.subscribe(&["a", "ghost"]);
        assert_eq!(
            client.receive(&world).unwrap(),
            (strings(&["a"]), strings(&["ghost"]))
        );
        world.0.remove("a");
        client.session.changed(["a".into()].into());
        assert_eq!(client.receive(&world).unwrap(), (vec![], strings(&["a"])));
        client.session.changed(["a".into()].into());
        client.session.changed(["ghost".into()].into());
        assert_eq!(client.receive(&world), None);
        world.0.insert("a", 1);
        client.session.changed(["a".into()].into());
        assert_eq!(
            client.receive(&world).unwrap().0,
            ["a"],
            "back with the same content"
        );
    }

    #[test]
    fn a_name_subscribed_again_is_sent_again() {
        let world = world(&[("a", 1)]);
        let mut client = Client::new();
        for _ in 0..3 {
            client.subscribe(&["a", "ghost"]);
            let received = client.receive(&world).unwrap();
            assert_eq!(received, (strings(&["a"]), strings(&["ghost"])));
        }
    }

    #[test]
    fn what_a_reconnecting_client_has_is_not_sent_again() {
        let world = world(&[("a", 1), ("b", 1)]);
        let mut client = Client::new();
        client.subscribe(&["a"]);
        client.receive(&world).unwrap();
        client.wanted.insert("b");
        client.has.insert("b".into(), "an old version".into());
        client.reconnect();
        assert_eq!(client.receive(&world).unwrap(), (strings(&["b"]), vec![]));
    }

    #[test]
    fn initial_versions_count_in_the_first_request_alone() {
        let world = world(&[("a", 1)]);
        let mut client = Client::new();
        client.subscribe(&[]);
        client.send(DeltaDiscoveryRequest {
            resource_names_subscribe: strings(&["a"]),
            initial_resource_versions: [("a".into(), world.version("a").unwrap())].into(),
            ..Default::default()
        });
        assert_eq!(client.receive(&world).unwrap().0, ["a"]);
    }

    #[test]
    fn a_nack_is_answered_with_silence_until_the_content_changes() {
        let mut world = world(&[("a", 1)]);
        let mut client = Client::new();
        client.subscribe(&["a"]);
        client.receive(&world).unwrap();
        assert_eq!(
            client.answer(Some("no")),
            [Effect::Nack(vec!["a".into()], "no".into())]
        );
        client.session.changed(["a".into()].into());
        assert_eq!(client.receive(&world), None);
        world.0.insert("a", 2);
        client.session.changed(["a".into()].into());
        assert_eq!(client.receive(&world).unwrap().0, ["a"]);
    }

    #[test]
    fn no_wildcard_and_no_empty_subscription_is_answered_with_a_secret() {
        let world = world(&[("a", 1), ("*", 1)]);
        let mut client = Client::new();
        for (asked, name) in [(&[][..], "*"), (&["*"], "*"), (&[""], "")] {
            assert_eq!(client.subscribe(asked), [], "no handshake waits for it");
            let answer = client.session.respond(&mut client.names, &world).unwrap();
            assert!(answer.secrets.is_empty());
            assert_eq!(
                answer.removed,
                [name.into()],
                "an unanswered name blocks a handshake"
            );
            assert!(client.session.respond(&mut client.names, &world).is_none());
        }
    }

    #[test]
    fn a_name_that_no_folder_could_have_is_answered_and_forgotten() {
        let name = &*Box::leak("n".repeat(254).into_boxed_str());
        let mut client = Client::new();
        assert_eq!(client.subscribe(&[name]), []);
        assert_eq!(
            client
                .session
                .respond(&mut client.names, &World::default())
                .unwrap()
                .removed,
            [name.into()]
        );
        assert!(client.names.is_empty());
    }

    #[test]
    fn too_many_names_end_the_stream_and_so_does_another_type() {
        let (mut session, mut waiting) = (Delta::new(2), Subscriptions::new());
        let request = |type_url: &str, names: &[&str]| DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe: strings(names),
            ..Default::default()
        };
        assert!(
            session
                .request(request("", &["a", "b"]), &mut waiting)
                .is_ok()
        );
        assert!(
            session.request(request("", &["a"]), &mut waiting).is_ok(),
            "it has that one already"
        );
        let status = session
            .request(request("", &["c"]), &mut waiting)
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let status = session
            .request(request("type.googleapis.com/x", &[]), &mut waiting)
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn a_large_answer_comes_in_pieces() {
        struct Large;
        impl View for Large {
            fn lookup(&self, name: &str) -> Lookup {
                Lookup::Found(Found {
                    credential: name.into(),
                    secret: crate::secret::tests::sample(&"x".repeat(RESPONSE_BYTES / 2)),
                })
            }

            fn is_unread(&self, _: &str) -> bool {
                false
            }
            fn now(&self) -> SystemTime {
                SystemTime::UNIX_EPOCH
            }
        }
        let mut client = Client::new();
        client.subscribe(&NAMES);
        let mut sent = 0;
        while let Some(response) = client.session.respond(&mut client.names, &Large) {
            assert!(response.secrets.len() <= 2);
            sent += response.secrets.len();
        }
        assert_eq!(sent, NAMES.len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Subscribe(Vec<&'static str>),
        Unsubscribe(Vec<&'static str>),
        Change(&'static str, Option<u8>),
        Ack,
        Nack,
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            names().prop_map(Step::Subscribe),
            names().prop_map(Step::Unsubscribe),
            change().prop_map(|(name, content)| Step::Change(name, content)),
            Just(Step::Ack),
            Just(Step::Nack),
            Just(Step::Reconnect),
        ]
    }

    #[test]
    fn what_may_still_be_there_is_left_to_a_client_that_has_it() {
        let mut world = World::default();
        let mut client = Client::new();
        client.has.insert("u1".into(), "a version".into());
        client.wanted.extend(["u1", "u2"]);
        client.reconnect();
        let received = client.receive(&world).unwrap();
        assert_eq!(received, (vec![], strings(&["u2"])));
        world.0.insert("u1", 1);
        client.session.changed(["u1".into()].into());
        assert_eq!(client.receive(&world).unwrap().0, ["u1"]);
        world.0.remove("u1");
        client.session.changed(["u1".into()].into());
        let removed = client.receive(&world).unwrap().1;
        assert_eq!(removed, ["u1"], "it was there, and is gone");
    }

    #[test]
    fn a_version_that_a_client_brings_along_is_not_replaced_by_an_invalid_certificate() {
        struct Ended(World);
        impl View for Ended {
            fn lookup(&self, name: &str) -> Lookup {
                self.0.lookup(name)
            }
            fn is_unread(&self, _: &str) -> bool {
                false
            }
            fn now(&self) -> SystemTime {
                SystemTime::now()
            }
        }
        let mut client = Client::new();
        client.has.insert("a".into(), "a version".into());
        client.wanted.insert("a");
        client.reconnect();
        let ended = Ended(world(&[("a", 1)]));
        assert!(client.session.respond(&mut client.names, &ended).is_none());
        client.session.changed(["a".into()].into());
        assert_eq!(
            client.receive(&ended.0).unwrap().0,
            ["a"],
            "it became valid"
        );
    }

    #[test]
    fn a_host_whose_bundle_is_refused_is_sent_that_there_is_none() {
        struct Bundles;
        impl View for Bundles {
            fn lookup(&self, name: &str) -> Lookup {
                let part = crate::secret::Part::from(crate::secret::tests::bundle("1"));
                let noticed = std::time::Instant::now();
                Lookup::Found(Found {
                    credential: name.into(),
                    secret: crate::secret::Secret::new(part.into(), None, noticed).into(),
                })
            }
            fn is_unread(&self, _: &str) -> bool {
                false
            }
            fn now(&self) -> SystemTime {
                SystemTime::UNIX_EPOCH
            }
        }
        let mut client = Client::new();
        client.subscribe(&["site-cacert"]);
        let first = client.session.respond(&mut client.names, &Bundles);
        client.nonce = decode::<DeltaDiscoveryResponse>(&mut first.unwrap()).nonce;
        client.answer(Some("unexpected secret type"));
        let answer = client.session.respond(&mut client.names, &Bundles).unwrap();
        assert_eq!(answer.removed, ["site-cacert".into()]);
        client.session.changed(["site-cacert".into()].into());
        assert!(
            client
                .session
                .respond(&mut client.names, &Bundles)
                .is_none()
        );
    }

    proptest! {
        /// After any steps, the client has exactly the existing ones of its subscribed names, and was only
        /// sent what it had requested or what had changed.
        #[test]
        fn a_client_always_has_the_latest(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut world, mut client) = (World::default(), Client::new());
            for step in steps {
                let mut asked = Vec::new();
                match step {
                    Step::Subscribe(names) => {
                        client.subscribe(&names);
                        asked = names;
                    }
                    Step::Unsubscribe(names) => { client.unsubscribe(&names); }
                    Step::Change(name, content) => {
                        match content {
                            Some(content) => world.0.insert(name, content),
                            None => world.0.remove(name),
                        };
                        client.session.changed([name.into()].into());
                    }
                    Step::Ack => { client.answer(None); }
                    Step::Nack => { client.answer(Some("no")); }
                    Step::Reconnect => {
                        // A new stream is sent again which names don't exist.
                        asked = client.wanted.iter().copied().filter(|name| {
                            world.version(name).is_none()
                        }).collect();
                        client.reconnect();
                    }
                }
                let mut due: BTreeSet<String> = asked.iter().map(ToString::to_string).collect();
                due.extend(client.wanted.iter().filter(|name| {
                    world.version(name) != client.has.get(**name).cloned()
                }).map(ToString::to_string));
                let (sent, removed) = client.receive(&world).unwrap_or_default();
                let all: BTreeSet<String> = sent.into_iter().chain(removed).collect();
                prop_assert_eq!(all, due);
                prop_assert_eq!(client.receive(&world), None);
                for name in &client.wanted {
                    prop_assert_eq!(client.has.get(*name).cloned(), world.version(name));
                }
            }
        }
    }
}
