//! The units under a real systemd, in a container that boots for the tests.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::util::machine::{Machine, machine};
use crate::util::tools::ENVOY;
use crate::util::users::connect_as;
use crate::util::wait::eventually_true;
use crate::util::{Ca, Envoy, Host, Identity, Protocol, Sds, eventually, require};

const CREDENTIALS: &str = "etc/sds-agent/credentials";

/// Puts a pair in a credential folder of the machine, as an administrator would.
pub(crate) fn write_pair(machine: &Machine, name: &str, identity: &Identity) {
    for (file, content) in [("tls.crt", &identity.chain), ("tls.key", &identity.key)] {
        let path = format!("{CREDENTIALS}/{name}/{file}");
        machine.write(&format!("{path}.new"), content);
        fs::set_permissions(
            machine.path(&format!("{path}.new")),
            PermissionsExt::from_mode(0o640),
        )
        .unwrap();
        fs::rename(machine.path(&format!("{path}.new")), machine.path(&path)).unwrap();
    }
}

/// Waits until the agent serves something under that name, and returns it.
#[track_caller]
pub(crate) fn assert_served(machine: &Machine, name: &str, identity: &Identity) {
    let mut stream = machine.client().delta();
    stream.subscribe(&[name]);
    eventually_true(&format!("the pair `{name}`"), || {
        let changes = stream.changes();
        changes
            .secrets
            .iter()
            .any(|secret| secret.is_pair(&identity.chain, &identity.key))
    });
}

pub(crate) fn pair(name: &str) -> Identity {
    Ca::new("systemd").server(&[name])
}

#[test]
fn the_units_are_valid_and_have_low_exposure() {
    let Some(machine) = machine() else { return };
    let complaints = machine.run(
        "systemd-analyze verify /etc/systemd/system/sds-agent.service \
         /etc/systemd/system/sds-agent.socket 2>&1",
    );
    assert_eq!(complaints, "");

    let verdict =
        machine.run("systemd-analyze security --offline=true sds-agent.service | tail -n 1");
    let exposure = verdict
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok());
    assert!(exposure.is_some_and(|exposure| exposure < 1.5), "{verdict}");
}

#[test]
fn the_unit_becomes_ready_only_when_the_agent_serves() {
    let Some(machine) = machine() else { return };
    let www = pair("www");
    write_pair(&machine, "www", &www);
    machine.run("systemctl start sds-agent");
    // No waiting: this must be so once the unit is ready.
    let mut stream = machine.client().sotw();
    stream.subscribe(&["www"]);
    assert!(stream.secret().is_pair(&www.chain, &www.key));
    assert_eq!(machine.property("ActiveState"), "active");
    assert!(machine.property("StatusText").contains("serving"));

    let socket = fs::metadata(machine.socket()).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o660);
    let clients = machine.run("getent group sds-agent-clients | cut -d: -f3");
    assert_eq!(clients.trim(), socket.gid().to_string());
    let admin = fs::metadata(machine.path("run/sds-agent/admin.sock")).unwrap();
    assert_eq!(admin.mode() & 0o777, 0o600);

    machine.run("systemctl stop sds-agent");
    assert_eq!(machine.property("Result"), "success");
    assert!(!machine.socket().exists());
}

#[test]
fn a_reload_applies_a_valid_configuration_and_refuses_an_invalid_one() {
    let Some(machine) = machine() else { return };
    let (www, more) = (pair("www"), pair("more"));
    write_pair(&machine, "www", &www);
    machine.run("systemctl start sds-agent");
    let process = machine.property("MainPID");

    machine.write("etc/sds-agent/more/extra/tls.crt", &more.chain);
    machine.write("etc/sds-agent/more/extra/tls.key", &more.key);
    machine.write(
        "etc/sds-agent/sds-agent.toml",
        "credentials = [\"credentials\", \"more\"]\n",
    );
    machine.run("systemctl reload sds-agent");
    assert_served(&machine, "extra", &more);

    machine.write("etc/sds-agent/sds-agent.toml", "credentails = []\n");
    machine.run("systemctl reload sds-agent");
    eventually_true("the refusal in the log", || {
        machine.journal().contains("credentails")
    });
    eventually_true("the end of the reload", || {
        machine.property("ActiveState") == "active"
    });
    assert_served(&machine, "extra", &more);
    assert_served(&machine, "www", &www);
    assert_eq!(machine.property("MainPID"), process);
}

#[test]
fn the_watchdog_restarts_a_hanging_agent() {
    let Some(machine) = machine() else { return };
    let www = pair("www");
    write_pair(&machine, "www", &www);
    machine.drop_in("sds-agent.service", "[Service]\nWatchdogSec=2s\n");
    machine.run("systemctl start sds-agent");
    let process = machine.property("MainPID");
    // It makes progress, so it is not restarted for longer than the watchdog waits.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(machine.property("MainPID"), process);

    machine.run("kill -STOP $(systemctl show -P MainPID sds-agent)");
    eventually_true("another process", || {
        let now = machine.property("MainPID");
        now != process && now != "0"
    });
    assert!(
        machine.journal().contains("Watchdog timeout"),
        "{}",
        machine.journal()
    );
    assert_served(&machine, "www", &www);
}

#[test]
fn after_a_crash_the_agent_restarts_and_serves_what_changed_meanwhile() {
    let Some(machine) = machine() else { return };
    write_pair(&machine, "www", &pair("www"));
    machine.run("systemctl start sds-agent");
    let process = machine.property("MainPID");
    machine.run("kill -KILL $(systemctl show -P MainPID sds-agent)");
    let renewed = pair("www");
    write_pair(&machine, "www", &renewed);
    eventually_true("another process", || {
        let now = machine.property("MainPID");
        now != process && now != "0" && machine.property("ActiveState") == "active"
    });
    assert_served(&machine, "www", &renewed);
}

#[test]
fn with_the_socket_unit_clients_wait_while_the_agent_is_stopped() {
    let Some(machine) = machine() else { return };
    let www = pair("www");
    write_pair(&machine, "www", &www);
    machine.run("systemctl start sds-agent.socket");
    let socket = fs::metadata(machine.socket()).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o660);
    let account = machine.run("id -u sds-agent; getent group sds-agent-clients | cut -d: -f3");
    assert_eq!(account, format!("{}\n{}\n", socket.uid(), socket.gid()));
    assert_eq!(machine.property("ActiveState"), "inactive");

    // The first connection starts the agent.
    assert_served(&machine, "www", &www);
    assert_eq!(machine.property("ActiveState"), "active");

    // The socket stays while the agent is stopped, and clients that connect then are served later.
    let renewed = pair("www");
    machine.run("systemctl stop sds-agent.service");
    assert_eq!(fs::metadata(machine.socket()).unwrap().ino(), socket.ino());
    write_pair(&machine, "www", &renewed);
    assert_served(&machine, "www", &renewed);

    machine.run("systemctl restart sds-agent.service");
    assert_eq!(fs::metadata(machine.socket()).unwrap().ino(), socket.ino());
    assert_served(&machine, "www", &renewed);
}

#[test]
fn the_sandbox_has_no_writable_path_and_no_network() {
    let Some(machine) = machine() else { return };
    write_pair(&machine, "www", &pair("www"));
    machine.run("systemctl start sds-agent");

    let process = machine.property("MainPID");
    let status = machine.run(&format!("cat /proc/{process}/status"));
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    let limits = machine.run(&format!("cat /proc/{process}/limits"));
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    assert!(core.is_some_and(|line| line.contains(" 0  ")), "{limits}");
    machine.run("systemctl stop sds-agent");

    // The same sandbox with a shell in it, instead of the agent.
    let attempt = |script: &str| {
        let script = script.replace('\'', "\\'");
        machine.drop_in(
            "sds-agent.service",
            &format!(
                "[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\nExecStart=\n\
                 ExecStart=/bin/sh -c '{script}'\n"
            ),
        );
        let done = machine
            .try_run("systemctl start sds-agent")
            .status
            .success();
        machine.run("systemctl reset-failed sds-agent 2>/dev/null; true");
        done
    };
    assert!(attempt(
        "cat /etc/sds-agent/credentials/www/tls.key >/dev/null"
    ));
    assert!(attempt(
        "touch /run/sds-agent/mine && rm /run/sds-agent/mine"
    ));
    assert!(attempt(
        "python3 -c \"import socket; socket.socket(socket.AF_UNIX)\""
    ));
    for denied in [
        "touch /etc/sds-agent/credentials/www/tls.crt",
        "touch /etc/sds-agent/credentials/mine",
        "touch /usr/bin/mine",
        "touch /var/mine",
        "touch /run/mine",
        "echo 1 >/proc/sys/kernel/panic",
        "cat /dev/kmsg",
        "ls /root /home/*",
        "mount -t tmpfs none /mnt",
        "unshare -n true",
        "chown root /run/sds-agent",
        "python3 -c \"import socket; socket.socket(socket.AF_INET)\"",
        "python3 -c \"import mmap; mmap.mmap(-1, 4096, prot=7)\"",
    ] {
        assert!(!attempt(denied), "the sandbox allows `{denied}`");
    }
}

#[test]
fn a_filter_of_system_calls_as_containers_have_it_keeps_no_folder_from_being_watched() {
    let Some(machine) = machine() else { return };
    let first = pair("www");
    write_pair(&machine, "www", &first);
    machine.drop_in(
        "sds-agent.service",
        "[Service]\nSystemCallFilter=~unshare\nSystemCallErrorNumber=EPERM\n",
    );
    machine.run("systemctl start sds-agent");
    assert_served(&machine, "www", &first);
    let second = pair("www");
    write_pair(&machine, "www", &second);
    assert_served(&machine, "www", &second);
    let status = machine.run("sds-agent status --output json");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let watch = &status["watch"];
    assert!(watch["directories"].as_u64().unwrap() > 1, "{watch}");
    assert_eq!(
        (&watch["polled"], &watch["missed"]),
        (&serde_json::json!({}), &0.into()),
        "{watch}"
    );
}

#[test]
fn a_configuration_that_is_refused_is_not_tried_again() {
    let Some(machine) = machine() else { return };
    machine.write("etc/sds-agent/sds-agent.toml", "credentails = []\n");
    assert!(
        !machine
            .try_run("systemctl start sds-agent")
            .status
            .success()
    );
    assert_eq!(machine.property("ActiveState"), "failed");
    assert_eq!(machine.property("NRestarts"), "0");
    assert!(
        machine.journal().contains("sds-agent.toml:1:1"),
        "{}",
        machine.journal()
    );
}

#[test]
fn an_envoy_that_starts_first_activates_the_agent_through_the_socket() {
    let Some(envoy) = require(&ENVOY) else { return };
    let Some(machine) = machine() else { return };
    let ca = Ca::new("systemd");
    write_pair(&machine, "www", &ca.server(&["www.test"]));
    machine.run("systemctl start sds-agent.socket");
    for protocol in Protocol::BOTH {
        machine.run("systemctl stop sds-agent.service");
        let hosts = [Host::new("www.test", "www")];
        let envoy = Envoy::start(&envoy, &machine.socket(), protocol, &hosts);
        let https = envoy.https("www.test").ca(ca.pem());
        eventually_true("a handshake", || https.get().is_ok());
        assert_eq!(machine.property("ActiveState"), "active");
        envoy.assert_no_rejection();
    }
}

#[test]
fn members_of_the_clients_group_may_connect_and_access_rules_see_their_groups() {
    let Some(machine) = machine() else { return };
    write_pair(&machine, "www", &pair("www"));
    machine.write(
        "etc/sds-agent/sds-agent.toml",
        "[[access]]\nsecrets = [\"www\"]\ngroups = [\"edge\"]\n",
    );
    machine.run(
        "groupadd -f edge
         for user in envoy other stranger; do id $user 2>/dev/null || useradd -r -U $user; done
         usermod -aG sds-agent-clients,edge envoy
         usermod -aG sds-agent-clients other",
    );
    machine.run("systemctl start sds-agent");
    let get = |user: &str| {
        let output = machine.try_run(&format!(
            "setpriv --reuid {user} --regid {user} --init-groups sds-agent get www"
        ));
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (served, why) = get("envoy");
    assert!(served, "{why}");
    let (served, why) = get("other");
    assert!(!served && why.contains("www"), "{why}");
    let (served, why) = get("stranger");
    assert!(
        !served && why.to_lowercase().contains("permission denied"),
        "{why}"
    );
    let journal = machine.journal();
    assert!(journal.contains("user=\"envoy\""), "{journal}");
    assert!(journal.contains("user=\"other\""), "{journal}");
    // Only root can read the agent's memory, not even the agent's own user.
    let own = "setpriv --reuid sds-agent --regid sds-agent --init-groups cat /proc/$(systemctl show -P MainPID sds-agent)/maps";
    assert!(!machine.try_run(own).status.success());
}

/// The shell commands of a section of a page of the documentation, block by block.
pub(crate) fn commands(page: &str, section: &str) -> Vec<String> {
    let section = page.split("\n## ").find(|text| text.starts_with(section));
    let blocks = section.unwrap().split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

/// The files below these folders that a user of the machine can read.
pub(crate) fn readable_by(machine: &Machine, user: &str, folders: &str) -> Vec<String> {
    let script = format!(
        "setpriv --reuid {user} --regid {user} --init-groups \
             find {folders} -type f -readable 2>/dev/null; true"
    );
    // Also by reading each file: not everything that can be listed can be opened.
    let all = machine.run(&format!("find {folders} -type f"));
    let mut readable: Vec<_> = machine.run(&script).lines().map(str::to_owned).collect();
    readable.extend(all.lines().filter_map(|file| {
        let read = format!("setpriv --reuid {user} --regid {user} --init-groups cat '{file}'");
        machine
            .try_run(&read)
            .status
            .success()
            .then(|| file.to_owned())
    }));
    readable
}

#[test]
fn after_the_documented_installation_envoys_user_can_use_the_socket_but_read_no_file() {
    let Some(machine) = machine() else { return };
    machine.clean();
    let service = include_str!("../../docs/service.md");
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let www = pair("www");
    for (name, content) in [("fullchain.pem", &www.chain), ("privkey.pem", &www.key)] {
        machine.write(&format!("root/source/{name}"), content);
    }
    fs::create_dir_all(machine.path("root/source/target/release")).unwrap();
    fs::create_dir_all(machine.path("root/source/systemd")).unwrap();
    let program = machine.path("root/source/target/release/sds-agent");
    fs::copy(crate::util::agent::PROGRAM, program).unwrap();
    for file in fs::read_dir(repository.join("systemd")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            let to = machine.path("root/source/systemd").join(file.file_name());
            fs::copy(file.path(), to).unwrap();
        }
    }
    machine.run("useradd -r -U envoy");
    let blocks = commands(service, "Install");
    assert!(blocks.len() >= 2, "{blocks:?}");
    for block in blocks {
        machine.run(&format!("set -e; cd /root/source; {block}"));
    }
    assert_served(&machine, "www", &www);

    // Also the commands of docs/tools.md for files written by hand and by certbot.
    let tools = include_str!("../../docs/tools.md");
    let live = "etc/letsencrypt/live/site.example.com";
    let archive = "etc/letsencrypt/archive/site.example.com";
    for (name, content) in [("fullchain", &www.chain), ("privkey", &www.key)] {
        machine.write(&format!("{archive}/{name}1.pem"), content);
        fs::create_dir_all(machine.path(live)).unwrap();
        let to = format!("../../archive/site.example.com/{name}1.pem");
        let link = machine.path(&format!("{live}/{name}.pem"));
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(to, link).unwrap();
    }
    machine.run(
        "chmod 0700 /etc/letsencrypt/live /etc/letsencrypt/archive
         chmod 0600 /etc/letsencrypt/archive/*/privkey1.pem",
    );
    let mut blocks = commands(tools, "certbot").into_iter();
    let hook = blocks.next().unwrap();
    machine.write("etc/letsencrypt/renewal-hooks/deploy/sds-agent", &hook);
    machine.run("chmod 0755 /etc/letsencrypt/renewal-hooks/deploy/sds-agent");
    for block in blocks {
        machine.run(&format!("set -e; {block}"));
    }
    machine.run(
        "cp /root/source/fullchain.pem /root/chain.pem; cp /root/source/privkey.pem /root/key.pem",
    );
    for block in commands(tools, "By hand") {
        machine.run(&format!("set -e; cd /root; {block}"));
    }
    assert_served(&machine, "site.example.com", &www);
    machine.write(
        "etc/sds-agent/sds-agent.toml",
        "credentials = [\"/etc/sds-agent/credentials\", \"/etc/letsencrypt/live\"]\n\
         [[access]]\nsecrets = [\"www\"]\nusers = [\"envoy\"]\n",
    );
    let check = machine
        .try_run("setpriv --reuid sds-agent --regid sds-agent --init-groups sds-agent check");
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("site.example.com"), "{check}");
    assert!(!check.contains("unreadable"), "{check}");
    assert!(
        !check.contains("directly"),
        "no user is in both groups: {check}"
    );
    machine.run("systemctl restart sds-agent");

    let as_envoy = "setpriv --reuid envoy --regid envoy --init-groups";
    machine.run(&format!("{as_envoy} sds-agent get www"));
    let refused = machine.try_run(&format!("{as_envoy} sds-agent get site.example.com"));
    assert!(!refused.status.success());
    let folders = "/etc/sds-agent/credentials /etc/letsencrypt/live /etc/letsencrypt/archive";
    let keys = machine.run(&format!("find {folders} -type f | grep -c key"));
    assert!(keys.trim().parse::<u32>().unwrap() >= 3, "{keys}");
    assert_eq!(readable_by(&machine, "envoy", folders), [""; 0]);
    let status = machine.try_run(&format!("{as_envoy} sds-agent status"));
    assert!(!status.status.success(), "the admin socket is not Envoy's");
    assert!(!machine.journal().contains("can also read"));

    // A warning is logged for the old setup, which gave Envoy's user access to everything.
    machine.run("usermod -aG sds-agent envoy; systemctl reload sds-agent");
    assert!(!readable_by(&machine, "envoy", folders).is_empty());
    eventually_true("a warning of the agent", || {
        let journal = machine.journal();
        journal.contains("the user envoy may open the socket, and can also read")
    });
    let check = machine.try_run("sds-agent check");
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("the user envoy may open"), "{check}");
    for block in commands(service, "Upgrading") {
        machine.run(&format!("set -e; {block}"));
    }
    assert_eq!(readable_by(&machine, "envoy", folders), [""; 0]);
    machine.run(&format!("{as_envoy} sds-agent get www"));
    let check = machine.try_run("sds-agent check");
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(!check.contains("the user envoy may open"), "{check}");
    machine.run("rm -rf /etc/letsencrypt /root/source");
}

#[test]
fn a_user_who_leaves_a_group_loses_its_secrets_on_an_open_stream() {
    let Some(machine) = machine() else { return };
    write_pair(&machine, "www", &pair("www"));
    machine.write(
        "etc/sds-agent/sds-agent.toml",
        "[[access]]\nsecrets = [\"www\"]\ngroups = [\"edge\"]\n",
    );
    machine.run(
        "groupadd -f edge; useradd -r -U envoy; usermod -aG sds-agent-clients,edge envoy
         systemctl start sds-agent",
    );
    let ids = machine.run("id -u envoy; id -g envoy");
    let ids: Vec<u32> = ids.lines().map(|id| id.parse().unwrap()).collect();
    let open = || {
        // Only root can reach the machine's files, so the path is opened before the user changes.
        let folder = fs::File::open(machine.path("run/sds-agent")).unwrap();
        let socket = format!("/proc/self/fd/{}/sds.sock", folder.as_raw_fd());
        Sds::on(connect_as(socket.as_ref(), ids[0], ids[1]).unwrap()).unwrap()
    };
    // Who may connect is decided by the socket's group, which a test's client does not have.
    machine.run("chmod 0666 /run/sds-agent/sds.sock");
    for by_reload in [true, false] {
        machine.run("usermod -aG edge envoy; systemctl reload sds-agent");
        let client = open();
        let mut stream = client.delta();
        stream.subscribe(&["www"]);
        eventually_true("the secret", || {
            stream.changes().secrets.iter().any(|s| s.name == "www")
        });
        machine.run("gpasswd -d envoy edge");
        if by_reload {
            machine.run("systemctl reload sds-agent");
        }
        assert_eq!(stream.removed(), ["www"]);
        write_pair(&machine, "www", &pair("www"));
        stream.0.assert_silent();
    }
}

#[test]
fn the_certbot_drop_in_lets_the_agent_read_certbots_folders() {
    let Some(machine) = machine() else { return };
    let www = pair("www");
    let live = "etc/letsencrypt/live/www";
    machine.write(&format!("{live}/fullchain.pem"), &www.chain);
    machine.write(&format!("{live}/privkey.pem"), &www.key);
    machine.run("chmod 0700 /etc/letsencrypt/live && chmod 0600 /etc/letsencrypt/live/www/*");
    machine.write(
        "etc/sds-agent/sds-agent.toml",
        "credentials = [\"/etc/letsencrypt/live\"]\n",
    );
    machine.drop_in(
        "sds-agent.service",
        include_str!("../../systemd/examples/certbot.conf"),
    );
    machine.run("systemctl start sds-agent");
    assert_served(&machine, "www", &www);
    machine.run("rm -rf /etc/letsencrypt");
}

#[test]
fn credentials_from_systemd_are_served_through_links() {
    let Some(machine) = machine() else { return };
    let www = pair("www");
    machine.write("root/www.crt", &www.chain);
    machine.write("root/www.key", &www.key);
    machine.run("chmod 0600 /root/www.*");
    let example = include_str!("../../systemd/examples/load-credential.conf");
    // The commands of the example, unchanged.
    let commands: Vec<_> = example
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|line| line.starts_with("install -d ") || line.starts_with("ln "))
        .collect();
    assert_eq!(commands.len(), 3);
    machine.run(&commands.join(" && "));
    machine.drop_in("sds-agent.service", example);
    machine.run("systemctl start sds-agent");
    assert_served(&machine, "www", &www);
}

#[test]
fn a_restart_under_load_fails_no_handshake() {
    let Some(envoy) = require(&ENVOY) else { return };
    let Some(machine) = machine() else { return };
    let ca = Ca::new("systemd");
    write_pair(&machine, "www", &ca.server(&["www.test"]));
    machine.run("systemctl start sds-agent.socket sds-agent.service");
    let hosts = [Host::new("www.test", "www")];
    let envoy = Envoy::start(&envoy, &machine.socket(), Protocol::Delta, &hosts);
    let https = envoy.https("www.test").ca(ca.pem());
    eventually_true("the first handshake", || https.get().is_ok());

    let renewed = ca.server(&["www.test"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut handshakes = 0_u32;
            while !over.load(Ordering::Relaxed) {
                https.get().unwrap();
                handshakes += 1;
            }
            handshakes
        });
        for _ in 0..3 {
            machine.run("systemctl restart sds-agent");
        }
        machine.run("systemctl stop sds-agent.service");
        write_pair(&machine, "www", &renewed);
        machine.run("systemctl start sds-agent.service");
        let started = Instant::now();
        let leaf = &renewed.der;
        eventually("the renewed certificate in a handshake", || {
            (https.leaf().ok()? == *leaf).then_some(())
        });
        let took = started.elapsed();
        over.store(true, Ordering::Relaxed);
        let handshakes = load.join().unwrap();
        eprintln!("{handshakes} handshakes; the change was served {took:?} after the start");
        assert!(handshakes > 0);
    });
    envoy.assert_no_rejection();
}

#[test]
fn a_previous_version_outlives_a_restart_and_a_crash() {
    let Some(envoy) = require(&ENVOY) else { return };
    let Some(machine) = machine() else { return };
    let ca = Ca::new("systemd");
    let www = ca.server(&["www.test"]);
    write_pair(&machine, "www", &www);
    write_pair(&machine, "other", &pair("other"));
    machine.run("systemctl start sds-agent");
    let stored = |count: &str| {
        eventually_true(&format!("{count} descriptors in the store"), || {
            machine.property("NFileDescriptorStore") == count
        });
    };
    let spoil = || machine.write(&format!("{CREDENTIALS}/www/tls.key"), "not a key\n");
    stored("0");
    spoil();
    stored("1");

    machine.run("systemctl restart sds-agent");
    assert_served(&machine, "www", &www);
    let hosts = [Host::new("www.test", "www")];
    let running = Envoy::start(&envoy, &machine.socket(), Protocol::Delta, &hosts);
    let https = running.https("www.test").ca(ca.pem());
    eventually_true("a handshake", || https.get().is_ok());
    stored("1");

    let process = machine.property("MainPID");
    machine.run("kill -KILL $(systemctl show -P MainPID sds-agent)");
    eventually_true("another process", || {
        let now = machine.property("MainPID");
        now != process && now != "0" && machine.property("ActiveState") == "active"
    });
    assert_served(&machine, "www", &www);
    stored("1");

    // Valid files end it, and so does the removal of the folder.
    let renewed = ca.server(&["www.test"]);
    write_pair(&machine, "www", &renewed);
    stored("0");
    assert_served(&machine, "www", &renewed);
    spoil();
    stored("1");
    machine.run(&format!("rm -r /{CREDENTIALS}/www"));
    stored("0");

    // A folder that is removed while the agent is stopped is not served again, and not kept.
    write_pair(&machine, "www", &www);
    assert_served(&machine, "www", &www);
    spoil();
    stored("1");
    machine.run(&format!(
        "systemctl kill --signal=STOP sds-agent && rm -r /{CREDENTIALS}/www
         systemctl kill --signal=KILL sds-agent"
    ));
    stored("0");
    eventually_true("another process", || {
        machine.property("ActiveState") == "active"
    });
    let mut stream = machine.client().delta();
    stream.subscribe(&["www"]);
    assert_eq!(stream.removed(), ["www"]);
    let journal = machine.journal();
    assert!(
        !journal.contains("can't keep") && !journal.contains("can't be restored"),
        "{journal}"
    );
}

#[test]
fn the_timer_of_the_examples_rotates_ticket_keys_that_the_agent_serves() {
    let Some(machine) = machine() else { return };
    for unit in ["ticket-keys.service", "ticket-keys.timer"] {
        let path = format!("etc/systemd/system/{unit}");
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/examples/");
        machine.write(
            &path,
            &fs::read_to_string(format!("{example}{unit}")).unwrap(),
        );
    }
    // Soon, instead of at noon.
    machine.drop_in(
        "ticket-keys.timer",
        "[Timer]\nOnCalendar=\nOnActiveSec=1s\n",
    );
    let folder = format!("{CREDENTIALS}/site");
    machine.run(&format!("install -d -m 0750 -g sds-agent /{folder}"));
    let complaints = machine.run(
        "systemd-analyze verify /etc/systemd/system/ticket-keys.service \
         /etc/systemd/system/ticket-keys.timer 2>&1",
    );
    assert_eq!(complaints, "");
    machine.run("systemctl start sds-agent");
    let mut stream = machine.client().delta();
    stream.subscribe(&["site"]);
    let mut newest = None;
    for kept in [1, 2, 3, 3] {
        machine.run("systemctl restart ticket-keys.timer");
        newest = eventually("the next key", || {
            let keys = stream.changes().secrets.pop()?.ticket_keys();
            let is_next = keys.len() == kept && keys.first() != newest.as_ref();
            is_next.then(|| keys.first().cloned())
        });
    }
    machine.run("systemctl stop ticket-keys.timer; rm -r /etc/systemd/system/ticket-keys.*");
}
