//! The commands of docs/tools.md, run unchanged and with the real tools if they are available: a certificate from
//! an ACME server is served, renewed, and the new one is served.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::util::process::Process;
use crate::util::sds::Delta;
use crate::util::tools::{Tool, program, run_setup};
use crate::util::{Agent, Bed, Ca, Identity, eventually_true, require};

const NAME: &str = "site.example.com";

const PEBBLE: Tool = program("pebble", "apt-get install pebble");
const LEGO: Tool = program("lego", "apt-get install lego");
const CERTBOT: Tool = Tool {
    name: "certbot",
    how: "python3 with pip gets it (Debian: apt-get install python3-pip)",
    find: |_| run_setup("certbot.py"),
};
const STEP: Tool = Tool {
    name: "step",
    how: "Go builds it (Debian: apt-get install golang-go)",
    find: |_| run_setup("step.py"),
};

/// The code blocks of a section of docs/tools.md.
fn recipes(section: &str) -> Vec<String> {
    let page = include_str!("../../docs/tools.md");
    let text = page.split(&format!("\n## {section}\n")).nth(1).unwrap();
    let text = text.split("\n## ").next().unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

/// A recipe as a test runs it: in its own folders, and with its own group.
fn localized(recipe: &str, bed: &Bed, letsencrypt: &Path) -> String {
    let group = rustix::process::getegid().as_raw().to_string();
    recipe
        .replace(
            "/etc/sds-agent/credentials",
            bed.root.path().to_str().unwrap(),
        )
        .replace(
            "/etc/sds-agent/",
            &format!("{}/", bed.scratch("").display()),
        )
        .replace("/etc/letsencrypt", letsencrypt.to_str().unwrap())
        .replace("-g sds-agent", &format!("-g {group}"))
        .replace("chgrp -R sds-agent", &format!("chgrp -R {group}"))
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{output:#?}");
}

#[track_caller]
fn run_script(script: &str) {
    run(Command::new("sh").args(["-eu", "-c", script]));
}

fn write_script(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A stream that is subscribed to [`NAME`].
fn subscribe(agent: &Agent) -> Delta {
    let mut stream = agent.client().delta();
    stream.subscribe(&[NAME]);
    stream
}

/// Asserts that the stream is next sent this pair.
#[track_caller]
fn assert_next(stream: &mut Delta, chain: &Path, key: &Path) {
    let (chain, key) = (
        fs::read_to_string(chain).unwrap(),
        fs::read_to_string(key).unwrap(),
    );
    let secret = stream.secret();
    assert!(
        secret.is_pair(&chain, &key),
        "expected {chain}got {secret:?}"
    );
}

/// An ACME server that does not verify challenges.
struct Pebble {
    _process: Process,
    folder: TempDir,
    port: u16,
}

impl Pebble {
    fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new("The ACME server's CA");
        let identity = ca.server(&["localhost"]);
        let file = |name: &str| folder.path().join(name);
        fs::write(file("ca.pem"), ca.pem()).unwrap();
        fs::write(file("cert.pem"), &identity.chain).unwrap();
        fs::write(file("key.pem"), &identity.key).unwrap();
        let port = free_port();
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{}", free_port()),
            "certificate": file("cert.pem"),
            "privateKey": file("key.pem"),
            "httpPort": 5002,
            "tlsPort": 5001,
        }});
        fs::write(file("pebble.json"), config.to_string()).unwrap();
        let mut command = Command::new(program);
        command.arg("-config").arg(file("pebble.json"));
        command.envs([
            ("PEBBLE_VA_ALWAYS_VALID", "1"),
            ("PEBBLE_VA_NOSLEEP", "1"),
            ("PEBBLE_WFE_NONCEREJECT", "0"),
        ]);
        let process = Process::spawn("pebble", &mut command);
        eventually_true("the ACME server", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            _process: process,
            folder,
            port,
        }
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// A port that was free just now, because these tools can't let the kernel choose one.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// certbot with its own folders for this test.
struct Certbot<'a> {
    program: PathBuf,
    pebble: &'a Pebble,
    folder: PathBuf,
}

impl Certbot<'_> {
    #[track_caller]
    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new(self.program.join("bin/certbot"));
        command.env("PYTHONPATH", &self.program);
        command.env("REQUESTS_CA_BUNDLE", self.pebble.ca());
        command.args(arguments).arg("--non-interactive");
        command.arg("--config-dir").arg(&self.folder);
        command.arg("--work-dir").arg(self.folder.join("work"));
        command.arg("--logs-dir").arg(self.folder.join("logs"));
        run(&mut command);
    }

    #[track_caller]
    fn issue(&self) {
        let (server, port) = (self.pebble.directory(), free_port().to_string());
        let mut arguments = vec!["certonly", "--standalone", "--domain", NAME];
        arguments.extend(["--http-01-address", "127.0.0.1", "--http-01-port", &port]);
        arguments.extend([
            "--server",
            &server,
            "--agree-tos",
            "--email",
            "me@example.com",
        ]);
        self.run(&arguments);
    }

    #[track_caller]
    fn renew(&self) {
        self.run(&["renew", "--force-renewal", "--no-random-sleep-on-renew"]);
    }

    fn live(&self, file: &str) -> PathBuf {
        self.folder.join("live").join(NAME).join(file)
    }

    #[track_caller]
    fn assert_next(&self, stream: &mut Delta) {
        assert_next(
            stream,
            &self.live("fullchain.pem"),
            &self.live("privkey.pem"),
        );
    }
}

#[test]
fn certbots_deploy_hook_installs_credentials() {
    let (Some(pebble), Some(program)) = (require(&PEBBLE), require(&CERTBOT)) else {
        return;
    };
    let (bed, pebble) = (Bed::new(), Pebble::start(&pebble));
    let folder = bed.scratch("letsencrypt");
    let certbot = Certbot {
        program,
        pebble: &pebble,
        folder,
    };
    let recipes = recipes("certbot");
    certbot.issue();
    let hook = certbot.folder.join("renewal-hooks/deploy/sds-agent");
    write_script(&hook, &localized(&recipes[0], &bed, &certbot.folder));
    run_script(&localized(&recipes[1], &bed, &certbot.folder));

    let agent = bed.agent();
    let mut stream = subscribe(&agent);
    certbot.assert_next(&mut stream);
    certbot.renew();
    certbot.assert_next(&mut stream);
    assert_eq!(mode(&bed.root.credential(NAME).join("privkey.pem")), 0o640);
    assert_eq!(mode(&bed.root.credential(NAME)), 0o2750);
    stream.0.assert_silent();
}

#[test]
fn certbots_live_folder_can_be_watched_directly() {
    let (Some(pebble), Some(program)) = (require(&PEBBLE), require(&CERTBOT)) else {
        return;
    };
    let (bed, pebble) = (Bed::new(), Pebble::start(&pebble));
    let folder = bed.scratch("letsencrypt");
    let certbot = Certbot {
        program,
        pebble: &pebble,
        folder,
    };
    certbot.issue();
    run_script(&localized(&recipes("certbot")[2], &bed, &certbot.folder));

    let builder = Agent::builder(&bed.socket());
    let agent = builder.credentials(&certbot.folder.join("live")).start();
    let mut stream = subscribe(&agent);
    certbot.assert_next(&mut stream);
    for _ in 0..3 {
        certbot.renew();
        certbot.assert_next(&mut stream);
        // certbot keeps the access that the recipe gave to the group.
        assert_eq!(mode(&certbot.live("privkey.pem")), 0o640);
    }
    stream.0.assert_silent();
    assert_eq!(agent.lines_with(&["rejected"]), Vec::<String>::new());
}

#[test]
fn legos_folder_is_served_without_changes() {
    let (Some(pebble), Some(lego)) = (require(&PEBBLE), require(&LEGO)) else {
        return;
    };
    let (bed, pebble) = (Bed::new(), Pebble::start(&pebble));
    let folder = bed.scratch("lego");
    let recipe = localized(&recipes("lego")[0], &bed, Path::new("/nonexistent"));
    let recipe = recipe.replace("/etc/lego", folder.to_str().unwrap());
    let lines = |range: std::ops::Range<usize>, more: &str| {
        let (program, port) = (lego.display(), free_port());
        let options = format!("--server {} --accept-tos", pebble.directory());
        let program = format!("{program} {options} --http.port 127.0.0.1:{port} ");
        let lines = recipe.lines().skip(range.start).take(range.len());
        let lines = lines.map(|line| match line.strip_prefix("lego ") {
            Some(rest) => format!("{program}{rest}{more}\n"),
            None => format!("{line}\n"),
        });
        let mut command = Command::new("sh");
        command.env("LEGO_CA_CERTIFICATES", pebble.ca());
        run(command.args(["-eu", "-c", &lines.collect::<String>()]));
    };
    lines(0..3, "");

    let page = include_str!("../../docs/tools.md");
    let config = page
        .split("```toml\n")
        .find(|text| text.contains("/etc/lego"));
    let config = config.unwrap().split("```").next().unwrap();
    let config = config.replace("/etc/lego", folder.to_str().unwrap());
    let file = bed.scratch("sds-agent.toml");
    fs::write(&file, config).unwrap();
    let agent = Agent::builder(&bed.socket())
        .arg("--config")
        .arg(&file)
        .start();
    let mut stream = subscribe(&agent);
    let files = [".crt", ".key"].map(|end| folder.join(format!("certificates/{NAME}{end}")));
    assert_next(&mut stream, &files[0], &files[1]);
    lines(3..4, " --days 9999 --no-random-sleep");
    assert_next(&mut stream, &files[0], &files[1]);
    assert_eq!(mode(&files[1]), 0o640);
}

#[test]
fn step_writes_into_the_credential_folder() {
    let (Some(pebble), Some(step)) = (require(&PEBBLE), require(&STEP)) else {
        return;
    };
    let (bed, pebble) = (Bed::new(), Pebble::start(&pebble));
    let recipe = localized(&recipes("step")[0], &bed, Path::new("/nonexistent"));
    let step = |more: &str| {
        let acme = format!(
            "--acme {} --root {}",
            pebble.directory(),
            pebble.ca().display()
        );
        let http = format!("--standalone --http-listen 127.0.0.1:{}", free_port());
        let certificate = "step ca certificate";
        let script = recipe.replace(
            certificate,
            &format!("{} ca certificate {acme} {http} {more}", step.display()),
        );
        let mut command = Command::new("sh");
        command.env("STEPPATH", bed.scratch("step"));
        run(command.args(["-eu", "-c", &script]));
    };
    step("");
    let agent = bed.agent();
    let mut stream = subscribe(&agent);
    let files = ["tls.crt", "tls.key"].map(|file| bed.root.credential(NAME).join(file));
    assert_next(&mut stream, &files[0], &files[1]);
    step("--force");
    assert_next(&mut stream, &files[0], &files[1]);
    assert_eq!(mode(&files[1]), 0o640);
}

/// acme.sh is not packaged here: a script that writes the files in the same way is run instead.
#[test]
fn acme_sh_overwrites_the_files_in_place() {
    let bed = Bed::new();
    let recipe = localized(&recipes("acme.sh")[0], &bed, Path::new("/nonexistent"));
    let (chain, key) = (bed.scratch("chain"), bed.scratch("key"));
    let stand_in = format!(
        "#!/bin/sh\nset -eu\n\
         test \"$1 $2 $3 $4 $6\" = \"--install-cert -d {NAME} --key-file --fullchain-file\"\n\
         cat {} > \"$5\"\ncat {} > \"$7\"\n",
        key.display(),
        chain.display()
    );
    write_script(&bed.scratch("bin/acme.sh"), &stand_in);
    let path = format!("PATH={}:$PATH\n", bed.scratch("bin").display());
    let install = || {
        let Identity {
            chain: pem,
            key: private,
            ..
        } = bed.ca.server(&[NAME]);
        fs::write(&chain, pem).unwrap();
        fs::write(&key, private).unwrap();
    };
    install();
    run_script(&(path.clone() + &recipe));
    let agent = bed.agent();
    let mut stream = subscribe(&agent);
    assert_next(&mut stream, &chain, &key);
    install();
    let renewal = recipe.lines().filter(|line| !line.starts_with("install"));
    run_script(&(path + &renewal.collect::<Vec<_>>().join("\n")));
    assert_next(&mut stream, &chain, &key);
    assert_eq!(mode(&bed.root.credential(NAME).join("tls.key")), 0o640);
}

#[test]
fn files_can_be_installed_by_hand() {
    let bed = Bed::new();
    let agent = bed.agent();
    let mut stream = subscribe(&agent);
    assert_eq!(stream.removed(), [NAME]);
    for _ in 0..2 {
        let identity = bed.ca.server(&[NAME]);
        let (chain, key) = (bed.scratch("chain.pem"), bed.scratch("key.pem"));
        fs::write(&chain, &identity.chain).unwrap();
        fs::write(&key, &identity.key).unwrap();
        let recipe = localized(&recipes("By hand")[0], &bed, Path::new("/nonexistent"));
        run(Command::new("sh")
            .args(["-eu", "-c", &recipe])
            .current_dir(bed.scratch("")));
        assert_next(&mut stream, &chain, &key);
    }
}
