//! The Debian package, in a machine with a real systemd: installed, used, upgraded, removed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::systemd::{assert_served, pair, write_pair};
use crate::util::machine::{Machine, machine};
use crate::util::require;
use crate::util::tools::{CARGO_DEB, program};
use crate::util::wait::eventually_true;

/// Makes the package of the program under test, with a Debian version.
fn build(cargo_deb: &Path, folder: &Path, version: &str) -> PathBuf {
    let package = folder.join(format!("sds-agent_{version}.deb"));
    let path = std::env::var_os("PATH").unwrap();
    let path = [cargo_deb.parent().unwrap().to_owned()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    let output = Command::new("packaging/deb")
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

/// What dpkg has to know of this computer's packages, for the new one's dependencies.
fn prepare_dpkg(machine: &Machine) {
    machine.run(
        "mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers
         # A container's image has this, so that packages start nothing.
         rm -f /usr/sbin/policy-rc.d",
    );
    std::fs::copy("/var/lib/dpkg/status", machine.path("var/lib/dpkg/status")).unwrap();
}

fn install(machine: &Machine, package: &Path) {
    std::fs::copy(package, machine.path("root/package.deb")).unwrap();
    machine.run("DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /root/package.deb 2>&1");
}

#[test]
fn the_package_is_installed_used_upgraded_and_removed() {
    if require(&program("dpkg-shlibdeps", "apt-get install dpkg-dev")).is_none() {
        return;
    }
    let Some(machine) = machine() else { return };
    let Some(cargo_deb) = require(&CARGO_DEB) else {
        return;
    };
    machine.clean();
    prepare_dpkg(&machine);
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (
        build(&cargo_deb, folder.path(), "1.0-1"),
        build(&cargo_deb, folder.path(), "1.0-2"),
    );

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

    let www = pair("www");
    write_pair(&machine, "www", &www);
    assert_served(&machine, "www", &www);
    let renewed = pair("www");
    write_pair(&machine, "www", &renewed);
    assert_served(&machine, "www", &renewed);

    let process = machine.property("MainPID");
    machine.run("echo 'warn_days = 7' >>/etc/sds-agent/sds-agent.toml");
    install(&machine, &second);
    eventually_true("the new version's process", || {
        machine.property("ActiveState") == "active" && machine.property("MainPID") != process
    });
    machine.run("grep -qx 'warn_days = 7' /etc/sds-agent/sds-agent.toml");
    assert_served(&machine, "www", &renewed);

    machine.run("dpkg --remove sds-agent 2>&1");
    machine.run(
        "! systemctl is-active sds-agent.service
         test ! -e /usr/bin/sds-agent && test ! -e /run/sds-agent
         test -e /etc/sds-agent/sds-agent.toml
         test -e /etc/sds-agent/credentials/www/tls.key",
    );
    machine.run("dpkg --purge sds-agent 2>&1");
    machine.run(
        "test ! -e /etc/sds-agent/sds-agent.toml
         test -e /etc/sds-agent/credentials/www/tls.key",
    );
}
