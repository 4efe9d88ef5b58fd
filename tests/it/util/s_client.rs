//! OpenSSL's TLS client, for tests that choose the algorithms, the version or the session.

use std::io::Write;
use std::process::{Command, Stdio};

/// What `openssl s_client` prints about a handshake with `host` on a port of this machine, with these options, and
/// about a request; that includes failures.
#[track_caller]
pub(crate) fn s_client(port: u16, host: &str, options: &[&str]) -> String {
    let address = format!("127.0.0.1:{port}");
    // It must not hang without a limit.
    let mut client = Command::new("timeout")
        .args(["60", "openssl", "s_client", "-ign_eof"])
        .args(["-connect", &address, "-servername", host])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    // It may have ended already.
    let _ = client.stdin.take().unwrap().write_all(request.as_bytes());
    let output = client.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&printed).into_owned()
}

/// The name of the key that encrypted the session ticket: its first 16 bytes.
pub(crate) fn ticket_key_name(printed: &str) -> Option<Vec<u8>> {
    let (_, dump) = printed.split_once("TLS session ticket:")?;
    let line = dump.lines().nth(1)?;
    let (_, bytes) = line.split_once(" - ")?;
    let bytes = bytes.get(..47)?.replace('-', " ");
    let bytes = bytes
        .split(' ')
        .map(|byte| u8::from_str_radix(byte, 16).ok());
    bytes.collect()
}
