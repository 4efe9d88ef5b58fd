//! Generates the xDS messages from `proto/` with protox, so that no protoc is needed, and the
//! descriptor set that server reflection serves, and the version with its commit.

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;

const PROTOS: [&str; 2] = [
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
];

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

/// Gives the program its version, with the commit that it is built from: the one that
/// `SDS_AGENT_COMMIT` names (for packages), or git's, or none in an unpacked archive.
fn version() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=SDS_AGENT_COMMIT");
    let version = std::env::var("CARGO_PKG_VERSION")?;
    let commit = std::env::var("SDS_AGENT_COMMIT").ok().or_else(git_commit);
    let version = match commit.as_deref().map(str::trim) {
        None | Some("") => version,
        Some(commit) => format!("{version} ({commit})"),
    };
    println!("cargo:rustc-env=SDS_AGENT_VERSION={version}");
    Ok(())
}

/// The commit that this package's own work tree is at; nothing where the sources lie in another one.
fn git_commit() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::var_os("CARGO_MANIFEST_DIR")?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // HEAD's log grows with every commit, checkout and reset; HEAD itself changes with the branch alone.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What git says; nothing where there is no git, or it refuses.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
