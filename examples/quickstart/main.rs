//! A tour: an Envoy that gets its certificates from folders, through the agent.
//!
//!     cargo run --example quickstart
//!
//! It needs a Rust toolchain and Python 3 with pip. It only writes to a temporary folder and below target/. It
//! runs until Ctrl-C; with `--once` it ends after the tour.

#![allow(clippy::print_stdout, reason = "it is a tour: it prints what it does")]
#![allow(
    clippy::unwrap_used,
    reason = "in the code that it shares with the tests"
)]

mod needs;
mod programs;
mod stage;
mod util;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use rcgen::DnType;

use programs::Programs;
use stage::{Failure, Stage};
use util::https::Https;
use util::pki::{Ca, Identity};

const ONE: &str = "one.example.com";
const TWO: &str = "two.example.com";
const THREE: &str = "three.example.com";
const FOUR: &str = "four.example.com";

/// The time limit of each step. A step takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let once = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--once") => true,
        Some(_) => {
            eprintln!("usage: cargo run --example quickstart [-- --once]");
            return ExitCode::from(2);
        }
    };
    let stage = match Stage::new() {
        Ok(stage) => stage,
        Err(failure) => return failure.report(None),
    };
    let result = tour(&stage).and_then(|tour| {
        if once {
            println!("\nThat was the tour.");
        } else {
            tour.tell_what_to_try()?;
            stage.wait_for_ctrl_c();
        }
        Ok(())
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(Some(&stage)),
    }
}

struct Tour<'a> {
    stage: &'a Stage,
    agent: PathBuf,
    ca: Ca,
    port: u16,
}

fn tour(stage: &Stage) -> Result<Tour<'_>, Failure> {
    step("Checking what is needed");
    needs::check(&programs::target_dir(stage))?;

    step(
        "Getting Envoy, a download of 37 MB, and compiling the agent: minutes the first time, then seconds",
    );
    let programs = Programs::get(stage)?;
    println!("   Envoy      {}", programs.envoy.display());
    println!("   sds-agent  {}", programs.agent.display());

    step("Making a CA, and a folder of PEM files for each of two hosts");
    let tour = Tour {
        stage,
        agent: programs.agent,
        ca: Ca::new("Quickstart CA"),
        port: stage::free_port(8443)?,
    };
    stage.write("ca.pem", tour.ca.pem())?;
    tour.write_credential(ONE, "first")?;
    tour.write_credential(TWO, "first")?;

    step("Starting the agent and Envoy");
    let config = tour.start(&programs.envoy)?;
    println!("   Envoy's configuration: {}", config.display());

    step("Making requests");
    tour.wait_for(ONE, "first")?;
    tour.wait_for(TWO, "first")?;

    step("Replacing one host's certificate and key");
    tour.write_credential(ONE, "rotated")?;
    tour.wait_for(ONE, "rotated")?;

    step("Adding a host, without a change of Envoy's configuration");
    tour.write_credential(THREE, "first")?;
    tour.wait_for(THREE, "first")?;
    Ok(tour)
}

impl Tour<'_> {
    /// Writes a host's credential into the agent's root.
    fn write_credential(&self, host: &str, label: &str) -> Result<(), Failure> {
        let folder = self.make_credential("credentials", host, label)?;
        println!("   {}/tls.crt, tls.key", folder.display());
        Ok(())
    }

    /// Writes a certificate for `host` and its key into a folder, and returns its path. `label` is the certificate's
    /// organisation, which shows which one is served.
    fn make_credential(&self, root: &str, host: &str, label: &str) -> Result<PathBuf, Failure> {
        let identity = self.ca.server_with(&[host], |params| {
            params
                .distinguished_name
                .push(DnType::OrganizationName, label);
        });
        let folder = self.stage.path(root).join(host);
        write_identity(&folder, &identity).map_err(|error| {
            let what = format!("can't write {}", folder.display());
            Failure::new(what, error, "make room there, or set TMPDIR")
        })?;
        Ok(folder)
    }

    /// Starts the agent, and Envoy with a configuration from `sds-agent envoy-config`. Returns its path.
    fn start(&self, envoy: &Path) -> Result<PathBuf, Failure> {
        let socket = self.stage.path("sds.sock");
        let mut agent = Command::new(&self.agent);
        agent.arg("serve").arg("--socket").arg(&socket);
        agent
            .arg("--credentials")
            .arg(self.stage.path("credentials"));
        self.stage.start("sds-agent", &mut agent)?;

        let mut generator = Command::new(&self.agent);
        generator.args(["envoy-config", ONE, TWO, "--on-demand", "--full"]);
        generator.arg("--socket").arg(&socket);
        generator.arg(format!("--listen=127.0.0.1:{}", self.port));
        generator.arg(format!("--admin=127.0.0.1:{}", stage::free_port(9901)?));
        let config = programs::output(&mut generator)?;
        let path = self.stage.write("envoy.yaml", &config)?;

        let mut envoy = Command::new(envoy);
        envoy.arg("-c").arg(&path);
        envoy.args(["--disable-hot-restart", "--log-level", "warning"]);
        self.stage.start("envoy", &mut envoy)?;
        Ok(path)
    }

    /// Makes requests until `host` is served with a valid certificate that has this label.
    fn wait_for(&self, host: &str, label: &str) -> Result<(), Failure> {
        let https = Https::new(self.port, host).ca(self.ca.pem());
        let describe = || match https.get() {
            Ok(served) => (served.status, organisation(&served.chain[0])),
            Err(error) => (0, format!("no answer: {error}")),
        };
        let (status, label) = self.stage.wait_until(
            &format!(
                "https://{host}:{}/ to show the {label} certificate",
                self.port
            ),
            PATIENCE,
            || Some(describe()).filter(|(status, found)| *status == 200 && found == label),
            || describe().1,
        )?;
        println!(
            "   https://{host}:{}/  → {status}, the {label} certificate",
            self.port
        );
        Ok(())
    }

    fn tell_what_to_try(&self) -> Result<(), Failure> {
        self.make_credential("spare", ONE, "replaced by hand")?;
        self.make_credential("spare", FOUR, "added by hand")?;
        let [credentials, spare] = ["credentials", "spare"].map(|name| self.stage.path(name));
        println!("\nEnvoy and the agent keep running. Try these commands in another terminal:");
        println!("\n  # Make a request, and show the certificate's subject");
        println!("  {}", self.curl(ONE));
        // When pasted together, a request could be faster than the agent.
        println!("\n  # Rotate the certificate: the next handshakes use the new one");
        println!(
            "  cp {0}/{ONE}/* {1}/{ONE}/ && sleep 1",
            spare.display(),
            credentials.display()
        );
        println!("  {}", self.curl(ONE));
        println!("\n  # Add a host");
        println!(
            "  cp -r {0}/{FOUR} {1}/ && sleep 1",
            spare.display(),
            credentials.display()
        );
        println!("  {}", self.curl(FOUR));
        println!("\n  # Show what is served, its subscribers and its expiry");
        println!(
            "  {} status --admin-socket {}",
            self.agent.display(),
            self.stage.path("admin.sock").display()
        );
        println!("\n  # Follow the logs of the agent and Envoy");
        println!("  tail -f {}", self.stage.path("sds-agent.log").display());
        println!("  tail -f {}", self.stage.path("envoy.log").display());
        println!(
            "\nCtrl-C stops everything, and removes {}.",
            self.stage.path("").display()
        );
        Ok(())
    }

    fn curl(&self, host: &str) -> String {
        format!(
            "curl -sv --cacert {ca} --resolve {host}:{port}:127.0.0.1 https://{host}:{port}/ 2>&1 | grep -E 'subject:|^<'",
            ca = self.stage.path("ca.pem").display(),
            port = self.port,
        )
    }
}

fn step(what: &str) {
    println!("\n── {what}");
}

fn write_identity(folder: &Path, identity: &Identity) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    fs::create_dir_all(folder)?;
    let files = [
        ("tls.key", &identity.key, 0o600),
        ("tls.crt", &identity.chain, 0o644),
    ];
    for (name, content, mode) in files {
        let temporary = folder.join(format!(".{name}"));
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        std::io::Write::write_all(&mut file, content.as_bytes())?;
        fs::rename(temporary, folder.join(name))?;
    }
    Ok(())
}

/// The organisation in the subject of a certificate.
fn organisation(der: &[u8]) -> String {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else {
        return "a certificate that can't be read".into();
    };
    let mut organisations = certificate.subject().iter_organization();
    let first = organisations.next().and_then(|name| name.as_str().ok());
    first.unwrap_or("another").to_owned()
}
