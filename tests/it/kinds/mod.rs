//! Every kind of secret, from its files to Envoy: served, rotated separately, kept while its files are invalid,
//! valid again, removed.

mod envoys;
mod filters;
mod ruined;
mod tickets;
mod walk;

use std::path::Path;
use std::process::Command;

use prost::Message;
use sds_agent::proto::core::{DataSource, data_source::Specifier};
use sds_agent::proto::tls::{Secret, TlsCertificate, secret::Type as Kind};

use crate::util::admin;
use crate::util::agent::PROGRAM;
use crate::util::bed::assert_no_key_in;
use crate::util::clock::Clock;
use crate::util::judge::{Judge, pair_with_staple};
use crate::util::ocsp::{Status, openssl, staple};
use crate::util::pki::must_staple_feature;
use crate::util::sds::Delta;
use crate::util::{Agent, Bed, Ca, require, tools};

/// The only secret of the next response, which is accepted.
#[track_caller]
fn next(stream: &mut Delta) -> Kind {
    let response = stream.recv();
    stream.ack(&response);
    let [resource] = &response.resources[..] else {
        panic!("expected one secret: {response:?}");
    };
    let any = resource.resource.as_ref().unwrap();
    Secret::decode(&*any.value).unwrap().r#type.unwrap()
}

#[track_caller]
fn next_pair(stream: &mut Delta) -> TlsCertificate {
    match next(stream) {
        Kind::TlsCertificate(pair) => pair,
        other => panic!("expected a pair: {other:?}"),
    }
}

fn bytes(source: Option<DataSource>) -> Vec<u8> {
    match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        _ => Vec::new(),
    }
}

fn subscribed(bed: &Bed, names: &[&str]) -> (Agent, Delta) {
    let agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.subscribe(names);
    (agent, stream)
}

#[test]
fn a_staple_is_sent_with_its_pair_and_left_out_when_it_is_invalid() {
    let bed = Bed::new();
    let identity = bed.ca.server(&["site.test"]);
    let good = staple(&bed.ca, &identity, Status::Good, 7);
    let files = |staple: &[u8]| {
        vec![
            ("tls.crt", identity.chain.clone().into_bytes()),
            ("tls.key", identity.key.clone().into_bytes()),
            ("ca.crt", bed.ca.pem().as_bytes().to_vec()),
            ("tls.ocsp-staple", staple.to_vec()),
        ]
    };
    bed.root.write("site", &files(&good));
    let (agent, mut stream) = subscribed(&bed, &["site"]);
    assert_eq!(bytes(next_pair(&mut stream).ocsp_staple), good);

    // Replacing only one of them is a rotation.
    let newer = staple(&bed.ca, &identity, Status::Good, 8);
    let path = bed.root.credential("site").join("tls.ocsp-staple");
    std::fs::write(&path, &newer).unwrap();
    let pair = next_pair(&mut stream);
    assert_eq!(bytes(pair.ocsp_staple), newer);
    assert_eq!(bytes(pair.certificate_chain), identity.chain.as_bytes());

    // A renewed pair next to the old staple is served immediately, without the staple.
    let renewed = bed.ca.server(&["site.test"]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(bytes(next_pair(&mut stream).ocsp_staple), Vec::<u8>::new());
    bed.root.write(
        "site",
        &[
            ("tls.crt", renewed.chain.as_bytes()),
            ("tls.key", renewed.key.as_bytes()),
            ("ca.crt", bed.ca.pem().as_bytes()),
            ("tls.ocsp-staple", &newer),
        ],
    );
    let pair = next_pair(&mut stream);
    assert_eq!(bytes(pair.certificate_chain), renewed.chain.as_bytes());
    assert_eq!(bytes(pair.ocsp_staple), Vec::<u8>::new());
    agent.wait_for_line(&["another certificate"]);

    // Valid again, and then revoked: that is reported, and the staple is left out, or kept until it expires.
    let healed = staple(&bed.ca, &renewed, Status::Good, 7);
    std::fs::write(&path, &healed).unwrap();
    assert_eq!(bytes(next_pair(&mut stream).ocsp_staple), healed);
    std::fs::write(&path, staple(&bed.ca, &renewed, Status::Revoked, 7)).unwrap();
    agent.wait_for_line(&["REVOKED"]);
}

#[test]
fn problems_of_a_staple_are_reported_and_envoy_accepts_a_valid_one() {
    let bed = Bed::new();
    let identity = bed.ca.server(&["site.test"]);
    let other = bed.ca.server(&["other.test"]);
    let forger = Ca::new("Test CA");
    let good = staple(&bed.ca, &identity, Status::Good, 7);
    let pem = openssl_pem(&good);
    let cases: [(&str, Vec<u8>, &str); 6] = [
        (
            "other",
            staple(&bed.ca, &other, Status::Good, 7),
            "another certificate",
        ),
        (
            "revoked",
            staple(&bed.ca, &identity, Status::Revoked, 7),
            "REVOKED",
        ),
        (
            "forged",
            staple(&forger, &identity, Status::Good, 7),
            "certificate",
        ),
        ("pem", pem, "it is PEM"),
        (
            "cut",
            good[..good.len() - 9].to_vec(),
            "not a valid OCSP response",
        ),
        ("empty", Vec::new(), "it is empty"),
    ];
    let folder = |staple: &[u8]| -> Vec<(String, Vec<u8>)> {
        let files = [
            ("tls.crt", identity.chain.as_bytes()),
            ("tls.key", identity.key.as_bytes()),
            ("ca.crt", bed.ca.pem().as_bytes()),
            ("ocsp.der", staple),
        ];
        files
            .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
            .into()
    };
    for (name, staple, word) in cases {
        let credential = crate::credential::judged(&folder(&staple));
        assert!(
            credential.pair.part.is_some() && credential.staple.part.is_none(),
            "{name}"
        );
        let problem = credential.staple.problems[0].to_string();
        assert!(problem.contains(word), "{name}: {problem}");
    }
    let credential = crate::credential::judged(&folder(&good));
    assert!(credential.staple.part.is_some(), "{:?}", credential.staple);
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let sent = pair_with_staple(
        identity.chain.as_bytes(),
        identity.key.as_bytes(),
        Some(&good),
    );
    assert_eq!(Judge::start(&program).judge(vec![sent]), [Ok(())]);
}

#[test]
fn a_staple_that_expires_in_service_is_left_out_unless_the_certificate_demands_one() {
    let Some(clock) = Clock::new() else { return };
    let bed = &clock.bed;
    let plain = bed.ca.server(&["plain.test"]);
    let demanding = bed.ca.server_with(&["demanding.test"], |params| {
        params.custom_extensions = vec![must_staple_feature()];
    });
    for (name, identity) in [("plain", &plain), ("demanding", &demanding)] {
        bed.root.write_pair(name, identity);
        let staple = staple(&bed.ca, identity, Status::Good, 7);
        bed.root.write(name, &[("tls.ocsp-staple", staple)]);
    }
    let agent = clock.agent();
    let mut streams = ["plain", "demanding"].map(|name| {
        let mut stream = bed.client().delta();
        stream.subscribe(&[name]);
        assert!(!bytes(next_pair(&mut stream).ocsp_staple).is_empty());
        stream
    });

    // A quarter of its seven days is left, and then none.
    clock.set("+6d");
    clock.poke(&agent);
    for name in ["plain", "demanding"] {
        let credential = format!("credential=\"{name}\"");
        agent.wait_for_line(&["the OCSP staple expires in", &credential]);
    }
    clock.set("+8d");
    clock.poke(&agent);
    let [plain_stream, demanding_stream] = &mut streams;
    let pair = next_pair(plain_stream);
    assert_eq!(bytes(pair.certificate_chain), plain.chain.as_bytes());
    assert_eq!(bytes(pair.ocsp_staple), Vec::<u8>::new());
    agent.wait_for_line(&["the OCSP staple expired on", "credential=\"plain\""]);
    // Envoy does not accept a must-staple certificate without a staple, and keeps what it has.
    demanding_stream.0.assert_silent();
    agent.wait_for_line(&["the OCSP staple expired", "credential=\"demanding\""]);
    let status = admin::status(&bed.admin()).to_string();
    assert!(
        status.contains("clients refuse the certificate"),
        "{status}"
    );
}

fn openssl_pem(der: &[u8]) -> Vec<u8> {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN OCSP RESPONSE-----\n{body}\n-----END OCSP RESPONSE-----\n").into_bytes()
}

#[test]
fn a_must_staple_certificate_is_rejected_with_the_reason_unless_it_has_a_valid_staple() {
    let bed = Bed::new();
    let identity = bed.ca.server_with(&["site.test"], |params| {
        params.custom_extensions = vec![must_staple_feature()];
    });
    let folder = |staple: Option<Vec<u8>>| {
        let mut files = vec![
            ("tls.crt".to_owned(), identity.chain.clone().into_bytes()),
            ("tls.key".to_owned(), identity.key.clone().into_bytes()),
        ];
        files.extend(staple.map(|staple| ("tls.ocsp-staple".to_owned(), staple)));
        crate::credential::judged(&files)
    };
    let problem = |staple| {
        let credential = folder(staple);
        assert!(credential.pair.part.is_none());
        credential.pair.problems[0].to_string()
    };
    assert!(problem(None).contains("there is none"));
    let broken = problem(Some(b"x".to_vec()));
    assert!(
        broken.contains("the one beside it can't be used"),
        "{broken}"
    );
    let good = staple(&bed.ca, &identity, Status::Good, 7);
    assert!(folder(Some(good)).pair.part.is_some());
}

fn rotate(folder: &Path, keep: &str) -> std::process::Output {
    Command::new(PROGRAM)
        .args(["ticket-keys", "rotate", "--keep", keep])
        .arg(folder)
        .output()
        .unwrap()
}

#[test]
fn ticket_keys_are_rotated_and_the_last_by_name_comes_first() {
    let bed = Bed::new();
    let folder = bed.root.credential("tickets");
    bed.root.write("tickets", &[("0.ticketkey", [1_u8; 80])]);
    let (agent, mut stream) = subscribed(&bed, &["tickets"]);
    let keys = |kind: Kind| match kind {
        Kind::SessionTicketKeys(keys) => keys
            .keys
            .into_iter()
            .map(|key| bytes(Some(key)))
            .collect::<Vec<_>>(),
        other => panic!("expected ticket keys: {other:?}"),
    };
    assert_eq!(keys(next(&mut stream)), [vec![1; 80]]);
    let output = rotate(&folder, "2");
    assert!(output.status.success(), "{output:?}");
    let two = keys(next(&mut stream));
    assert_eq!(two.len(), 2);
    assert_eq!(two[1], [1; 80]);
    assert!(two[0].len() == 80 && two[0] != two[1]);
    // The oldest key is removed when there would be three.
    assert!(rotate(&folder, "2").status.success());
    let mut latest = keys(next(&mut stream));
    if latest.len() == 3 {
        latest = keys(next(&mut stream));
    }
    assert_eq!(latest.len(), 2);
    assert_eq!(latest[1], two[0]);
    for entry in std::fs::read_dir(&folder).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o007,
            0,
            "{entry:?}"
        );
    }

    // An invalid one is rejected together with the others, and the previous version stays.
    let bad = folder.join("9.ticketkey");
    std::fs::write(&bad, [0; 79]).unwrap();
    agent.wait_for_line(&["9.ticketkey", "79 bytes"]);
    stream.0.assert_silent();
    std::fs::remove_file(&bad).unwrap();
    // In one step: a folder whose keys are removed one by one has fewer keys for a moment.
    std::fs::rename(&folder, bed.root.beside("gone")).unwrap();
    assert_eq!(stream.removed(), ["tickets"]);
}

#[test]
fn setting_the_clock_back_loses_no_ticket_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("zz.ticketkey"), [1; 80]).unwrap();
    let output = rotate(folder.path(), "1");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("zz.ticketkey"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let missing = rotate(&folder.path().join("none"), "1");
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn a_generic_secret_is_served_without_its_line_end() {
    let bed = Bed::new();
    bed.root.write("token", &[("secret", "Bearer one\r\n")]);
    bed.root
        .write("binary", &[("secret.bin", &[0, 255, 10][..])]);
    let (agent, mut stream) = subscribed(&bed, &["token"]);
    let value = |kind: Kind| match kind {
        Kind::GenericSecret(secret) => bytes(secret.secret),
        other => panic!("expected a generic secret: {other:?}"),
    };
    assert_eq!(value(next(&mut stream)), b"Bearer one");
    let path = bed.root.credential("token").join("secret");
    std::fs::write(&path, "Bearer two").unwrap();
    assert_eq!(value(next(&mut stream)), b"Bearer two");
    std::fs::write(&path, "").unwrap();
    agent.wait_for_line(&["token", "it is empty"]);
    stream.0.assert_silent();
    std::fs::write(&path, "Bearer three\n").unwrap();
    assert_eq!(value(next(&mut stream)), b"Bearer three");
    let mut other = bed.client().delta();
    other.subscribe(&["binary"]);
    assert_eq!(value(next(&mut other)), [0, 255, 10]);
    assert!(agent.lines_with(&["Bearer"]).is_empty());
    bed.root.remove("token");
    assert_eq!(stream.removed(), ["token"]);
}

#[test]
fn the_files_of_these_kinds_can_be_anywhere() {
    let bed = Bed::new();
    let folder = bed.root.beside("pki");
    std::fs::create_dir(&folder).unwrap();
    for (name, content) in [
        ("new", &[1; 80][..]),
        ("old", &[2; 80]),
        ("token", b"t0ken\n"),
    ] {
        std::fs::write(folder.join(name), content).unwrap();
    }
    let config = bed.scratch("sds-agent.toml");
    let text = format!(
        "credentials = [{:?}]\n\
         [[secret]]\nname = \"tickets\"\nticket_keys = [{:?}, {:?}]\n\
         [[secret]]\nname = \"token\"\ngeneric = {:?}\n",
        bed.root.beside("live"),
        folder.join("new"),
        folder.join("old"),
        folder.join("token"),
    );
    std::fs::write(&config, text).unwrap();
    let _agent = bed.ready(Agent::builder(&bed.socket()).arg("--config").arg(config));
    let subscribe = |name| {
        let mut stream = bed.client().delta();
        stream.subscribe(&[name]);
        stream
    };
    let (mut tickets, mut token) = (subscribe("tickets"), subscribe("token"));
    let keys = |stream: &mut Delta| match next(stream) {
        Kind::SessionTicketKeys(keys) => {
            keys.keys.into_iter().map(|key| bytes(Some(key))).collect()
        }
        other => panic!("expected ticket keys: {other:?}"),
    };
    let value = |stream: &mut Delta| match next(stream) {
        Kind::GenericSecret(secret) => bytes(secret.secret),
        other => panic!("expected a generic secret: {other:?}"),
    };
    let sent: Vec<Vec<u8>> = keys(&mut tickets);
    assert_eq!(sent, [vec![1; 80], vec![2; 80]], "the first one encrypts");
    assert_eq!(value(&mut token), b"t0ken");

    std::fs::write(folder.join("token"), "an0ther").unwrap();
    assert_eq!(value(&mut token), b"an0ther");
    std::fs::write(folder.join("next"), [3; 80]).unwrap();
    std::fs::rename(folder.join("next"), folder.join("old")).unwrap();
    assert_eq!(keys(&mut tickets), [vec![1; 80], vec![3; 80]]);
}

#[test]
fn encrypted_keys_and_keystores_are_decrypted_with_their_password_file() {
    let bed = Bed::new();
    let identity = bed.ca.intermediate("Between").server(&["site.test"]);
    let work = bed.scratch("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("tls.key"), &identity.key).unwrap();
    std::fs::write(work.join("tls.crt"), &identity.chain).unwrap();
    let mut names = Vec::new();
    let kinds: [(&str, &[&str]); 7] = [
        ("aes", &["-v2", "aes-256-cbc"]),
        (
            "sha1-prf",
            &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"],
        ),
        ("des3", &["-v2", "des3"]),
        ("scrypt", &["-scrypt"]),
        ("pbe-3des", &["-v1", "PBE-SHA1-3DES"]),
        (
            "pbe-md5-des",
            &[
                "-v1",
                "PBE-MD5-DES",
                "-provider",
                "legacy",
                "-provider",
                "default",
            ],
        ),
        (
            "pbe-sha1-des",
            &[
                "-v1",
                "PBE-SHA1-DES",
                "-provider",
                "legacy",
                "-provider",
                "default",
            ],
        ),
    ];
    for (name, options) in kinds {
        let start = [
            "pkcs8",
            "-topk8",
            "-in",
            "tls.key",
            "-out",
            "out.key",
            "-passout",
            "pass:s3cret word",
        ];
        openssl(&work, &[&start, options].concat());
        let key = std::fs::read(work.join("out.key")).unwrap();
        let files = [
            ("tls.crt", identity.chain.as_bytes()),
            ("tls.key", &key),
            ("tls.key.password", b"s3cret word\n"),
        ];
        bed.root.write(name, &files);
        names.push(name);
    }
    let stores: [(&str, &[&str]); 2] = [
        ("p12", &[]),
        (
            "p12-old",
            &[
                "-certpbe",
                "PBE-SHA1-3DES",
                "-keypbe",
                "PBE-SHA1-3DES",
                "-macalg",
                "sha1",
            ],
        ),
    ];
    for (name, options) in stores {
        let start = [
            "pkcs12",
            "-export",
            "-in",
            "tls.crt",
            "-inkey",
            "tls.key",
            "-out",
            "out.p12",
            "-passout",
            "pass:s3cret word",
        ];
        openssl(&work, &[&start, options].concat());
        let store = std::fs::read(work.join("out.p12")).unwrap();
        bed.root.write(
            name,
            &[("keystore.p12", &store[..]), ("password", b"s3cret word")],
        );
        names.push(name);
    }
    let wrong = std::fs::read(work.join("out.p12")).unwrap();
    bed.root.write(
        "wrong",
        &[("keystore.p12", &wrong[..]), ("password", b"wr0ng")],
    );
    let (agent, _) = subscribed(&bed, &[]);
    let plain = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.lines()
            .filter(|line| !line.starts_with('-'))
            .collect::<String>()
    };
    for name in names {
        let mut stream = bed.client().delta();
        stream.subscribe(&[name]);
        let pair = next_pair(&mut stream);
        assert_eq!(
            plain(&bytes(pair.private_key)),
            plain(identity.key.as_bytes()),
            "{name}"
        );
        assert_eq!(
            plain(&bytes(pair.certificate_chain)),
            plain(identity.chain.as_bytes()),
            "{name}"
        );
    }
    agent.wait_for_line(&["wrong", "can't be decrypted with the password"]);
    let log = agent.lines().join("\n");
    assert_no_key_in(&log, &[&identity]);
    assert!(!log.contains("s3cret") && !log.contains("wr0ng"), "{log}");
}
