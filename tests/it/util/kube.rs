//! A real Kubernetes control plane, etcd and kube-apiserver, and `sds-mirror` that mirrors it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::pki::{Ca, Identity, leaf_params};
use super::process::Process;
use super::tools::{Tool, require, run_setup};
use super::wait::{eventually, eventually_true};

/// etcd, kube-apiserver and kubectl, which tests/setup/kube.py builds the first time.
pub(crate) const KUBE: Tool = Tool {
    name: "a Kubernetes API server",
    how: "Go 1.24 or newer builds it (Debian 13: apt-get install golang-go)",
    find: |_| run_setup("kube.py"),
};

/// Gateway API's resource definitions, which tests/setup/gateway_api.py fetches the first time.
pub(crate) const GATEWAY_API: Tool = Tool {
    name: "the resource definitions of Gateway API",
    how: "Go 1.24 or newer fetches them (Debian 13: apt-get install golang-go)",
    find: |_| run_setup("gateway_api.py"),
};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sds-mirror");

/// An etcd and a kube-apiserver.
pub(crate) struct ControlPlane {
    // Dropped in this order: the folder is removed last.
    api_server: Option<Guarded>,
    etcd: Guarded,
    programs: PathBuf,
    folder: TempDir,
    etcd_port: u16,
    port: u16,
    ca: Ca,
    namespaces: AtomicUsize,
}

/// The control plane that the tests of this binary share; each test uses its own namespaces. `None` if its
/// programs are missing, which is printed on the terminal.
pub(crate) fn shared() -> Option<&'static ControlPlane> {
    static SHARED: OnceLock<Option<ControlPlane>> = OnceLock::new();
    let programs = require(&KUBE)?;
    SHARED
        .get_or_init(|| Some(ControlPlane::start(&programs)))
        .as_ref()
}

impl ControlPlane {
    /// Starts one, and waits until it is ready: about 3 s.
    pub(crate) fn start(programs: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("kube").tempdir().unwrap();
        let [etcd_port, peer_port, port] = free_ports();
        let etcd = start_etcd(programs, folder.path(), etcd_port, peer_port);
        let ca = Ca::new("Cluster CA");
        write_pki(folder.path(), &ca);
        let mut cluster = Self {
            programs: programs.to_owned(),
            folder,
            etcd_port,
            port,
            ca,
            etcd,
            api_server: None,
            namespaces: AtomicUsize::new(0),
        };
        let admin = cluster.client("admin", Some("system:masters"));
        let kubeconfig = cluster.kubeconfig_with(&json!({
            "client-certificate-data": base64(admin.chain.as_bytes()),
            "client-key-data": base64(admin.key.as_bytes()),
        }));
        fs::write(cluster.admin_kubeconfig(), kubeconfig).unwrap();
        cluster.start_api_server();
        cluster
    }

    /// Starts the API server after it was stopped.
    pub(crate) fn start_api_server(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            format!("--client-ca-file={}", path("ca.crt")),
            format!("--tls-cert-file={}", path("server.crt")),
            format!("--tls-private-key-file={}", path("server.key")),
            format!("--service-account-key-file={}", path("accounts.pub")),
            format!(
                "--service-account-signing-key-file={}",
                path("accounts.key")
            ),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--shutdown-delay-duration=0s",
        ]);
        self.api_server = Some(Guarded::spawn(
            self.folder.path(),
            "kube-apiserver",
            &command,
        ));
        eventually_true("the API server", || {
            let server = self.api_server.as_ref().unwrap();
            assert!(server.is_running(), "the API server has ended");
            self.kubectl()
                .args(["get", "--raw", "/readyz"])
                .output()
                .unwrap()
                .status
                .success()
        });
    }

    /// Replaces this cluster with another one that has the same address, the same CA, and a namespace of that
    /// name.
    pub(crate) fn replace(&mut self, namespace: &str) {
        self.kill_api_server();
        let [port, peer_port] = free_ports();
        let folder = self.folder.path().join("second");
        fs::create_dir(&folder).unwrap();
        self.etcd = start_etcd(&self.programs, &folder, port, peer_port);
        self.etcd_port = port;
        self.start_api_server();
        eventually_true("the namespace", || {
            let mut command = self.kubectl();
            let command = command.args(["create", "namespace", namespace]);
            command.output().unwrap().status.success()
        });
        // The namespace that identifies the cluster is created a moment after the start.
        eventually_true("kube-system", || {
            let mut command = self.kubectl();
            let command = command.args(["get", "namespace", "kube-system"]);
            command.output().unwrap().status.success()
        });
    }

    /// Gives the API server of the same cluster a certificate from a new CA, which is in the files for clients.
    pub(crate) fn replace_ca(&mut self) {
        self.kill_api_server();
        let ca = Ca::new("New cluster CA");
        let server = ca.server(&["127.0.0.1", "localhost"]);
        let write = |name: &str, content: &str| {
            fs::write(self.folder.path().join(name), content).unwrap();
        };
        write("server-ca.crt", ca.pem());
        write("server.crt", &server.chain);
        write("server.key", &server.key);
        let old = fs::read_to_string(self.admin_kubeconfig()).unwrap();
        let mut kubeconfig: Value = serde_json::from_str(&old).unwrap();
        let data = base64(ca.pem().as_bytes());
        kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"] = data.into();
        fs::write(self.admin_kubeconfig(), kubeconfig.to_string()).unwrap();
        self.start_api_server();
    }

    /// SIGKILL.
    pub(crate) fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    /// Discards all of etcd's history, so that watches that are behind can't be resumed.
    pub(crate) fn compact(&self) {
        let range = self.etcd("range", &json!({"key": base64(b"/")}));
        let revision = range["header"]["revision"].as_str().unwrap().to_owned();
        self.etcd(
            "compaction",
            &json!({"revision": revision, "physical": true}),
        );
    }

    /// A call of etcd's JSON gateway.
    fn etcd(&self, method: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.etcd_port)).unwrap();
        let request = format!(
            "POST /v3/kv/{method} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 OK"), "etcd {method}: {answer}");
        serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap()
    }

    /// `kubectl` with all permissions.
    pub(crate) fn kubectl(&self) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.arg("--kubeconfig").arg(self.admin_kubeconfig());
        command.env("HOME", self.folder.path());
        command
    }

    /// Creates a namespace that no other test uses.
    pub(crate) fn namespace(&self) -> Namespace<'_> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace {
            cluster: self,
            // The port: no other control plane has this name either.
            name: format!("test-{}-{number}", self.port),
        };
        run(self
            .kubectl()
            .args(["create", "namespace", &namespace.name]));
        namespace
    }

    /// The URL of the API server.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The file with the CA of the API server.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The kubeconfig with all permissions.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.json")
    }

    /// A kubeconfig for this user.
    pub(crate) fn kubeconfig_with(&self, user: &Value) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {
                "server": self.url(),
                "certificate-authority-data": base64(self.ca.pem().as_bytes()),
            }}],
            "users": [{"name": "u", "user": user}],
        })
        .to_string()
    }

    fn client(&self, name: &str, group: Option<&str>) -> Identity {
        let mut params = leaf_params(&[name], ExtendedKeyUsagePurpose::ClientAuth);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        self.ca.issue(&params, &KeyPair::generate().unwrap())
    }
}

/// A namespace.
pub(crate) struct Namespace<'a> {
    cluster: &'a ControlPlane,
    pub(crate) name: String,
}

impl Namespace<'_> {
    /// Runs `kubectl` in it.
    #[track_caller]
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = self.cluster.kubectl();
        run(command.args(["--namespace", &self.name]).args(arguments))
    }

    /// `kubectl apply` of this object.
    #[track_caller]
    pub(crate) fn apply(&self, object: &Value) {
        let mut command = self.cluster.kubectl();
        command.args(["--namespace", &self.name, "apply", "--filename=-"]);
        run_with_input(&mut command, object.to_string().as_bytes());
    }

    /// `kubectl create secret generic`, with these keys.
    #[track_caller]
    pub(crate) fn create_generic(&self, name: &str, keys: &[(&str, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = vec!["create", "secret", "generic", name];
        let from: Vec<String> = keys
            .iter()
            .map(|(key, value)| {
                let path = folder.path().join(key);
                fs::write(&path, value).unwrap();
                format!("--from-file={key}={}", path.display())
            })
            .collect();
        arguments.extend(from.iter().map(String::as_str));
        self.kubectl(&arguments);
    }

    /// `kubectl create secret tls`.
    #[track_caller]
    pub(crate) fn create_tls(&self, name: &str, identity: &Identity) {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("c"), folder.path().join("k"));
        fs::write(&cert, &identity.chain).unwrap();
        fs::write(&key, &identity.key).unwrap();
        let (cert, key) = (cert.display(), key.display());
        self.kubectl(&[
            "create",
            "secret",
            "tls",
            name,
            &format!("--cert={cert}"),
            &format!("--key={key}"),
        ]);
    }

    #[track_caller]
    pub(crate) fn delete(&self, name: &str) {
        self.kubectl(&["delete", "secret", name]);
    }
}

/// A Secret as an object, of any type.
pub(crate) fn secret(name: &str, type_: &str, data: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), base64(value.as_bytes()).into()))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": type_,
        "data": data,
    })
}

/// A running `sds-mirror`. It derefs to [`Process`], and is killed when dropped.
pub(crate) struct Mirror(Process);

impl Mirror {
    /// The command of a mirror of these namespaces with all permissions.
    pub(crate) fn command(cluster: &ControlPlane, namespaces: &[&str], output: &Path) -> Command {
        let mut command = Self::without_access(namespaces, output);
        command.arg("--kubeconfig").arg(cluster.admin_kubeconfig());
        command
    }

    /// The command of a mirror without options for reaching the cluster.
    pub(crate) fn without_access(namespaces: &[&str], output: &Path) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--output").arg(output);
        for namespace in namespaces {
            command.args(["--namespace", namespace]);
        }
        for name in ["RUST_LOG", "NOTIFY_SOCKET", "KUBECONFIG", "WATCHDOG_USEC"] {
            command.env_remove(name);
        }
        command.env("HOME", "/nonexistent");
        command
    }

    /// Starts a mirror.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(Process::spawn("sds-mirror", command))
    }

    /// Starts a mirror of one namespace, and waits until it has listed that.
    #[track_caller]
    pub(crate) fn start(namespace: &Namespace<'_>, output: &Path) -> Self {
        let mirror = Self::spawn(&mut Self::command(
            namespace.cluster,
            &[&namespace.name],
            output,
        ));
        mirror.wait_for_line(&["listed"]);
        mirror
    }
}

impl Deref for Mirror {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl DerefMut for Mirror {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.0
    }
}

/// A server that ends together with the test process, however that ends, and whose folder is removed then: a shell
/// waits for the end of its input, which this process holds open.
struct Guarded {
    shell: Child,
    _input: ChildStdin,
    pid: Pid,
    log: PathBuf,
}

impl Guarded {
    fn spawn(folder: &Path, name: &str, command: &Command) -> Self {
        const GUARD: &str = r#"log=$1 pid=$2 folder=$3; shift 3
            "$@" </dev/null >"$log" 2>&1 &
            echo $! >"$pid.new" && mv "$pid.new" "$pid"
            cat >/dev/null
            kill -9 $! 2>/dev/null
            wait
            rm -rf "$folder""#;
        let log = folder.join(format!("{name}.log"));
        let pid = folder.join(format!("{name}.pid"));
        let _ = fs::remove_file(&pid);
        let mut shell = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&log)
            .arg(&pid)
            .arg(folder)
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = eventually("the server's process", || fs::read_to_string(&pid).ok());
        let pid = pid.trim().parse().unwrap();
        Self {
            _input: shell.stdin.take().unwrap(),
            shell,
            pid: Pid::from_raw(pid).unwrap(),
            log,
        }
    }
}

impl Guarded {
    fn is_running(&self) -> bool {
        kill_process(self.pid, Signal::URG).is_ok()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        eventually_true("the server's end", || !self.is_running());
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            eprintln!("--- {} ---\n{}", self.log.display(), last.join("\n"));
        }
    }
}

fn start_etcd(programs: &Path, folder: &Path, port: u16, peer_port: u16) -> Guarded {
    let (client, peer) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    let mut command = Command::new(programs.join("etcd"));
    command.args([
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]);
    command.args(["--unsafe-no-fsync", "--log-level=error"]);
    let etcd = Guarded::spawn(folder, "etcd", &command);
    eventually_true("etcd", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    etcd
}

fn write_pki(folder: &Path, ca: &Ca) {
    let write = |name: &str, content: &str| fs::write(folder.join(name), content).unwrap();
    let server = ca.server(&["127.0.0.1", "localhost"]);
    write("ca.crt", ca.pem());
    write("server.crt", &server.chain);
    write("server.key", &server.key);
    let accounts = KeyPair::generate().unwrap();
    write("accounts.key", &accounts.serialize_pem());
    write("accounts.pub", &accounts.public_key_pem());
}

fn free_ports<const N: usize>() -> [u16; N] {
    // All are open at the same time, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Runs a command that must succeed, and returns its output.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    run_with_input(command, b"")
}

#[track_caller]
fn run_with_input(command: &mut Command, input: &[u8]) -> String {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Base64 with padding, as Kubernetes writes bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        for place in 0..4 {
            if place <= chunk.len() {
                let index = word >> (18 - 6 * place) & 63;
                text.push(ALPHABET[index as usize].into());
            } else {
                text.push('=');
            }
        }
    }
    text
}
