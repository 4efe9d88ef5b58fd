//! The first message of a TLS handshake, with any bytes as host name, and the response.
//!
//! It is TLS 1.2, in which the server's certificate can be read without keys.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::wait::BOUND;

/// The message that follows the server's certificate and its key exchange.
const SERVER_HELLO_DONE: [u8; 4] = [14, 0, 0, 0];

/// How a server responds to a client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It continues the handshake with these bytes, which include its certificates.
    Served(Vec<u8>),
    /// It ends the handshake.
    Refused,
    /// It did not respond in time.
    Silent,
}

impl Answer {
    /// Whether the handshake continues with this certificate, DER.
    pub(crate) fn shows(&self, leaf: &[u8]) -> bool {
        let Self::Served(bytes) = self else {
            return false;
        };
        bytes.windows(leaf.len()).any(|window| window == leaf)
    }
}

/// Begins a handshake for the host `name`, or without SNI.
#[track_caller]
pub(crate) fn hello(port: u16, name: Option<&[u8]>) -> Answer {
    hello_within(BOUND, port, name)
}

/// Does the same as [`hello`], with another time limit.
#[track_caller]
pub(crate) fn hello_within(bound: Duration, port: u16, name: Option<&[u8]>) -> Answer {
    let mut stream = begin_hello(port, name);
    stream.set_read_timeout(Some(bound)).unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            // An alert is a record of type 21.
            Ok(0) => return Answer::Refused,
            Ok(_) if received.is_empty() && buffer[0] == 21 => return Answer::Refused,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Answer::Silent,
            Err(_) => return Answer::Refused,
        }
        if received.ends_with(&SERVER_HELLO_DONE) {
            return Answer::Served(received);
        }
    }
}

/// Sends the first message, and returns the connection without waiting for the response.
#[track_caller]
pub(crate) fn begin_hello(port: u16, name: Option<&[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&client_hello(name)).unwrap();
    stream
}

fn client_hello(name: Option<&[u8]>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        // One name, of the type host_name.
        let entry = [&[0][..], &prefixed(2, name)].concat();
        extensions.extend(extension(0, &prefixed(2, &entry)));
    }
    // X25519 and P-256; points as they are; ECDSA with SHA-256 on P-256, and RSA-PSS.
    extensions.extend(extension(10, &prefixed(2, &[0, 29, 0, 23])));
    extensions.extend(extension(11, &prefixed(1, &[0])));
    extensions.extend(extension(13, &prefixed(2, &[4, 3, 8, 4])));

    // The version, 32 bytes of randomness, no session, two suites, no compression.
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(prefixed(2, &[0xc0, 0x2b, 0xc0, 0x2f]));
    body.extend(prefixed(1, &[0]));
    body.extend(prefixed(2, &extensions));

    let message = [&[1][..], &prefixed(3, &body)].concat();
    [&[22, 3, 1][..], &prefixed(2, &message)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &prefixed(2, content)].concat()
}

/// `content` after its length, which takes `bytes` bytes.
fn prefixed(bytes: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - bytes..], content].concat()
}
