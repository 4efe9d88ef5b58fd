//! The command line: the mirror itself, and the commands that query a running mirror.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use comfy_table::{ContentArrangement, Table};
use sds_agent::text::{escape, escape_json};

use crate::options::Options;
use crate::status::{Release, Released, Report};

/// The default configuration file of the commands that query a running mirror.
const CONFIG: &str = "/etc/sds-mirror/sds-mirror.toml";
/// The admin socket if the configuration has none.
const SOCKET: &str = "/run/sds-mirror/admin.sock";
/// How long the mirror may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The maximum size of a response in bytes; one with 20,000 objects has some 10 MB.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// Mirrors Secrets of a Kubernetes cluster to credential folders
///
/// Each Secret of type kubernetes.io/tls, or Opaque with cert/key or cacert, becomes a folder below
/// --output, from which sds-agent serves it to Envoy. The folders stay while the cluster is down.
#[derive(Parser)]
#[command(
    name = "sds-mirror",
    version = sds_agent::BUILD,
    max_term_width = 100,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    /// A TOML file with these options as keys (name_template for --name-template)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) options: Options,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  With a kubeconfig, one namespace:
    sds-mirror --kubeconfig /etc/sds-mirror/kubeconfig --namespace gateways \\
        --output /var/lib/sds-mirror/credentials
  With a service account's token, Secrets with a label in several namespaces:
    sds-mirror --server https://10.0.0.1:6443 --ca-file ca.crt --token-file token \\
        --namespace shop,blog --name-template '{namespace}.{name}' --selector mirror=yes \\
        --output /var/lib/sds-mirror/credentials
  Exactly what a Gateway's listeners refer to:
    sds-mirror --kubeconfig /etc/sds-mirror/kubeconfig --gateway infra/public \\
        --output /var/lib/sds-mirror/credentials
  Show what would change, without changing it; then do one pass:
    sds-mirror --config /etc/sds-mirror/sds-mirror.toml --dry-run
    sds-mirror --config /etc/sds-mirror/sds-mirror.toml --once

Exit codes: 0, stopped, or --once completed; 1, --once or --dry-run with something refused, held back
or not written; 2, could not run.";

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show each object of a running mirror with its folder, version, age and problem
    Status(StatusArgs),
    /// Let a running mirror remove folders whose removal it holds back
    Release(ReleaseArgs),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// The socket of the running mirror.
#[derive(clap::Args)]
pub(crate) struct Socket {
    /// The configuration of the mirror, which names its admin socket
    /// [default: /etc/sds-mirror/sds-mirror.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The admin socket of the mirror [default: the configuration's, or /run/sds-mirror/admin.sock]
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

/// The options of `status`.
#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    /// Show only these folders or objects
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// The output format
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    #[command(flatten)]
    socket: Socket,
}

/// The options of `release`.
#[derive(clap::Args)]
pub(crate) struct ReleaseArgs {
    /// The folders to remove; `sds-mirror status` shows which ones are held or kept
    #[arg(
        value_name = "NAME",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    folders: Vec<String>,

    /// Remove all folders that are held or kept
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Runs a command. Exit codes: 0 success, 1 a problem was found, 2 could not run.
pub(crate) fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Status(args) => status(args),
        Command::Release(args) => release(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sds-mirror", &mut script);
            print(&script).map(|()| true)
        }
        Command::Man => man().and_then(|page| print(&page)).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sds-mirror: {}", escape(&error));
            ExitCode::from(2)
        }
    }
}

fn status(args: StatusArgs) -> Result<bool, String> {
    let answer = ask(&args.socket, "GET", "/status", b"")?;
    let mut report: Report = parse(&answer)?;
    if !args.names.is_empty() {
        let is_named = |name: &str| args.names.iter().any(|one| one == name);
        report.objects.retain(|object| {
            is_named(&object.name)
                || is_named(&format!("{}/{}", object.namespace, object.name))
                || object.folder.as_deref().is_some_and(is_named)
        });
        let known: Vec<&String> = args.names.iter().collect();
        if report.objects.is_empty() {
            return Err(format!(
                "there is no object or folder {known:?}; see sds-mirror status"
            ));
        }
    }
    let is_good = report.health == "ready";
    match args.format {
        Format::Table => print(table(&report).as_bytes())?,
        Format::Json => {
            let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
            print(format!("{}\n", escape_json(&text)).as_bytes())?;
        }
    }
    Ok(is_good)
}

fn table(report: &Report) -> String {
    let mut text = format!("{}: {}\n", escape(&report.cluster), report.health);
    for scope in &report.scopes {
        text.push_str(&format!(
            "{} in namespace {}: {}\n",
            scope.resource,
            escape(&scope.namespace),
            escape(&scope.state)
        ));
    }
    let mut table = Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_content_arrangement(match io::stdout().is_terminal() {
            true => ContentArrangement::Dynamic,
            false => ContentArrangement::Disabled,
        })
        .set_header(["FOLDER", "STATE", "OBJECT", "VERSION", "AGE", "PROBLEM"]);
    for object in &report.objects {
        let cells = [
            object.folder.as_deref().unwrap_or("-"),
            &object.state,
            &format!("{} {}/{}", object.kind, object.namespace, object.name),
            object.resource_version.as_deref().unwrap_or("-"),
            &object.written.map_or_else(|| "-".to_owned(), age),
            object.problem.as_deref().unwrap_or_default(),
        ];
        table.add_row(cells.map(|cell| escape(cell).to_string()));
    }
    if !report.objects.is_empty() {
        text.push_str(&table.trim_fmt());
        text.push('\n');
    }
    for problem in &report.problems {
        text.push_str(&format!(
            "{}: {}\n",
            escape(&problem.subject),
            escape(&problem.text)
        ));
    }
    text
}

fn age(written: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs()).saturating_sub(written);
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

fn release(args: ReleaseArgs) -> Result<bool, String> {
    let release = Release {
        all: args.all,
        folders: args.folders.into_iter().collect(),
    };
    let body = serde_json::to_vec(&release).map_err(|error| error.to_string())?;
    let released: Released = parse(&ask(&args.socket, "POST", "/release", &body)?)?;
    let mut text = String::new();
    for folder in &released.released {
        text.push_str(&format!(
            "{}: released; it is being removed\n",
            escape(folder)
        ));
    }
    for folder in &released.unknown {
        eprintln!(
            "sds-mirror: {}: its removal is not held back; see sds-mirror status",
            escape(folder)
        );
    }
    if released.released.is_empty() && released.unknown.is_empty() {
        text.push_str("no folder is held back\n");
    }
    print(text.as_bytes())?;
    Ok(released.unknown.is_empty())
}

/// Sends a request to the running mirror. A status other than 200 is an error.
fn ask(socket: &Socket, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, String> {
    let socket = socket.path()?;
    let failed = |error: io::Error| {
        format!(
            "can't query the mirror at {}: {error}; is it running, and is this its admin socket? Give \
             another one with --config or --admin-socket",
            socket.display()
        )
    };
    let answer = exchange(&socket, method, path, body).map_err(failed)?;
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = answer.split_at(split.map_or(answer.len(), |at| at + 4));
    let status = String::from_utf8_lossy(head);
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_vec()),
        Some("405") => Err("only root and the mirror's user may do this; run it with sudo".into()),
        _ => Err(format!(
            "{} is not the admin socket of a mirror; give that with --admin-socket",
            socket.display()
        )),
    }
}

fn exchange(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // In one write, because a mirror that refuses the request does not read the body.
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    match stream.take(MAX_ANSWER).read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset || answer.is_empty() => {
            Err(error)
        }
        _ => Ok(answer),
    }
}

impl Socket {
    fn path(&self) -> Result<PathBuf, String> {
        if let Some(path) = &self.admin_socket {
            return Ok(path.clone());
        }
        let configured = match &self.config {
            Some(path) => Options::read(path)?.admin_socket,
            None if Path::new(CONFIG).exists() => Options::read(Path::new(CONFIG))?.admin_socket,
            None => None,
        };
        Ok(configured.unwrap_or_else(|| SOCKET.into()))
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(answer: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(answer).map_err(|error| {
        format!("the running mirror has another version of sds-mirror; restart it: {error}")
    })
}

/// The manual page of the program and its commands. It is assembled here, because clap_mangen would reflow the
/// lines of the examples.
fn man() -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("can't make the manual page: {error}");
    let command = Cli::command().disable_help_subcommand(true);
    let mut page = Vec::new();
    let man = Man::new(command.clone())
        .source(format!("sds-mirror {}", sds_agent::VERSION))
        .manual("sds-agent");
    man.render_title(&mut page).map_err(failed)?;
    man.render_name_section(&mut page).map_err(failed)?;
    man.render_synopsis_section(&mut page).map_err(failed)?;
    man.render_description_section(&mut page).map_err(failed)?;
    man.render_options_section(&mut page).map_err(failed)?;
    let mut rest = clap_mangen::roff::Roff::new();
    rest.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands() {
        let usage = command.clone().render_usage().to_string();
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        rest.control("TP", []);
        rest.text([clap_mangen::roff::bold(usage.replace("Usage: ", ""))]);
        rest.text([clap_mangen::roff::roman(about)]);
    }
    rest.control("SH", ["NOTES"]).control("nf", []);
    rest.text([clap_mangen::roff::roman(EXAMPLES)])
        .control("fi", []);
    rest.to_writer(&mut page).map_err(failed)?;
    Ok(page)
}

/// Writes to standard output. A closed pipe is not an error.
pub(crate) fn print(bytes: &[u8]) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("can't write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}
