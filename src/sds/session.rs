//! What the two protocols have in common.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tonic::Status;

use super::grpc::Segments;
use super::intake;
use crate::inventory::{Doubt, Found, Lookup};
use crate::proto::{SECRET_TYPE_URL, core, rpc};
use crate::secret::{Kind, Name, Version};

/// The state machine of a protocol for one stream, without I/O: requests and changes go in, responses come
/// out. The subscriptions are passed to it each time.
pub(crate) trait Session {
    /// What the client sends.
    type Request: intake::Request;

    /// Handles a request, and returns its effects.
    ///
    /// # Errors
    /// The status that the stream must end with.
    fn request(
        &mut self,
        request: Self::Request,
        names: &mut Subscriptions,
    ) -> Result<Vec<Effect>, Status>;

    /// Whether there may be a response that is due.
    fn is_due(&self) -> bool;

    /// Handles that these names may have changed.
    fn changed(&mut self, names: BTreeSet<Name>);

    /// The next response that is due, built from the current state.
    fn respond(&mut self, names: &mut Subscriptions, view: &impl View) -> Option<Response>;
}

/// What a stream can see of the inventory.
pub(crate) trait View {
    /// Looks up a name for the stream's client.
    fn lookup(&self, name: &str) -> Lookup;

    /// Whether that credential may have had a certificate before the agent's start that can't be read now.
    fn is_unread(&self, credential: &str) -> bool;

    /// The time that dates are compared with.
    fn now(&self) -> SystemTime;
}

/// The names that a stream is subscribed to. Boxed, since most streams subscribe to one name, and a node of the
/// map has room for eleven.
pub(crate) type Subscriptions = BTreeMap<Name, Box<Subscription>>;

/// What a stream was last sent for a subscribed name.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) since: Instant,
    pub(crate) client_state: ClientState,
    /// When it was sent.
    pub(crate) sent: Option<SystemTime>,
    pub(crate) answer: Answer,
    /// The credential of the last secret sent.
    pub(crate) credential: Option<Name>,
    /// The last secret sent.
    pub(crate) kind: Option<Kind>,
    /// What the client rejected because it can't use that kind.
    pub(crate) refused: Option<Box<Refused>>,
}

/// A secret that the client rejected because it can't use its kind.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) kind: Kind,
    pub(crate) delivery: Delivery,
}

/// What a stream was last sent for a subscribed name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The version that the client has, as far as the agent knows.
    pub version: Option<Arc<str>>,
    /// When it was sent that, or that the name does not exist; none when it has not been sent anything.
    pub sent: Option<SystemTime>,
    /// How it answered.
    pub answer: Answer,
}

/// The client's state for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientState {
    Nothing,
    /// It has a version from before this stream or this agent.
    Held(Arc<str>),
    Absent,
    Version(Version),
}

/// How a client answered a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Not yet.
    #[default]
    None,
    /// It accepted it.
    Ack(SystemTime),
    /// It rejected it, with this message.
    Nack(SystemTime, Arc<str>),
}

impl Subscription {
    pub(crate) fn new(client_state: ClientState) -> Box<Self> {
        Box::new(Self {
            since: Instant::now(),
            client_state,
            sent: None,
            answer: Answer::None,
            credential: None,
            kind: None,
            refused: None,
        })
    }

    /// Requests the name again: it is sent again, unless the client already holds it.
    pub(crate) fn renew(&mut self, client_state: ClientState) {
        self.client_state = client_state;
        self.refused = None;
    }

    /// Records that the client is sent this secret.
    pub(crate) fn note_sent(&mut self, found: &Found) {
        self.client_state = ClientState::Version(found.secret.version());
        self.credential = Some(found.credential.clone());
        self.kind = Some(found.secret.kind());
    }

    /// What the stream was last sent. A client that rejected the kind of a secret was then sent that there is
    /// none, which is not what happened.
    pub(crate) fn delivery(&self) -> Delivery {
        let version = match (&self.client_state, &self.refused) {
            (ClientState::Absent, Some(refused)) => return refused.delivery.clone(),
            (ClientState::Held(version), _) => Some(version.clone()),
            (ClientState::Version(version), _) => Some(version.to_string().into()),
            (ClientState::Nothing | ClientState::Absent, _) => None,
        };
        Delivery {
            version,
            sent: self.sent,
            answer: self.answer.clone(),
        }
    }

    /// Whether the client rejected a secret of that kind, and would do so again.
    pub(crate) fn refuses(&self, kind: Kind) -> bool {
        self.refused
            .as_ref()
            .is_some_and(|refused| refused.kind == kind)
    }

    /// Looks up the name for this client; none if the result is unknown and the client must keep its version.
    pub(crate) fn lookup(&self, name: &str, view: &impl View) -> Option<Lookup> {
        let (otherwise, doubt) = match view.lookup(name) {
            Lookup::Unknown(otherwise, doubt) => (otherwise, doubt),
            known => return Some(known),
        };
        let keeps = match (&self.client_state, doubt) {
            (ClientState::Held(_), _) | (ClientState::Version(_), Doubt::Name) => true,
            (ClientState::Version(_), Doubt::Host) => {
                let credential = self.credential.as_deref();
                credential.is_some_and(|credential| view.is_unread(credential))
            }
            (ClientState::Nothing | ClientState::Absent, _) => false,
        };
        (!keeps).then_some(*otherwise)
    }

    /// Whether a client with a version from before must keep it for now, because the current certificate is
    /// another one and not valid.
    pub(crate) fn keeps_its_own(&self, found: &Found, now: SystemTime) -> bool {
        matches!(&self.client_state, ClientState::Held(version) if found.secret.version() != **version)
            && !found.secret.facts().is_valid(now)
    }
}

/// A secret under the name that was requested.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: Name,
    pub(crate) found: Found,
}

/// An effect of a request, for the driver of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The client sent its node id.
    Node(core::Node),
    /// The stream subscribes to this name, or requests it again.
    Subscribe(Name),
    /// The stream unsubscribes from this name.
    Unsubscribe(Name),
    /// The client accepted the response with these names.
    Ack(Vec<Name>),
    /// The client rejected the response with these names, with this error message.
    Nack(Vec<Name>, String),
}

/// A response and its content.
#[derive(Debug)]
pub(crate) struct Response {
    /// The encoded message.
    pub(crate) frame: Segments,
    /// The secrets that it delivers.
    pub(crate) secrets: Vec<Named>,
    /// The names that it reports as nonexistent.
    pub(crate) removed: Vec<Name>,
}

/// Responses that the client has not answered yet. Their number is limited; a client that never answers is
/// still served.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    last_nonce: u64,
    unanswered: VecDeque<(u64, Vec<Name>)>,
}

/// How many unanswered responses are tracked, to match ACKs and NACKs to responses. Envoy answers each one
/// immediately.
const MAX_UNANSWERED: usize = 8;

impl InFlight {
    /// Whether anything was sent on this stream.
    pub(crate) fn is_empty(&self) -> bool {
        self.last_nonce == 0
    }

    /// The nonce for a response that holds these names.
    pub(crate) fn sent(&mut self, names: Vec<Name>) -> String {
        if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.pop_front();
        }
        self.last_nonce += 1;
        self.unanswered.push_back((self.last_nonce, names));
        self.last_nonce.to_string()
    }

    /// Whether `nonce` is that of the last response.
    pub(crate) fn is_last(&self, nonce: &str) -> bool {
        nonce.parse() == Ok(self.last_nonce)
    }

    /// The effect of the answer to the response `nonce`; none if it was answered before.
    pub(crate) fn answered(&mut self, nonce: &str, error: Option<rpc::Status>) -> Option<Effect> {
        let index = self
            .unanswered
            .iter()
            .position(|(sent, _)| nonce.parse() == Ok(*sent))?;
        let (_, names) = self.unanswered.drain(..=index).next_back()?;
        if self.unanswered.is_empty() {
            // Between two rotations, a stream keeps no room for answers.
            self.unanswered = VecDeque::new();
        }
        Some(match error {
            Some(error) => Effect::Nack(names, error.message),
            None => Effect::Ack(names),
        })
    }
}

/// An empty type URL means Secret, the only type that SDS has.
pub(crate) fn check_type_url(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == SECRET_TYPE_URL {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "this server only has resources of type {SECRET_TYPE_URL}"
    )))
}

/// Checks the number of subscriptions after a request.
pub(crate) fn check_count(names: usize, limit: usize) -> Result<(), Status> {
    if names <= limit {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "a stream may subscribe to {limit} names, not to {names}"
    )))
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Buf;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::config::Absent;
    use crate::secret::tests::sample;

    /// An inventory of which a test has full control: name → content. Names that are not in it and
    /// begin with `u` are unknown.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct World(pub(crate) BTreeMap<&'static str, u8>);

    impl World {
        pub(crate) fn version(&self, name: &str) -> Option<String> {
            let content = self.0.get(name)?;
            Some(sample(&content.to_string()).version().to_string())
        }
    }

    impl View for World {
        fn lookup(&self, name: &str) -> Lookup {
            match self.0.get(name) {
                Some(content) => Lookup::Found(Found {
                    credential: name.into(),
                    secret: sample(&content.to_string()),
                }),
                None if name.starts_with('u') => {
                    Lookup::Unknown(Box::new(Lookup::Absent(Absent::SaySo)), Doubt::Host)
                }
                None => Lookup::Absent(Absent::SaySo),
            }
        }

        fn is_unread(&self, _: &str) -> bool {
            false
        }

        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }
    }

    /// The message in a response's frame, as a client would decode it.
    pub(crate) fn decode<M: Message + Default>(response: &mut Response) -> M {
        let frame = &mut response.frame;
        assert_eq!(frame.get_u8(), 0, "not compressed");
        assert_eq!(frame.get_u32() as usize, frame.remaining());
        M::decode(frame.copy_to_bytes(frame.remaining())).unwrap()
    }

    /// Names that a property test picks from: few, so that they meet again.
    pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    /// A set of names.
    pub(crate) fn names() -> impl Strategy<Value = Vec<&'static str>> {
        proptest::sample::subsequence(&NAMES[..], 0..=NAMES.len())
    }

    /// A change of the world: a name, and its new content or none.
    pub(crate) fn change() -> impl Strategy<Value = (&'static str, Option<u8>)> {
        (
            proptest::sample::select(&NAMES[..]),
            proptest::option::of(0..3_u8),
        )
    }

    #[test]
    fn an_answer_counts_once_and_covers_what_came_before() {
        let mut in_flight = InFlight::default();
        let first = in_flight.sent(vec!["a".into()]);
        let second = in_flight.sent(vec!["b".into()]);
        assert!(in_flight.is_last(&second) && !in_flight.is_last(&first));
        assert_eq!(in_flight.answered("", None), None);
        assert_eq!(in_flight.answered("7", None), None);
        assert_eq!(
            in_flight.answered(&second, None),
            Some(Effect::Ack(vec!["b".into()]))
        );
        assert_eq!(in_flight.answered(&second, None), None);
        assert_eq!(in_flight.answered(&first, None), None);
    }

    #[test]
    fn a_client_that_never_answers_uses_bounded_memory() {
        let mut in_flight = InFlight::default();
        for _ in 0..1000 {
            in_flight.sent(vec!["a".into()]);
        }
        assert_eq!(in_flight.unanswered.len(), MAX_UNANSWERED);
    }
}
