//! A client of the SDS socket that costs less than the agent: HTTP/2 and gRPC by hand, on one thread.
//!
//! Response headers are skipped without being decoded. Every response is acknowledged, as Envoy does.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message;
use sds_agent::proto::SECRET_TYPE_URL;
use sds_agent::proto::core::Node;
use sds_agent::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::util::BOUND;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest window that HTTP/2 knows: the client never keeps the agent waiting.
const WINDOW: u32 = (1 << 31) - 1;
/// The window of a connection before it is widened.
const FIRST_WINDOW: u32 = 65_535;
/// Bytes received before the window is widened again.
const RENEW: u32 = 1 << 30;
const FRAME_HEAD: usize = 9;
const MESSAGE_HEAD: usize = 5;
const PATH: &[u8] = b"/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";

// Types of frames, and flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection with any number of delta streams.
pub(crate) struct Client {
    runtime: Runtime,
    socket: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// How much the agent lets this client send on the connection, and the frames that wait for more.
    window: usize,
    waiting: VecDeque<(u32, Vec<u8>)>,
    received: u32,
    last_stream: u32,
    /// The beginnings of messages.
    partial: HashMap<u32, Vec<u8>>,
    delivered: VecDeque<DeltaDiscoveryResponse>,
}

impl Client {
    /// A connection to the agent at `socket`, when there is one.
    pub(crate) fn try_connect(socket: &Path) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let socket = runtime.block_on(UnixStream::connect(socket))?;
        let mut client = Self {
            runtime,
            socket,
            incoming: Vec::new(),
            outgoing: PREFACE.to_vec(),
            window: FIRST_WINDOW as usize,
            waiting: VecDeque::new(),
            received: 0,
            last_stream: 0,
            partial: HashMap::new(),
            delivered: VecDeque::new(),
        };
        // No push; the largest window for each stream.
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend(WINDOW.to_be_bytes());
        client.frame(SETTINGS, 0, 0, &settings);
        let more = WINDOW - FIRST_WINDOW;
        client.frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        Ok(client)
    }

    pub(crate) fn connect(socket: &Path) -> Self {
        Self::try_connect(socket).unwrap()
    }

    /// Opens a stream that subscribes to `names`.
    pub(crate) fn subscribe(&mut self, names: &[String]) {
        self.last_stream = if self.last_stream == 0 {
            1
        } else {
            self.last_stream + 2
        };
        let stream = self.last_stream;
        // POST, http, then three headers by their place in the static table, and one by its name.
        let mut headers = vec![0x83, 0x86];
        let fields: [(&[u8], &[u8]); 4] = [
            (&[0x04], PATH),
            (&[0x01], b"localhost"),
            (&[0x0f, 0x10], b"application/grpc"),
            (b"\x00\x02te", b"trailers"),
        ];
        for (name, value) in fields {
            headers.extend(name);
            headers.push(value.len() as u8);
            headers.extend(value);
        }
        self.frame(HEADERS, END_HEADERS, stream, &headers);
        let request = DeltaDiscoveryRequest {
            node: Some(Node {
                // As long as that of a real client: a flood of small frames would be treated as an attack.
                id: "bench".repeat(60),
                ..Node::default()
            }),
            type_url: SECRET_TYPE_URL.to_owned(),
            resource_names_subscribe: names.to_vec(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(stream, &request);
    }

    /// The next response, on whatever stream.
    pub(crate) fn next(&mut self) -> DeltaDiscoveryResponse {
        self.next_within(BOUND).expect("no response in time")
    }

    /// The next response, if there is one within `bound`.
    pub(crate) fn next_within(&mut self, bound: Duration) -> Option<DeltaDiscoveryResponse> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(delivery) = self.delivered.pop_front() {
                return Some(delivery);
            }
            if !self.exchange(deadline) {
                return None;
            }
        }
    }

    /// Sends what has not been sent yet.
    pub(crate) fn flush(&mut self) {
        while !self.outgoing.is_empty() || !self.waiting.is_empty() {
            assert!(self.exchange(Instant::now() + BOUND), "nothing can be sent");
        }
    }

    /// Reads and writes what is possible. False if nothing is possible before the deadline.
    fn exchange(&mut self, deadline: Instant) -> bool {
        let interest = match self.outgoing.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        let ready = async {
            let ready = self.socket.ready(interest);
            tokio::time::timeout_at(deadline.into(), ready).await
        };
        let Ok(ready) = self.runtime.block_on(ready) else {
            return false;
        };
        let ready = ready.unwrap();
        if ready.is_writable()
            && let Ok(written) = self.socket.try_write(&self.outgoing)
        {
            self.outgoing.drain(..written);
        }
        if ready.is_readable() {
            self.incoming.reserve(1 << 18);
            match self.socket.try_read_buf(&mut self.incoming) {
                Ok(0) => panic!("the agent has closed the connection"),
                Ok(_) => self.take_frames(),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        true
    }

    fn take_frames(&mut self) {
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        while let Some((head, body)) = rest.split_at_checked(FRAME_HEAD) {
            let number = |bytes: &[u8]| {
                bytes
                    .iter()
                    .fold(0, |all, byte| all << 8 | u32::from(*byte))
            };
            let length = number(&head[..3]) as usize;
            let Some((body, after)) = body.split_at_checked(length) else {
                break;
            };
            self.take_frame(head[3], head[4], number(&head[5..]), body);
            rest = after;
        }
        self.incoming = rest.to_vec();
    }

    fn take_frame(&mut self, kind: u8, flags: u8, stream: u32, body: &[u8]) {
        match kind {
            DATA => self.take_data(stream, body),
            HEADERS => assert_eq!(flags & END_STREAM, 0, "stream {stream} has ended"),
            RESET | GOAWAY => panic!(
                "the agent ends stream {stream}: {}",
                String::from_utf8_lossy(body)
            ),
            SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, body),
            WINDOW_UPDATE if stream == 0 => {
                self.window += u32::from_be_bytes(body.try_into().unwrap()) as usize;
                while let Some((stream, message)) = self.waiting.pop_front() {
                    if !self.send_data(stream, &message) {
                        return self.waiting.push_front((stream, message));
                    }
                }
            }
            _ => {}
        }
    }

    fn take_data(&mut self, stream: u32, body: &[u8]) {
        self.received += body.len() as u32;
        if self.received > RENEW {
            let received = std::mem::take(&mut self.received).to_be_bytes();
            self.frame(WINDOW_UPDATE, 0, 0, &received);
        }
        let mut message = self.partial.remove(&stream).unwrap_or_default();
        message.extend_from_slice(body);
        while let Some((head, rest)) = message.split_at_checked(MESSAGE_HEAD) {
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let Some((whole, rest)) = rest.split_at_checked(length) else {
                break;
            };
            let response = DeltaDiscoveryResponse::decode(whole).unwrap();
            message = rest.to_vec();
            let ack = DeltaDiscoveryRequest {
                type_url: SECRET_TYPE_URL.to_owned(),
                response_nonce: response.nonce.clone(),
                ..DeltaDiscoveryRequest::default()
            };
            self.send(stream, &ack);
            self.delivered.push_back(response);
        }
        if !message.is_empty() {
            self.partial.insert(stream, message);
        }
    }

    fn send(&mut self, stream: u32, request: &DeltaDiscoveryRequest) {
        let mut message = vec![0];
        message.extend((request.encoded_len() as u32).to_be_bytes());
        message.extend(request.encode_to_vec());
        if !self.waiting.is_empty() || !self.send_data(stream, &message) {
            self.waiting.push_back((stream, message));
        }
    }

    /// False if the agent does not accept more now.
    fn send_data(&mut self, stream: u32, message: &[u8]) -> bool {
        let Some(left) = self.window.checked_sub(message.len()) else {
            return false;
        };
        self.window = left;
        for piece in message.chunks(16_384) {
            self.frame(DATA, 0, stream, piece);
        }
        true
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, body: &[u8]) {
        self.outgoing
            .extend(&(body.len() as u32).to_be_bytes()[1..]);
        self.outgoing.extend([kind, flags]);
        self.outgoing.extend(stream.to_be_bytes());
        self.outgoing.extend(body);
    }
}
