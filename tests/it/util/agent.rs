//! The agent as a process.

use std::ffi::OsStr;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Process;
use super::sds::Sds;
use super::wait::eventually_true;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sds-agent");

/// A running `sds-agent serve`. It derefs to [`Process`], and is killed when dropped.
pub(crate) struct Agent {
    process: Process,
    socket: PathBuf,
}

/// How an agent is started.
pub(crate) struct Builder {
    command: Command,
    socket: PathBuf,
}

impl Agent {
    /// Starts an agent for `root` at `socket`, and waits until it accepts connections.
    pub(crate) fn start(root: &Path, socket: &Path) -> Self {
        Self::builder(socket).credentials(root).start()
    }

    /// An agent that will listen at `socket`, without a root yet.
    pub(crate) fn builder(socket: &Path) -> Builder {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--socket").arg(socket);
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        Builder {
            command,
            socket: socket.to_owned(),
        }
    }

    /// A client of its socket.
    pub(crate) fn client(&self) -> Sds {
        Sds::connect(&self.socket)
    }

    /// Sends SIGTERM, and waits until it has ended.
    #[track_caller]
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.process.wait()
    }
}

impl Builder {
    pub(crate) fn credentials(self, root: &Path) -> Self {
        self.arg("--credentials").arg(root)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it as the last arguments of `wrapper`, which must become the agent by `exec`.
    pub(crate) fn wrapped_in(mut self, mut wrapper: Command) -> Self {
        wrapper.arg(self.command.get_program());
        wrapper.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => wrapper.env(name, value),
                None => wrapper.env_remove(name),
            };
        }
        self.command = wrapper;
        self
    }

    /// Starts it, and waits until it accepts connections.
    #[track_caller]
    pub(crate) fn start(self) -> Agent {
        let mut agent = self.start_without_waiting();
        eventually_true("a connection to the agent", || {
            assert!(
                agent.is_running(),
                "the agent has ended: {:#?}",
                agent.lines()
            );
            UnixStream::connect(&agent.socket).is_ok()
        });
        agent
    }

    /// Starts it, without waiting.
    pub(crate) fn start_without_waiting(mut self) -> Agent {
        Agent {
            process: Process::spawn("sds-agent", &mut self.command),
            socket: self.socket,
        }
    }
}

impl Deref for Agent {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A folder for sockets with a short path: the address of a socket is limited to 107 bytes.
pub(crate) fn socket_folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("sds")
        .tempdir_in("/tmp")
        .unwrap()
}
