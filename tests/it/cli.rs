//! Help, version, completions and manual pages.

use std::path::Path;
use std::process::{Command, Output};

use crate::util::agent::PROGRAM;
use crate::util::{Bed, require, terminal, tools, users};

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
fn help_fits_the_terminal_and_ends_no_paragraph_with_a_single_word() {
    let mut all: Vec<Vec<String>> = commands().into_iter().map(|one| vec![one]).collect();
    all.push(Vec::new());
    all.push(vec!["ticket-keys".into(), "rotate".into()]);
    for columns in [60, 80, 120] {
        for command in &all {
            let mut arguments: Vec<_> = command.iter().map(String::as_str).collect();
            arguments.push("--help");
            let lines = terminal::lines(&terminal::run(columns, &arguments));
            assert!(lines.len() > 5, "{lines:?}");
            terminal::assert_fits(&lines, columns.into());
            assert_no_orphan(&lines);
        }
    }
}

/// Fails if a paragraph ends with a single word on its last line.
#[track_caller]
fn assert_no_orphan(lines: &[String]) {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_prose = |line: &str| {
        let text = line.trim_start();
        !text.is_empty() && !text.ends_with('\\') && !text.starts_with(['-', '/', '<', '['])
    };
    for (place, line) in lines.iter().enumerate().skip(2) {
        let before = &lines[place - 1];
        let goes_on = is_prose(before)
            && indent(before) == indent(line)
            && before.split_whitespace().count() > 3
            && before.len() > 40;
        let ends = lines
            .get(place + 1)
            .is_none_or(|next| indent(next) != indent(line));
        let is_word = line.split_whitespace().count() == 1 && !line.trim_start().starts_with('/');
        let is_orphan = goes_on && ends && is_word;
        assert!(!is_orphan, "{line}\n{}", lines.join("\n"));
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
    // In an unpacked archive, there is no commit.
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
    bed.pair_without_host("urn:example:site");
    crate::util::admin::secret(&bed.admin(), "urn:example:site", |_| true);
    // It is one word, which bash only recognizes after a quotation mark.
    assert_eq!(
        completed(&["get", "urn:example"], &bed.admin()),
        ["urn:example:site"]
    );
    for command in ["get", "status", "envoy-config"] {
        let names = completed(&[command, "site.example."], &bed.admin());
        assert_eq!(names, ["site.example.com", "site.example.net"], "{command}");
        let nowhere = completed(&[command, "site.example."], Path::new("/nonexistent"));
        assert!(nowhere.concat().is_empty(), "{nowhere:?}");
    }
}

/// How bash completes the last of `words` after the program's name.
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
fn zsh_and_fish_complete_options_and_the_names_of_secrets() {
    let bed = Bed::new();
    bed.pair("site.example.com");
    bed.pair_without_host("urn:example:site");
    let _agent = bed.ready_agent();
    let zsh = tools::program("zsh", "apt-get install zsh");
    if let Some(zsh) = require(&zsh) {
        for (typed, expected) in COMPLETED {
            let screen = zsh_completes(&zsh, typed, expected, &bed.admin());
            assert!(screen.contains(expected), "{typed}: {screen}");
        }
    }
    let fish = tools::program("fish", "apt-get install fish");
    if let Some(fish) = require(&fish) {
        for (typed, expected) in COMPLETED {
            let script = format!("sds-agent completions fish | source; complete -C '{typed}'");
            let output = in_shell(Command::new(&fish).args(["-c", &script]), &bed.admin());
            let word = expected.rsplit(' ').next().unwrap();
            let offered: Vec<_> = output.lines().map(|line| line.split('\t').next()).collect();
            assert_eq!(offered, [Some(word)], "{typed}: {output}");
        }
    }
}

/// A line, and the same line after completion.
const COMPLETED: [(&str, &str); 4] = [
    ("sds-agent get urn:exa", "sds-agent get urn:example:site"),
    ("sds-agent get sit", "sds-agent get site.example.com"),
    ("sds-agent status sit", "sds-agent status site.example.com"),
    (
        "sds-agent status --expires",
        "sds-agent status --expires-within",
    ),
];

fn in_shell(shell: &mut Command, admin_socket: &Path) -> String {
    let home = tempfile::tempdir().unwrap();
    let programs = Path::new(PROGRAM).parent().unwrap().display();
    let path = std::env::var("PATH").unwrap();
    let output = shell
        .env("PATH", format!("{programs}:{path}"))
        .env("SDS_AGENT_ADMIN_SOCKET", admin_socket)
        .env("HOME", home.path())
        .env("TERM", "dumb")
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What an interactive zsh shows after Tab, until `expected` is shown: zsh completes nothing without a terminal.
fn zsh_completes(zsh: &Path, typed: &str, expected: &str, admin_socket: &Path) -> String {
    const SCRIPT: &str = r#"
import os, pty, select, sys, time
zsh, typed, expected = sys.argv[1:]
process, terminal = pty.fork()
if process == 0:
    os.execvp(zsh, [zsh, "-f", "-i"])
def wait_for(text):
    output, end = "", time.monotonic() + 60
    while text not in output and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            output += os.read(terminal, 4096).decode()
    return output
start = "autoload -U compinit && compinit -u -D && source <(sds-agent completions zsh) && print REA''DY\n"
os.write(terminal, start.encode())
wait_for("READY\r\n")
os.write(terminal, f"{typed}\t".encode())
print(wait_for(expected))
"#;
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(zsh).args([typed, expected]);
    in_shell(&mut python, admin_socket)
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
fn without_proc_the_agent_reports_it_with_a_remedy() {
    let unshare = tools::program("unshare", "apt-get install util-linux");
    let (Some(_), Some(unshare)) = (require(&users::ROOT), require(&unshare)) else {
        return;
    };
    let bed = Bed::new();
    for arguments in [&["serve"][..], &["serve", "--check-config"]] {
        let output = Command::new(&unshare)
            .args(["--mount", "sh", "-c"])
            .arg("mount -t tmpfs none /proc && exec \"$@\"")
            .args(["sh", PROGRAM])
            .args(arguments)
            .arg("--socket")
            .arg(bed.socket())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let printed = String::from_utf8_lossy(&output.stderr);
        let expected = "/proc is not mounted here, and the agent needs it; mount it with `mount -t proc proc /proc`";
        assert!(printed.contains(expected), "{printed}");
        assert!(!bed.socket().exists());
    }
}

/// Runs the program as a user without rights, on a machine whose `/etc/sds-agent` `prepare` creates.
fn as_nobody(unshare: &Path, prepare: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let script = format!(
        "mount -t tmpfs none /etc && chmod 755 /etc && mkdir -m 755 /etc/sds-agent && cp {PROGRAM} /etc/agent \
         && {prepare} && exec setpriv --reuid 65534 --regid 65534 --clear-groups /etc/agent \"$@\""
    );
    let output = Command::new(unshare)
        .args(["--mount", "sh", "-c", &script, "sh"])
        .args(arguments)
        .env_remove("SDS_AGENT_CONFIG")
        .output()
        .unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), stdout, stderr)
}

#[test]
fn missing_access_to_the_default_paths_is_reported_once() {
    let unshare = tools::program("unshare", "apt-get install util-linux");
    let (Some(_), Some(unshare)) = (require(&users::ROOT), require(&unshare)) else {
        return;
    };
    const DENIED: &str = "/etc/sds-agent/sds-agent.toml: Permission denied";
    for (arguments, expected) in [
        (&["serve"][..], 2),
        // It is not known whether the file is valid.
        (&["serve", "--check-config"], 2),
        (&["check"], 2),
        (&["check", "-o", "json"], 2),
        (&["check", "-o", "line"], 2),
        (&["envoy-config", "a"], 0),
    ] {
        let hidden = "install -m 600 /dev/null /etc/sds-agent/sds-agent.toml";
        let (code, stdout, stderr) = as_nobody(&unshare, hidden, arguments);
        let text = stdout.clone() + &stderr;
        assert_eq!(code, Some(expected), "{arguments:?}: {text}");
        assert_eq!(text.matches(DENIED).count(), 1, "{arguments:?}: {text}");
        assert!(
            text.contains("run this with sudo, or as a user who may read the file"),
            "{text}"
        );
        let is_line = arguments.contains(&"line");
        assert_eq!(stdout.starts_with("CRITICAL - "), is_line, "{text}");
        assert_eq!(stderr.is_empty(), is_line, "{text}");
    }
    let hidden = "mkdir -m 700 /etc/sds-agent/credentials";
    let (code, stdout, stderr) = as_nobody(&unshare, hidden, &["serve", "--check-config"]);
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    for expected in [
        "note: this user can't read /etc/sds-agent/credentials: Permission denied",
        "note: this user can't create ",
    ] {
        assert_eq!(stdout.matches(expected).count(), 1, "{stdout}");
    }
    let (code, stdout, stderr) = as_nobody(&unshare, hidden, &["check"]);
    assert_eq!(code, Some(2), "{stdout}{stderr}");
    assert_eq!(stdout.matches("Permission denied").count(), 1, "{stdout}");
    assert!(
        stderr.contains("run the same command with `sudo"),
        "{stderr}"
    );
    let socket = ["serve", "--socket", "/etc/sds-agent/sds.sock"];
    let (code, stdout, stderr) = as_nobody(&unshare, hidden, &socket);
    assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.matches("Permission denied").count(), 1, "{stderr}");
    assert!(
        stderr.contains("the agent's user needs write access to the folder"),
        "{stderr}"
    );
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    let line = format!("{PROGRAM} completions bash | true; echo \"${{PIPESTATUS[0]}}\"");
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "0",
        "{output:?}"
    );
    assert!(output.stderr.is_empty(), "{output:?}");
}
