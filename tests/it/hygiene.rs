//! No part of a key is in a log at any level, a metric, the status, the page or debug output; and the process can't
//! be dumped.

use std::fmt::Debug;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use prost::Message;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use sds_agent::credential;
use sds_agent::files::read::File;
use sds_agent::proto::core::{DataSource, data_source::Specifier};
use sds_agent::proto::{discovery, tls};
use sds_agent::secret::{Part, Secret};
use zeroize::Zeroizing;

use crate::util::{Bed, Ca, Identity, eventually};

/// The forms of a piece of a key in any output: its PEM, or the bytes of either form in
/// hexadecimal digits or as a list of numbers.
fn pieces(key: &str) -> Vec<String> {
    let lines = key.lines().filter(|line| !line.starts_with("---"));
    let mut pieces: Vec<_> = lines
        .flat_map(|line| line.as_bytes().chunks_exact(16))
        .map(|piece| String::from_utf8(piece.to_vec()).unwrap())
        .collect();
    let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    // The first bytes of a key are the same in all of them.
    let secret = &der.secret_der()[36..];
    let body = key.lines().nth(1).unwrap().as_bytes();
    for piece in secret.chunks_exact(8).chain(body[52..].chunks_exact(8)) {
        let list = |format: fn(&u8) -> String, with: &str| {
            piece.iter().map(format).collect::<Vec<_>>().join(with)
        };
        pieces.push(list(|byte| format!("{byte:02x}"), ""));
        pieces.push(list(|byte| format!("{byte:02X}"), ""));
        pieces.push(list(u8::to_string, ", "));
        pieces.push(list(u8::to_string, ","));
        pieces.push(list(|byte| format!("\\x{byte:02x}"), ""));
        let text = format!("{:?}", bytes::Bytes::copy_from_slice(piece));
        pieces.push(text[2..text.len() - 1].to_owned());
    }
    pieces
}

#[track_caller]
fn assert_clean(what: &str, text: &str, keys: &[&str]) {
    for key in keys {
        for piece in pieces(key) {
            assert!(
                !text.contains(&piece),
                "{what} has {piece:?}, a piece of a key:\n{text}"
            );
        }
    }
}

#[track_caller]
fn assert_redacted(what: &str, value: &impl Debug, identity: &Identity) {
    for text in [format!("{value:?}"), format!("{value:#?}")] {
        assert_clean(what, &text.replace(['\n', ' '], ""), &[&identity.key]);
        assert_clean(what, &text, &[&identity.key]);
    }
    // As a panic would show it.
    let panic = std::panic::catch_unwind(AssertUnwindSafe(|| panic!("{value:?}")));
    let message = panic.unwrap_err();
    let message = message.downcast_ref::<String>().unwrap();
    assert_clean(what, message, &[&identity.key]);
}

#[test]
fn the_search_for_pieces_of_a_key_finds_them() {
    let identity = Ca::new("ca").server(&["site.test"]);
    let der = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    for leak in [
        identity.key.clone(),
        format!("{:?}", identity.key.as_bytes()),
        format!("{:?}", der.secret_der()),
        format!("{:?}", bytes::Bytes::copy_from_slice(der.secret_der())),
    ] {
        let found = pieces(&identity.key)
            .iter()
            .any(|piece| leak.contains(piece));
        assert!(found, "{leak}");
    }
}

#[test]
fn debug_output_of_every_type_that_holds_a_key_is_redacted() {
    let identity = Ca::new("ca").server(&["site.test"]);
    let file = |name: &str, text: &str| File {
        name: name.into(),
        bytes: Zeroizing::new(text.into()),
        mode: 0o600,
    };
    let files = vec![
        file("tls.crt", &identity.chain),
        file("tls.key", &identity.key),
    ];
    let credential = credential::from_files(Path::new("/c"), files, SystemTime::now(), 30);
    assert_redacted("Credential", &credential, &identity);
    let pair = credential.pair.part.unwrap();
    assert_redacted("Pair", &pair, &identity);
    let part = Arc::new(Part::from(pair));
    assert_redacted("Part", &part, &identity);
    let secret = Secret::new(part, None, Instant::now());
    assert_redacted("Secret", &secret, &identity);

    let source = |specifier| DataSource {
        specifier: Some(specifier),
    };
    let inline = source(Specifier::InlineBytes(identity.key.clone().into_bytes()));
    assert_redacted("DataSource", &inline, &identity);
    let string = source(Specifier::InlineString(identity.key.clone()));
    assert_redacted("DataSource", &string, &identity);
    let certificate = tls::TlsCertificate {
        private_key: Some(inline),
        ..tls::TlsCertificate::default()
    };
    assert_redacted("TlsCertificate", &certificate, &identity);
    let secret = tls::Secret {
        name: "site".into(),
        r#type: Some(tls::secret::Type::TlsCertificate(certificate)),
    };
    assert_redacted("Secret", &secret, &identity);

    let any = prost_types::Any {
        type_url: String::new(),
        value: secret.encode_to_vec(),
    };
    let response = discovery::DiscoveryResponse {
        resources: vec![any.clone()],
        ..discovery::DiscoveryResponse::default()
    };
    assert_redacted("DiscoveryResponse", &response, &identity);
    let resource = discovery::Resource {
        resource: Some(any),
        ..discovery::Resource::default()
    };
    let response = discovery::DeltaDiscoveryResponse {
        resources: vec![resource],
        ..discovery::DeltaDiscoveryResponse::default()
    };
    assert_redacted("DeltaDiscoveryResponse", &response, &identity);
}

fn admin(socket: &Path, page: &str) -> String {
    let mut connection = UnixStream::connect(socket).unwrap();
    let request = format!("GET {page} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{page}: {answer}");
    answer
}

#[test]
fn no_output_of_an_agents_life_contains_part_of_a_key() {
    let bed = Bed::new();
    let first = bed.pair("site");
    let broken = bed.ca.server(&["broken.test"]);
    let agent = bed.builder().arg("--log-level").arg("trace").start();
    let (mut sotw, mut delta) = (bed.client().sotw(), bed.client().delta());
    sotw.subscribe(&["site"]);
    delta.subscribe(&["site"]);
    let response = sotw.recv();
    sotw.nack(&response, "KEY_VALUES_MISMATCH");
    delta.changes();
    // Keys in every place where they don't belong.
    let cut = &broken.key[..broken.key.len() - 60];
    let joined = broken.key.replace('\n', " ");
    for (name, cert, key) in [
        ("mismatch", &*first.chain, &*broken.key),
        ("cut", &*broken.chain, cut),
        ("joined", &*broken.chain, &*joined),
        ("swapped", &*broken.key, &*broken.chain),
        (
            "both",
            &*format!("{}{}", broken.chain, broken.key),
            &*broken.key,
        ),
        (
            "twice",
            &*broken.chain,
            &*format!("{}{}", broken.key, first.key),
        ),
        (
            "marked",
            &*broken.chain,
            &*format!("\u{feff}{}", broken.key),
        ),
    ] {
        bed.root.write(name, &[("cert", cert), ("key", key)]);
        agent.wait_for_line(&[&format!("{name}/")]);
    }
    let second = bed.pair("site");
    delta.changes();
    let admin_socket = bed.socket().with_file_name("admin.sock");
    let pages = ["/", "/status", "/metrics", "/livez", "/readyz"];
    let pages: Vec<_> = pages
        .iter()
        .map(|page| admin(&admin_socket, page))
        .collect();
    bed.root.remove("site");
    delta.removed();
    bed.root.remove("mismatch");
    agent.wait_for_line(&["removed", "site"]);

    let keys = [&*first.key, &*second.key, &*broken.key];
    for page in &pages {
        assert_clean("a page", page, &keys);
    }
    assert_clean("the log", &agent.lines().join("\n"), &keys);
}

#[test]
fn there_is_no_core_dump() {
    let bed = Bed::new();
    bed.pair("site");
    let mut unlimited = Command::new("sh");
    unlimited.args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$@\"", "sh"]);
    let agent = bed.builder().wrapped_in(unlimited).start();
    let limits = agent.proc_file("limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"]);
}

#[test]
fn memory_is_locked_if_configured_and_failing_to_lock_is_an_error() {
    let bed = Bed::new();
    bed.pair("site");
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, "lock_memory = true\n").unwrap();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -l 64; exec \"$@\"", "sh"]);
    let builder = bed.builder().arg("--config").arg(&config);
    let mut agent = builder.wrapped_in(limited).start_without_waiting();
    // If the limit can be raised, the memory is locked; otherwise the error has the remedy.
    let locked = eventually("an end or a socket", || {
        if !agent.is_running() {
            return Some(false);
        }
        bed.socket().exists().then_some(true)
    });
    if !locked {
        agent.wait_for_line(&["lock_memory", "LimitMEMLOCK=infinity"]);
        return;
    }
    let status = agent.proc_file("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse()
        .unwrap();
    assert!(kib > 1024, "{kib} KiB are locked");
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
}
