//! Each command that a problem prints, run word for word on the file that caused it: the file is good
//! afterwards, and nothing is lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use sds_agent::credential::{Credential, from_files};
use sds_agent::files::read::File;
use sds_agent::problem::Problem;

use super::cases::{ca, leaf};
use super::odd;

/// What the agent makes of the files in `folder`.
fn check(folder: &Path) -> Credential {
    let files = fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        File {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            bytes: fs::read(&path).unwrap().into(),
            mode: 0o640,
        }
    });
    from_files(folder, files.collect(), SystemTime::now(), 30)
}

/// The command in a remedy that is one.
fn command(problem: &Problem) -> Option<&str> {
    let remedy = problem.remedy();
    let (_, command) = remedy.split_once("convert it: ")?;
    Some(
        command
            .split(", with the password")
            .next()
            .unwrap()
            .split("; or, if")
            .next()
            .unwrap(),
    )
}

/// Runs the remedies one after the other, until there is no problem left.
#[track_caller]
fn heal(name: &str, folder: &Path) -> Credential {
    for _ in 0..4 {
        let credential = check(folder);
        let Some(problem) = credential.problems().next() else {
            return credential;
        };
        let command = command(problem).unwrap_or_else(|| panic!("{name}: no command: {problem}"));
        let output = Command::new("sh").args(["-ec", command]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {command}: {said}");
    }
    panic!(
        "{name}: still bad: {:?}",
        check(folder).problems().collect::<Vec<_>>()
    );
}

#[test]
fn every_command_heals_the_file_that_caused_it() {
    let (root, other) = (ca("root"), ca("other"));
    let (cert, key) = leaf(&root, "a.example");
    let chain = format!("{cert}{}", root.pem);
    let two = format!("{}{}", root.pem, other.pem);
    let der = |text: &str| {
        use base64::Engine;
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        base64::engine::general_purpose::STANDARD
            .decode(body)
            .unwrap()
    };
    let utf16 = |text: &str| -> Vec<u8> {
        let units = "\u{feff}".encode_utf16().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    };
    let bytes = |text: &str| text.as_bytes().to_vec();
    // What is wrong, and in which of the files of a good folder.
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("chain as DER", "tls.crt", der(&cert)),
        ("key as DER", "tls.key", der(&key)),
        ("bundle as DER", "ca.crt", der(&root.pem)),
        ("list as DER", "ca.crl", der(&root.list(1))),
        ("chain as UTF-16", "tls.crt", utf16(&chain)),
        ("key as UTF-16", "tls.key", utf16(&key)),
        (
            "chain in one line",
            "tls.crt",
            bytes(&chain.replace('\n', " ")),
        ),
        ("key in one line", "tls.key", bytes(&key.replace('\n', " "))),
        (
            "chain with \\n",
            "tls.crt",
            bytes(&chain.replace('\n', "\\n")),
        ),
        (
            "key with \\r\\n",
            "tls.key",
            bytes(&key.replace('\n', "\\r\\n")),
        ),
        (
            "run together",
            "ca.crt",
            bytes(&two.replace("-----\n-----", "----------")),
        ),
        (
            "text before BEGIN",
            "ca.crt",
            bytes(&two.replacen("-----BEGIN", "see -----BEGIN", 2)),
        ),
        (
            "four dashes",
            "ca.crt",
            bytes(&two.replacen("CERTIFICATE-----\n", "CERTIFICATE----\n", 1)),
        ),
    ];
    for (name, spoiled, content) in cases {
        let folder = tempfile::tempdir().unwrap();
        let good = [("tls.crt", &chain), ("tls.key", &key), ("ca.crt", &two)];
        for (file, text) in good {
            fs::write(folder.path().join(file), text).unwrap();
        }
        if spoiled == "ca.crl" {
            fs::write(folder.path().join("ca.crt"), &root.pem).unwrap();
        }
        fs::write(folder.path().join(spoiled), content).unwrap();
        let healed = heal(name, folder.path());
        let pair = healed.pair.part.unwrap();
        assert_eq!(pair.facts.leaf.names, ["a.example"], "{name}");
        let certificates = healed.bundle.part.unwrap().facts.certificates.len();
        let one_is_right = spoiled == "ca.crl" || name == "bundle as DER";
        assert_eq!(certificates, if one_is_right { 1 } else { 2 }, "{name}");
        if name.starts_with("chain") && name != "chain as DER" {
            let blocks = String::from_utf8_lossy(&pair.chain)
                .matches("BEGIN")
                .count();
            assert_eq!(blocks, 2, "{name}");
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            if spoiled == "ca.crl" { 4 } else { 3 }
        );
    }
}

#[test]
fn an_encrypted_key_of_old_keeps_the_chain_that_is_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(odd().join(name)).unwrap();
    let both = format!(
        "{}{}",
        read("encrypted-pkcs1.crt"),
        read("encrypted-pkcs1.key")
    );
    let path = folder.path().join("site.pem");
    fs::write(&path, both).unwrap();
    fs::write(folder.path().join("password"), "test\n").unwrap();
    let credential = check(folder.path());
    let problem = credential.problems().next().unwrap();
    let printed = command(problem).unwrap();
    // A terminal would ask for the passwords: the file gives them here.
    let password = folder.path().join("password");
    let with = printed.replace(
        "openssl pkcs8 -topk8",
        &format!(
            "openssl pkcs8 -topk8 -passin file:{0} -passout fd:3",
            password.display()
        ),
    );
    let output = Command::new("bash")
        .args(["-ec", &format!("exec 3< {}; {with}", password.display())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{with}: {output:?}");
    let healed = check(folder.path());
    assert!(healed.pair.part.is_some(), "{:?}", healed.pair);
}
