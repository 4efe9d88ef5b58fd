//! Downloads Envoy and builds the agent, below the folder of build products.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::stage::{Failure, Stage};

/// The paths of the programs.
pub(crate) struct Programs {
    pub(crate) agent: PathBuf,
    pub(crate) envoy: PathBuf,
}

impl Programs {
    /// Downloads and builds what is missing. Progress is printed on standard error.
    pub(crate) fn get(stage: &Stage) -> Result<Self, Failure> {
        Ok(Self {
            envoy: get_envoy(stage)?,
            agent: get_agent()?,
        })
    }
}

fn get_envoy(stage: &Stage) -> Result<PathBuf, Failure> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/setup/envoy.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(target_dir(stage));
    output(&mut command).map(|path| path.trim().into())
}

/// The agent in SDS_AGENT_PROGRAM, or one that is built now.
fn get_agent() -> Result<PathBuf, Failure> {
    std::env::var_os("SDS_AGENT_PROGRAM").map_or_else(build_agent, |path| Ok(path.into()))
}

/// Builds the agent with the same features of dependencies as this program, so that nothing else is rebuilt. (The
/// test dependencies enable some.)
fn build_agent() -> Result<PathBuf, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.arg("build").arg("--manifest-path");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    command.args(["--bin", "sds-agent", "--example", "quickstart"]);
    command.arg("--message-format=json-render-diagnostics");
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let messages = output(&mut command)?;
    let mut built = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_agent = message["target"]["name"] == "sds-agent";
        let path = message["executable"].as_str()?;
        is_agent.then(|| PathBuf::from(path))
    });
    built.next().ok_or_else(|| {
        let what = "cargo did not report where it built sds-agent";
        Failure::new(what, "no executable", "run: cargo build")
    })
}

/// The folder of build products: this program is `TARGET/debug/examples/quickstart`.
pub(crate) fn target_dir(stage: &Stage) -> PathBuf {
    let program = std::env::current_exe().ok();
    let target = program.as_deref().and_then(|path| path.ancestors().nth(3));
    let fallback = || stage.path("target");
    target.map_or_else(fallback, Path::to_owned)
}

/// Runs a program, and returns its standard output. Its standard error is shown to the user.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            let what = format!("can't run {name}");
            Failure::new(what, error, format!("install {name}, and run this again"))
        })?;
    if !output.status.success() {
        let how = "see its output above, and run this again";
        return Err(Failure::new(format!("{name} failed"), output.status, how));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
