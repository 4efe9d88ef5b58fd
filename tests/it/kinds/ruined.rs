//! One file of a credential is removed, becomes unreadable or becomes invalid, in a folder and in a `[[secret]]`:
//! tests what is sent then, that nothing else is sent, and that nothing is lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Kind, bytes, next};
use crate::util::admin::{self, secret};
use crate::util::folders::write_files;
use crate::util::ocsp::{Status, staple};
use crate::util::sds::Delta;
use crate::util::{Agent, Bed, Identity};

/// What happens to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ruin {
    Removed,
    Unreadable,
    Bad,
}

/// What is served when the file has been removed.
enum Without {
    /// What remains.
    Rest(Vec<Vec<u8>>),
    /// The previous version.
    Previous,
}

struct Case {
    name: &'static str,
    /// The file that is ruined, with two valid versions and an invalid one.
    file: PathBuf,
    good: [Vec<u8>; 2],
    bad: &'static [u8],
    /// What is served with a valid version of the file.
    expected: fn(&Identity, Vec<u8>) -> Vec<Vec<u8>>,
    without: Without,
}

/// The content of a secret, without the private key.
fn content(kind: Kind) -> Vec<Vec<u8>> {
    match kind {
        Kind::TlsCertificate(pair) => [pair.certificate_chain, pair.ocsp_staple].map(bytes).into(),
        Kind::SessionTicketKeys(keys) => {
            keys.keys.into_iter().map(|key| bytes(Some(key))).collect()
        }
        Kind::GenericSecret(generic) => vec![bytes(generic.secret)],
        other => panic!("{other:?}"),
    }
}

const FIRST_KEY: [u8; 80] = [1; 80];

fn stapled(name: &'static str, file: PathBuf, staples: &[Vec<u8>; 2], without: Without) -> Case {
    Case {
        name,
        file,
        good: staples.clone(),
        bad: b"no response",
        expected: |identity, staple| vec![identity.chain.clone().into_bytes(), staple],
        without,
    }
}

/// The ruined key is next to the first one, and encrypts.
fn tickets(name: &'static str, file: PathBuf, without: Without) -> Case {
    Case {
        name,
        file,
        good: [vec![2; 80], vec![3; 80]],
        bad: &[2; 79],
        expected: |_, key| vec![key, FIRST_KEY.to_vec()],
        without,
    }
}

fn generic(name: &'static str, file: PathBuf) -> Case {
    Case {
        name,
        file,
        good: [b"one".to_vec(), b"two".to_vec()],
        bad: b"",
        expected: |_, secret| vec![secret],
        without: Without::Previous,
    }
}

/// Every kind that can lack a file, in folders and in `[[secret]]` entries, with the files that are not ruined.
fn cases(bed: &Bed, identity: &Identity, pki: &Path) -> Vec<Case> {
    let staples = [7, 8].map(|days| staple(&bed.ca, identity, Status::Good, days));
    let pair = [("tls.crt", &identity.chain), ("tls.key", &identity.key)];
    bed.root.write("stapled", &pair);
    bed.root.write("tickets", &[("1.ticketkey", FIRST_KEY)]);
    write_files(pki, &pair);
    write_files(pki, &[("1.key", FIRST_KEY)]);
    fs::create_dir(bed.root.credential("token")).unwrap();
    fs::create_dir(bed.root.credential("lone")).unwrap();
    let folder = |name: &str, file: &str| bed.root.credential(name).join(file);
    let alone = identity.chain.clone().into_bytes();
    vec![
        stapled(
            "stapled",
            folder("stapled", "tls.ocsp-staple"),
            &staples,
            Without::Rest(vec![alone, Vec::new()]),
        ),
        tickets(
            "tickets",
            folder("tickets", "2.ticketkey"),
            Without::Rest(vec![FIRST_KEY.to_vec()]),
        ),
        Case {
            expected: |_, key| vec![key],
            ..tickets("lone", folder("lone", "2.ticketkey"), Without::Previous)
        },
        generic("token", folder("token", "secret")),
        stapled(
            "stapled-at",
            pki.join("staple"),
            &staples,
            Without::Previous,
        ),
        tickets("tickets-at", pki.join("2.key"), Without::Previous),
        generic("token-at", pki.join("token")),
    ]
}

fn configuration(bed: &Bed, secrets: &[(&str, &str)]) -> String {
    let secrets = secrets
        .iter()
        .map(|(name, files)| format!("[[secret]]\nname = {name:?}\n{files}\n"));
    let secrets: String = secrets.collect();
    format!(
        "reload = \"signal\"\ncredentials = [{:?}]\n{secrets}",
        bed.root.path()
    )
}

const PAIR: &str = "certificate = \"pki/tls.crt\"\nprivate_key = \"pki/tls.key\"\n";
const SECRETS: [(&str, &str); 3] = [
    (
        "stapled-at",
        "certificate = \"pki/tls.crt\"\nprivate_key = \"pki/tls.key\"\nocsp_staple = \"pki/staple\"",
    ),
    ("tickets-at", "ticket_keys = [\"pki/2.key\", \"pki/1.key\"]"),
    ("token-at", "generic = \"pki/token\""),
];

fn put(file: &Path, content: &[u8]) {
    let name = file.file_name().unwrap().to_str().unwrap();
    write_files(file.parent().unwrap(), &[(name, content)]);
}

fn ruin(case: &Case, how: Ruin) {
    match how {
        Ruin::Removed => fs::remove_file(&case.file).unwrap(),
        Ruin::Bad => put(&case.file, case.bad),
        Ruin::Unreadable => {
            let link = case.file.with_extension("new");
            symlink(&case.file, &link).unwrap();
            fs::rename(link, &case.file).unwrap();
        }
    }
}

#[test]
fn a_file_that_is_removed_unreadable_or_invalid_removes_nothing_else() {
    let bed = Bed::new();
    let identity = bed.ca.server(&["site.test"]);
    let pki = bed.scratch("pki");
    let cases = cases(&bed, &identity, &pki);
    for case in &cases {
        put(&case.file, &case.good[0]);
    }
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, configuration(&bed, &SECRETS)).unwrap();
    let agent = bed.ready(Agent::builder(&bed.socket()).arg("--config").arg(&config));
    let subscribe = |name| {
        let mut stream = bed.client().delta();
        stream.subscribe(&[name]);
        stream
    };
    let mut streams: Vec<Delta> = cases.iter().map(|case| subscribe(case.name)).collect();
    let expected =
        |case: &Case, version: usize| (case.expected)(&identity, case.good[version].clone());
    for (case, stream) in cases.iter().zip(&mut streams) {
        assert_eq!(content(next(stream)), expected(case, 0), "{}", case.name);
    }

    let mut version = 0;
    for how in [Ruin::Removed, Ruin::Unreadable, Ruin::Bad] {
        let before = agent.lines().len();
        cases.iter().for_each(|case| ruin(case, how));
        for (case, stream) in cases.iter().zip(&mut streams) {
            let name = format!("{}, {how:?}", case.name);
            match &case.without {
                Without::Rest(rest) if how == Ruin::Removed => {
                    assert_eq!(&content(next(stream)), rest, "{name}");
                    let left = secret(&bed.admin(), case.name, |left| left["state"] == "ok");
                    assert_eq!(left["problems"], serde_json::json!([]), "{name}");
                    assert_eq!(left["is_previous"], false, "{name}");
                }
                _ => {
                    let kept = secret(&bed.admin(), case.name, |kept| kept["state"] == "rejected");
                    assert_eq!(kept["is_previous"], true, "{name}: {kept:#}");
                    let credential = format!("credential={:?}", case.name);
                    let line = ["rejected; still serving the previous version", &credential];
                    agent.wait_for_line_after(before, &line);
                }
            }
        }
        // The version differs from the one before, so it is the next one that each stream is sent, and nothing was
        // sent in between.
        version = 1 - version;
        for (case, stream) in cases.iter().zip(&mut streams) {
            put(&case.file, &case.good[version]);
            let name = format!("{} after {how:?}", case.name);
            assert_eq!(content(next(stream)), expected(case, version), "{name}");
            let healed = secret(&bed.admin(), case.name, |healed| healed["state"] == "ok");
            assert_eq!(healed["problems"], serde_json::json!([]), "{name}");
        }
    }
    drop(agent);
}

#[test]
fn what_a_reload_removes_from_a_secret_goes_and_the_rest_stays() {
    let bed = Bed::new();
    let identity = bed.ca.server(&["site.test"]);
    let pki = bed.scratch("pki");
    let mut cases = cases(&bed, &identity, &pki);
    let cases = cases.split_off(cases.len() - SECRETS.len());
    for case in &cases {
        put(&case.file, &case.good[0]);
    }
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, configuration(&bed, &SECRETS)).unwrap();
    let agent = bed.ready(Agent::builder(&bed.socket()).arg("--config").arg(&config));
    let mut stream = bed.client().delta();
    stream.subscribe(&SECRETS.map(|(name, _)| name));
    assert_eq!(stream.changes().secrets.len(), SECRETS.len());
    let reload = |secrets: &[(&str, &str)]| {
        fs::write(&config, configuration(&bed, secrets)).unwrap();
        let before = agent.lines().len();
        agent.signal(rustix::process::Signal::HUP);
        agent.wait_for_line_after(before, &["reloaded"]);
    };

    // Without the staple, and with a single ticket key.
    reload(&[
        ("stapled-at", PAIR),
        ("tickets-at", "ticket_keys = [\"pki/1.key\"]"),
        SECRETS[2],
    ]);
    let mut sent = [next(&mut stream), next(&mut stream)].map(content);
    sent.sort_by_key(Vec::len);
    assert_eq!(
        sent,
        [
            vec![FIRST_KEY.to_vec()],
            vec![identity.chain.clone().into_bytes(), Vec::new()]
        ]
    );
    // Each of them as a whole.
    reload(&[("stapled-at", PAIR)]);
    let mut removed = stream.removed();
    if removed.len() == 1 {
        removed.extend(stream.removed());
    }
    removed.sort();
    assert_eq!(removed, ["tickets-at", "token-at"]);
    let status = admin::status(&bed.admin());
    let left = admin::secrets(&status).map(|secret| secret["name"].to_string());
    let left: Vec<_> = left.filter(|name| name.contains("-at")).collect();
    assert_eq!(left, ["\"stapled-at\""]);
    stream.0.assert_silent();
}
