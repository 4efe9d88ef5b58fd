//! Receives a discovery request piece by piece: fields that the agent needs are kept, and the rest is
//! discarded on arrival.
//!
//! Envoy's first request on each stream has a node of some 61 kB, of which only id and cluster are needed. A
//! request that never ends, or is built to be as expensive as possible, must be detected before it is decoded:
//! every name counts, and every text that a client can choose freely is cut.

use prost::Message;
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint};
use tonic::Status;

use crate::proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::text::cut;

/// Bytes that are kept of a text: node id, cluster, version, nonce, error message.
pub(crate) const TEXT: usize = 256;
/// Fields of a request are numbered below this.
const FIELDS: usize = 8;
/// The maximum size of a field's number and length, and of a plain number.
const HEAD: usize = 20;

/// How much of a field is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keep {
    /// A number.
    Number,
    /// The beginning of a text.
    Text,
    /// All of a name.
    Whole,
    /// All of a name, which counts.
    Name,
    /// A message, of which these fields are kept.
    Message(&'static [(u32, Keep)]),
    /// Like `Message`; each one counts.
    Entry(&'static [(u32, Keep)]),
}

const NODE: Keep = Keep::Message(&[(1, Keep::Text), (2, Keep::Text)]);
const STATUS: Keep = Keep::Message(&[(1, Keep::Number), (2, Keep::Text)]);

/// A request of one of the protocols.
pub(crate) trait Request: Message + Default {
    /// The fields that are kept. All others are skipped.
    const FIELDS: &'static [(u32, Keep)];

    /// Drops what is there twice.
    fn dedup(&mut self);
}

impl Request for DiscoveryRequest {
    const FIELDS: &'static [(u32, Keep)] = &[
        (1, Keep::Text),
        (2, NODE),
        (3, Keep::Name),
        (4, Keep::Text),
        (5, Keep::Text),
        (6, STATUS),
    ];

    fn dedup(&mut self) {
        unique(&mut self.resource_names);
    }
}

impl Request for DeltaDiscoveryRequest {
    const FIELDS: &'static [(u32, Keep)] = &[
        (1, NODE),
        (2, Keep::Text),
        (3, Keep::Name),
        (4, Keep::Name),
        (5, Keep::Entry(&[(1, Keep::Whole), (2, Keep::Text)])),
        (6, Keep::Text),
        (7, STATUS),
    ];

    fn dedup(&mut self) {
        unique(&mut self.resource_names_subscribe);
        unique(&mut self.resource_names_unsubscribe);
    }
}

fn unique(names: &mut Vec<String>) {
    names.sort_unstable();
    names.dedup();
}

/// A request that is being received.
#[derive(Debug)]
pub(crate) struct Intake {
    /// The messages that are open: the request, and the one within it that is being received.
    levels: Vec<Level>,
    state: State,
    /// Bytes of a field's number and length so far.
    head: Vec<u8>,
    /// How many names of each field there were.
    names: [usize; FIELDS],
    max_names: usize,
    /// The name that was kept last, and its field.
    last_name: (u32, Vec<u8>),
}

#[derive(Debug)]
struct Level {
    fields: &'static [(u32, Keep)],
    /// Its number in the message around it.
    number: u32,
    /// Bytes of it that are still to come.
    left: usize,
    kept: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Head,
    /// A field's content: how much of it is still to come, and how much more is kept.
    Content {
        number: u32,
        left: usize,
        room: usize,
        is_cut: bool,
        kept: Option<Vec<u8>>,
    },
}

impl Intake {
    /// A request of `length` bytes, with at most `max_names` names.
    pub(crate) fn new<R: Request>(length: usize, max_names: usize) -> Self {
        Self {
            levels: vec![Level {
                fields: R::FIELDS,
                number: 0,
                left: length,
                kept: Vec::new(),
            }],
            state: State::Head,
            head: Vec::new(),
            names: [0; FIELDS],
            max_names,
            last_name: (0, Vec::new()),
        }
    }

    /// Handles the next bytes, all of them.
    ///
    /// # Errors
    /// They are not part of a valid request, or it has too many names.
    pub(crate) fn take(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            let taken = match self.state {
                State::Head => self.take_head(data)?,
                State::Content { .. } => self.take_content(data),
            };
            data = &data[taken..];
            self.close_messages()?;
        }
        Ok(())
    }

    /// How many bytes are still to come.
    pub(crate) fn left(&self) -> usize {
        let content = match self.state {
            State::Content { left, .. } => left,
            State::Head => 0,
        };
        let levels = self.levels.iter().map(|level| level.left);
        content + levels.sum::<usize>()
    }

    /// The bytes that are kept so far.
    pub(crate) fn kept(&self) -> usize {
        let content = match &self.state {
            State::Content {
                kept: Some(kept), ..
            } => kept.len(),
            _ => 0,
        };
        let levels = self.levels.iter().map(|level| level.kept.len());
        content + levels.sum::<usize>()
    }

    /// The request, when all of it has arrived.
    ///
    /// # Errors
    /// It is not such a request.
    pub(crate) fn finish<R: Request>(&self) -> Result<Option<R>, Status> {
        if self.left() > 0 {
            return Ok(None);
        }
        let [whole] = &self.levels[..] else {
            return Err(malformed("a message within it has no end"));
        };
        if !self.head.is_empty() || !matches!(self.state, State::Head) {
            return Err(malformed("a field has no end"));
        }
        let mut request = R::decode(&*whole.kept).map_err(malformed)?;
        request.dedup();
        Ok(Some(request))
    }

    /// Reads the available bytes of a field's number and length, or of a plain number. Returns their count.
    fn take_head(&mut self, data: &[u8]) -> Result<usize, Status> {
        let before = self.head.len();
        let left = self.levels.last().map_or(0, |level| level.left);
        let most = data.len().min(HEAD - before).min(left);
        self.head.extend_from_slice(&data[..most]);
        let Some((number, kind, value, length)) = head(&self.head)? else {
            if most == 0 {
                return Err(malformed("a number is too long, or has no end"));
            }
            self.consume(most)?;
            return Ok(most);
        };
        self.head.clear();
        self.consume(length - before)?;
        match kind {
            WireType::SixtyFourBit => self.skip(number, 8)?,
            WireType::ThirtyTwoBit => self.skip(number, 4)?,
            WireType::Varint => self.number(number, value),
            _ => self.open(number, usize::try_from(value).map_err(malformed)?)?,
        }
        Ok(length - before)
    }

    fn keep(&self, number: u32) -> Option<Keep> {
        let fields = self.levels.last()?.fields;
        let field = fields.iter().find(|(known, _)| *known == number);
        field.map(|(_, keep)| *keep)
    }

    fn number(&mut self, number: u32, value: u64) {
        if let (Some(Keep::Number), Some(level)) = (self.keep(number), self.levels.last_mut()) {
            encode_key(number, WireType::Varint, &mut level.kept);
            encode_varint(value, &mut level.kept);
        }
    }

    /// Begins a field of `length` bytes.
    fn open(&mut self, number: u32, length: usize) -> Result<(), Status> {
        match self.keep(number) {
            Some(Keep::Name) => {
                self.count(number)?;
                self.content(number, length, length, true)
            }
            Some(Keep::Whole) => self.content(number, length, length, true),
            Some(Keep::Text) => self.content(number, length, TEXT, true),
            Some(Keep::Message(fields)) => self.open_message(number, length, fields),
            Some(Keep::Entry(fields)) => {
                self.count(number)?;
                self.open_message(number, length, fields)
            }
            Some(Keep::Number) | None => self.skip(number, length),
        }
    }

    fn count(&mut self, number: u32) -> Result<(), Status> {
        let names = &mut self.names[number as usize % FIELDS];
        *names += 1;
        if *names <= self.max_names {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "a request has more than the {} names that a stream may subscribe to",
            self.max_names
        )))
    }

    fn open_message(
        &mut self,
        number: u32,
        length: usize,
        fields: &'static [(u32, Keep)],
    ) -> Result<(), Status> {
        self.consume(length)?;
        self.levels.push(Level {
            fields,
            number,
            left: length,
            kept: Vec::new(),
        });
        Ok(())
    }

    fn skip(&mut self, number: u32, length: usize) -> Result<(), Status> {
        self.content(number, length, 0, false)
    }

    fn content(
        &mut self,
        number: u32,
        length: usize,
        room: usize,
        keep: bool,
    ) -> Result<(), Status> {
        self.consume(length)?;
        self.state = State::Content {
            number,
            left: length,
            room: room.min(length),
            is_cut: room < length,
            kept: keep.then(Vec::new),
        };
        if length == 0 {
            self.take_content(&[]);
        }
        Ok(())
    }

    /// Reads the available bytes of a field's content. Returns their count.
    fn take_content(&mut self, data: &[u8]) -> usize {
        let State::Content {
            number,
            left,
            room,
            is_cut,
            kept,
        } = &mut self.state
        else {
            return 0;
        };
        let taken = data.len().min(*left);
        if let Some(kept) = kept {
            let more = taken.min(*room);
            kept.extend_from_slice(&data[..more]);
            *room -= more;
        }
        *left -= taken;
        if *left == 0 {
            let (number, is_cut, kept) = (*number, *is_cut, kept.take());
            self.state = State::Head;
            if let Some(kept) = kept {
                self.keep_content(number, kept, is_cut);
            }
        }
        taken
    }

    fn keep_content(&mut self, number: u32, mut content: Vec<u8>, is_cut: bool) {
        if is_cut {
            content.truncate(whole_characters(&content));
        }
        let content = match self.keep(number) {
            Some(Keep::Text) => {
                let mut text = text(content);
                text.truncate(cut(&text, TEXT).len());
                text
            }
            _ => text(content),
        };
        let content = content.into_bytes();
        let is_name = matches!(self.keep(number), Some(Keep::Name));
        if is_name && self.last_name.0 == number && self.last_name.1 == content {
            // A request that repeats one name costs as much as one name.
            return;
        }
        if let Some(level) = self.levels.last_mut() {
            append(number, &content, &mut level.kept);
        }
        if is_name {
            self.last_name = (number, content);
        }
    }

    /// Counts bytes of the message that is being received.
    fn consume(&mut self, count: usize) -> Result<(), Status> {
        match self.levels.last_mut() {
            Some(level) if level.left >= count => {
                level.left -= count;
                Ok(())
            }
            _ => Err(malformed("a field is longer than its message")),
        }
    }

    /// Closes the messages of which everything has arrived, but for the request itself.
    fn close_messages(&mut self) -> Result<(), Status> {
        while let State::Head = self.state
            && self.levels.len() > 1
            && self.levels.last().is_some_and(|level| level.left == 0)
        {
            if !self.head.is_empty() {
                return Err(malformed("a field is longer than its message"));
            }
            if let (Some(done), Some(outer)) = (self.levels.pop(), self.levels.last_mut()) {
                append(done.number, &done.kept, &mut outer.kept);
            }
        }
        Ok(())
    }
}

/// How many of these bytes, the beginning of a text, are whole characters.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

/// A text, with U+FFFD in place of what is not UTF-8.
///
/// Envoy copies the host name of a TLS client into a request, even if it is not UTF-8. No response can contain
/// such a name, and if the stream ended, Envoy would send the same request again every second, forever. So it
/// is replaced by another name, which does not exist.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn append(number: u32, content: &[u8], kept: &mut Vec<u8>) {
    kept.reserve(HEAD + content.len());
    encode_key(number, WireType::LengthDelimited, kept);
    encode_varint(content.len() as u64, kept);
    kept.extend_from_slice(content);
}

/// A field's number, its kind, its length or plain number, and how many bytes that takes; `None` where
/// there are more to come.
fn head(bytes: &[u8]) -> Result<Option<(u32, WireType, u64, usize)>, Status> {
    let mut rest = bytes;
    let Some(key) = varint(&mut rest)? else {
        return Ok(None);
    };
    let kind = WireType::try_from(key & 7).map_err(malformed)?;
    let number = match u32::try_from(key >> 3) {
        Ok(number) if number > 0 => number,
        _ => return Err(malformed("a field has a number that no field can have")),
    };
    let value = match kind {
        WireType::SixtyFourBit | WireType::ThirtyTwoBit => 0,
        WireType::Varint | WireType::LengthDelimited => match varint(&mut rest)? {
            Some(value) => value,
            None => return Ok(None),
        },
        WireType::StartGroup | WireType::EndGroup => {
            return Err(malformed("groups are not used"));
        }
    };
    Ok(Some((number, kind, value, bytes.len() - rest.len())))
}

/// A number in the form of the wire, which ends with its first byte below 128.
fn varint(bytes: &mut &[u8]) -> Result<Option<u64>, Status> {
    if bytes.iter().all(|byte| *byte >= 0x80) {
        return Ok(None);
    }
    decode_varint(bytes).map(Some).map_err(malformed)
}

fn malformed(error: impl std::fmt::Display) -> Status {
    let error = error.to_string();
    Status::invalid_argument(format!("not a discovery request: {}", cut(&error, TEXT)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::{core::Node, rpc};

    /// Takes `bytes` in, in pieces of `size`.
    fn receive<R: Request>(bytes: &[u8], size: usize, names: usize) -> Result<Option<R>, Status> {
        let mut intake = Intake::new::<R>(bytes.len(), names);
        for piece in bytes.chunks(size) {
            intake.take(piece)?;
        }
        intake.finish()
    }

    fn strings() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::btree_set("[a-z]{0,300}", 0..6)
            .prop_map(|names| names.into_iter().collect())
    }

    fn node() -> impl Strategy<Value = Option<Node>> {
        proptest::option::of(
            ("[a-z]{0,200}", "[a-z]{0,200}").prop_map(|(id, cluster)| Node { id, cluster }),
        )
    }

    fn status() -> impl Strategy<Value = Option<rpc::Status>> {
        proptest::option::of(
            (any::<i32>(), "[a-z]{0,200}")
                .prop_map(|(code, message)| rpc::Status { code, message }),
        )
    }

    proptest! {
        #[test]
        fn a_delta_request_arrives_as_it_was_sent(
            (node, error_detail) in (node(), status()),
            (subscribe, unsubscribe) in (strings(), strings()),
            (nonce, type_url) in ("[a-z0-9]{0,20}", "[a-z./]{0,80}"),
            versions in proptest::collection::hash_map("[a-z]{0,300}", "[0-9a-f]{0,64}", 0..4),
            size in 1..300_usize,
        ) {
            let request = DeltaDiscoveryRequest {
                node,
                type_url,
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                initial_resource_versions: versions,
                response_nonce: nonce,
                error_detail,
            };
            let bytes = request.encode_to_vec();
            prop_assert_eq!(receive(&bytes, size, 100).unwrap(), Some(request));
        }

        #[test]
        fn a_sotw_request_arrives_as_it_was_sent(
            (node, error_detail, resource_names) in (node(), status(), strings()),
            (version_info, response_nonce) in ("[a-z0-9]{0,64}", "[a-z0-9]{0,20}"),
            size in 1..300_usize,
        ) {
            let request = DiscoveryRequest {
                version_info,
                node,
                resource_names,
                type_url: String::new(),
                response_nonce,
                error_detail,
            };
            let bytes = request.encode_to_vec();
            prop_assert_eq!(receive(&bytes, size, 100).unwrap(), Some(request));
        }

        /// What prost accepts is accepted, with the same names, and no input causes a panic.
        #[test]
        fn garbage_is_an_error_or_what_prost_makes_of_it(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            size in 1..10_usize,
        ) {
            let ours = receive::<DiscoveryRequest>(&bytes, size, 1000);
            if let (Ok(Some(ours)), Ok(mut prost)) = (ours, DiscoveryRequest::decode(&*bytes)) {
                prost.dedup();
                prop_assert_eq!(ours.resource_names, prost.resource_names);
                prop_assert_eq!(ours.response_nonce, prost.response_nonce);
            }
        }
    }

    #[test]
    fn a_large_node_costs_next_to_nothing() {
        // Field 3 of a node is a struct of metadata, field 5 its user agent.
        let mut node = Node {
            id: "edge".into(),
            cluster: "c".repeat(1000),
        }
        .encode_to_vec();
        append(3, &[0; 60_000], &mut node);
        let mut bytes = Vec::new();
        append(2, &node, &mut bytes);
        append(3, b"site", &mut bytes);
        let mut intake = Intake::new::<DiscoveryRequest>(bytes.len(), 10);
        for piece in bytes.chunks(1000) {
            intake.take(piece).unwrap();
            assert!(intake.kept() < 2 * TEXT, "{}", intake.kept());
        }
        let request: DiscoveryRequest = intake.finish().unwrap().unwrap();
        let node = request.node.unwrap();
        assert_eq!((&*node.id, node.cluster.len()), ("edge", TEXT));
        assert_eq!(request.resource_names, ["site"]);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let request = DiscoveryRequest {
            node: Some(Node {
                id: "ü".repeat(TEXT),
                cluster: format!("a{}", "ü".repeat(TEXT)),
            }),
            ..DiscoveryRequest::default()
        };
        let bytes = request.encode_to_vec();
        let request: DiscoveryRequest = receive(&bytes, 7, 10).unwrap().unwrap();
        let node = request.node.unwrap();
        assert_eq!((node.id.len(), node.cluster.len()), (TEXT, TEXT - 1));
    }

    #[test]
    fn what_is_not_utf_8_ends_no_request() {
        let mut node = Vec::new();
        append(1, &[0xff; 2 * TEXT], &mut node);
        let mut bytes = Vec::new();
        append(2, &node, &mut bytes);
        for name in [&b"\xff\xfe.test"[..], b"site", b"\xff\xfe.test"] {
            append(3, name, &mut bytes);
        }
        for size in 1..20 {
            let request: DiscoveryRequest = receive(&bytes, size, 10).unwrap().unwrap();
            assert_eq!(request.resource_names, ["site", "\u{fffd}\u{fffd}.test"]);
            let id = request.node.unwrap().id;
            assert!(id.len() <= TEXT && id.chars().all(|char| char == '\u{fffd}'));
        }
    }

    #[test]
    fn every_name_counts_whatever_it_is() {
        for name in ["", "*", "a"] {
            let names = |count| DiscoveryRequest {
                resource_names: vec![name.to_owned(); count],
                ..DiscoveryRequest::default()
            };
            let bytes = names(10).encode_to_vec();
            let request: DiscoveryRequest = receive(&bytes, 100, 10).unwrap().unwrap();
            assert_eq!(request.resource_names, [name], "once each");
            let bytes = names(11).encode_to_vec();
            let refused = receive::<DiscoveryRequest>(&bytes, 100, 10).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        }
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: vec![String::new(); 5],
            resource_names_unsubscribe: vec![String::new(); 5],
            initial_resource_versions: HashMap::from([(String::new(), String::new())]),
            ..DeltaDiscoveryRequest::default()
        };
        let bytes = request.encode_to_vec();
        assert!(receive::<DeltaDiscoveryRequest>(&bytes, 100, 5).is_ok());
        let refused = receive::<DeltaDiscoveryRequest>(&bytes, 100, 4).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }
}
