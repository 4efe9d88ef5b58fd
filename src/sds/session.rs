//! What the two protocols have in common.

use std::collections::VecDeque;
use std::sync::Arc;

use tonic::Status;

use super::grpc::Segments;
use super::intake;
use crate::config::Absent;
use crate::proto::{SECRET_TYPE_URL, core, rpc};
use crate::secret::{Name, Secret};

/// One stream's half of a protocol, without I/O: requests and changes go in, responses come out.
pub(crate) trait Session {
    /// What the client sends.
    type Request: intake::Request;

    /// Takes a request in, and says what it means.
    ///
    /// # Errors
    /// The status that the stream must end with.
    fn request(&mut self, request: Self::Request) -> Result<Vec<Effect>, Status>;

    /// Takes in that a name may have changed.
    fn changed(&mut self, name: &Name);

    /// The next response that is due, made of the present state.
    fn respond(&mut self, view: &impl View) -> Option<Response>;
}

/// What a stream can see of the store.
pub(crate) trait View {
    /// The current secret of that name.
    fn secret(&self, name: &str) -> Option<Arc<Secret>>;

    /// How a name without a secret is answered.
    fn absent(&self, name: &str) -> Absent;
}

/// What a request means to the driver of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The client said who it is.
    Node(core::Node),
    /// The stream now waits for this name, or asks for it once more.
    Subscribe(Name),
    /// The stream no longer waits for this name.
    Unsubscribe(Name),
    /// The client took the response that held these names.
    Ack(Vec<Name>),
    /// The client refused the response that held these names, in its own words.
    Nack(Vec<Name>, String),
}

/// A response, and what is in it.
#[derive(Debug)]
pub(crate) struct Response {
    /// The encoded message.
    pub(crate) frame: Segments,
    /// The secrets that it delivers.
    pub(crate) secrets: Vec<Arc<Secret>>,
    /// The names that it says do not exist.
    pub(crate) removed: Vec<Name>,
}

/// Responses that the client has not answered yet. Only so many are remembered: a client that
/// never answers is served all the same.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    last_nonce: u64,
    unanswered: VecDeque<(u64, Vec<Name>)>,
}

/// How many unanswered responses are remembered, to tell what an ACK or NACK is about. Envoy
/// answers each at once.
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

    /// What the answer to the response `nonce` means; nothing when it was answered before.
    pub(crate) fn answered(&mut self, nonce: &str, error: Option<rpc::Status>) -> Option<Effect> {
        let index = self
            .unanswered
            .iter()
            .position(|(sent, _)| nonce.parse() == Ok(*sent))?;
        let (_, names) = self.unanswered.drain(..=index).next_back()?;
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
        "this server has resources of the type {SECRET_TYPE_URL} only"
    )))
}

/// Checks what a stream would wait for after a request.
pub(crate) fn check_count(names: usize, limit: usize) -> Result<(), Status> {
    if names <= limit {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "a stream may subscribe to {limit} names, not to {names}"
    )))
}

/// Whether a requested name can be one of a secret. A wildcard can't, so that no request can ask
/// for every secret at once; nor can one that no folder could have, so that no stream can make the
/// agent remember more than so many short names.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "*" && name.len() <= MAX_NAME
}

/// The longest name of a secret, in bytes: that of a DNS name.
const MAX_NAME: usize = 253;

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use bytes::Buf;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::secret::tests::sample;

    /// A store of which a test has full control: name → content.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct World(pub(crate) BTreeMap<&'static str, u8>);

    impl World {
        pub(crate) fn version(&self, name: &str) -> Option<String> {
            Some(self.secret(name)?.version().to_string())
        }
    }

    impl View for World {
        fn secret(&self, name: &str) -> Option<Arc<Secret>> {
            let content = self.0.get(name)?;
            Some(sample(name, &content.to_string()))
        }

        fn absent(&self, _: &str) -> Absent {
            Absent::SaySo
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
    fn a_client_that_never_answers_costs_no_more_and_more() {
        let mut in_flight = InFlight::default();
        for _ in 0..1000 {
            in_flight.sent(vec!["a".into()]);
        }
        assert_eq!(in_flight.unanswered.len(), MAX_UNANSWERED);
    }
}
