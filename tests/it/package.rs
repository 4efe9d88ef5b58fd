//! The Debian packages, in a machine with a real systemd: installed, used, upgraded, removed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::systemd::{assert_served, write_pair};
use crate::util::machine::{Machine, machine};
use crate::util::tools::{CARGO_DEB, ENVOY, program};
use crate::util::wait::eventually_true;
use crate::util::{Ca, Envoy, Host, Identity, Protocol, require};

/// Makes packages of the programs under test.
pub(crate) struct Packages {
    cargo_deb: PathBuf,
    folder: TempDir,
}

/// A machine without the agent, on which packages can be installed, and the tools that build them.
pub(crate) fn packages() -> Option<(MutexGuard<'static, Machine>, Packages)> {
    require(&program("dpkg-shlibdeps", "apt-get install dpkg-dev"))?;
    let cargo_deb = require(&CARGO_DEB)?;
    let machine = machine()?;
    machine.clean();
    prepare_dpkg(&machine);
    let folder = tempfile::tempdir().unwrap();
    Some((machine, Packages { cargo_deb, folder }))
}

impl Packages {
    /// The package of a program, with a Debian version.
    pub(crate) fn build(&self, program: &str, version: &str) -> PathBuf {
        let package = self.folder.path().join(format!("{program}_{version}.deb"));
        let path = std::env::var_os("PATH").unwrap();
        let path = [self.cargo_deb.parent().unwrap().to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&path));
        let output = Command::new("packaging/deb")
            .arg(program)
            .args(["--no-strip", "--fast", "--deb-version", version, "--output"])
            .arg(&package)
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("PROFILE", "dev")
            .env("BUILT", "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        package
    }
}

/// What dpkg must know about this computer's packages to find the dependencies of the new one.
fn prepare_dpkg(machine: &Machine) {
    machine.run(
        "mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers
         # A container's image has this, so that packages start nothing.
         rm -f /usr/sbin/policy-rc.d",
    );
    std::fs::copy("/var/lib/dpkg/status", machine.path("var/lib/dpkg/status")).unwrap();
}

pub(crate) fn install(machine: &Machine, package: &Path) {
    std::fs::copy(package, machine.path("root/package.deb")).unwrap();
    machine.run("DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /root/package.deb 2>&1");
}

/// Upgrades the agent while an Envoy accepts handshakes: none may fail, and the process of the new version must
/// serve what is written after it. Returns the pair that `www` has then.
pub(crate) fn upgrade_under_load(
    machine: &Machine,
    envoy: &Path,
    ca: &Ca,
    upgrade: impl FnOnce(),
) -> Identity {
    let process = machine.property("MainPID");
    let hosts = [Host::new("www.test", "www")];
    let envoy = Envoy::start(envoy, &machine.socket(), Protocol::Delta, &hosts);
    let https = envoy.https("www.test").ca(ca.pem());
    eventually_true("the first handshake", || https.get().is_ok());
    let over = AtomicBool::new(false);
    let latest = ca.server(&["www.test"]);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                https.get().unwrap();
            }
        });
        upgrade();
        eventually_true("the new version's process", || {
            machine.property("ActiveState") == "active" && machine.property("MainPID") != process
        });
        write_pair(machine, "www", &latest);
        eventually_true("a certificate of the new version's", || {
            https.leaf().is_ok_and(|leaf| leaf == latest.der)
        });
        over.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    envoy.assert_no_rejection();
    latest
}

#[test]
fn the_agents_package_can_be_installed_used_upgraded_and_removed() {
    let Some(envoy) = require(&ENVOY) else { return };
    let Some((machine, packages)) = packages() else {
        return;
    };
    let [first, second] = ["1.0-1", "1.0-2"].map(|version| packages.build("sds-agent", version));

    install(&machine, &first);
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.property("UnitFileState"), "enabled");
    let unit = machine.property("FragmentPath");
    assert!(
        unit.ends_with("/lib/systemd/system/sds-agent.service"),
        "{unit}"
    );
    let complaints = machine.run("systemd-analyze verify sds-agent.service sds-agent.socket 2>&1");
    assert_eq!(complaints, "");
    machine.run(
        "id sds-agent
         sds-agent serve --check-config
         man -w sds-agent sds-agent-serve
         test -s /usr/share/bash-completion/completions/sds-agent
         test -s /usr/share/doc/sds-agent/examples/certbot.conf",
    );

    let ca = Ca::new("package");
    let www = ca.server(&["www.test"]);
    write_pair(&machine, "www", &www);
    assert_served(&machine, "www", &www);
    let renewed = ca.server(&["www.test"]);
    write_pair(&machine, "www", &renewed);
    assert_served(&machine, "www", &renewed);

    machine.run("echo 'warn_days = 7' >>/etc/sds-agent/sds-agent.toml");
    let latest = upgrade_under_load(&machine, &envoy, &ca, || install(&machine, &second));
    machine.run("grep -qx 'warn_days = 7' /etc/sds-agent/sds-agent.toml");
    assert_served(&machine, "www", &latest);

    machine.run("dpkg --remove sds-agent 2>&1");
    machine.run(
        "! systemctl is-active sds-agent.service
         test ! -e /usr/bin/sds-agent && test ! -e /run/sds-agent
         test -e /etc/sds-agent/sds-agent.toml
         test -e /etc/sds-agent/credentials/www/tls.key",
    );
    install(&machine, &second);
    assert_served(&machine, "www", &latest);
    machine.run(
        "test \"$(systemctl is-enabled sds-agent.socket)\" = disabled &&
         grep -qx 'warn_days = 7' /etc/sds-agent/sds-agent.toml",
    );
    machine.run("dpkg --purge sds-agent 2>&1");
    machine.run(
        "test ! -e /etc/sds-agent/sds-agent.toml
         test -e /etc/sds-agent/credentials/www/tls.key",
    );
}

#[cfg(feature = "mirror")]
#[test]
fn the_mirrors_package_can_be_installed_upgraded_and_removed() {
    let Some((machine, packages)) = packages() else {
        return;
    };
    let build = |version| packages.build("sds-mirror", version);
    let active = || {
        let state = machine.try_run("systemctl is-active sds-mirror.service");
        String::from_utf8_lossy(&state.stdout).trim() == "active"
    };
    let process = || machine.run("systemctl show -P MainPID sds-mirror.service");

    install(&machine, &build("1.0-1"));
    machine.run(
        "id sds-mirror
         test \"$(stat -c '%a %U %G' /etc/sds-mirror)\" = '750 root sds-mirror'
         man -w sds-mirror
         test -s /usr/share/bash-completion/completions/sds-mirror
         test -s /usr/share/doc/sds-mirror/examples/sds-mirror.toml
         ! systemctl is-enabled sds-mirror.service",
    );
    assert!(!active(), "it has no configuration");

    // There is neither a cluster nor a network, so it retries forever.
    machine.write("etc/sds-mirror/ca.crt", Ca::new("CA").pem());
    machine.write(
        "etc/sds-mirror/sds-mirror.toml",
        "server = \"https://127.0.0.1:1\"\nca_file = \"ca.crt\"\nnamespace = \"n\"\n\
         output = \"/var/lib/sds-mirror/credentials\"\n",
    );
    machine.run("systemctl start sds-mirror.service");
    let first = process();
    install(&machine, &build("1.0-2"));
    eventually_true("the new version's process", || {
        active() && process() != first
    });

    machine.run("dpkg --remove sds-mirror 2>&1");
    assert!(!active());
    machine.run("dpkg --purge sds-mirror 2>&1");
    machine.run(
        "test ! -e /usr/bin/sds-mirror
         test -e /etc/sds-mirror/sds-mirror.toml
         rm -rf /etc/sds-mirror /var/lib/sds-mirror",
    );
}

#[test]
fn with_the_drop_in_a_service_of_any_user_may_open_the_socket() {
    let Some(machine) = machine() else { return };
    write_pair(&machine, "www", &Ca::new("drop-in").server(&["www.test"]));
    machine.run("systemctl start sds-agent");
    machine.write(
        "etc/systemd/system/envoy.service",
        "[Service]\nType=oneshot\nDynamicUser=yes\nExecStart=/usr/bin/sds-agent get www\n",
    );
    machine.run("systemctl daemon-reload; ! systemctl start envoy.service 2>/dev/null");
    machine.write(
        "etc/systemd/system/envoy.service.d/sds-agent.conf",
        include_str!("../../systemd/examples/envoy.conf"),
    );
    machine.run("systemctl daemon-reload; systemctl start envoy.service");
    machine.run("rm -r /etc/systemd/system/envoy.service*; systemctl daemon-reload");
}
