//! What the program says of itself: help, version, completions, manual pages.

use std::path::Path;
use std::process::{Command, Output};

use crate::util::Bed;
use crate::util::agent::PROGRAM;

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

#[track_caller]
fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = stdout(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap();
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn the_help_of_every_command_has_examples() {
    assert!(commands().contains(&"serve".to_owned()));
    for command in commands() {
        let help = stdout(&[&command, "--help"]);
        let examples = help.split("Examples:\n").nth(1);
        assert!(
            examples.is_some_and(|text| text.contains(&format!("sds-agent {command}"))),
            "{help}"
        );
    }
}

#[test]
fn the_version_names_the_commit_and_the_target() {
    let version = stdout(&["--version"]);
    let expected = format!("sds-agent {}", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&expected), "{version}");
    let target = format!("{}-unknown-linux-gnu)\n", std::env::consts::ARCH);
    assert!(version.ends_with(&target), "{version}");
    let git = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    // In an unpacked archive there is no commit to name.
    if let Ok(output) = git
        && output.status.success()
        && std::env::var_os("SDS_AGENT_COMMIT").is_none()
    {
        let commit = String::from_utf8(output.stdout).unwrap();
        assert!(
            version.contains(&format!("({}, ", commit.trim())),
            "{version}"
        );
    }
}

#[test]
fn shells_complete_commands_options_and_the_names_of_secrets() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(stdout(&["completions", shell]).contains("SDS_AGENT_COMPLETE"));
    }
    let bed = Bed::new();
    bed.pair("site.example.com");
    bed.pair("site.example.net");
    let _agent = bed.ready_agent();
    for command in commands() {
        let completed = completed(&[&command], &bed.admin());
        assert!(completed.contains(&command), "{completed:?}");
    }
    let options = completed(&["status", "--expires"], &bed.admin());
    assert_eq!(options, ["--expires-within"]);
    for command in ["get", "status", "envoy-config"] {
        let names = completed(&[command, "site.example."], &bed.admin());
        assert_eq!(names, ["site.example.com", "site.example.net"], "{command}");
        let nowhere = completed(&[command, "site.example."], Path::new("/nonexistent"));
        assert!(nowhere.concat().is_empty(), "{nowhere:?}");
    }
}

/// What bash makes of the last of `words` after the program's name when Tab is pressed.
fn completed(words: &[&str], admin_socket: &Path) -> Vec<String> {
    const SCRIPT: &str = r#"
        source <(sds-agent completions bash)
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        function=$(complete -p sds-agent | sed 's/.*-F \([^ ]*\).*/\1/')
        "$function" sds-agent "${@: -1}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let programs = Path::new(PROGRAM).parent().unwrap().display();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-c", SCRIPT, "bash", "sds-agent"])
        .args(words)
        .env("PATH", format!("{programs}:{path}"))
        .env("SDS_AGENT_ADMIN_SOCKET", admin_socket)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    stdout(&["man", "--dir", dir.path().to_str().unwrap()]);
    let program = std::fs::read_to_string(dir.path().join("sds-agent.1")).unwrap();
    assert_eq!(program, stdout(&["man"]));
    for command in commands() {
        let page = dir.path().join(format!("sds-agent-{command}.1"));
        let page = std::fs::read_to_string(page).unwrap();
        assert_eq!(page, stdout(&["man", &command]));
        assert!(program.contains(&format!("sds\\-agent\\-{}", command.replace('-', "\\-"))));
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "\"EXIT STATUS\"",
            "EXAMPLES",
            "\"SEE ALSO\"",
        ] {
            assert!(
                page.contains(&format!("\n.SH {section}\n")),
                "{command}: {section}\n{page}"
            );
        }
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        commands().len() + 1
    );
    let status = stdout(&["man", "status"]);
    assert!(status.contains("\n.SH FILES\n") && status.contains("\n.SH ENVIRONMENT\n"));
    assert!(status.contains("SDS_AGENT_ADMIN_SOCKET"), "{status}");
    assert_eq!(run(&["man", "nonsense"]).status.code(), Some(2));
    assert_eq!(
        run(&["man", "--dir", "/nonexistent"]).status.code(),
        Some(2)
    );
}

#[test]
fn a_reader_that_has_gone_is_a_quiet_end() {
    let line = format!("{PROGRAM} completions bash | true; echo \"${{PIPESTATUS[0]}}\"");
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "0",
        "{output:?}"
    );
    assert!(output.stderr.is_empty(), "{output:?}");
}
