//! What `sds-agent status` and `/status` show about a running agent.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::util::admin::{self, secret, status};
use crate::util::agent::PROGRAM;
use crate::util::bed::assert_no_key_in;
use crate::util::{Bed, eventually_true};

fn run(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("status")
        .arg("--admin-socket")
        .arg(socket)
        .args(arguments)
        .output()
        .unwrap()
}

/// The table.
#[track_caller]
fn table(bed: &Bed) -> String {
    let output = run(&bed.admin(), &[]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The row of a secret.
#[track_caller]
fn row(table: &str, name: &str) -> usize {
    let cell = format!("  {name} ");
    let rows = table.lines().skip_while(|line| !line.contains("STATE"));
    let mut rows = rows.enumerate();
    rows.find(|(_, line)| line.contains(&cell))
        .unwrap_or_else(|| panic!("no row of {name} in\n{table}"))
        .0
}

#[test]
fn a_secret_is_reported_with_all_its_details() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    bed.root.write("site", &[("cacert", bed.ca.pem())]);
    let agent = bed.ready_agent();
    let mut stream = bed.client().node("edge-1").delta();
    stream.subscribe(&["site"]);
    let served = stream.secret();

    let site = secret(&bed.admin(), "site", |site| {
        site["subscribers"][0]["answer"] == "ack"
    });
    assert_eq!(site["kind"], "certificate");
    assert_eq!(site["version"], served.version.as_str());
    assert_eq!(site["names"], serde_json::json!(["site.test"]));
    assert_eq!(site["issuer"], "CN=Test CA");
    assert_eq!(site["key_type"], "P-256");
    assert_eq!(site["credential"], "site");
    let folder = bed.root.credential("site");
    assert_eq!(site["folder"], folder.to_str().unwrap());
    assert_eq!(site["files"], serde_json::json!(["cert", "key"]));
    for time in ["since", "not_after", "not_before"] {
        humantime::parse_rfc3339(site[time].as_str().unwrap()).unwrap();
    }
    let client = &site["subscribers"][0];
    assert_eq!(client["node"], "edge-1");
    assert_eq!(client["protocol"], "delta");
    assert_eq!(client["pid"], std::process::id());
    assert_eq!(client["version"], served.version.as_str());
    assert!(client["process"].is_string() && client["sent"].is_string());

    let bundle = secret(&bed.admin(), "site-cacert", |_| true);
    assert_eq!(bundle["kind"], "trust_bundle");
    assert_eq!(bundle["credential"], "site");
    assert_eq!(bundle["subject"], "CN=Test CA");
    let state = status(&bed.admin());
    assert_eq!(state["agent"]["ready"], true);
    assert_eq!(state["agent"]["streams"]["delta"], 1);
    assert_eq!(state["roots"][0]["present"], true);
    assert!(state["watch"]["directories"].as_u64().unwrap() > 0);
    assert_no_key_in(&state.to_string(), &[&identity]);
    drop(agent);
}

#[test]
fn a_rejection_is_shown_first_with_the_clients_message() {
    let bed = Bed::new();
    for name in ["a", "b", "z"] {
        bed.pair(name);
    }
    let _agent = bed.ready_agent();
    let mut stream = bed.client().node("edge-7").sotw();
    stream.subscribe(&["z"]);
    let response = stream.recv();
    stream.nack(&response, "Failed to load \u{1b}[31mcertificate");
    let z = secret(&bed.admin(), "z", |z| z["state"] == "rejected");
    let client = &z["subscribers"][0];
    assert_eq!(client["answer"], "nack");
    assert_eq!(client["error"], "Failed to load \u{1b}[31mcertificate");
    assert!(client["answered"].is_string());

    let table = table(&bed);
    assert!(row(&table, "z") < row(&table, "a"), "{table}");
    assert!(table.contains("rejected by edge-7"), "{table}");
    assert!(
        table.contains("Failed to load \\u{1b}[31mcertificate"),
        "{table}"
    );
    assert!(!table.contains('\u{1b}'), "no colours in a pipe: {table:?}");
}

#[test]
fn a_rejection_on_a_delta_stream_is_shown_with_the_rejected_version() {
    let bed = Bed::new();
    bed.pair("a");
    let _agent = bed.ready_agent();
    let mut stream = bed.client().node("edge-7").delta();
    stream.subscribe(&["a"]);
    let response = stream.recv();
    stream.nack(&response, "no thanks");
    let a = secret(&bed.admin(), "a", |a| a["state"] == "rejected");
    let client = &a["subscribers"][0];
    assert_eq!(client["answer"], "nack", "{client:#}");
    assert_eq!(client["version"], a["version"], "{client:#}");
    assert!(client["sent"].is_string(), "{client:#}");
    let full = String::from_utf8(run(&bed.admin(), &["a"]).stdout).unwrap();
    for part in [": rejected, ", "NACK: no thanks"] {
        assert!(full.contains(part), "{full}");
    }
    let table = table(&bed);
    assert!(table.contains("1 rejected"), "{table}");
    assert!(
        !format!("{table}{full}").contains("nothing"),
        "{table}{full}"
    );
}

#[test]
fn a_rejection_stays_visible_when_the_client_was_then_sent_that_the_name_does_not_exist() {
    const REASON: &str = "Failed to load incomplete private key from path: ";
    let bed = Bed::new();
    bed.root.write("www.site.test", &[("ca.crt", bed.ca.pem())]);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().node("edge-7").delta();
    stream.subscribe(&["www.site.test"]);
    let response = stream.recv();
    stream.nack(&response, REASON);
    // So that Envoy does not let handshakes wait.
    assert_eq!(stream.removed(), ["www.site.test"]);
    let assert_rejected = || {
        let bundle = secret(&bed.admin(), "www.site.test", |bundle| {
            bundle["state"] == "rejected"
        });
        let client = &bundle["subscribers"][0];
        assert_eq!(client["standing"], "rejected", "{client:#}");
        assert_eq!(client["answer"], "nack", "{client:#}");
        assert_eq!(client["error"], REASON, "{client:#}");
        assert_eq!(
            client["version"], response.resources[0].version,
            "{client:#}"
        );
        let full = run(&bed.admin(), &["www.site.test"]).stdout;
        let full = String::from_utf8(full).unwrap();
        assert!(
            full.contains(": rejected, ") && full.contains("NACK: Failed to load"),
            "{full}"
        );
        let table = table(&bed);
        assert!(table.contains("1 rejected"), "{table}");
        assert!(
            table.contains("www.site.test: rejected by edge-7"),
            "{table}"
        );
        let remedy = "\n    check that the client's configuration uses it as a trust bundle\n";
        assert!(table.contains(remedy), "{table}");
    };
    assert_rejected();
    // Other content of the same kind is not sent: the client can't use that either.
    let other = crate::util::Ca::new("Other CA");
    bed.root.write("www.site.test", &[("ca.crt", other.pem())]);
    secret(&bed.admin(), "www.site.test", |bundle| {
        bundle["subject"] == "CN=Other CA"
    });
    assert_rejected();

    // A certificate under that name is sent, and accepted.
    let identity = bed.ca.server(&["www.site.test"]);
    bed.root.write_pair("www.site.test", &identity);
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
    let pair = secret(&bed.admin(), "www.site.test", |pair| {
        pair["subscribers"][0]["answer"] == "ack"
    });
    assert_eq!(pair["subscribers"][0]["standing"], "up_to_date");
    assert_eq!(pair["state"], "ok");
    assert!(table(&bed).contains("1 up to date"), "{}", table(&bed));
}

#[test]
fn a_problem_is_shown_with_the_previous_version_until_it_is_fixed() {
    let bed = Bed::new();
    for name in ["a", "site"] {
        bed.pair(name);
    }
    let _agent = bed.ready_agent();
    let before = secret(&bed.admin(), "site", |site| site["state"] == "ok");
    bed.root.write("site", &[("key", "not a key")]);
    bed.root
        .write("broken", &[("cert", "nothing"), ("key", "nothing")]);
    let site = secret(&bed.admin(), "site", |site| site["is_previous"] == true);
    assert_eq!(site["state"], "rejected");
    assert_eq!(site["version"], before["version"]);
    assert_eq!(site["since"], before["since"]);
    let key = bed.root.credential("site").join("key");
    assert_eq!(site["problems"][0]["path"], key.to_str().unwrap());
    assert!(site["problems"][0]["remedy"].is_string());
    eventually_true("the broken folder", || {
        let state = status(&bed.admin());
        let mut folders = state["credentials"].as_array().unwrap().iter();
        folders.any(|folder| folder["name"] == "broken" && folder["state"] == "rejected")
    });
    let table = table(&bed);
    assert!(row(&table, "site") < row(&table, "a"), "{table}");
    assert!(
        table.contains(&format!("error: {}: ", key.display())),
        "{table}"
    );

    bed.pair("site");
    let after = secret(&bed.admin(), "site", |site| site["state"] == "ok");
    assert_ne!(after["version"], before["version"]);
    assert_eq!(after["problems"], serde_json::json!([]));
}

#[test]
fn a_name_shows_one_credential_in_full_and_filters_select_credentials() {
    let bed = Bed::new();
    bed.pair("a");
    let covered = ["site.test", "*.wild.test"];
    bed.root.write_pair("site", &bed.ca.server(&covered));
    bed.root
        .write("site", &[("cacert", bed.ca.pem()), ("README", "")]);
    bed.root.write("half", &[("cert", bed.ca.pem())]);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().node("edge-1").delta();
    stream.subscribe(&["site.test"]);
    let served = stream.secret();
    let site = secret(&bed.admin(), "site", |site| {
        site["subscribers"][0]["answer"] == "ack"
    });
    let serial = site["serial"].as_str().unwrap();

    // By its own name, a secret's or a host's, as a client may spell it.
    for name in [
        "site",
        "kubernetes://site",
        "site-cacert",
        "SITE.test",
        "site.test.",
        "below.wild.test",
        "*.wild.test",
    ] {
        let full = String::from_utf8(run(&bed.admin(), &[name]).stdout).unwrap();
        for expected in [
            "site: ok\n",
            "site-cacert (trust bundle): ok",
            serial,
            "covers     site.test",
            "CN=Test CA",
            "cert, key",
            "skipped      README",
            &*served.version,
            "edge-1",
            "up to date, requested site.test",
        ] {
            assert!(full.contains(expected), "no {expected} in {full}");
        }
        assert!(!full.contains("half"), "{full}");
    }
    let absent = run(&bed.admin(), &["no\nsuch"]);
    assert_eq!(absent.status.code(), Some(2));
    let error = String::from_utf8_lossy(&absent.stderr);
    assert!(error.contains("no credential `no\\nsuch`"), "{error}");

    let names = |arguments: &[&str]| {
        let output = run(&bed.admin(), &[&["-o", "json"], arguments].concat());
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = state["credentials"].as_array().unwrap().iter();
        let names = all.map(|one| one["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["half", "a", "site"]);
    assert_eq!(names(&["--state", "ok"]), ["a", "site"]);
    assert_eq!(names(&["--state", "ok", "--state", "rejected"]), names(&[]));
    assert_eq!(names(&["--expires-within", "1h"]), [""; 0]);
    assert_eq!(names(&["--expires-within", "5000000d"]), ["a", "site"]);
    assert_eq!(
        names(&["--state", "rejected", "--expires-within", "1h"]),
        [""; 0]
    );
    // The selected credentials decide the exit code.
    assert_eq!(run(&bed.admin(), &["--fail"]).status.code(), Some(2));
    assert_eq!(
        run(&bed.admin(), &["--fail", "site"]).status.code(),
        Some(0)
    );
    assert_eq!(
        run(&bed.admin(), &["--state", "good"]).status.code(),
        Some(2)
    );
}

#[test]
fn a_client_that_holds_the_version_is_up_to_date_after_a_restart() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    let served = stream.secret();
    assert!(agent.terminate().success());
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.resume(&[("site", &*served.version)]);
    let site = secret(&bed.admin(), "site", |site| {
        site["subscribers"].as_array().unwrap().len() == 1
    });
    let client = &site["subscribers"][0];
    assert_eq!(client["current"], true, "{client:#}");
    assert_eq!(client["sent"], Value::Null);
    assert!(table(&bed).contains("1 up to date"), "{}", table(&bed));
    let full = String::from_utf8(run(&bed.admin(), &["site"]).stdout).unwrap();
    assert!(
        full.contains("up to date, since before it connected"),
        "{full}"
    );
    stream.0.assert_silent();
}

#[test]
fn names_that_do_not_exist_are_counted_and_a_bounded_number_is_listed() {
    let bed = Bed::new();
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    let names: Vec<_> = (0..500).map(|number| format!("host-{number:03}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    stream.subscribe(&names);
    assert_eq!(stream.removed().len(), 500);
    let state = status(&bed.admin());
    assert_eq!(state["waiting"]["total"], 500);
    assert_eq!(state["waiting"]["names"].as_array().unwrap().len(), 100);
    assert_eq!(state["waiting"]["names"][0]["name"], "host-000");
    let table = table(&bed);
    assert!(
        table.contains("requested but missing: host-000 (1 stream)")
            && table.contains("490 more names"),
        "{table}"
    );
}

#[test]
fn a_root_that_does_not_exist_is_an_error() {
    let bed = Bed::new();
    let missing = bed.scratch("missing");
    let _agent = bed.ready(bed.builder().credentials(&missing));
    let state = status(&bed.admin());
    assert_eq!(state["roots"][1]["present"], false);
    assert_eq!(state["roots"][1]["path"], missing.to_str().unwrap());
    let table = table(&bed);
    assert_eq!(state["roots"][1]["state"], "rejected");
    let line = format!("error: {}: the root does not exist", missing.display());
    assert!(table.contains(&line), "{table}");
}

#[test]
fn json_has_the_full_state_and_distinguishes_a_shadowed_folder() {
    let bed = Bed::new();
    let second = crate::util::Root::new();
    bed.pair("site");
    second.write_pair("site", &bed.ca.server(&["other.test"]));
    let _agent = bed.ready(bed.builder().credentials(&second.path()));
    let output = run(&bed.admin(), &["--output", "json"]);
    assert!(output.status.success());
    let state: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [site, hidden] = state["credentials"].as_array().unwrap().as_slice() else {
        panic!("{state:#}");
    };
    assert_eq!(hidden["state"], "skipped", "{state:#}");
    assert_eq!(hidden["root"], second.path().to_str().unwrap());
    assert_eq!(hidden["secrets"], serde_json::json!([]));
    assert_eq!(
        site["secrets"][0]["certificates"][0]["names"][0],
        "site.test"
    );

    bed.root.remove("site");
    let site = secret(&bed.admin(), "site", |site| {
        site["names"][0] == "other.test"
    });
    assert_eq!(site["root"], second.path().to_str().unwrap());
}

#[test]
fn a_missing_agent_is_reported_with_exit_code_2() {
    let bed = Bed::new();
    let output = run(&bed.admin(), &[]);
    assert_eq!(output.status.code(), Some(2));
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains(bed.admin().to_str().unwrap()), "{printed}");
    assert!(
        printed.contains("shows whether the agent is running"),
        "{printed}"
    );

    bed.pair("site");
    let mut agent = bed.ready_agent();
    // Not the admin socket.
    let output = run(&bed.socket(), &[]);
    assert_eq!(output.status.code(), Some(2));
    agent.kill();
    let output = run(&bed.admin(), &["--watch"]);
    assert_eq!(output.status.code(), Some(2));
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("the agent is not running"), "{printed}");
}

#[test]
fn watch_continues_through_a_restart_and_ends_quietly() {
    use std::io::{BufRead, BufReader};
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.ready_agent();
    let mut watch = Command::new(PROGRAM)
        .args(["status", "--watch", "--output", "json", "--admin-socket"])
        .arg(bed.admin())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = |wanted: &dyn Fn(&Value) -> bool| loop {
        let line = lines.next().expect("the watch has ended").unwrap();
        if let Ok(state) = serde_json::from_str::<Value>(&line)
            && wanted(&state)
        {
            return state;
        }
    };
    let first = next(&|_| true)["agent"]["pid"].clone();
    assert!(agent.terminate().success());
    let _agent = bed.ready_agent();
    next(&|state| state["agent"]["pid"] != first);
    drop(lines);
    // The reader has closed the pipe: that is not an error.
    let output = watch.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn watch_redraws_a_terminal_and_restores_it_at_the_end() {
    let Some(script) = crate::util::require(&crate::util::tools::program(
        "script",
        "Debian: apt-get install bsdutils",
    )) else {
        return;
    };
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.ready_agent();
    let typescript = bed.scratch("typescript");
    let watched = format!(
        "exec timeout --signal=INT 3 {PROGRAM} status --watch --admin-socket {}",
        bed.admin().display()
    );
    let status = Command::new(script)
        .args(["-q", "-e", "-c", &watched])
        .arg(&typescript)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .env_remove("NO_COLOR")
        .status()
        .unwrap();
    let drawn = String::from_utf8_lossy(&std::fs::read(&typescript).unwrap()).into_owned();
    // `timeout` exits with 124 if it had to stop the program.
    assert!(
        matches!(status.code(), Some(0 | 124)),
        "{status:?} {drawn:?}"
    );
    let frames = drawn.matches("\u{1b}[H").count();
    assert!(frames >= 2, "{frames} frames: {drawn:?}");
    assert!(drawn.contains("site"), "{drawn:?}");
    let (enter, leave) = ("\u{1b}[?1049h", "\u{1b}[?1049l");
    assert!(drawn.contains(enter) && drawn.contains(leave), "{drawn:?}");
    assert!(
        drawn.contains("\u{1b}[?25h"),
        "the cursor is back: {drawn:?}"
    );
}

#[test]
fn the_admin_socket_is_private_and_removed_at_the_end() {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::new();
    let agent = bed.ready_agent();
    let mode = std::fs::metadata(bed.admin()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(agent.terminate().success());
    assert!(!bed.admin().exists());
}

#[test]
fn the_admin_socket_answers_only_get_and_many_requests_at_once() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.ready_agent();
    let index = admin::get(&bed.admin(), "/");
    assert_eq!(index.status, 200);
    assert!(index.body.contains("/metrics"), "{index:?}");
    assert_eq!(admin::get(&bed.admin(), "/nothing").status, 404);
    // More than are answered at a time; most of them send nothing.
    let silent: Vec<_> = (0..40)
        .map(|_| std::os::unix::net::UnixStream::connect(bed.admin()).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(admin::get(&bed.admin(), "/status").status, 200));
        }
    });
    drop(silent);
}

#[test]
fn a_second_agent_in_the_same_folder_serves_without_an_admin_socket() {
    let bed = Bed::new();
    bed.pair("site");
    let _first = bed.ready_agent();
    let socket = bed.scratch("second.sock");
    let second = crate::util::Agent::builder(&socket)
        .credentials(&bed.root.path())
        .start();
    second.wait_for_line(&["ERROR", "admin.sock", "--admin-socket"]);
    let mut stream = second.client().sotw();
    stream.subscribe(&["site"]);
    stream.secret();
    let pid = status(&bed.admin())["agent"]["pid"].as_i64();
    assert_ne!(pid, Some(second.pid().as_raw_nonzero().get().into()));
}

#[test]
fn every_key_of_the_json_is_documented() {
    let bed = Bed::new();
    bed.pair("site");
    bed.root
        .write("broken", &[("cert", "nothing"), ("key", "nothing")]);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site", "ghost"]);
    stream.changes();
    secret(&bed.admin(), "site", |site| {
        site["subscribers"][0]["answer"] == "ack"
    });
    let mut keys = std::collections::BTreeSet::new();
    collect(&status(&bed.admin()), &mut keys);
    assert!(keys.len() > 60, "{keys:?}");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for key in keys {
        assert!(
            docs.contains(&format!("`{key}`")),
            "{key} is not in docs/status.md"
        );
    }
}

fn collect(value: &Value, keys: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.insert(key.clone());
                collect(value, keys);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, keys)),
        _ => {}
    }
}

#[test]
fn a_real_envoy_is_shown_with_its_node() {
    use crate::util::{Envoy, Host, Protocol, tools};
    let Some(program) = crate::util::require(&tools::ENVOY) else {
        return;
    };
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.ready_agent();
    let hosts = [Host::new("site.test", "site")];
    let envoy = Envoy::start(&program, &bed.socket(), Protocol::Delta, &hosts);
    let site = secret(&bed.admin(), "site", |site| {
        site["subscribers"][0]["answer"] == "ack"
    });
    let client = &site["subscribers"][0];
    let pid = envoy.pid().as_raw_nonzero().get();
    assert_eq!(client["pid"], pid, "{client:#}");
    assert_eq!(client["version"], site["version"]);
    let process = client["process"].as_str().unwrap();
    assert!(table(&bed).contains("1 up to date"), "{}", table(&bed));
    let output = run(&bed.admin(), &["site"]);
    let full = String::from_utf8(output.stdout).unwrap();
    let line = format!("{process} {pid}, delta): up to date, sent ");
    assert!(full.contains(&line), "no {line} in {full}");
}

#[test]
fn the_sandboxed_unit_answers_on_its_socket_and_on_a_port_with_the_drop_in() {
    use crate::systemd::{pair, write_pair};
    use crate::util::{require, tools};
    let Some(_) = require(&tools::program("curl", "Debian: apt-get install curl")) else {
        return;
    };
    let Some(machine) = crate::util::machine::machine() else {
        return;
    };
    write_pair(&machine, "www", &pair("www.test"));
    let dropin = include_str!("../../systemd/examples/tcp.conf");
    machine.write("etc/systemd/system/sds-agent.service.d/tcp.conf", dropin);
    machine.write(
        "etc/sds-agent/sds-agent.toml",
        "admin_tcp = \"127.0.0.1:9902\"\n[admin]\ntcp_details = true\n",
    );
    // With socket activation, as it should run.
    machine.run("systemctl daemon-reload; systemctl start sds-agent.socket sds-agent");
    let table = machine.run("sds-agent status");
    assert!(row(&table, "www") > 0, "{table}");
    let shown = machine.run("sds-agent get www");
    assert!(shown.contains("<private key, P-256, "), "{shown}");
    let metrics = machine.run("curl -sS http://127.0.0.1:9902/metrics");
    for series in [
        "sds_agent_ready 1",
        "process_open_fds ",
        "process_cpu_seconds_total ",
    ] {
        let there = metrics.lines().any(|line| line.starts_with(series));
        assert!(there, "no {series} in {metrics}");
    }
    let page = machine.run("curl -sS http://127.0.0.1:9902/");
    assert!(page.contains("<title>sds-agent</title>"), "{page}");
}
