//! The files from `packaging/release` on their target systems: with an old C library, as an RPM, as an image.
//! `tests/release` runs these.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::package::{install, packages, upgrade_under_load};
use crate::systemd::{assert_served, write_pair};
use crate::util::machine::{Machine, machine};
use crate::util::process::Process;
use crate::util::tools::{ENVOY, program, target_dir};
use crate::util::{Ca, Envoy, Host, Identity, Protocol, Sds, eventually_true, require};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROGRAMS: [&str; 2] = ["sds-agent", "sds-mirror"];

/// A product of `packaging/release`, by the end of its name.
fn product(program: &str, end: &str) -> PathBuf {
    let folder = target_dir().join("dist");
    let entries = fs::read_dir(&folder).unwrap();
    let mut found = entries.map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(program) && name.ends_with(end)
    });
    found
        .next()
        .unwrap_or_else(|| panic!("no {program}…{end} in {}", folder.display()))
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn tar(archive: &Path, folder: &Path, options: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    let mut command = Command::new("tar");
    command.arg("-xf").arg(archive).arg("-C").arg(folder);
    run(command.args(options));
}

/// An agent in another root file system, with a pair to serve.
struct Elsewhere {
    root: PathBuf,
    ca: Ca,
    pair: Identity,
    _process: Process,
}

impl Elsewhere {
    /// Starts it as the user of the images.
    fn start(root: &Path) -> Self {
        let ca = Ca::new("elsewhere");
        let pair = ca.server(&["www.test"]);
        let credential = root.join("etc/sds-agent/credentials/www");
        fs::create_dir_all(&credential).unwrap();
        fs::create_dir_all(root.join("run/sds-agent")).unwrap();
        fs::write(credential.join("tls.crt"), &pair.chain).unwrap();
        fs::write(credential.join("tls.key"), &pair.key).unwrap();
        let mut owner = Command::new("chown");
        owner.args(["-R", "65532:65532"]);
        run(owner.arg(&credential).arg(root.join("run/sds-agent")));
        // There is a /proc, as in a container; it is unmounted when the process ends.
        const START: &str = r#"
            mkdir -p "$1/proc"
            mount --bind /proc "$1/proc"
            exec chroot --userspec=65532:65532 "$1" /usr/bin/sds-agent serve
        "#;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec", START, "sh"])
            .arg(root);
        Self {
            root: root.to_owned(),
            ca,
            pair,
            _process: Process::spawn("sds-agent", &mut command),
        }
    }

    fn socket(&self) -> PathBuf {
        self.root.join("run/sds-agent/sds.sock")
    }

    fn assert_served(&self) {
        eventually_true("the socket", || self.socket().exists());
        let mut stream = Sds::connect(&self.socket()).delta();
        stream.subscribe(&["www"]);
        assert!(stream.secret().is_pair(&self.pair.chain, &self.pair.key));
    }
}

/// Asserts that the program runs below `root`, and has this version.
fn assert_runs_in(root: &Path, name: &str) {
    let mut version = Command::new("chroot");
    let version = run(version
        .arg(root)
        .args([&format!("/usr/bin/{name}"), "--version"]));
    assert!(
        version.starts_with(&format!("{name} {VERSION} (")),
        "{version}"
    );
}

#[test]
#[ignore = "tests/release runs it"]
fn the_archives_programs_run_on_an_old_c_library() {
    let Some(objdump) = require(&program("objdump", "apt-get install binutils")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let old = target_dir().join("old-root");
    run(Command::new("cp").arg("-a").arg(&old).arg(&root));
    for name in PROGRAMS {
        tar(
            &product(name, "x86_64-linux.tar.gz"),
            &root.join("usr"),
            &["--strip-components=1"],
        );
        let program = root.join("usr/bin").join(name);
        let symbols = run(Command::new(&objdump).arg("-T").arg(&program));
        let versions = symbols
            .split("(GLIBC_")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap());
        let newest = versions.max_by_key(|version| {
            let numbers = version
                .split('.')
                .map(|number| number.parse::<u32>().unwrap());
            numbers.collect::<Vec<_>>()
        });
        eprintln!("{name}: glibc {}", newest.unwrap());
        let numbers = newest
            .unwrap()
            .split('.')
            .map(|number| number.parse().unwrap());
        assert!(
            numbers.collect::<Vec<u32>>() <= vec![2, 17],
            "{name}: {newest:?}"
        );

        assert_runs_in(&root, name);
    }
    Elsewhere::start(&root).assert_served();
}

#[test]
#[ignore = "tests/release runs it"]
fn the_images_serve_an_envoy_next_to_them() {
    let Some(envoy) = require(&ENVOY) else { return };
    for name in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let (layout, root) = (folder.path().join("oci"), folder.path().join("root"));
        tar(&product(name, ".oci.tar"), &layout, &[]);
        let config = unpack(&layout, &root);
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(config["Entrypoint"][0], format!("/usr/bin/{name}"));
        // A volume that is mounted there gets the folder's owner.
        let sockets = root.join("run").join(name).metadata().unwrap();
        assert_eq!((sockets.uid(), sockets.gid()), (65532, 65532));
        for file in [
            "share/man/man1/NAME.1.gz",
            "share/bash-completion/completions/NAME",
        ] {
            let file = root.join("usr").join(file.replace("NAME", name));
            assert!(file.is_file(), "{}", file.display());
        }
        assert_runs_in(&root, name);
        if name == "sds-mirror" {
            continue;
        }

        let agent = Elsewhere::start(&root);
        eventually_true("the socket", || agent.socket().exists());
        let hosts = [Host::new("www.test", "www")];
        let envoy = Envoy::start(&envoy, &agent.socket(), Protocol::Delta, &hosts);
        let https = envoy.https("www.test").ca(agent.ca.pem());
        eventually_true("a handshake", || https.get().is_ok());
        envoy.assert_no_rejection();
    }
}

/// Unpacks the layers of an OCI image. Returns its configuration.
fn unpack(layout: &Path, root: &Path) -> Value {
    let json = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let manifest = json(blob(&json(layout.join("index.json"))["manifests"][0]));
    for layer in manifest["layers"].as_array().unwrap() {
        tar(&blob(layer), root, &["--gzip"]);
    }
    json(blob(&manifest["config"]))["config"].clone()
}

#[test]
#[ignore = "tests/release runs it"]
fn the_deb_replaces_an_earlier_version() {
    let Some(envoy) = require(&ENVOY) else { return };
    let Some((machine, packages)) = packages() else {
        return;
    };
    install(&machine, &packages.build("sds-agent", "0.1.0-1"));
    let ca = Ca::new("deb");
    write_pair(&machine, "www", &ca.server(&["www.test"]));
    let released = product("sds-agent", ".deb");
    let latest = upgrade_under_load(&machine, &envoy, &ca, || install(&machine, &released));
    assert_served(&machine, "www", &latest);
    let version = machine.run("dpkg-query --show --showformat '${Version}' sds-agent");
    assert_eq!(version, format!("{VERSION}-1"));
}

/// Makes the RPM of the agent again, as a later release of the same version.
fn later_rpm(folder: &Path) -> PathBuf {
    let output = folder.join("later.rpm");
    let mut command = Command::new("cargo");
    command.args(["generate-rpm", "--target", "x86_64-unknown-linux-gnu"]);
    command.args(["--auto-req", "builtin", "--set-metadata", "release = \"2\""]);
    run(command.arg("--output").arg(&output));
    output
}

fn rpm(machine: &Machine, arguments: &str, package: &Path) {
    fs::copy(package, machine.path("root/package.rpm")).unwrap();
    // What it depends on is not in this machine's RPM database.
    machine.run(&format!("rpm {arguments} --nodeps /root/package.rpm 2>&1"));
}

#[test]
#[ignore = "tests/release runs it"]
fn the_rpms_are_installed_upgraded_and_removed() {
    if require(&program("rpm", "apt-get install rpm")).is_none() {
        return;
    }
    let Some(envoy) = require(&ENVOY) else { return };
    let Some(machine) = machine() else { return };
    machine.clean();
    let folder = tempfile::tempdir().unwrap();
    machine.run("rpm --initdb");
    rpm(&machine, "-i", &product("sds-agent", ".rpm"));
    machine.run(
        "id sds-agent
         man -w sds-agent sds-agent-serve
         test -s /usr/share/bash-completion/completions/sds-agent
         test -s /usr/share/zsh/site-functions/_sds-agent
         test \"$(stat -c '%a %U %G' /etc/sds-agent/credentials)\" = '2750 root sds-agent'
         systemctl start sds-agent",
    );
    let ca = Ca::new("rpm");
    let www = ca.server(&["www.test"]);
    write_pair(&machine, "www", &www);
    assert_served(&machine, "www", &www);

    machine.run("echo 'warn_days = 7' >>/etc/sds-agent/sds-agent.toml");
    let later = later_rpm(folder.path());
    let latest = upgrade_under_load(&machine, &envoy, &ca, || rpm(&machine, "-U", &later));
    machine.run("grep -qx 'warn_days = 7' /etc/sds-agent/sds-agent.toml");
    assert_served(&machine, "www", &latest);
    machine.run(
        "rpm -e sds-agent 2>&1
         ! systemctl is-active sds-agent.service
         test ! -e /usr/bin/sds-agent && test ! -e /run/sds-agent
         test -e /etc/sds-agent/credentials/www/tls.key",
    );

    rpm(&machine, "-i", &product("sds-mirror", ".rpm"));
    machine.run(
        "id sds-mirror
         man -w sds-mirror
         test \"$(stat -c '%a %U %G' /etc/sds-mirror)\" = '750 root sds-mirror'
         rpm -e sds-mirror 2>&1
         test ! -e /usr/bin/sds-mirror",
    );
}

#[test]
#[ignore = "tests/release runs it"]
fn the_role_for_ansible_installs_configures_and_checks() {
    let Some(machine) = machine() else { return };
    machine.clean();
    fs::create_dir_all(machine.path("var/lib/dpkg/info")).unwrap();
    fs::create_dir_all(machine.path("var/lib/dpkg/updates")).unwrap();
    fs::create_dir_all(machine.path("var/lib/dpkg/triggers")).unwrap();
    fs::copy("/var/lib/dpkg/status", machine.path("var/lib/dpkg/status")).unwrap();
    let copy = |from: &Path, to: &str| {
        let _ = fs::remove_dir_all(machine.path(to));
        run(Command::new("cp").arg("-a").arg(from).arg(machine.path(to)));
    };
    copy(&target_dir().join("ansible"), "root/ansible");
    copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ansible"),
        "root/role",
    );
    let package = product("sds-agent", ".deb");
    let name = package.file_name().unwrap().to_str().unwrap();
    fs::copy(&package, machine.path("root/role").join(name)).unwrap();
    let www = Ca::new("ansible").server(&["www.test"]);
    machine.run("rm -f /usr/sbin/policy-rc.d; useradd -r -U envoy");
    let play = |more: &str| {
        machine.run(&format!(
            "cd /root/role && export PYTHONPATH=/root/ansible LC_ALL=C.UTF-8 HOME=/root &&
             python3 -m ansible.cli.playbook --connection local --inventory localhost, \\
                 --extra-vars 'sds_agent_package=/root/role/{name}' {more} /root/role/local.yml"
        ))
    };
    let playbook = fs::read_to_string(machine.path("root/role/playbook.yml")).unwrap();
    machine.write(
        "root/role/local.yml",
        &playbook.replace("hosts: envoy", "hosts: localhost"),
    );
    play("");
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.property("UnitFileState"), "enabled");
    machine.run("id -nG envoy | grep -qw sds-agent-clients");
    write_pair(&machine, "www", &www);
    assert_served(&machine, "www", &www);

    // Run again, it changes nothing; with another setting, that takes effect.
    let again = play("");
    assert!(again.contains("changed=0"), "{again}");
    let dry = play("--check");
    assert!(dry.contains("changed=0"), "{dry}");
    let changed = play("--extra-vars '{\"sds_agent_config\": {\"warn_days\": 7}}'");
    assert!(changed.contains("changed=2"), "{changed}");
    machine.run("grep -qx 'warn_days = 7' /etc/sds-agent/sds-agent.toml");

    // A configuration that the agent refuses never gets there.
    let refused = machine.try_run(
        "cd /root/role && PYTHONPATH=/root/ansible LC_ALL=C.UTF-8 HOME=/root \
         python3 -m ansible.cli.playbook --connection local --inventory localhost, \
         --extra-vars '{\"sds_agent_package\": \"\", \"sds_agent_config\": {\"warn_day\": 7}}' local.yml",
    );
    assert!(!refused.status.success(), "{refused:?}");
    machine.run("grep -qx 'warn_days = 7' /etc/sds-agent/sds-agent.toml");
    machine.run("userdel envoy; rm -rf /root/role /root/ansible");
}

#[test]
#[ignore = "tests/release runs it"]
fn the_crate_builds_the_program_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    tar(&product("sds-agent", ".crate"), folder.path(), &["--gzip"]);
    let sources = folder.path().join(format!("sds-agent-{VERSION}"));
    let info = fs::read_to_string(sources.join(".cargo_vcs_info.json")).unwrap();
    let info: Value = serde_json::from_str(&info).unwrap();
    let commit = &info["git"]["sha1"].as_str().unwrap()[..12];
    let mut install = Command::new(env!("CARGO"));
    install.args(["install", "--offline", "--locked", "--debug", "--path"]);
    install.arg(&sources).arg("--root").arg(folder.path());
    // What this workspace has compiled of its dependencies need not be compiled again.
    install.env("CARGO_TARGET_DIR", target_dir());
    run(&mut install);
    let program = folder.path().join("bin/sds-agent");
    assert_ne!(program.metadata().unwrap().permissions().mode() & 0o111, 0);
    let version = run(Command::new(program).arg("--version"));
    assert_eq!(
        version,
        format!("sds-agent {VERSION} ({commit}, x86_64-unknown-linux-gnu)\n")
    );
}
