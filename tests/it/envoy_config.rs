//! `sds-agent envoy-config`: a real Envoy takes what it writes, as it is.

use std::path::Path;
use std::process::{Command, Output};

use crate::util::agent::PROGRAM;
use crate::util::require;
use crate::util::tools::ENVOY;

fn generate(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("envoy-config")
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn yaml(arguments: &[&str]) -> String {
    let output = generate(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_envoy_takes(envoy: &Path, arguments: &[&str]) {
    let yaml = yaml(arguments);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("envoy.yaml");
    std::fs::write(&path, &yaml).unwrap();
    let output = Command::new(envoy)
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}\n{yaml}\n{said}");
    assert!(said.is_empty(), "{arguments:?}: Envoy warns: {said}");
}

#[test]
fn envoy_takes_every_combination() {
    let Some(envoy) = require(&ENVOY) else { return };
    let names: [&[&str]; 3] = [
        &["a.test"],
        &["a.test", "B.test", "*.c.test"],
        &["a.test", "a.test"],
    ];
    for names in names {
        for options in 0..16_u8 {
            let flags = ["--mutual", "--full", "--on-demand", "--upstream"];
            let chosen = flags
                .iter()
                .enumerate()
                .filter(|(bit, _)| options & (1 << bit) != 0);
            let arguments: Vec<_> = names
                .iter()
                .copied()
                .chain(chosen.map(|(_, flag)| *flag))
                .collect();
            if options & 0b1100 == 0b1100 {
                assert_eq!(generate(&arguments).status.code(), Some(2), "{arguments:?}");
            } else {
                assert_envoy_takes(&envoy, &arguments);
            }
        }
    }
}

#[test]
fn envoy_takes_every_name_that_a_credential_can_have() {
    let Some(envoy) = require(&ENVOY) else { return };
    let longest = "n".repeat(253);
    for name in [
        "\"",
        "'",
        "\\",
        "a: b",
        "- a",
        "#",
        "{}",
        "*",
        "&sds",
        "*sds",
        "!!int 1",
        "%",
        "null",
        "1",
        "~",
        " a ",
        "\u{2028}",
        "\u{feff}é",
        "😀",
        "[::1]",
        "--",
        "${HOME}",
        "%REQ(x)%",
        &longest,
    ] {
        for role in ["--mutual", "--on-demand", "--upstream"] {
            assert_envoy_takes(&envoy, &[role, "--full", "--", name]);
        }
    }
    assert_envoy_takes(
        &envoy,
        &[
            "--socket",
            "/run/a \"b\"/\u{e9}.sock",
            "--node",
            "\"\\\n",
            "a",
        ],
    );
    for name in ["", ".hidden", "a/b", "a\nb", &"n".repeat(254)] {
        assert_eq!(generate(&["--", name]).status.code(), Some(2), "{name:?}");
    }
    assert_eq!(generate(&["a", "b*c"]).status.code(), Some(2));
    assert_eq!(generate(&[]).status.code(), Some(2));
}
