//! The unit under a real systemd, in a container that boots for the test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::PAIR;
use super::health::ask;
use crate::systemd::{commands, pair, readable_by, write_pair};
use crate::util::kube::{PROGRAM, secret};
use crate::util::machine::{Machine, machine};
use crate::util::{Ca, eventually_true};

/// An API server that has one Secret, in the machine, which has no network.
const API_SERVER: &str = r#"
import http.server, json, time
SECRET = {"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1"},
          "type": "Opaque", "data": json.load(open("/srv/pair.json"))}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ours = "/namespaces/n/secrets" in self.path
        self.send_response(200 if ours else 403)
        self.end_headers()
        if not ours:
            self.wfile.write(b'{"kind": "Status", "status": "Failure", "code": 403}')
        elif "watch=" in self.path:
            time.sleep(60)
        else:
            body = {"kind": "SecretList", "apiVersion": "v1",
                    "metadata": {"resourceVersion": "1"}, "items": [SECRET]}
            self.wfile.write(json.dumps(body).encode())
http.server.ThreadingHTTPServer(("127.0.0.1", 8001), Handler).serve_forever()
"#;

const CONFIG: &str = r#"
server = "http://127.0.0.1:8001"
ca_file = "ca.crt"
namespace = "n"
output = "/var/lib/sds-mirror/credentials"
admin_socket = "/run/sds-mirror/admin.sock"
"#;

/// The folder in which the documentation's commands are run.
const SOURCE: &str = "root/mirror-source";

/// Installs the mirror with the commands of docs/mirror.md.
fn install(machine: &Machine) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    machine.run("rm -rf /usr/bin/sds-mirror /var/lib/sds-mirror; mkdir -p /etc/sysusers.d");
    let source = machine.path(SOURCE);
    for folder in ["target/release", "systemd"] {
        fs::create_dir_all(source.join(folder)).unwrap();
    }
    fs::copy(PROGRAM, source.join("target/release/sds-mirror")).unwrap();
    for file in [
        "sds-mirror.service",
        "sds-mirror@.service",
        "sds-mirror.sysusers",
    ] {
        let file = Path::new("systemd").join(file);
        fs::copy(repository.join(&file), source.join(file)).unwrap();
    }
    machine.write(&format!("{SOURCE}/token"), "a-token");
    machine.write(&format!("{SOURCE}/ca.crt"), Ca::new("CA").pem());
    let blocks = commands(include_str!("../../../docs/mirror.md"), "Setting it up");
    let on_the_machine = |text: &str| blocks.iter().find(|block| block.starts_with(text));
    let install = on_the_machine("install ").expect("a block that installs it");
    machine.run(&format!("set -e; cd /{SOURCE}; {install}"));
    machine.run("systemctl daemon-reload; ip link set lo up || true");
    machine.write("etc/sds-mirror/sds-mirror.toml", CONFIG);
    machine.write("srv/api.py", API_SERVER);
    let pair = secret("a", "Opaque", &PAIR)["data"].to_string();
    machine.write("srv/pair.json", &pair);
}

#[test]
fn the_unit_has_low_exposure_and_the_mirror_works_in_it() {
    let Some(machine) = machine() else { return };
    install(&machine);
    let complaints =
        machine.run("systemd-analyze verify /etc/systemd/system/sds-mirror.service 2>&1");
    assert_eq!(complaints, "");
    let verdict =
        machine.run("systemd-analyze security --offline=true sds-mirror.service | tail -n 1");
    let exposure = verdict
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok());
    assert!(exposure.is_some_and(|exposure| exposure < 1.5), "{verdict}");

    // It is up while the cluster is not, so it does not delay the machine's start.
    machine.run(
        "systemctl start sds-mirror || { journalctl -u sds-mirror -o cat -n 20 >&2; exit 1; }",
    );
    let property = |name: &str| {
        let value = machine.run(&format!("systemctl show -P {name} sds-mirror"));
        value.trim().to_owned()
    };
    assert_eq!(property("ActiveState"), "active");
    assert!(
        property("StatusText").contains("waiting"),
        "{}",
        property("StatusText")
    );
    let socket = machine.path("run/sds-mirror/admin.sock");
    eventually_true("the reason why it waits", || {
        ask(&socket, "/readyz").contains("waiting for the first list: client error")
    });

    machine.run("systemd-run --quiet --unit fake-api-server python3 /srv/api.py");
    let folder = "/var/lib/sds-mirror/credentials/a";
    eventually_true("the folder", || {
        machine
            .try_run(&format!("cat {folder}/key"))
            .status
            .success()
    });
    let listing = || machine.run(&format!("stat -c '%U %G %a' {folder} {folder}/..data/key"));
    let own = "sds-mirror sds-mirror 750\nsds-mirror sds-mirror 640\n";
    assert_eq!(listing(), own);
    eventually_true("the new status", || {
        property("StatusText").contains("1 folders")
    });
    assert!(ask(&socket, "/readyz").contains("200 OK"));

    // The mirror continues after a reload, and after a refused one.
    let pid = property("MainPID");
    for more in ["check_interval = \"30s\"\n", "no_such_key = 1\n"] {
        machine.write("etc/sds-mirror/sds-mirror.toml", &format!("{CONFIG}{more}"));
        machine.run("systemctl reload sds-mirror");
    }
    eventually_true("the refusal", || {
        machine
            .run("journalctl -u sds-mirror -o cat")
            .contains("not reloaded")
    });
    assert_eq!(property("ActiveState"), "active");
    assert_eq!(property("MainPID"), pid);
    machine.write("etc/sds-mirror/sds-mirror.toml", CONFIG);
    // Only root and the unit's user may release folders, and root exists in the unit's user namespace.
    let released = machine.run("sds-mirror release --all");
    assert_eq!(released, "no folder is held back\n");
    assert!(machine.run("sds-mirror status || true").contains("n/a"));

    only_the_agent_reads_what_the_mirror_writes(&machine);
    upgrade(&machine);
    eventually_true("the mirror's own group", || listing() == own);
    machine.run("sds-agent get a && systemctl restart sds-agent && sds-agent get a");

    several_clusters(&machine);
    machine.run("systemctl stop sds-mirror fake-api-server");
    assert_eq!(property("Result"), "success");
    machine.run("rm -rf /etc/sds-mirror /usr/bin/sds-mirror /etc/systemd/system/sds-mirror.service /etc/systemd/system/sds-mirror@.service /etc/sysusers.d/sds-mirror.conf /var/lib/sds-mirror /root/mirror-source; systemctl daemon-reload");
}

/// An installation whose mirror had the agent's group, upgraded by the commands of docs/mirror.md.
fn upgrade(machine: &Machine) {
    let old = CONFIG.to_owned() + "group = \"sds-agent\"\n";
    machine.write("etc/sds-mirror/sds-mirror.toml", &old);
    let blocks = commands(include_str!("../../../docs/mirror.md"), "Upgrading");
    machine.run("chgrp -R sds-agent /var/lib/sds-mirror");
    machine.run(&format!("set -e; cd /{SOURCE}; {}", blocks.join("\n")));
    let config = fs::read_to_string(machine.path("etc/sds-mirror/sds-mirror.toml"));
    assert_eq!(config.unwrap(), CONFIG);
}

/// The agent serves the mirror's folders; the mirror can't read the agent's own; other users can read neither.
fn only_the_agent_reads_what_the_mirror_writes(machine: &Machine) {
    write_pair(machine, "own", &pair("own"));
    let both = "/etc/sds-agent/credentials /var/lib/sds-mirror/credentials";
    let (agents, mirrors) = both.split_once(' ').unwrap();
    machine.write(
        "etc/sds-agent/sds-agent.toml",
        &format!("credentials = [{agents:?}, {mirrors:?}]\n"),
    );
    machine.run("chmod -R g+rX,o= /etc/sds-agent/credentials; useradd -r -U envoy");
    machine.run("usermod -aG sds-agent-clients envoy; systemctl restart sds-agent");
    for name in ["own", "a"] {
        let get = format!("setpriv --reuid envoy --regid envoy --init-groups sds-agent get {name}");
        machine.run(&get);
    }
    let files = |folders: &str| {
        let files = machine.run(&format!("find {folders} -type f -name '*key'"));
        files.lines().count()
    };
    assert!(files(agents) >= 1 && files(mirrors) >= 1);
    assert_eq!(readable_by(machine, "envoy", both), [""; 0]);
    assert_eq!(readable_by(machine, "sds-mirror", agents), [""; 0]);
    // The running process has no other groups than those of its user in the database.
    let groups = "grep -E '^(Gid|Groups):' /proc/$(systemctl show -P MainPID sds-mirror)/status";
    let own = machine.run("id -g sds-mirror");
    let groups = machine.run(groups);
    let ids = groups
        .split_whitespace()
        .filter(|word| !word.ends_with(':'));
    let ids: BTreeSet<&str> = ids.collect();
    assert_eq!(ids, BTreeSet::from([own.trim()]), "{groups}");
    assert!(!machine.journal().contains("can also read"));
}

/// Two more mirrors, each with its own configuration.
fn several_clusters(machine: &Machine) {
    let complaints =
        machine.run("systemd-analyze verify /etc/systemd/system/sds-mirror@.service 2>&1");
    assert_eq!(complaints, "");
    for name in ["east", "west"] {
        let config = CONFIG
            .replace(
                "/var/lib/sds-mirror/",
                &format!("/var/lib/sds-mirror/{name}/"),
            )
            .replace("/run/sds-mirror/", &format!("/run/sds-mirror-{name}/"));
        machine.write(&format!("etc/sds-mirror/{name}.toml"), &config);
        machine.run(&format!("systemctl start sds-mirror@{name}"));
        eventually_true("the folder", || {
            let key = format!("cat /var/lib/sds-mirror/{name}/credentials/a/key");
            machine.try_run(&key).status.success()
        });
        let status = format!("sds-mirror status --config /etc/sds-mirror/{name}.toml");
        assert!(machine.run(&status).contains("n/a"));
    }
    machine.run("systemctl stop sds-mirror@east");
    assert!(
        machine
            .run("systemctl is-active sds-mirror sds-mirror@west")
            .contains("active\nactive")
    );
    machine.run("systemctl stop sds-mirror@west");
}
