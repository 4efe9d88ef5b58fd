//! The agent waits for something that never happens: a configuration that is a pipe, a user database that hangs.

use std::fs;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use super::{assert_serves, start};
use crate::util::tools::in_path;
use crate::util::users::ROOT;
use crate::util::{Agent, Bed, require};

fn make_pipe(path: &std::path::Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_pipe_as_configuration_is_refused_immediately() {
    let (bed, agent, _) = start("");
    let client = bed.client();
    let file = bed.scratch("sds-agent.toml");
    fs::remove_file(&file).unwrap();
    make_pipe(&file);
    agent.signal(Signal::HUP);
    agent.wait_for_line(&["refused", "not a regular file"]);
    assert_serves(&bed, &client);
    assert!(agent.terminate().success());
}

/// An agent in its own mount namespace.
fn start_apart(bed: &Bed, config: &str, before: &str) -> Agent {
    fs::write(bed.scratch("sds-agent.toml"), config).unwrap();
    make_pipe(&bed.scratch("hangs"));
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c"]);
    unshare.arg(format!("{before} exec \"$@\""));
    unshare.arg(bed.scratch("hangs"));
    let builder = bed
        .builder()
        .arg("--config")
        .arg(bed.scratch("sds-agent.toml"));
    builder.wrapped_in(unshare).start_without_waiting()
}

/// Makes every later lookup of a group by the agent hang.
fn hang_database(bed: &Bed, agent: &Agent) {
    let mut mount = Command::new("nsenter");
    let pid = agent.pid().as_raw_nonzero().to_string();
    mount.args(["--target", &pid, "--mount", "mount", "--bind"]);
    mount.arg(bed.scratch("hangs")).arg("/etc/group");
    assert!(mount.status().unwrap().success());
}

fn can_unshare() -> bool {
    if require(&ROOT).is_none() || in_path("unshare").is_none() {
        return false;
    }
    let tried = Command::new("unshare").args(["--mount", "true"]).status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        eprintln!("left out: there are no mount namespaces here");
    }
    can
}

#[test]
fn a_hanging_user_database_delays_clients_only_for_a_limited_time() {
    if !can_unshare() {
        return;
    }
    let bed = Bed::new();
    bed.pair("site");
    let agent = start_apart(&bed, "", "");
    agent.wait_for_line(&["serving"]);
    hang_database(&bed, &agent);
    assert_serves(&bed, &bed.client());
    agent.wait_for_line(&["user database", "no answer"]);
    assert!(agent.terminate().success());
}

#[test]
fn sigterm_is_handled_while_the_user_database_hangs() {
    if !can_unshare() {
        return;
    }
    let rule = "[[access]]\nsecrets = [\"*\"]\ngroups = [\"no-such-group\"]\n";
    // At the start,
    let bed = Bed::new();
    let agent = start_apart(&bed, rule, "mount --bind \"$0\" /etc/group &&");
    agent.wait_for_line(&["waiting for the user database"]);
    assert!(agent.terminate().success());
    // and at a reload, which does not affect others.
    let bed = Bed::new();
    bed.pair("site");
    let agent = start_apart(&bed, "", "");
    agent.wait_for_line(&["serving"]);
    let client = bed.client();
    assert_serves(&bed, &client);
    hang_database(&bed, &agent);
    fs::write(bed.scratch("sds-agent.toml"), rule).unwrap();
    agent.signal(Signal::HUP);
    agent.signal(Signal::HUP);
    assert_serves(&bed, &client);
    assert!(agent.terminate().success());
}
