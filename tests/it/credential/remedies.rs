//! Runs each command that a problem prints unchanged on the file that caused it: the file is valid afterwards, and
//! nothing is lost.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use sds_agent::credential::{Credential, from_files};
use sds_agent::files::read::File;
use sds_agent::problem::{Problem, Reason};

use super::cases::{ca, leaf};
use super::odd;
use crate::util::agent::PROGRAM;
use crate::util::require;
use crate::util::tools::program;

/// The result of the check for the files in `folder`.
fn check(folder: &Path) -> Credential {
    let files = fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        File {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            bytes: fs::read(&path).unwrap().into(),
            mode: fs::metadata(&path).unwrap().mode() & 0o777,
        }
    });
    from_files(folder, files.collect(), SystemTime::now(), 30)
}

/// The command in a remedy, if it has one.
fn command(problem: &Problem) -> Option<String> {
    let remedy = problem.remedy();
    let (_, command) = remedy.split_once("convert it: ")?;
    let (command, _) = command
        .split_once(", with the password")
        .unwrap_or((command, ""));
    let (command, _) = command.split_once("; or, if").unwrap_or((command, ""));
    Some(command.to_owned())
}

/// Runs the remedies one after the other, until no problem is left.
#[track_caller]
fn heal(name: &str, folder: &Path) -> Credential {
    for _ in 0..4 {
        let credential = check(folder);
        let Some(problem) = credential.problems().next() else {
            return credential;
        };
        let command = command(problem).unwrap_or_else(|| panic!("{name}: no command: {problem}"));
        let output = Command::new("sh").args(["-ec", &command]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {command}: {message}");
    }
    panic!(
        "{name}: still bad: {:?}",
        check(folder).problems().collect::<Vec<_>>()
    );
}

#[test]
fn every_suggested_command_fixes_the_file_that_caused_it() {
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
    // What is wrong, in which of the files of a valid folder.
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
        assert!(pair.facts.leaf.names().eq(["a.example"]), "{name}");
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
fn converting_a_traditional_encrypted_key_keeps_the_chain_in_its_file() {
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

/// Runs the command that is between `before` and `after` in a remedy.
#[track_caller]
fn run(problem: &Problem, before: &str, after: &str) {
    let remedy = problem.remedy();
    let (_, command) = remedy
        .split_once(before)
        .unwrap_or_else(|| panic!("{remedy}"));
    let (command, _) = command.split_once(after).unwrap_or((command, ""));
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

#[test]
fn a_misnamed_keystore_is_renamed_and_decrypted() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = leaf(&ca("root"), "a.example");
    let both = folder.path().join("both.pem");
    fs::write(&both, format!("{cert}{key}")).unwrap();
    let file = folder.path().join("tls.crt");
    let output = Command::new("openssl")
        .args("pkcs12 -export -passout pass:test -in".split(' '))
        .args([&both, Path::new("-out"), &file])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::remove_file(both).unwrap();
    let keystore = fs::read(file).unwrap();
    let credential = check(folder.path());
    run(credential.problems().next().unwrap(), ".p12: ", ";");
    fs::write(folder.path().join("password"), "test\n").unwrap();
    let healed = check(folder.path());
    assert!(healed.pair.part.is_some(), "{:?}", healed.pair);
    let renamed = fs::read(folder.path().join("tls.crt.p12")).unwrap();
    assert_eq!(renamed, keystore);
}

#[test]
fn a_java_keystore_is_converted_and_decrypted() {
    let Some(keytool) = require(&program("keytool", "apt-get install default-jre-headless")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tls.key");
    let what = "-genkeypair -alias a -keyalg EC -dname CN=a.example -ext san=dns:a.example";
    let made = Command::new(keytool)
        .args(what.split(' '))
        .args("-storetype JKS -storepass secret -keypass secret -keystore".split(' '))
        .arg(&file)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let credential = check(folder.path());
    let problem = credential.problems().next().unwrap();
    // A terminal would ask for the passwords: options give them here.
    let remedy = problem.remedy().replace(
        "keytool -importkeystore",
        "keytool -importkeystore -srcstorepass secret -deststorepass secret",
    );
    let problem = Problem::new(problem.reason(), &file, "", remedy);
    run(&problem, "PKCS#12: ", "; and");
    fs::write(folder.path().join("password"), "secret\n").unwrap();
    let healed = check(folder.path());
    assert!(healed.pair.part.is_some(), "{:?}", healed.pair);
}

#[test]
fn an_access_control_list_is_removed() {
    let Some(setfacl) = require(&program("setfacl", "apt-get install acl")) else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("site");
    fs::create_dir(&folder).unwrap();
    let (cert, key) = leaf(&ca("root"), "a.example");
    fs::write(folder.join("tls.crt"), cert).unwrap();
    let file = folder.join("tls.key");
    fs::write(&file, key).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let given = Command::new(setfacl)
        .args(["-m", "u:4000000:r"])
        .arg(&file)
        .status();
    assert!(given.unwrap().success());
    let checked = || {
        let output = Command::new(PROGRAM)
            .arg("check")
            .arg(root.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = checked();
    let (_, command) = text
        .split_once("remove it with `")
        .unwrap_or_else(|| panic!("{text}"));
    let (command, _) = command.split_once('`').unwrap();
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    let text = checked();
    assert!(
        text.contains("1 credential: 1 ok") && !text.contains("warning"),
        "{text}"
    );
}

#[test]
fn an_openssh_key_is_converted() {
    let Some(ssh_keygen) = require(&program("ssh-keygen", "apt-get install openssh-client")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (cert, pem) = leaf(&ca("root"), "a.example");
    fs::write(folder.path().join("tls.crt"), cert).unwrap();
    let key = folder.path().join("tls.key");
    fs::write(&key, pem).unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    // Without an option, it writes its own format.
    let output = Command::new(ssh_keygen)
        .args(["-q", "-p", "-N", "", "-f"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read_to_string(&key).unwrap().contains("OPENSSH"));
    let credential = check(folder.path());
    let problem = credential.problems().next().unwrap();
    run(problem, "one of OpenSSH: ", "\n");
    let healed = check(folder.path());
    assert!(healed.pair.part.is_some(), "{:?}", healed.pair);
}

#[test]
fn a_loose_mode_is_tightened_and_a_ticket_key_of_another_length_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = leaf(&ca("root"), "a.example");
    for (name, content) in [("tls.crt", cert.as_bytes()), ("tls.key", key.as_bytes())] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    for (name, length) in [("1.ticketkey", 80), ("2.ticketkey", 48)] {
        fs::write(folder.path().join(name), vec![1; length]).unwrap();
    }
    let set = |name: &str, mode| {
        let path = folder.path().join(name);
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    set("1.ticketkey", 0o640);
    set("2.ticketkey", 0o640);
    set("tls.key", 0o644);
    let credential = check(folder.path());
    run(
        credential.problems().next().unwrap(),
        "with a new one: ",
        "\n",
    );
    let loose = credential
        .pair
        .warnings
        .iter()
        .find(|warning| warning.reason() == Reason::LooseMode);
    run(loose.unwrap(), "remove it: ", "\n");
    let healed = check(folder.path());
    assert_eq!(healed.problems().next(), None);
    assert_eq!(super::reasons(&healed.pair.warnings), []);
    assert!(healed.pair.part.is_some() && healed.ticket_keys.part.is_some());
    assert_eq!(
        fs::read(folder.path().join("1.ticketkey")).unwrap(),
        [1; 80]
    );
}

/// The programs that a remedy may run.
const PROGRAMS: [&str; 8] = [
    "chmod",
    "getfacl",
    "iconv",
    "keytool",
    "mv",
    "openssl",
    "setfacl",
    "ssh-keygen",
];

/// The commands of all remedies. Commands that only show something (`getfacl`, `openssl crl`) are not run here.
const COMMANDS: [&str; 13] = [
    "chmod o=",
    "getfacl FILE",
    "iconv -f",
    "keytool -importkeystore",
    "mv FILE",
    "openssl crl",
    "openssl pkcs8",
    "openssl pkey",
    "openssl rand",
    "openssl x509",
    "openssl {openssl}",
    "setfacl -b",
    "ssh-keygen -p",
];

#[test]
fn no_untested_command_is_printed() {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/credential")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests.rs") {
                found.extend(commands_in(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert_eq!(found, COMMANDS.map(str::to_owned).into());
}

/// The commands in the strings of a source file, each with its first argument.
fn commands_in(source: &str) -> BTreeSet<String> {
    let lines = source.lines().map(str::trim_start);
    let code = lines.filter(|line| !line.starts_with("//"));
    let words =
        code.flat_map(|line| line.split(|c: char| c == '"' || c == '`' || c.is_whitespace()));
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let pairs = words.windows(2).filter(|pair| PROGRAMS.contains(&pair[0]));
    let argument = |word: &str| word.trim_end_matches([',', ';', ')']).to_owned();
    pairs
        .map(|pair| format!("{} {}", pair[0], argument(pair[1])))
        .collect()
}
