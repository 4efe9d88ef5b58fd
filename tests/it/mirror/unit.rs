//! The unit under a real systemd, in a machine that boots for it.

use std::fs;
use std::path::Path;

use super::PAIR;
use super::health::ask;
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
group = "sds-agent"
admin_socket = "/run/sds-mirror/admin.sock"
"#;

fn install(machine: &Machine) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (from, to) in [
        (
            "systemd/sds-mirror.service",
            "etc/systemd/system/sds-mirror.service",
        ),
        (
            "systemd/sds-mirror@.service",
            "etc/systemd/system/sds-mirror@.service",
        ),
        (
            "systemd/sds-mirror.sysusers",
            "etc/sysusers.d/sds-mirror.conf",
        ),
    ] {
        let to = machine.path(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(repository.join(from), to).unwrap();
    }
    machine.run("rm -rf /usr/bin/sds-mirror /var/lib/sds-mirror");
    fs::copy(PROGRAM, machine.path("usr/bin/sds-mirror")).unwrap();
    machine.run("systemd-sysusers 2>&1; systemctl daemon-reload; ip link set lo up || true");
    machine.write("etc/sds-mirror/sds-mirror.toml", CONFIG);
    machine.write("etc/sds-mirror/ca.crt", Ca::new("CA").pem());
    machine.write("srv/api.py", API_SERVER);
    let pair = secret("a", "Opaque", &PAIR)["data"].to_string();
    machine.write("srv/pair.json", &pair);
}

#[test]
fn the_unit_has_little_exposure_and_the_mirror_works_in_it() {
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

    // It is up while the cluster is not, so that it does not hold up the machine.
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
    let listing = machine.run(&format!("stat -c '%U %G %a' {folder} {folder}/..data/key"));
    assert_eq!(
        listing,
        "sds-mirror sds-agent 750\nsds-mirror sds-agent 640\n"
    );
    eventually_true("the new status", || {
        property("StatusText").contains("1 folders")
    });
    assert!(ask(&socket, "/readyz").contains("200 OK"));

    // A reload, and one that is refused: it goes on in either case.
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
    // root and the unit's user alone may release, and root is known in the unit's user namespace.
    let released = machine.run("sds-mirror release --all");
    assert_eq!(released, "no folder is held back\n");
    assert!(machine.run("sds-mirror status || true").contains("n/a"));

    several_clusters(&machine);
    machine.run("systemctl stop sds-mirror fake-api-server");
    assert_eq!(property("Result"), "success");
    machine.run("rm -rf /etc/sds-mirror /usr/bin/sds-mirror /etc/systemd/system/sds-mirror.service /etc/systemd/system/sds-mirror@.service /etc/sysusers.d/sds-mirror.conf /var/lib/sds-mirror; systemctl daemon-reload");
}

/// Two more mirrors, each with a configuration of its own.
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
