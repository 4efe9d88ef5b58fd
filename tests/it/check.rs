//! `sds-agent check`, from the command line.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rcgen::CertificateParams;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::util::agent::PROGRAM;
use crate::util::{Ca, Identity, Root};

fn check(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(PROGRAM)
        .arg("check")
        .args(arguments.iter().map(|argument| argument.as_ref()))
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(folder: &Path) -> Value {
    serde_json::from_slice(&check(&[&folder, &"--output", &"json"]).stdout).unwrap()
}

/// An identity whose key only its owner and group can read, that ends so many days from now.
fn identity(ca: &Ca, days: i64) -> Identity {
    ca.server_with(
        &["a.example", "b.example"],
        |params: &mut CertificateParams| {
            params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
        },
    )
}

fn write(root: &Root, name: &str, ca: &Ca, identity: &Identity) {
    root.write(
        name,
        &[
            ("tls.crt", &identity.chain),
            ("tls.key", &identity.key),
            ("ca.crt", &ca.pem().to_owned()),
        ],
    );
    let key = root.credential(name).join("tls.key");
    fs::set_permissions(key, fs::Permissions::from_mode(0o640)).unwrap();
}

#[test]
fn a_good_folder_is_described_and_the_code_is_0() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 365));
    fs::write(root.credential("site").join("README"), "").unwrap();
    for folder in [root.path(), root.credential("site")] {
        let output = check(&[&folder]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = text(&output);
        for word in [
            "site",
            "good",
            "pair, bundle",
            "a.example, b.example",
            "CN=the ca",
            "P-256",
            "in 364 days",
            "tls.crt, tls.key, ca.crt",
            "README",
            "1 credential: 1 good",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }
}

#[test]
fn a_broken_one_says_where_and_what_to_do_and_the_code_is_1() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    let (one, other) = (identity(&ca, 365), identity(&ca, 365));
    write(&root, "good", &ca, &one);
    write(
        &root,
        "mixed",
        &ca,
        &Identity {
            key: other.key,
            ..one
        },
    );
    let output = check(&[&root.path()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let key = root.credential("mixed").join("tls.key");
    let line = format!("error: {}: it is not the key", key.display());
    let text = text(&output);
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("2 credentials: 1 good, 1 broken"), "{text}");
}

#[test]
fn what_expires_within_the_days_asked_for_makes_the_code_1() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 20));
    for (days, code) in [("10", 0), ("19", 0), ("20", 1), ("400", 1)] {
        let output = check(&[&root.path(), &"--warn-days", &days]);
        assert_eq!(output.status.code(), Some(code), "{days}: {output:?}");
    }
    assert_eq!(check(&[&root.path()]).status.code(), Some(1));
    write(&root, "site", &ca, &identity(&ca, -1));
    let output = check(&[&root.path(), &"--warn-days", &"0"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output).contains("24 h ago"), "{output:?}");
}

#[test]
fn an_expired_ca_beside_a_good_one_is_a_warning() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    let old = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = OffsetDateTime::now_utc() - Duration::days(1);
    let old = params.self_signed(&old).unwrap().pem();
    root.write("site-cacert", &[("cacert", format!("{}{old}", ca.pem()))]);
    let output = check(&[&root.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output).contains("1 credential: 1 warning"));
}

#[test]
fn what_cant_be_looked_at_makes_the_code_2() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 365));
    let missing = root.beside("missing");
    let output = check(&[&root.path(), &missing]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = text(&output);
    assert!(
        text.contains(&format!("error: {}: ", missing.display())),
        "{text}"
    );
    assert!(text.contains("1 credential: 1 good"), "{text}");
    let nonsense = check(&[&"--output", &"xml"]);
    assert_eq!(nonsense.status.code(), Some(2), "{nonsense:?}");
}

#[test]
fn an_empty_root_is_worth_a_warning_and_the_code_is_0() {
    let root = Root::new();
    let output = check(&[&root.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let warning = format!(
        "warning: {}: it holds no credential\n",
        root.path().display()
    );
    let text = text(&output);
    assert!(
        text.starts_with(&warning) && text.ends_with("no credentials\n"),
        "{text}"
    );
}

#[test]
fn the_configured_roots_are_the_default_with_their_settings() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 20));
    let key = root.credential("site").join("tls.key");
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    let config = root.beside("sds-agent.toml");
    let run = |text: &str| {
        let text = format!("{text}\n[[root]]\npath = {:?}\n", root.path());
        fs::write(&config, text).unwrap();
        check(&[&"--config", &config])
    };
    let lenient = run("warn_days = 5");
    assert_eq!(lenient.status.code(), Some(0), "{lenient:?}");
    assert!(text(&lenient).contains("1 credential: 1 warning"));
    let text = fs::read_to_string(&config).unwrap() + "strict_permissions = true\n";
    fs::write(&config, text).unwrap();
    for strict in [
        check(&[&"--config", &config]),
        check(&[&"--config", &config, &root.path()]),
    ] {
        assert_eq!(strict.status.code(), Some(1), "{strict:?}");
    }
    assert_eq!(run("nonsense = 1").status.code(), Some(2));
}

#[test]
fn the_first_root_that_has_a_name_wins() {
    let (one, two, ca) = (Root::new(), Root::new(), Ca::new("the ca"));
    for root in [&one, &two] {
        write(root, "site", &ca, &identity(&ca, 365));
    }
    let output = check(&[&one.path(), &two.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = format!(
        "warning: {}: {} has the same name",
        two.credential("site").display(),
        one.credential("site").display()
    );
    assert!(text(&output).contains(&line), "{output:?}");
}

#[test]
fn folders_that_are_not_served_on_purpose_are_no_failure() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "istio-ca", &ca, &identity(&ca, 365));
    write(&root, "account", &ca, &identity(&ca, 365));
    fs::write(root.credential("account").join("token"), "t").unwrap();
    let output = check(&[&root.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        text(&output).contains("2 credentials: 2 passed over"),
        "{output:?}"
    );
}

#[test]
fn json_has_what_its_description_says() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 365));
    root.write("half", &[("tls.crt", ca.pem())]);
    let report = json(&root.path());
    assert_eq!(report["state"], "broken");
    assert_eq!(report["failures"], serde_json::json!([]));
    let [half, site] = report["credentials"].as_array().unwrap().as_slice() else {
        panic!("{report}");
    };
    assert_eq!(half["state"], "broken");
    assert_eq!(
        (&half["pair"], &half["bundle"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(half["problems"][0]["reason"], "incomplete");
    assert_eq!(site["name"], "site");
    assert_eq!(
        site["pair"]["names"],
        serde_json::json!(["a.example", "b.example"])
    );
    assert_eq!(
        site["pair"]["files"],
        serde_json::json!(["tls.crt", "tls.key"])
    );
    assert_eq!(site["bundle"]["certificates"][0]["subject"], "CN=the ca");
    assert!(site["pair"]["expires_in_seconds"].as_i64().unwrap() > 364 * 86_400);
    let described = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md"));
    let described = described.unwrap();
    for key in keys(&report) {
        assert!(
            described.contains(&format!("`{key}`")),
            "docs/check.md lacks {key}"
        );
    }
}

/// Every key in it, at any depth.
fn keys(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| [vec![key.clone()], keys(value)].concat())
            .collect(),
        Value::Array(list) => list.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn no_report_holds_a_key() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    let (one, other) = (identity(&ca, 365), identity(&ca, 365));
    write(&root, "good", &ca, &one);
    write(
        &root,
        "mixed",
        &ca,
        &Identity {
            key: other.key.clone(),
            ..one.clone()
        },
    );
    for form in ["table", "json"] {
        let text = text(&check(&[&root.path(), &"--output", &form]));
        for line in one.key.lines().chain(other.key.lines()) {
            assert!(!text.contains(line), "{text}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_a_quiet_end() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    for number in 0..200 {
        root.write(&format!("half-{number}"), &[("tls.crt", ca.pem())]);
    }
    let mut child = Command::new(PROGRAM)
        .args(["check", "--output", "json"])
        .arg(root.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn there_is_colour_on_a_terminal_alone() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 365));
    let on_a_terminal = |no_color: &str| {
        let output = Command::new("python3")
            .args([
                "-c",
                "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)",
            ])
            .args([PROGRAM, "check"])
            .arg(root.path())
            .env("NO_COLOR", no_color)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(on_a_terminal("").contains("\x1b["));
    assert!(!on_a_terminal("1").contains('\x1b'));
}
