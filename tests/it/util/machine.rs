//! A machine with a real systemd: a container that boots from this machine's `/usr`, with its own `/etc` and `/var`,
//! which are deleted when the tests end. It boots once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::agent::PROGRAM;
use super::sds::Sds;
use super::tools::{Tool, in_path, require};
use super::wait::eventually_within;

const NSPAWN: Tool = Tool {
    name: "systemd-nspawn, as root",
    how: "apt-get install systemd-container, and run the tests as root",
    find: |_| find_nspawn(),
};

/// Boots the machine, and ends it when its standard input ends, which is when the test process ends, for any
/// reason. Only one can run on a computer at a time, because they would share a control group.
const SUPERVISOR: &str = r#"
    exec 9>/run/lock/sds-agent-test-machine
    flock 9 || exit 1
    mkdir -p "$1/upper"
    systemd-nspawn --quiet --register=no --keep-unit -D / --volatile=yes --boot --private-network \
        --machine="sds-agent-$$" --console=read-only --kill-signal=SIGKILL \
        "--overlay=/usr:$1/upper:/usr" systemd.unit=multi-user.target systemd.firstboot=no \
        systemd.mask=systemd-firstboot.service systemd.mask=postgresql.service </dev/null &
    machine=$!
    echo "$machine" >"$1/pid"
    read -r _
    kill "$machine"
    wait "$machine"
    rm -rf "$1"
"#;

/// How long a machine may take to boot, and to wait until all tests of another run have ended.
const BOOT: std::time::Duration = std::time::Duration::from_secs(1200);

static MACHINE: LazyLock<Mutex<Machine>> = LazyLock::new(|| Mutex::new(Machine::boot()));

/// The machine. Files in it are written through [`Machine::path`], commands run in it.
pub(crate) struct Machine {
    /// The process id of its init, here.
    init: u32,
    _supervisor: Child,
}

/// The machine, for one test at a time: with the units installed, no agent running, and nothing left from an
/// earlier test. `None` if it can't run here.
#[track_caller]
pub(crate) fn machine() -> Option<MutexGuard<'static, Machine>> {
    require(&NSPAWN)?;
    let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    machine.clean();
    machine.install();
    Some(machine)
}

impl Machine {
    fn boot() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("machine")
            .tempdir()
            .unwrap()
            .keep();
        let log = fs::File::create(folder.join("console")).unwrap();
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "machine"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let console = || fs::read_to_string(folder.join("console")).unwrap_or_default();
        let init = eventually_within(BOOT, "the machine's init", || init_of(&folder));
        let machine = Self {
            init,
            _supervisor: supervisor,
        };
        eventually_within(BOOT, "the machine's boot", || {
            let state = machine.command("systemctl is-system-running").output();
            let state = String::from_utf8_lossy(&state.ok()?.stdout).into_owned();
            assert!(
                Path::new(&format!("/proc/{init}")).exists(),
                "the machine has ended:\n{}",
                console()
            );
            ["running", "degraded"]
                .contains(&state.trim())
                .then_some(())
        });
        machine
    }

    /// The program and the units, as an administrator installs them without a package.
    fn install(&self) {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (from, to) in [
            (
                "systemd/sds-agent.service",
                "etc/systemd/system/sds-agent.service",
            ),
            (
                "systemd/sds-agent.socket",
                "etc/systemd/system/sds-agent.socket",
            ),
            (
                "systemd/sds-agent.sysusers",
                "etc/sysusers.d/sds-agent.conf",
            ),
            (
                "systemd/sds-agent.tmpfiles",
                "etc/tmpfiles.d/sds-agent.conf",
            ),
        ] {
            let to = self.path(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(repository.join(from), to).unwrap();
        }
        fs::copy(PROGRAM, self.path("usr/bin/sds-agent")).unwrap();
        self.run(
            "systemd-sysusers 2>&1
             systemctl daemon-reload
             systemd-tmpfiles --create /etc/tmpfiles.d/sds-agent.conf",
        );
    }

    /// Removes everything that an earlier test has left, including installed files.
    pub(crate) fn clean(&self) {
        self.run(
            "systemctl stop sds-agent.socket sds-agent.service 2>/dev/null
             [ ! -e /var/lib/dpkg/info/sds-agent.list ] || dpkg --purge sds-agent >/dev/null 2>&1
             for user in envoy sds-agent; do ! id $user >/dev/null 2>&1 || userdel $user; done
             for group in envoy sds-agent sds-agent-clients; do
                 ! getent group $group >/dev/null || groupdel $group
             done
             rm -rf /etc/sds-agent /run/sds-agent /etc/systemd/system/sds-agent.* \\
                 /etc/sysusers.d/sds-agent.conf /etc/tmpfiles.d/sds-agent.conf /usr/bin/sds-agent
             systemctl daemon-reload
             systemctl reset-failed
             journalctl --quiet --rotate --vacuum-time=1s",
        );
    }

    /// A file of the machine, by its path there without the leading slash, as seen from here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/{path}", self.init))
    }

    /// Writes a file of the machine, and the folders above it.
    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Adds settings to a unit of the machine.
    pub(crate) fn drop_in(&self, unit: &str, content: &str) {
        self.write(&format!("etc/systemd/system/{unit}.d/test.conf"), content);
        self.run("systemctl daemon-reload");
    }

    /// A client of the agent in the machine. Its process is outside of the machine, and runs as root.
    pub(crate) fn client(&self) -> Sds {
        Sds::connect(&self.socket())
    }

    /// The agent's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/sds-agent/sds.sock")
    }

    /// Runs a script in the machine, and returns its output. If the script fails, shows the agent's log and fails
    /// the test.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        assert!(
            output.status.success(),
            "{script}: {}\n{}{}\n--- journal ---\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.journal()
        );
        text(&output.stdout)
    }

    /// Runs a script in the machine.
    pub(crate) fn try_run(&self, script: &str) -> Output {
        self.command(script).output().unwrap()
    }

    /// What systemd and the agent have logged about the agent's unit since it was last cleaned.
    pub(crate) fn journal(&self) -> String {
        let script = "journalctl --no-pager -o cat -n 200 -u sds-agent.service -u sds-agent.socket";
        text(&self.try_run(script).stdout)
    }

    /// A property of the agent's unit.
    #[track_caller]
    pub(crate) fn property(&self, name: &str) -> String {
        let value = self.run(&format!("systemctl show -P {name} sds-agent.service"));
        value.trim().to_owned()
    }

    /// A command of the machine.
    pub(crate) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all"]);
        command.args(["sh", "-c", script]);
        command.env_clear().env("PATH", "/usr/bin:/usr/sbin");
        command.stdin(Stdio::null());
        command
    }
}

/// The machine's init is the child of nspawn that has process id 1 in a namespace.
fn init_of(folder: &Path) -> Option<u32> {
    let nspawn = fs::read_to_string(folder.join("pid")).ok()?;
    let nspawn = nspawn.trim();
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    let mut children = children.split_whitespace();
    let init = children.find(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    });
    init?.parse().ok()
}

fn find_nspawn() -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this user is not root".into());
    }
    for program in ["nsenter", "flock"] {
        in_path(program).ok_or_else(|| format!("{program} is not in PATH"))?;
    }
    in_path("systemd-nspawn").ok_or_else(|| "it is not in PATH".into())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
