//! Text from clients and from writers of files can't forge a log line or control a terminal, in any output.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use prost::Message;
use rcgen::{CertificateParams, CustomExtension, DnType};
use sds_agent::proto::core::Node;
use sds_agent::proto::discovery::DiscoveryRequest;
use serde_json::Value;

use super::raw::{Raw, frame};
use super::{Bed, start};
use crate::util::agent::PROGRAM;
use crate::util::{Agent, Ca, admin};

/// A forged line, controls of terminals (C0, C1), DEL, and what reverses the direction of text.
pub(crate) const HOSTILE: &str =
    "x\nFORGED audit: uid=0\r\u{1b}[31m\u{9b}31m\u{7f}\u{202e}\u{2028}FORGED\" uid=0 \\";
/// The same in ASCII, as DNS names in certificates are.
const HOSTILE_ASCII: &str = "x\nFORGED audit: uid=0\r\u{1b}[31m\u{7f}FORGED\" uid=0 \\";

/// Characters that must always be escaped.
pub(crate) fn is_hostile(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Asserts that a text for people, whose own lines end in newlines, has none of the hostile text unescaped.
#[track_caller]
pub(crate) fn assert_harmless(what: &str, text: &str) {
    for line in text.lines() {
        let hostile = line.chars().find(|char| is_hostile(*char));
        assert_eq!(hostile, None, "{what}: {line:?}");
        let forged = line.trim_start().starts_with("FORGED");
        assert!(!forged, "{what} has a forged line: {line:?}");
    }
}

/// Everything that a writer of files chooses.
fn write_hostile_files(bed: &Bed) {
    let ca = Ca::new(HOSTILE);
    let hostile = |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, HOSTILE);
        params
            .distinguished_name
            .push(DnType::OrganizationName, HOSTILE);
        // subjectAltName: a sequence with one dNSName, which rcgen checks and others do not.
        let mut san = vec![
            0x30,
            HOSTILE_ASCII.len() as u8 + 2,
            0x82,
            HOSTILE_ASCII.len() as u8,
        ];
        san.extend(HOSTILE_ASCII.as_bytes());
        params.subject_alt_names.clear();
        params
            .custom_extensions
            .push(CustomExtension::from_oid_content(&[2, 5, 29, 17], san));
    };
    let identity = ca.server_with(&["site.test"], hostile);
    bed.root.write_pair("subject", &identity);
    bed.root.write("bundle", &[("ca.crt", ca.pem())]);
    // Folders and files with such names: valid, rejected, and skipped.
    let good = bed.ca.server(&["site.test"]);
    bed.root.write_pair(HOSTILE, &good);
    let name = |extension: &str| format!("{HOSTILE}{extension}");
    bed.root.write(
        "files",
        &[
            (&*name(".crt"), good.chain.as_str()),
            (&*name(".key"), "no key"),
        ],
    );
    bed.root.write(
        "ambiguous",
        &[
            (&*name("1.key"), good.key.as_str()),
            (&*name("2.key"), identity.key.as_str()),
            (&*name("1.crt"), good.chain.as_str()),
            (&*name("2.crt"), identity.chain.as_str()),
        ],
    );
    bed.root.write(
        "unused",
        &[
            ("tls.crt", &*good.chain),
            ("tls.key", &*good.key),
            (&*name(""), "text"),
        ],
    );
    let folder = bed.root.credential("links");
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(name(""), folder.join("tls.crt")).unwrap();
    fs::create_dir(folder.join(name(".pem"))).unwrap();
}

/// Everything that a client chooses.
fn send_hostile_requests(bed: &Bed, agent: &Agent) {
    let client = bed.client().node(HOSTILE);
    let mut sotw = client.sotw();
    sotw.subscribe(&["site", HOSTILE]);
    let response = sotw.recv();
    sotw.nack(&response, HOSTILE);
    agent.wait_for_line(&["rejected by the client"]);
    let mut delta = client.delta();
    delta.subscribe(&["site", HOSTILE]);
    delta.changes();
    let request = DiscoveryRequest {
        node: Some(Node {
            id: HOSTILE.into(),
            cluster: HOSTILE.into(),
        }),
        resource_names: vec![HOSTILE.into()],
        type_url: HOSTILE.into(),
        version_info: HOSTILE.into(),
        ..DiscoveryRequest::default()
    };
    let mut raw = Raw::connect(&bed.socket());
    let stream = raw.open("StreamSecrets");
    stream.send(frame(&request.encode_to_vec()));
    stream.end();
    agent.wait_for_line(&["stream ended"]);
    // The name of a process is that of its program, up to 15 bytes.
    let program = bed.scratch("x\n\u{1b}[31mF\" uid=0");
    fs::copy(PROGRAM, &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["site", HOSTILE] {
        let got = Command::new(&program)
            .args(["get", name, "--socket"])
            .arg(bed.socket())
            .output()
            .unwrap();
        assert_harmless("get", &String::from_utf8_lossy(&got.stdout));
        assert_harmless("get", &String::from_utf8_lossy(&got.stderr));
    }
    // Kept open, because the state is requested next.
    std::mem::forget((sotw, delta));
}

fn run(arguments: &[&str], path: &Path) -> String {
    let output = Command::new(PROGRAM)
        .args(arguments)
        .arg(path)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_harmless(&format!("{arguments:?}"), &stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!stdout.is_empty(), "{arguments:?}: {stderr}");
    stdout
}

#[track_caller]
fn assert_lines_of_the_agent(agent: &Agent) {
    for line in agent.lines() {
        assert_harmless("the log", &line);
        assert!(line.starts_with("20"), "no line of the agent: {line:?}");
        if line.contains(" INFO audit: ") || line.contains(" WARN audit: ") {
            assert_facts_first(&line);
        }
    }
    assert!(agent.lines().iter().any(|line| line.contains("FORGED")));
}

/// In an audit line, the kernel's facts come before the values that the client chooses, which are in quotes.
#[track_caller]
fn assert_facts_first(line: &str) {
    let at = |field: &str| line.find(&format!(" {field}="));
    let last_fact = ["uid", "user", "pid"]
        .iter()
        .filter_map(|fact| at(fact))
        .max();
    let last_fact = last_fact.unwrap_or_else(|| panic!("{line}"));
    for word in ["process", "secret", "node"] {
        if let Some(start) = at(word) {
            assert!(start > last_fact, "{word} comes too early: {line}");
            let value = &line[start + word.len() + 2..];
            assert!(value.starts_with('"'), "{word} has no quotes: {line}");
        }
    }
    // A second uid can only be within quotes: without the escaped ones, quotes come in pairs.
    let quoted = line.replace("\\\\", "").replace("\\\"", "");
    let outside: String = quoted.split('"').step_by(2).collect();
    assert_eq!(outside.matches(" uid=").count(), 1, "{line}");
    assert!(!outside.contains("FORGED"), "{line}");
}

#[test]
fn a_path_in_a_log_line_can_not_pass_for_further_fields() {
    let bed = Bed::new();
    let identity = bed.ca.server(&["site.test"]);
    bed.root.write_pair("a kinds=none", &identity);
    let agent = bed.agent();
    let line = agent.wait_for_line(&["loaded", "kinds=none"]);
    let (_, fields) = line.split_once("folder=\"").unwrap();
    let (path, others) = fields.split_once('"').unwrap();
    assert!(path.ends_with("/a kinds=none"), "{line}");
    assert!(others.starts_with(" kinds=\"certificate\""), "{line}");
}

#[test]
fn text_from_outside_cannot_forge_log_lines_or_control_a_terminal() {
    let (bed, agent, _) = start(
        "log_level = \"debug,sds_agent=debug\"\n[[access]]\nsecrets = [\"site\", \"subject\"]\n",
    );
    write_hostile_files(&bed);
    agent.wait_for_line(&["loaded", "subject"]);
    send_hostile_requests(&bed, &agent);
    assert_lines_of_the_agent(&agent);

    let admin_socket = bed.admin();
    let table = run(&["status", "--admin-socket"], &admin_socket);
    assert_harmless("status", &table);
    let json = run(
        &["status", "--output", "json", "--admin-socket"],
        &admin_socket,
    );
    assert_harmless("status as JSON", &json);
    let state: Value = serde_json::from_str(&json).unwrap();
    assert!(state.to_string().contains("FORGED"));
    for path in ["/metrics", "/readyz", "/livez"] {
        assert_harmless(path, &admin::get(&admin_socket, path).body);
    }
    let status = admin::get(&admin_socket, "/status").body;
    assert!(!status.contains(is_hostile), "{status}");

    let root = bed.root.path();
    assert_harmless("check", &run(&["check"], &root));
    let json = run(&["check", "--output", "json"], &root);
    assert_harmless("check as JSON", &json);
    serde_json::from_str::<Value>(&json).unwrap();
}

#[test]
fn a_json_log_has_one_object_per_line_with_unchanged_text() {
    let (bed, agent, _) = start("log_format = \"json\"\n[[access]]\nsecrets = [\"site\"]\n");
    write_hostile_files(&bed);
    agent.wait_for_line(&["loaded", "subject"]);
    send_hostile_requests(&bed, &agent);
    let mut nodes = 0;
    for line in agent.lines() {
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        assert!(!line.contains('\u{1b}'), "{line:?}");
        nodes += usize::from(event["node"] == HOSTILE);
    }
    assert!(nodes > 0);
}
