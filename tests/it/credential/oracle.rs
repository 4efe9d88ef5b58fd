//! The real Envoy as the judge: it must take all that the check takes, and what is said to be rejected
//! by it must really be.

use std::fs;
use std::path::Path;
use std::process::Command;

use sds_agent::credential::Credential;
use serde_json::{Value, json};

use super::cases::{self, Case, Verdict, body, ca, leaf, pem};
use super::check;
use crate::util::{require, tools};

/// As many contexts as a configuration holds.
const BATCH: usize = 500;

#[test]
fn envoy_takes_what_the_check_takes() {
    let Some(envoy) = require(&tools::ENVOY) else {
        return;
    };
    let taken = cases::all()
        .into_iter()
        .filter_map(|case| check(&case.files).ok())
        .collect::<Vec<_>>();
    assert!(taken.len() > 50);
    assert_takes_all(&envoy, &taken);
}

#[test]
fn envoy_rejects_what_it_is_said_to_reject() {
    let Some(envoy) = require(&tools::ENVOY) else {
        return;
    };
    let mut wrong = Vec::new();
    for Case {
        name,
        files,
        verdict,
    } in cases::all()
    {
        let rejects = match verdict {
            Verdict::Good(_) => continue,
            Verdict::Bad(_) => true,
            Verdict::Stricter(_) => false,
        };
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let context = context(folder.path(), |name| {
            files.iter().any(|(file, _)| file == name)
        });
        if judge(&envoy, folder.path(), vec![context]).is_err() != rejects {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "Envoy is of another mind: {wrong:?}");
}

#[test]
fn envoy_takes_whatever_damage_the_check_takes() {
    let Some(envoy) = require(&tools::ENVOY) else {
        return;
    };
    let mut taken = Vec::new();
    let mut dice = Dice(0x5eed);
    let good = foundations();
    for _ in 0..1_500 {
        let mut files = dice.pick(&good).clone();
        let at = dice.below(files.len());
        let damaged = &mut files[at].1;
        if dice.below(2) == 0 {
            damage_text(damaged, &mut dice);
        } else {
            damage_der(damaged, &mut dice);
        }
        taken.extend(check(&files));
    }
    assert!(taken.len() > 100, "{}", taken.len());
    assert_takes_all(&envoy, &taken);
}

/// Good folders with keys of several kinds, to be damaged.
fn foundations() -> Vec<Vec<(String, Vec<u8>)>> {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    let own = vec![
        ("tls.crt".into(), format!("{cert}{}", root.pem).into()),
        ("tls.key".into(), key.into()),
        ("ca.crt".into(), root.pem.repeat(2).into()),
        ("ca.crl".into(), root.list(1).into()),
    ];
    let odd = [
        "p256",
        "p521",
        "ed25519",
        "rsa2048",
        "rsa2048-pkcs1",
        "p256-compressed",
    ];
    let read = |name: &str, ending: &str| {
        let file = super::odd().join(format!("{name}.{ending}"));
        (format!("tls.{ending}"), fs::read(file).unwrap())
    };
    odd.iter()
        .map(|name| vec![read(name, "crt"), read(name, "key")])
        .chain([own])
        .collect()
}

/// Changes, loses or doubles some of a file's bytes or lines.
fn damage_text(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(2) {
        let at = dice.below(bytes.len());
        let line = bytes[..at]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let next = bytes[at..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(bytes.len(), |newline| at + newline + 1);
        match dice.below(8) {
            0 => bytes[at] = *dice.pick(b"\0\n\r\t -=A+/*\x80\xef\xbb\xbf"),
            1 => bytes.insert(at, *dice.pick(b"\0\n\r\t -=A+/*\x80")),
            2 => bytes.truncate(at + 1),
            3 => drop(bytes.drain(line..next)),
            4 => bytes.insert(line, *dice.pick(b"\n ")),
            5 => drop(bytes.splice(line..line, b"\xef\xbb\xbf".iter().copied())),
            6 => {
                let copy = bytes[line..next].to_vec();
                drop(bytes.splice(line..line, copy));
            }
            _ => drop(bytes.splice(next - 1..next, b"\r\n".iter().copied())),
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
}

/// Changes bytes of what one of a file's blocks encodes.
fn damage_der(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let text = String::from_utf8(bytes.clone()).unwrap();
    let mut blocks: Vec<&str> = text.split_inclusive("-----\n").collect();
    // BEGIN line, body and END line: the split gives the first one, and the other two together.
    let block = 2 * dice.below(blocks.len() / 2);
    let label = blocks[block]
        .trim()
        .trim_matches('-')
        .trim_start_matches("BEGIN ")
        .to_owned();
    let mut der = base64(&body(blocks[block + 1]));
    for _ in 0..=dice.below(2) {
        let at = dice.below(der.len());
        // More often where the structure is than in the midst of a key.
        let at = if dice.below(2) == 0 {
            at.min(dice.below(60))
        } else {
            at
        };
        match dice.below(5) {
            0 => der[at] ^= 1 << dice.below(8),
            1 => {
                der[at] =
                    *dice.pick(b"\x00\x01\x02\x03\x05\x06\x0c\x13\x17\x18\x30\x31\x7f\x80\xff")
            }
            2 => der[at] = der[at].wrapping_add(1),
            3 => der.insert(at, *dice.pick(b"\x00\x01\x05\x30\xff")),
            _ => drop(der.remove(at)),
        }
    }
    let damaged = pem(&label, &encoded(&der), 64);
    blocks[block] = &damaged;
    blocks[block + 1] = "";
    *bytes = blocks.concat().into_bytes();
}

fn assert_takes_all(envoy: &Path, credentials: &[Credential]) {
    for batch in credentials.chunks(BATCH) {
        let folder = tempfile::tempdir().unwrap();
        let contexts = batch
            .iter()
            .enumerate()
            .map(|(number, credential)| {
                written(&folder.path().join(number.to_string()), credential)
            })
            .collect();
        if let Err(why) = judge(envoy, folder.path(), contexts) {
            let folder = folder.keep();
            panic!("Envoy rejects what is in {}: {why}", folder.display());
        }
    }
}

/// Writes what would be served, and gives the TLS context that takes it.
fn written(folder: &Path, credential: &Credential) -> Value {
    let mut names = Vec::new();
    let mut write = |name: &'static str, bytes: &[u8]| {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
        names.push(name);
    };
    if let Some(pair) = &credential.pair.part {
        write("tls.crt", &pair.chain);
        write("tls.key", &pair.key);
    }
    if let Some(bundle) = &credential.bundle.part {
        write("ca.crt", &bundle.trusted_ca);
        if let Some(crl) = &bundle.crl {
            write("ca.crl", crl);
        }
    }
    context(folder, |name| names.contains(&name))
}

/// The common TLS context of the files in `folder` that `has` knows.
fn context(folder: &Path, has: impl Fn(&str) -> bool) -> Value {
    let file = |name: &str| json!({ "filename": folder.join(name) });
    let mut context = json!({});
    if has("tls.crt") {
        context["tls_certificates"] =
            json!([{ "certificate_chain": file("tls.crt"), "private_key": file("tls.key") }]);
    }
    if has("ca.crt") {
        context["validation_context"] = json!({ "trusted_ca": file("ca.crt") });
        if has("ca.crl") {
            context["validation_context"]["crl"] = file("ca.crl");
        }
    }
    context
}

/// What Envoy says to TLS contexts with these files: `Err` with its words when it rejects one.
fn judge(envoy: &Path, folder: &Path, contexts: Vec<Value>) -> Result<(), String> {
    let chains: Vec<Value> = contexts
        .into_iter()
        .enumerate()
        .map(|(number, context)| filter_chain(number, context))
        .collect();
    let listener = json!({
        "name": "l",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "listener_filters": [{
            "name": "tls_inspector",
            "typed_config": { "@type": format!("{LISTENER}.tls_inspector.v3.TlsInspector") },
        }],
        "filter_chains": chains,
    });
    let config = folder.join("envoy.json");
    let json = json!({ "static_resources": { "listeners": [listener] } });
    fs::write(&config, json.to_string()).unwrap();
    let output = Command::new(envoy)
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(&config)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(());
    }
    let about_files = ["Failed to", "is empty", "OCSP"];
    assert!(
        about_files.iter().any(|words| said.contains(words)),
        "{said}"
    );
    Err(said)
}

const LISTENER: &str = "type.googleapis.com/envoy.extensions.filters.listener";

fn filter_chain(number: usize, mut context: Value) -> Value {
    // A server's context needs a certificate.
    if context.get("tls_certificates").is_none() {
        let file =
            |ending: &str| json!({ "filename": super::odd().join(format!("p256.{ending}")) });
        context["tls_certificates"] =
            json!([{ "certificate_chain": file("crt"), "private_key": file("key") }]);
    }
    json!({
        "filter_chain_match": { "server_names": [format!("{number}.example")] },
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": context,
            },
        },
        "filters": [{
            "name": "echo",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" },
        }],
    })
}

/// A die that falls the same way each time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .bytes()
        .filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte))
        .map(|digit| digit as u32)
        .collect();
    digits
        .chunks(4)
        .flat_map(|four| {
            let all = four.iter().fold(0, |all, digit| all << 6 | digit) << (6 * (4 - four.len()));
            all.to_be_bytes()[1..four.len()].to_vec()
        })
        .collect()
}

fn encoded(bytes: &[u8]) -> String {
    bytes
        .chunks(3)
        .flat_map(|three| {
            let all = three
                .iter()
                .fold(0, |all, byte| all << 8 | u32::from(*byte))
                << (8 * (3 - three.len()));
            (0..4).map(move |place| match place <= three.len() {
                true => char::from(DIGITS[(all >> (18 - 6 * place) & 63) as usize]),
                false => '=',
            })
        })
        .collect()
}
