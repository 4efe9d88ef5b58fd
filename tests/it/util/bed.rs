//! The setup of most tests: a root of credential folders, a socket, and an agent.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::admin;
use super::agent::{Agent, Builder, PROGRAM, socket_folder};
use super::folders::Root;
use super::pki::{Ca, Identity};
use super::sds::Sds;
use super::wait::eventually_true;

/// A root, an authority, and a folder for sockets.
pub(crate) struct Bed {
    pub(crate) root: Root,
    pub(crate) ca: Ca,
    sockets: TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// With its root in `folder`, which exists.
    pub(crate) fn new_in(folder: &Path) -> Self {
        Self {
            root: Root::new_in(folder),
            ca: Ca::new("Test CA"),
            sockets: socket_folder(),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.sockets.path().join("sds.sock")
    }

    /// The agent's admin socket.
    pub(crate) fn admin(&self) -> PathBuf {
        self.sockets.path().join("admin.sock")
    }

    /// Starts an agent for the root, and waits until it accepts connections.
    #[track_caller]
    pub(crate) fn agent(&self) -> Agent {
        self.builder().start()
    }

    /// Like [`agent`](Self::agent), but waits until everything in the root has been read.
    #[track_caller]
    pub(crate) fn ready_agent(&self) -> Agent {
        self.ready(self.builder())
    }

    /// Starts an agent, and waits until everything in its roots has been read.
    #[track_caller]
    pub(crate) fn ready(&self, builder: Builder) -> Agent {
        let agent = builder.start();
        eventually_true("the agent's readiness", || {
            admin::get(&self.admin(), "/readyz").status == 200
        });
        agent
    }

    /// An agent for the root, to be started.
    pub(crate) fn builder(&self) -> Builder {
        Agent::builder(&self.socket()).credentials(&self.root.path())
    }

    /// Writes a new pair as credential `name`, and returns it.
    pub(crate) fn pair(&self, name: &str) -> Identity {
        let identity = self.ca.server(&[&format!("{name}.test")]);
        self.root.write_pair(name, &identity);
        identity
    }

    /// Does the same as [`pair`](Self::pair), for a name that can't be a host name.
    pub(crate) fn pair_without_host(&self, name: &str) -> Identity {
        let identity = self.ca.server(&["site.test"]);
        self.root.write_pair(name, &identity);
        identity
    }

    /// A client of the agent's socket.
    pub(crate) fn client(&self) -> Sds {
        Sds::connect(&self.socket())
    }

    /// Runs `sds-agent get` with the agent's socket.
    pub(crate) fn get(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .arg("get")
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// A folder for the test's own files, next to the socket.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }
}

/// Asserts that the agent's output has no line of the PEM of a private key.
#[track_caller]
pub(crate) fn assert_no_key_in_log(agent: &Agent, identities: &[&Identity]) {
    assert_no_key_in(&agent.lines().join("\n"), identities);
}

/// Asserts that `log` has no line of the PEM of a private key.
#[track_caller]
pub(crate) fn assert_no_key_in(log: &str, identities: &[&Identity]) {
    assert!(
        !log.contains("PRIVATE KEY"),
        "a key's PEM in the log:\n{log}"
    );
    for identity in identities {
        for line in identity.key.lines().filter(|line| !line.starts_with("---")) {
            // A piece is enough: a log may cut or wrap.
            for piece in line.as_bytes().chunks(16).filter(|piece| piece.len() == 16) {
                let piece = String::from_utf8_lossy(piece);
                assert!(
                    !log.contains(&*piece),
                    "a piece of a key in the log:\n{log}"
                );
            }
        }
    }
}
