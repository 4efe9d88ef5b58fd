//! The programs of docs/scripts.md, for clients other than Envoy.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::util::process::Process;
use crate::util::tools::{GRPC_PYTHON, GRPCURL};
use crate::util::{Bed, require};

const PAGE: &str = include_str!("../../docs/scripts.md");

/// The first block of code in that language.
fn block(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn grpcurl_lists_checks_and_fetches() {
    let Some(grpcurl) = require(&GRPCURL) else {
        return;
    };
    let bed = Bed::new();
    let identity = bed.ca.server(&["site.example.com"]);
    bed.root.write_pair("site.example.com", &identity);
    let _agent = bed.ready_agent();
    let socket = bed.socket();
    let page = block("sh").replace("/run/sds-agent/sds.sock", socket.to_str().unwrap());
    let commands = page.replace("\\\n", "");
    let commands: Vec<_> = commands.lines().collect();
    let outputs = commands.iter().map(|command| {
        let command = command.replace("grpcurl ", &format!("{} ", grpcurl.display()));
        Command::new("sh").args(["-c", &command]).output().unwrap()
    });
    let [list, health, fetch] = &outputs.collect::<Vec<_>>()[..] else {
        panic!("{commands:?}");
    };
    let list = String::from_utf8_lossy(&list.stdout);
    for service in [
        "envoy.service.secret.v3.SecretDiscoveryService",
        "grpc.health.v1.Health",
    ] {
        assert!(list.contains(service), "{list}");
    }
    assert_eq!(json(health)["status"], "SERVING");
    let fetched = json(fetch);
    let chain = &fetched["resources"][0]["tlsCertificate"]["certificateChain"]["inlineBytes"];
    assert!(!chain.as_str().unwrap().is_empty(), "{fetched}");
}

#[test]
fn the_python_script_follows_a_credential() {
    let Some(packages) = require(&GRPC_PYTHON) else {
        return;
    };
    let bed = Bed::new();
    let first = bed.pair("site");
    let _agent = bed.ready_agent();
    let mut script = python(&packages, &bed, block("python"));
    let script = Process::spawn("python", &mut script);
    wait_for(&script, &first.chain);
    let second = bed.pair("site");
    wait_for(&script, &second.chain);
    bed.root.remove("site");
    script.wait_for_line(&["site does not exist"]);
}

/// The page describes the error that occurs without the option. When this test fails, that can be removed.
#[test]
fn without_the_option_a_python_channel_is_reset() {
    let Some(packages) = require(&GRPC_PYTHON) else {
        return;
    };
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.ready_agent();
    let option = ", options=[(\"grpc.default_authority\", \"localhost\")]";
    assert!(block("python").contains(option));
    let script = block("python").replace(option, "");
    let output = python(&packages, &bed, &script).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && message.contains("RST_STREAM"),
        "{message}"
    );
}

fn python(packages: &Path, bed: &Bed, script: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(bed.socket()).arg("site");
    command.env("PYTHONPATH", packages);
    command
}

/// Waits until a line is printed that only this chain has.
fn wait_for(script: &Process, chain: &str) {
    script.wait_for_line(&[chain.lines().nth(2).unwrap()]);
}
