//! The same steps for each kind with a real Envoy: served, replaced separately, kept while its files are invalid,
//! valid again, removed; and what the agent reports in each.

use std::path::Path;
use std::process::{Command, Output};

use super::envoys::{self, TlsHost, ask, header, injector, mirror, plain};
use crate::util::admin::{self, metric_becomes};
use crate::util::agent::PROGRAM;
use crate::util::bed::assert_no_key_in;
use crate::util::ocsp::{Status, openssl, staple};
use crate::util::s_client::{s_client, ticket_key_name};
use crate::util::{Bed, Envoy, Identity, eventually_true, require, tools};

/// What a client of Envoy observes of a version.
type Seen = Option<Vec<u8>>;

/// A credential of some kind.
struct Case {
    name: &'static str,
    /// The changed files of two valid versions and of an invalid one.
    versions: [Files; 3],
    /// The problem that is reported for the invalid version.
    words: &'static str,
    /// What clients of Envoy observe of the valid versions.
    expected: [Vec<u8>; 2],
    seen: fn(&Envoy, &Path) -> Seen,
    /// Text that must not be shown anywhere.
    hidden: Vec<String>,
}

type Files = Vec<(&'static str, Vec<u8>)>;

const PASSWORD: &str = "s3cret word";

#[test]
fn each_kind_is_served_survives_bad_files_recovers_and_is_removed() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let site = bed.ca.server(&["site.test"]);
    bed.root.write_pair("site", &site);
    let cases = [
        stapled(&bed),
        ticket_keys(),
        generic(),
        encrypted(&bed),
        keystore(&bed),
    ];
    for case in &cases {
        bed.root.write(case.name, &case.versions[0]);
    }
    let agent = bed.ready_agent();
    let host = |name, pair, ticket_keys| TlsHost {
        name,
        pair,
        ticket_keys,
    };
    let hosts = [
        host("stapled.test", "stapled", None),
        host("tickets.test", "site", Some("tickets")),
        host("encrypted.test", "encrypted", None),
        host("keystore.test", "keystore", None),
    ];
    let socket = bed.scratch("plain.sock");
    let plain = plain(&socket, injector("token"), serde_json::json!([mirror()]));
    let envoy = envoys::start(&program, &bed, &hosts, vec![plain], vec![]);
    for case in &cases {
        let seen = || (case.seen)(&envoy, &socket);
        let [first, second] = &case.expected;
        let serves = |expected: &Vec<u8>| {
            eventually_true(&format!("a version of {}", case.name), || {
                seen().as_ref() == Some(expected)
            });
        };
        let valid = format!(
            "sds_agent_credential_valid{{credential=\"{}\",root=\"{}\"}}",
            case.name,
            bed.root.path().display()
        );
        serves(first);
        bed.root.write(case.name, &case.versions[1]);
        serves(second);

        let before = agent.lines().len();
        bed.root.write(case.name, &case.versions[2]);
        agent.wait_for_line_after(before, &[case.name, case.words]);
        metric_becomes(&bed.admin(), &valid, |value| value == 0.0);
        let check = run(&["check".as_ref(), bed.root.path().as_os_str()]);
        assert_eq!(check.status.code(), Some(2), "{check:?}");
        assert!(
            text(&check).contains(case.words),
            "{}: {check:?}",
            case.name
        );
        let status = admin::get(&bed.admin(), "/status").body;
        assert!(status.contains(case.words), "{}: {status}", case.name);
        assert_eq!(seen().as_ref(), Some(second), "{}", case.name);

        bed.root.write(case.name, &case.versions[0]);
        serves(first);
        metric_becomes(&bed.admin(), &valid, |value| value == 1.0);
        assert_hidden(&bed, case, &agent.lines().join("\n"));

        bed.root.remove(case.name);
        eventually_true(&format!("the end of {}", case.name), || {
            !get(&bed, case.name, &[]).status.success()
        });
        // Envoy continues to use secrets that its configuration names.
        assert_eq!(seen().as_ref(), Some(first), "{}", case.name);
    }
    envoy.assert_no_rejection();
}

/// Asserts that the output is not empty, and shows nothing of the secret.
#[track_caller]
fn assert_hidden(bed: &Bed, case: &Case, log: &str) {
    let outputs = [&[][..], &["--output", "json"]].map(|form| {
        let output = get(bed, case.name, form);
        assert!(output.status.success(), "{}: {output:?}", case.name);
        text(&output)
    });
    let pages = ["/", "/status", "/metrics"].map(|path| admin::get(&bed.admin(), path).body);
    assert!(pages[1].contains(case.name), "{}", pages[1]);
    for shown in outputs
        .iter()
        .chain(&pages)
        .map(|text| &**text)
        .chain([log])
    {
        assert_no_key_in(shown, &[]);
        for hidden in &case.hidden {
            assert!(!shown.contains(hidden), "{}: {shown}", case.name);
        }
    }
}

fn run(arguments: &[&std::ffi::OsStr]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn get(bed: &Bed, name: &str, options: &[&str]) -> Output {
    let socket = bed.socket();
    let mut arguments = ["get", "--socket", socket.to_str().unwrap(), name].to_vec();
    arguments.extend(options);
    run(&arguments.iter().map(|one| one.as_ref()).collect::<Vec<_>>())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &output.stderr].concat()).into_owned()
}

/// The lines of a private key's PEM.
fn lines(identity: &Identity) -> Vec<String> {
    let lines = identity.key.lines().filter(|line| line.len() == 64);
    lines.map(str::to_owned).collect()
}

fn stapled(bed: &Bed) -> Case {
    let identity = bed.ca.server(&["stapled.test"]);
    let staples = [7, 8].map(|days| staple(&bed.ca, &identity, Status::Good, days));
    let next_update = |staple: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), staple).unwrap();
        let path = file.path().to_str().unwrap();
        let shown = openssl(
            Path::new("/"),
            &["ocsp", "-respin", path, "-text", "-noverify"],
        );
        line(&shown, "Next Update: ").unwrap()
    };
    let expected = [next_update(&staples[0]), next_update(&staples[1])];
    let [first, second] = staples;
    Case {
        name: "stapled",
        versions: [
            vec![
                ("tls.crt", identity.chain.clone().into_bytes()),
                ("tls.key", identity.key.clone().into_bytes()),
                ("tls.ocsp-staple", first),
            ],
            vec![("tls.ocsp-staple", second)],
            vec![("tls.ocsp-staple", b"garbage".to_vec())],
        ],
        words: "not a valid OCSP response",
        expected,
        seen: |envoy, _| {
            let printed = s_client(envoy.port(), "stapled.test", &["-status"]);
            line(&printed, "Next Update: ")
        },
        hidden: lines(&identity),
    }
}

/// The line that begins with this text.
fn line(text: &str, words: &str) -> Seen {
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| line.starts_with(words))?;
    Some(line.as_bytes().to_vec())
}

fn ticket_keys() -> Case {
    let keys = ["the first ticket", "the second ticke"].map(|name| name.repeat(5).into_bytes());
    Case {
        name: "tickets",
        expected: [keys[0][..16].to_vec(), keys[1][..16].to_vec()],
        hidden: vec!["the first ticket".into(), "the second ticke".into()],
        versions: [
            vec![("1.ticketkey", keys[0].clone())],
            vec![("1.ticketkey", keys[1].clone())],
            vec![("1.ticketkey", keys[1][1..].to_vec())],
        ],
        words: "79 bytes",
        seen: |envoy, _| ticket_key_name(&s_client(envoy.port(), "tickets.test", &["-tls1_2"])),
    }
}

fn generic() -> Case {
    let secrets = ["Bearer one", "Bearer two"];
    Case {
        name: "token",
        versions: [
            b"Bearer one\n".to_vec(),
            b"Bearer two\n".to_vec(),
            Vec::new(),
        ]
        .map(|secret| vec![("secret", secret)]),
        words: "it is empty",
        expected: secrets.map(|secret| secret.as_bytes().to_vec()),
        seen: |_, socket| {
            let answer = ask(socket, "/", "")?;
            Some(header(&answer, "x-seen").first()?.as_bytes().to_vec())
        },
        hidden: secrets.map(str::to_owned).into(),
    }
}

fn encrypted(bed: &Bed) -> Case {
    let identities = [(); 2].map(|()| bed.ca.server(&["encrypted.test"]));
    let files = |identity: &Identity| {
        let options = ["pkcs8", "-topk8", "-in", "tls.key", "-out", "out"];
        vec![
            ("tls.crt", identity.chain.clone().into_bytes()),
            ("tls.key", sealed(identity, &options)),
            ("tls.key.password", PASSWORD.into()),
        ]
    };
    Case {
        name: "encrypted",
        versions: [
            files(&identities[0]),
            files(&identities[1]),
            vec![("tls.key.password", b"wr0ng".to_vec())],
        ],
        words: "can't be decrypted with the password",
        expected: identities.each_ref().map(|one| one.der.clone()),
        seen: |envoy, _| envoy.https("encrypted.test").leaf().ok(),
        hidden: hidden(&identities),
    }
}

fn keystore(bed: &Bed) -> Case {
    let identities = [(); 2].map(|()| bed.ca.server(&["keystore.test"]));
    let options = [
        "pkcs12", "-export", "-in", "tls.crt", "-inkey", "tls.key", "-out", "out",
    ];
    let [first, second] = identities.each_ref().map(|one| sealed(one, &options));
    Case {
        name: "keystore",
        versions: [
            vec![("site.p12", first), ("password", PASSWORD.into())],
            vec![("site.p12", second.clone())],
            vec![("site.p12", second[..100].to_vec())],
        ],
        words: "site.p12",
        expected: identities.each_ref().map(|one| one.der.clone()),
        seen: |envoy, _| envoy.https("keystore.test").leaf().ok(),
        hidden: hidden(&identities),
    }
}

fn hidden(identities: &[Identity]) -> Vec<String> {
    let lines = identities.iter().flat_map(lines);
    lines
        .chain([PASSWORD.to_owned(), "wr0ng".to_owned()])
        .collect()
}

/// Encrypts a key with OpenSSL, and returns the file `out`.
fn sealed(identity: &Identity, options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tls.key"), &identity.key).unwrap();
    std::fs::write(folder.path().join("tls.crt"), &identity.chain).unwrap();
    let password = format!("pass:{PASSWORD}");
    openssl(folder.path(), &[options, &["-passout", &password]].concat());
    std::fs::read(folder.path().join("out")).unwrap()
}
