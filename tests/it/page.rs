//! The page on the admin port, in a real browser.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::util::admin::{self, free_address, send};
use crate::util::agent::PROGRAM;
use crate::util::bed::assert_no_key_in;
use crate::util::tools::{self, AXE, Tool};
use crate::util::{Agent, Bed, eventually, eventually_true, require};

const CHROMIUM: Tool = tools::program("chromium", "Debian: apt-get install chromium");

/// An agent with an admin port that shows everything.
#[track_caller]
fn start(bed: &Bed) -> (Agent, SocketAddr) {
    start_with(bed, "tcp_details = true")
}

/// An agent with an admin port, and these settings in `[admin]`.
#[track_caller]
fn start_with(bed: &Bed, settings: &str) -> (Agent, SocketAddr) {
    let address = free_address();
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, format!("[admin]\n{settings}\n")).unwrap();
    let builder = bed.builder().arg("--config").arg(&config);
    let agent = bed.ready(builder.arg(format!("--admin-tcp={address}")));
    (agent, address)
}

fn get(address: SocketAddr, path: &str) -> admin::Answer {
    send(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"),
    )
}

/// The page at `url` after its script has run.
#[track_caller]
fn dump(chromium: &Path, bed: &Bed, url: &str) -> String {
    let profile = tempfile::tempdir_in(bed.scratch("")).unwrap();
    let mut command = Command::new(chromium);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    let output = command.arg(url).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = printed
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Only what the script has drawn, not the data that it was given.
fn drawn(dom: &str) -> &str {
    dom.split("<script").next().unwrap()
}

#[test]
fn without_a_port_there_is_no_page() {
    let bed = Bed::new();
    let _agent = bed.ready_agent();
    let answer = admin::get(&bed.admin(), "/");
    assert!(!answer.body.contains("<html"), "{answer:?}");
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_contains_no_key() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    let (agent, address) = start(&bed);
    let page = get(address, "/");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("default-src 'none'"), "{}", page.head);
    assert!(!page.head.contains("unsafe"), "{}", page.head);
    assert!(!page.body.contains("https://") && !page.body.contains("http://"));
    assert_no_key_in(&page.body, &[&identity]);
    for path in ["/status", "/metrics", "/livez", "/readyz"] {
        let answer = get(address, path);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_no_key_in(&answer.body, &[&identity]);
    }
    assert!(agent.terminate().success());
}

#[test]
fn another_host_and_another_method_are_refused() {
    let bed = Bed::new();
    let (_agent, address) = start(&bed);
    let answer = send(address, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(answer.status, 421, "{answer:?}");
    let answer = send(
        address,
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(answer.status, 405, "{answer:?}");
}

#[test]
fn by_default_the_port_serves_only_metrics_and_health() {
    let bed = Bed::new();
    bed.pair("site");
    let (_agent, address) = start_with(&bed, "");
    assert_eq!(get(address, "/readyz").status, 200);
    assert_eq!(get(address, "/livez").status, 200);
    let metrics = get(address, "/metrics");
    assert_eq!(metrics.status, 200, "{metrics:?}");
    assert!(!metrics.body.contains("site.test"), "no SAN: {metrics:?}");
    for (path, status) in [("/", 200), ("/status", 403)] {
        let answer = get(address, path);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(!answer.body.contains("site"), "{answer:?}");
        assert!(answer.body.contains("tcp_details"), "{answer:?}");
    }
}

#[test]
fn a_non_loopback_address_and_a_port_in_use_are_errors() {
    let bed = Bed::new();
    let mut agent = bed
        .builder()
        .arg("--admin-tcp=0.0.0.0:1")
        .start_without_waiting();
    assert!(!agent.wait().success());
    agent.wait_for_line(&["loopback"]);
    let holder = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = holder.local_addr().unwrap();
    let mut agent = bed
        .builder()
        .arg(format!("--admin-tcp={address}"))
        .start_without_waiting();
    assert!(!agent.wait().success());
    agent.wait_for_line(&["admin_tcp", &address.to_string()]);
}

#[test]
fn a_browser_shows_the_state_with_problems_first() {
    let Some(chromium) = require(&CHROMIUM) else {
        return;
    };
    let bed = Bed::new();
    for name in ["alpha", "beta", "omega"] {
        bed.pair(name);
    }
    bed.pair_without_host("<img src=x onerror=alert(1)>");
    bed.pair_without_host(
        "</script><script>document.title='broken into'</script>"
            .replace('/', "_")
            .as_str(),
    );
    let (agent, address) = start(&bed);
    let mut stream = bed.client().node("<b>edge</b>").sotw();
    stream.subscribe(&["omega"]);
    let response = stream.recv();
    stream.nack(&response, "<i>no</i>");
    admin::secret(&bed.admin(), "omega", |omega| omega["state"] == "rejected");
    fs::write(bed.scratch("sds-agent.toml"), "[misspelled]\n").unwrap();
    eventually_true("the refused reload", || {
        admin::status(&bed.admin())["agent"]["config_error"].is_string()
    });
    let dom = dump(&chromium, &bed, &format!("http://{address}/"));
    let shown = drawn(&dom);
    let at = |text: &str| {
        shown
            .find(text)
            .unwrap_or_else(|| panic!("no {text} in {shown}"))
    };
    let rows = at("id=\"rows\"");
    let row = |name: &str| rows + shown[rows..].find(&format!(">{name}</button>")).unwrap();
    assert!(
        row("omega") < row("alpha") && row("alpha") < row("beta"),
        "{shown}"
    );
    at("1 rejected");
    at("The configuration was refused, and the previous one is in effect: ");
    at("misspelled");
    at("&lt;img src=x onerror=alert(1)&gt;");
    assert!(
        dom.contains("<title>sds-agent on "),
        "a name has become a script"
    );
    for markup in ["<img", "<b>", "<i>"] {
        assert!(!shown.contains(markup), "{markup} in {shown}");
    }
    // The timeline counts every secret once.
    let counts: usize = shown
        .split("<strong>")
        .skip(1)
        .map(|rest| rest.split('<').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(counts, 5, "{shown}");
    drop(agent);
}

#[test]
fn axe_finds_nothing_and_nothing_overflows_narrow_or_wide_light_or_dark() {
    let (Some(chromium), Some(axe)) = (require(&CHROMIUM), require(&AXE)) else {
        return;
    };
    let bed = Bed::new();
    // One of each state, with names and texts as long as they can be.
    let long = format!("{}.{}.example.com", "a".repeat(60), "b".repeat(60));
    bed.root
        .write_pair(&long, &bed.ca.server(&[&long, "*.example.com"]));
    for (name, days) in [("expired", -5), ("expiring", 5)] {
        let ending = bed.ca.server_with(&["ending.test"], |params| {
            params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
        });
        bed.root.write_pair(name, &ending);
    }
    bed.pair("refused");
    bed.root.write("half", &[("tls.crt", bed.ca.pem())]);
    bed.pair("istio-skipped");
    let (_agent, address) = start(&bed);
    let mut stream = bed.client().node("edge-1").sotw();
    stream.subscribe(&[
        "refused",
        "missing",
        &format!("missing-{}", "m".repeat(200)),
    ]);
    let response = stream.recv();
    stream.nack(&response, &"Failed_to_load_".repeat(20));
    let probed = Command::new(PROGRAM)
        .args(["probe", "127.0.0.1:1", "--name", &long, "--admin-socket"])
        .arg(bed.admin())
        .output()
        .unwrap();
    assert_eq!(probed.status.code(), Some(1), "{probed:?}");
    let states = ["rejected", "expired", "expiring", "ok", "skipped"];
    eventually_true("a credential in each state", || {
        let status = admin::status(&bed.admin()).to_string();
        let has = |state| status.contains(&format!("\"state\":\"{state}\""));
        states.into_iter().all(has) && status.contains("Failed_to_load_")
    });
    let views = inspect(&chromium, &axe, &format!("http://{address}/"));
    assert_eq!(views.len(), 6, "{views:#?}");
    for view in &views {
        for wrong in ["violations", "undecided", "overflow"] {
            assert_eq!(view[wrong], serde_json::json!([]), "{view:#}");
        }
        assert_eq!(view["opened"], 6, "{view:#}");
        assert!(view["checks"].as_u64().unwrap() > 20, "{view:#}");
    }
    // The inspection must find a real problem.
    let bad = bed.scratch("bad.html");
    let wide =
        "<p style='width: 2000px; color: #ddd; background: #fff'>low contrast</p><img src=x>";
    let page = format!("<!doctype html><button id=pause></button><div id=rows></div>{wide}");
    fs::write(&bad, page).unwrap();
    let view = &inspect(&chromium, &axe, &format!("file://{}", bad.display()))[0];
    let violations = view["violations"].to_string();
    for rule in ["color-contrast", "image-alt", "html-has-lang"] {
        assert!(violations.contains(rule), "{view:#}");
    }
    assert_ne!(view["overflow"], serde_json::json!([]));
}

/// The problems of a page in each of the views of tests/axe/inspect_page.py.
#[track_caller]
fn inspect(chromium: &Path, axe: &Path, url: &str) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/axe/inspect_page.py");
    let mut command = Command::new("python3");
    command.arg(script).args([chromium, axe]).arg(url);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_probe_is_shown_with_its_credential() {
    let Some(chromium) = require(&CHROMIUM) else {
        return;
    };
    let bed = Bed::new();
    bed.pair("site");
    let (_agent, address) = start(&bed);
    let probed = Command::new(PROGRAM)
        .args([
            "probe",
            "127.0.0.1:1",
            "--name",
            "site.test",
            "--admin-socket",
        ])
        .arg(bed.admin())
        .output()
        .unwrap();
    assert_eq!(probed.status.code(), Some(1), "{probed:?}");
    let dom = dump(&chromium, &bed, &format!("http://{address}/"));
    let shown = drawn(&dom);
    assert!(
        shown.contains("probed 127.0.0.1:1 for site.test "),
        "{shown}"
    );
    assert!(shown.contains(" ago: the handshake failed"), "{shown}");
    // Every user can connect to the port, so it accepts no probe.
    let head = format!("POST /probes HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\n\r\n[]");
    assert_eq!(send(address, &head).status, 405);
}

#[test]
fn the_port_does_not_show_why_a_reload_was_refused() {
    let bed = Bed::new();
    let (agent, address) = start_with(&bed, "");
    fs::write(bed.scratch("sds-agent.toml"), "[hidden-word]\n").unwrap();
    agent.wait_for_line(&["hidden-word"]);
    let reason = eventually("the refused reload", || {
        let answer = get(address, "/readyz");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body.contains("refused").then_some(answer.body)
    });
    let expected = "ready\ndegraded: the last reload was refused; see `sds-agent status`\n";
    assert_eq!(reason, expected);
    let to_operators = admin::get(&bed.admin(), "/readyz").body;
    assert!(to_operators.contains("hidden-word"), "{to_operators}");
    let metrics = get(address, "/metrics").body;
    assert!(!metrics.contains("hidden-word"), "{metrics}");
}

#[test]
fn the_page_filters_five_thousand_credentials() {
    let Some(chromium) = require(&CHROMIUM) else {
        return;
    };
    let bed = Bed::new();
    let identity = bed.ca.server(&["site.test"]);
    for number in 0..5000 {
        bed.root.write_pair(&format!("host-{number:04}"), &identity);
    }
    let (_agent, address) = start(&bed);
    eventually("all credentials", || {
        let state = admin::status(&bed.admin());
        (state["credentials"].as_array().unwrap().len() == 5000).then_some(())
    });
    let dom = dump(&chromium, &bed, &format!("http://{address}/"));
    assert!(
        drawn(&dom).contains("5000 of 5000, 200 shown"),
        "{}",
        &drawn(&dom)[..3000]
    );
    // A link to a search works too.
    let dom = dump(
        &chromium,
        &bed,
        &format!("http://{address}/#search=host-4321"),
    );
    let shown = drawn(&dom);
    assert!(shown.contains("1 of 5000"), "{}", &shown[..3000]);
    assert!(shown.contains(">host-4321</button>"), "{}", &shown[..3000]);
    // So does a link to a state.
    for (state, expected) in [("ok", "1 of 5000"), ("expired", "0 of 5000")] {
        let url = format!("http://{address}/#search=host-4321&state={state}&order=expiry");
        let dom = dump(&chromium, &bed, &url);
        let shown = drawn(&dom);
        assert!(shown.contains(expected), "{state}: {}", &shown[..3000]);
    }
}
