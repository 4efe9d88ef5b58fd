//! Generates the xDS messages from `proto/` with protox, so that no protoc is needed, and the
//! descriptor set that server reflection serves, and the version with its commit and target.

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;

const PROTOS: [&str; 2] = [
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
];

/// How many digits of a commit's hash are shown.
const COMMIT_LENGTH: usize = 12;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let descriptors = protox::compile(PROTOS, ["proto"])?;
    std::fs::write(out.join("xds.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // They hold private keys: src/proto/mod.rs gives them a redacted Debug.
        .skip_debug([
            ".envoy.config.core.v3.DataSource",
            ".envoy.service.discovery.v3.DiscoveryResponse",
            ".envoy.service.discovery.v3.Resource",
        ])
        .compile_fds(descriptors)?;
    version()
}

/// Gives the programs their version, with the commit that they are built from, and the target.
fn version() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=SDS_AGENT_COMMIT");
    let version = std::env::var("CARGO_PKG_VERSION")?;
    let target = std::env::var("TARGET")?;
    let (version, build) = match commit() {
        Some(commit) => (
            format!("{version} ({commit})"),
            format!("{version} ({commit}, {target})"),
        ),
        None => (version.clone(), format!("{version} ({target})")),
    };
    println!("cargo:rustc-env=SDS_AGENT_VERSION={version}");
    println!("cargo:rustc-env=SDS_AGENT_BUILD={build}");
    Ok(())
}

/// The commit that `SDS_AGENT_COMMIT` names (for packagers), or the one that `cargo package` noted in the
/// crate, or git's. None in an archive of the sources.
fn commit() -> Option<String> {
    let named = std::env::var("SDS_AGENT_COMMIT").ok();
    let commit = named.or_else(packaged_commit).or_else(git_commit)?;
    let commit = commit.trim();
    (!commit.is_empty()).then(|| commit.to_owned())
}

/// The commit in `.cargo_vcs_info.json`, which has one hash.
fn packaged_commit() -> Option<String> {
    let info = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let hash = info.split_once("\"sha1\"")?.1.split('"').nth(1)?;
    hash.get(..COMMIT_LENGTH).map(str::to_owned)
}

/// The commit of this package's own work tree; `None` if the sources are in another one.
fn git_commit() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::var_os("CARGO_MANIFEST_DIR")?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // HEAD's log grows with every commit, checkout and reset; HEAD itself only changes with the branch.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", &format!("--short={COMMIT_LENGTH}"), "HEAD"])
}

/// The output of git; `None` if git does not exist or fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
