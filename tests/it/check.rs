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
use crate::util::{Bed, Ca, Identity, Root, admin, require, terminal, tools, users};

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

/// An identity whose key only its owner and group can read, and which expires in this number of days.
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
fn a_valid_folder_is_described_and_the_exit_code_is_0() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 365));
    fs::write(root.credential("site").join("README"), "").unwrap();
    for folder in [root.path(), root.credential("site")] {
        let output = check(&[&folder]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = text(&output);
        for word in [
            "site",
            "ok",
            "certificate, trust bundle",
            "a.example, b.example",
            "CN=the ca",
            "P-256",
            "in 365 days",
            "tls.crt, tls.key, ca.crt",
            "README",
            "1 credential: 1 ok",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }
}

#[test]
fn a_rejected_folder_is_reported_with_file_and_remedy_and_the_exit_code_is_2() {
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
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let key = root.credential("mixed").join("tls.key");
    let line = format!("error: {}: it is not the key", key.display());
    let text = text(&output);
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("2 credentials: 1 rejected, 1 ok"), "{text}");
}

#[test]
fn a_certificate_that_expires_within_warn_days_gives_exit_code_1() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 20));
    for (days, code) in [("10", 0), ("19", 0), ("20", 1), ("400", 1)] {
        let output = check(&[&root.path(), &"--warn-days", &days]);
        assert_eq!(output.status.code(), Some(code), "{days}: {output:?}");
    }
    assert_eq!(check(&[&root.path()]).status.code(), Some(1));
    write(&root, "site", &ca, &identity(&ca, -1));
    let output = check(&[&root.path(), &"--warn-days", &"0"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output).contains("24 h ago"), "{output:?}");
}

#[test]
fn an_expired_ca_next_to_a_valid_one_is_a_warning() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    let old = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = OffsetDateTime::now_utc() - Duration::days(1);
    let old = params.self_signed(&old).unwrap().pem();
    root.write("site-cacert", &[("cacert", format!("{}{old}", ca.pem()))]);
    let output = check(&[&root.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        text(&output).contains("1 credential: 1 ok; 1 warning"),
        "{output:?}"
    );
}

#[test]
fn an_unreadable_folder_gives_exit_code_2() {
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
    assert!(text.contains("1 credential: 1 ok"), "{text}");
    let nonsense = check(&[&"--output", &"xml"]);
    assert_eq!(nonsense.status.code(), Some(2), "{nonsense:?}");
}

#[test]
fn an_empty_root_is_a_warning_and_the_exit_code_is_0() {
    let root = Root::new();
    let output = check(&[&root.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let warning = format!(
        "warning: {}: it contains no credential\n",
        root.path().display()
    );
    let text = text(&output);
    assert!(
        text.contains(&warning) && text.ends_with("no credentials; 1 warning\n"),
        "{text}"
    );
}

#[test]
fn without_arguments_the_configured_roots_are_checked_with_their_settings() {
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
    assert!(text(&lenient).contains("1 credential: 1 ok; 1 warning"));
    let text = fs::read_to_string(&config).unwrap() + "strict_permissions = true\n";
    fs::write(&config, text).unwrap();
    for strict in [
        check(&[&"--config", &config]),
        check(&[&"--config", &config, &root.path()]),
    ] {
        assert_eq!(strict.status.code(), Some(2), "{strict:?}");
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
        "skipped: {}: {} has the same name",
        two.credential("site").display(),
        one.credential("site").display()
    );
    assert!(text(&output).contains(&line), "{output:?}");
}

#[test]
fn intentionally_skipped_folders_are_not_a_failure() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "istio-ca", &ca, &identity(&ca, 365));
    write(&root, "account", &ca, &identity(&ca, 365));
    fs::write(root.credential("account").join("token"), "t").unwrap();
    let output = check(&[&root.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        text(&output).contains("2 credentials: 2 skipped"),
        "{output:?}"
    );
}

#[test]
fn check_and_status_use_the_same_states_and_describe_a_credential_alike() {
    let bed = Bed::new();
    let (root, ca) = (&bed.root, &bed.ca);
    write(root, "fine", ca, &identity(ca, 365));
    write(root, "soon", ca, &identity(ca, 3));
    write(root, "past", ca, &identity(ca, -5));
    write(root, "o'neil", ca, &identity(ca, 200));
    write(root, "istio-ca", ca, &identity(ca, 365));
    root.write("half", &[("tls.crt", ca.pem())]);
    let future = ca.server_with(&["a.example"], |params: &mut CertificateParams| {
        params.not_before = OffsetDateTime::now_utc() + Duration::days(5);
    });
    write(root, "future", ca, &future);
    let _agent = bed.ready_agent();

    let checked = json(&root.path());
    let states = checked["credentials"].as_array().unwrap().iter();
    let states: Vec<_> = states
        .map(|one| [&one["state"], &one["name"]].map(|word| word.as_str().unwrap()))
        .collect();
    // The most urgent first; then the first one to expire.
    assert_eq!(
        states,
        [
            ["rejected", "future"],
            ["rejected", "half"],
            ["expired", "past"],
            ["expiring", "soon"],
            ["ok", "o'neil"],
            ["ok", "fine"],
            ["skipped", "istio-ca"],
        ]
    );
    assert_eq!(checked["state"], "rejected");
    let mut served = admin::status(&bed.admin());
    let mut checked = checked;
    for report in [&mut checked, &mut served] {
        for credential in report["credentials"].as_array_mut().unwrap() {
            for secret in credential["secrets"].as_array_mut().unwrap() {
                // Since it was read.
                secret["since"].take();
            }
        }
        assert_eq!(report["format"], 2);
    }
    assert_eq!(checked["credentials"], served["credentials"]);
    assert_eq!(checked["roots"], served["roots"]);
    for table in [
        text(&check(&[&root.path()])),
        text(&status(&bed, &[])),
        text(&status(&bed, &["o'neil"])),
    ] {
        assert!(table.contains("o'neil") && !table.contains('\\'), "{table}");
    }
}

fn status(bed: &Bed, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("status").arg("--admin-socket").arg(bed.admin());
    command.args(arguments).output().unwrap()
}

#[test]
fn line_output_is_one_line_with_the_exit_code_of_the_worst_state() {
    let bed = Bed::new();
    let (root, ca) = (&bed.root, &bed.ca);
    let _agent = bed.ready_agent();
    for (name, days, code, begin, named) in [
        ("fine", 365, 0, "OK - 1 credential: 1 ok | ", "ok=1"),
        ("soon", 3, 1, "WARNING - ", "expiring: soon (in 3 days)"),
        ("past", -5, 2, "CRITICAL - ", "expired: past (5 days ago)"),
    ] {
        write(root, name, ca, &identity(ca, days));
        admin::secret(&bed.admin(), name, |_| true);
        for output in [
            check(&[&root.path(), &"-o", &"line"]),
            status(&bed, &["--fail", "-o", "line"]),
        ] {
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            let line = text(&output);
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(line.starts_with(begin) && line.contains(named), "{line}");
        }
    }
    // The expiry of a rejected certificate is not part of the summary.
    let future = ca.server_with(&["future.test"], |params| {
        params.not_before = OffsetDateTime::now_utc() + Duration::days(2);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(60);
    });
    write(root, "future", ca, &future);
    admin::secret(&bed.admin(), "future", |_| true);
    for output in [
        check(&[&root.path(), &"-o", &"line"]),
        status(&bed, &["--fail", "-o", "line"]),
    ] {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(
            text(&output).contains("; rejected: future; expired: past ("),
            "{output:?}"
        );
    }
    // Without --fail, any answer is a success.
    assert_eq!(status(&bed, &["-o", "line"]).status.code(), Some(0));
    let nobody = Bed::new();
    let output = status(&nobody, &["--fail", "-o", "line"]);
    assert_eq!(output.status.code(), Some(2));
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(line.starts_with("CRITICAL - can't connect"), "{line}");
    let missing = check(&[&root.beside("missing"), &"-o", &"line"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(
        text(&missing).contains("the root does not exist"),
        "{missing:?}"
    );
}

#[test]
fn files_next_to_the_folders_of_a_root_are_reported_and_the_folders_checked() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    let identity = identity(&ca, 365);
    write(&root, "a", &ca, &identity);
    root.write("b", &[("tls.crt", ca.pem())]);
    for (name, content) in [("tls.crt", &identity.chain), ("tls.key", &identity.key)] {
        fs::write(root.path().join(name), content).unwrap();
    }
    let report = json(&root.path());
    let names = report["credentials"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "a"]);
    let warning = &report["roots"][0]["warnings"][0];
    assert_eq!(warning["reason"], "layout", "{report:#}");
    let table = text(&check(&[&root.path()]));
    assert!(table.contains("tls.crt, tls.key"), "{table}");

    // A credential folder that has other folders in it is still a credential.
    fs::create_dir(root.credential("a").join("archive")).unwrap();
    let report = json(&root.credential("a"));
    assert_eq!(report["credentials"][0]["name"], "a", "{report:#}");
}

#[test]
fn a_remedy_can_be_run_in_another_folder() {
    let bed = Bed::new();
    bed.pair("site");
    let key = bed.root.credential("site").join("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, format!("credentials = [{:?}]", bed.root.path())).unwrap();
    let remedy = format!("chmod o= {}\n", key.display());
    let folder = bed.root.path();
    for (folder, arguments) in [
        (folder.parent().unwrap(), &["live"][..]),
        (&folder, &["."]),
        (&folder, &["./site/"]),
        (&bed.root.credential("site"), &["."]),
        (config.parent().unwrap(), &["--config", "sds-agent.toml"]),
    ] {
        let output = Command::new(PROGRAM)
            .arg("check")
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        let shown = text(&output);
        assert!(shown.contains(&remedy), "{arguments:?}: {shown}");
        assert!(
            shown.contains("1 credential: 1 ok; 1 warning"),
            "{arguments:?}: {shown}"
        );
    }
}

#[test]
fn tables_fit_the_terminal_without_splitting_names() {
    let bed = Bed::new();
    let long = "a-rather-long-name-of-a-host.example.com";
    for name in [long, "www.example.com"] {
        write(&bed.root, name, &bed.ca, &bed.ca.server(&[name]));
    }
    bed.root.write("half", &[("tls.crt", bed.ca.pem())]);
    for (name, days) in [("ended", -5), ("ending", 5)] {
        write(&bed.root, name, &bed.ca, &identity(&bed.ca, days));
    }
    let _agent = bed.ready_agent();
    let (root, admin) = (bed.root.path(), bed.admin());
    let (root, admin) = (root.to_str().unwrap(), admin.to_str().unwrap());
    for columns in [60, 80, 120] {
        for arguments in [
            &["check", root][..],
            &["status", "--admin-socket", admin],
            &["status", "--admin-socket", admin, long],
        ] {
            let lines = terminal::lines(&terminal::run(columns, arguments));
            terminal::assert_fits(&lines, columns.into());
            let names = lines.iter().filter(|line| line.contains(long));
            assert!(names.count() > 0, "{lines:#?}");
            if columns == 60 && arguments.len() < 4 {
                for expected in [
                    "          expired 5 days ago, ",
                    "          expires in 5 days, ",
                ] {
                    let is_there = lines.iter().any(|line| line.starts_with(expected));
                    assert!(is_there, "no {expected}: {lines:#?}");
                }
            }
        }
    }
    // No client is subscribed, so there is no column for that.
    let table = text(&status(&bed, &[]));
    assert!(
        table.contains("EXPIRES") && !table.contains("CLIENTS"),
        "{table}"
    );
}

#[test]
fn missing_read_permission_is_reported_once() {
    let how = "apt-get install util-linux";
    let (Some(_), Some(setpriv)) = (
        require(&users::ROOT),
        require(&tools::program("setpriv", how)),
    ) else {
        return;
    };
    let folder = users::folder_for_all();
    let program = folder.path().join("sds-agent");
    fs::copy(PROGRAM, &program).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&setpriv);
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&program).args(arguments).output().unwrap()
    };
    let root = folder.path().join("credentials");
    let config = folder.path().join("sds-agent.toml");
    fs::write(&config, format!("credentials = [{root:?}]\n")).unwrap();
    for name in ["a", "b", "c"] {
        fs::create_dir_all(root.join(name)).unwrap();
        let key = root.join(name).join("tls.key");
        fs::write(&key, "").unwrap();
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let check = ["check", "--config", config.to_str().unwrap()];
    for closed in [false, true] {
        if closed {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let output = as_nobody(&check);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let (shown, printed) = (output.stdout, String::from_utf8(output.stderr).unwrap());
        let shown = String::from_utf8(shown).unwrap();
        let denials = shown.matches("Permission denied").count();
        assert_eq!(denials, if closed { 1 } else { 3 }, "{shown}");
        assert_eq!(
            shown.matches("let the agent's user read it").count(),
            1,
            "{shown}"
        );
        assert_eq!(
            printed
                .matches("this user is not allowed to read everything")
                .count(),
            1,
            "{printed}"
        );
        assert_eq!(printed.lines().count(), 1, "{printed}");
    }
    // The same for a configuration that this user is not allowed to read, and for the sockets.
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    let socket = socket.to_str().unwrap();
    for arguments in [
        &check[..],
        &["serve", "--check-config", "--config", check[2]],
        &["status", "--admin-socket", socket],
        &["probe", "localhost:1", "--admin-socket", socket],
        &["get", "a", "--socket", socket],
    ] {
        let output = as_nobody(arguments);
        assert_ne!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(printed.lines().count(), 1, "{arguments:?}: {printed}");
        for part in [
            "Permission denied",
            "run this with sudo, or as a user who may",
        ] {
            assert!(printed.contains(part), "{arguments:?}: {printed}");
        }
    }
    // As root, there is no hint.
    let output = Command::new(PROGRAM).args(check).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn json_matches_its_documentation() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 365));
    root.write("half", &[("tls.crt", ca.pem())]);
    let report = json(&root.path());
    let [half, site] = report["credentials"].as_array().unwrap().as_slice() else {
        panic!("{report}");
    };
    assert_eq!(half["secrets"], serde_json::json!([]));
    assert_eq!(half["problems"][0]["reason"], "incomplete");
    assert_eq!(site["name"], "site");
    let [pair, bundle] = site["secrets"].as_array().unwrap().as_slice() else {
        panic!("{site}");
    };
    assert_eq!(
        pair["certificates"][0]["names"],
        serde_json::json!(["a.example", "b.example"])
    );
    assert_eq!(pair["files"], serde_json::json!(["tls.crt", "tls.key"]));
    assert_eq!(bundle["name"], "site-cacert");
    assert_eq!(bundle["certificates"][0]["subject"], "CN=the ca");
}

#[test]
fn no_report_contains_a_key() {
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
fn a_closed_pipe_ends_check_quietly() {
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
    let mut printed = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut printed)
        .unwrap();
    assert_eq!(printed, "");
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn output_is_coloured_only_on_a_terminal() {
    let (root, ca) = (Root::new(), Ca::new("the ca"));
    write(&root, "site", &ca, &identity(&ca, 365));
    let on_a_terminal = |no_color: &str| {
        let mut command = terminal::command(120);
        command
            .arg("check")
            .arg(root.path())
            .env("NO_COLOR", no_color);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(on_a_terminal("").contains("\x1b["));
    assert!(!on_a_terminal("1").contains('\x1b'));
}
