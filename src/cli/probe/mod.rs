//! `sds-agent probe`: whether TLS listeners present what the agent serves.

mod handshake;
mod identity;
mod report;
mod target;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use rustls::crypto::aws_lc_rs;
use sds_agent::admin::live::{Known, Served};
use sds_agent::credential::Fingerprint;
use sds_agent::harden;
use sds_agent::name::{Coverage, Host};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::handshake::{KeyKind, Prober};
use self::target::Target;
use self::verdict::{Outcome, Question};
use super::{client, output};

const EXAMPLES: &str = "\
Examples:
  Whether the renewed certificate of a host is live
      sds-agent probe www.example.com:443
  The same, at one of several Envoys
      sds-agent probe 192.0.2.1:443 --name www.example.com
  Every host of every credential
      sds-agent probe localhost:443 --all
  A listener that requests client certificates
      sds-agent probe localhost:443 --name www.example.com --cert client.pem --key client.key

Each handshake is compared with what the agent serves at that moment: the certificate chain and
the OCSP staple, byte by byte. A certificate that was replaced is recognized if the agent has
served it since its start.

Exit codes: 0 everything is live; 1 something is not; 2 the agent could not be reached, or the \
command line is wrong.";

/// How many handshakes are made at a time.
const AT_ONCE: usize = 16;

/// How many outcomes are reported to the agent in one request.
const REPORTED: usize = 500;

/// The label that replaces the `*` of a wildcard.
const BELOW: &str = "sds-agent-probe";

/// The options of `probe`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The TLS listeners, as HOST:PORT; [2001:db8::1]:443 with an IPv6 address
    #[arg(required = true, value_name = "HOST:PORT")]
    targets: Vec<Target>,

    /// The host to send as SNI; for `*.example.com`, a name below it is sent; can be repeated [default: HOST,
    /// unless that is an IP address]
    #[arg(long = "name", value_name = "HOST", value_parser = parse_name, conflicts_with = "all")]
    names: Vec<Host>,

    /// Probe every host that a certificate covers
    #[arg(long)]
    all: bool,

    /// The client certificate chain to present if the listener requests one, PEM
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Its private key, PEM [default: the one in the file of --cert]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// The time limit of a connection, and also of its handshake
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,

    #[command(flatten)]
    admin_socket: client::AdminSocket,

    /// The form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "text")]
    output: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// For programs, described in docs/probe.md
    Json,
}

/// Parses a host. For a wildcard, a name below it is sent.
fn parse_name(name: &str) -> Result<Host, String> {
    let host = Coverage::parse(name).and_then(|coverage| match coverage {
        Coverage::Exact(host) => Some(host),
        Coverage::Wildcard(parent) => Host::parse(&format!("{BELOW}.{parent}")),
    });
    let host = host.filter(|host| !host.is_address());
    host.ok_or_else(|| "write a host name, such as www.example.com or *.example.com".to_owned())
}

pub(crate) fn run(args: Args) -> ExitCode {
    harden::no_dumps();
    match client::block_on(probe(&args)) {
        Ok(Ok((outcomes, skipped))) => {
            let text = match args.output {
                Form::Text => report::text(&outcomes, &skipped, output::width()),
                Form::Json => report::json(&outcomes, &skipped),
            };
            let printed = output::print(text.as_bytes());
            match printed == ExitCode::SUCCESS && !outcomes.iter().all(Outcome::is_live) {
                true => ExitCode::FAILURE,
                false => printed,
            }
        }
        Ok(Err(error)) => output::fail(error),
        Err(error) => output::fail(error),
    }
}

/// The outcomes of all handshakes, and the IP addresses that were skipped because no target has them.
async fn probe(args: &Args) -> Result<(Vec<Outcome>, Vec<String>), String> {
    let admin_socket = args.admin_socket.path()?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let identity = args.cert.as_deref();
    let identity = identity.map(|cert| identity::read(cert, args.key.as_deref(), &provider));
    let session = Arc::new(Session {
        prober: Prober {
            provider: provider.clone(),
            identity: identity.transpose()?,
            limit: Duration::from_secs(args.timeout),
        },
        admin_socket,
    });
    let (questions, skipped) = questions(args, &session).await?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (at, (target, name)) in questions.into_iter().enumerate() {
        let (session, room) = (session.clone(), room.clone());
        tasks.spawn(async move {
            let _place = room.acquire().await;
            (at, session.ask(&target, name.as_ref()).await)
        });
    }
    let mut outcomes = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (at, done) = done.map_err(|error| format!("a handshake failed: {error}"))?;
        outcomes.extend(done?.into_iter().map(|outcome| (at, outcome)));
    }
    outcomes.sort_by_key(|(at, _)| *at);
    let outcomes: Vec<_> = outcomes.into_iter().map(|(_, one)| one).collect();
    session.report(&outcomes).await;
    Ok((outcomes, skipped))
}

/// A listener, and the host to send as SNI.
type Asked = (Target, Option<Host>);

async fn questions(args: &Args, session: &Session) -> Result<(Vec<Asked>, Vec<String>), String> {
    let mut asked = Vec::new();
    let mut skipped = Vec::new();
    if args.all {
        let covered: Vec<String> = session.ask_agent("/hosts").await?;
        if covered.is_empty() {
            return Err(
                "the agent serves no certificate; `sds-agent status` shows what it has".to_owned(),
            );
        }
        for name in covered {
            let targets = args.targets.iter();
            match parse_name(&name) {
                Ok(host) => asked.extend(targets.map(|one| (one.clone(), Some(host.clone())))),
                Err(_) => {
                    let is_it =
                        |one: &&Target| one.host().is_some_and(|host| host.as_str() == name);
                    let before = asked.len();
                    asked.extend(targets.filter(is_it).map(|one| (one.clone(), None)));
                    if asked.len() == before {
                        skipped.push(name);
                    }
                }
            }
        }
        return Ok((asked, skipped));
    }
    for target in &args.targets {
        if args.names.is_empty() {
            let host = target.host().filter(|host| !host.is_address());
            asked.push((target.clone(), host));
        }
        let names = args.names.iter();
        asked.extend(names.map(|name| (target.clone(), Some(name.clone()))));
    }
    Ok((asked, skipped))
}

/// Connects to the listeners and to the agent.
struct Session {
    prober: Prober,
    admin_socket: PathBuf,
}

impl Session {
    /// Makes a handshake, and one more for each further kind of key that the agent has a certificate for.
    async fn ask(&self, target: &Target, name: Option<&Host>) -> Result<Vec<Outcome>, String> {
        let question = Question {
            target,
            name,
            kind: None,
        };
        let (first, served) = self.outcome(question).await?;
        let presented = first.presented.as_ref();
        let leaf = presented.and_then(|shown| shown.chain.first());
        let kind = |one: &Served| KeyKind::of(&one.key_type);
        let its_kind = served
            .iter()
            .find(|one| one.chain.first() == leaf)
            .and_then(kind);
        let mut seen = vec![its_kind];
        let mut outcomes = vec![first];
        // If all have the same kind of key, the listener has no choice to make.
        let is_choice = served.iter().any(|one| kind(one) != kind(&served[0]));
        for kind in served.iter().map(kind) {
            if !is_choice || seen.contains(&kind) {
                continue;
            }
            seen.push(kind);
            let (outcome, _) = self.outcome(Question { kind, ..question }).await?;
            // A listener without a certificate of that kind is not reported.
            outcomes.extend(Some(outcome).filter(|one| one.presented.is_some()));
        }
        Ok(outcomes)
    }

    /// The outcome of a handshake, and what is served for the name.
    async fn outcome(&self, question: Question<'_>) -> Result<(Outcome, Vec<Served>), String> {
        let Question { target, name, kind } = question;
        let presented = self.prober.handshake(target, name, kind).await;
        // Without a name, the host of the target counts.
        let host = name.cloned().or_else(|| target.host());
        let mut served: Vec<Served> = match &host {
            Some(host) => self.ask_agent(&format!("/served/{host}")).await?,
            None => Vec::new(),
        };
        served.retain(|one| kind.is_none() || KeyKind::of(&one.key_type) == kind);
        let outcome = match presented {
            Ok(presented) => {
                let leaf = presented.chain.first().map(|leaf| Fingerprint::of(leaf));
                let known = match leaf {
                    Some(leaf) => self.ask_agent(&format!("/certificate/{leaf}")).await?,
                    None => Known::default(),
                };
                Outcome::judge(question, &presented, &served, &known)
            }
            Err(failure) => Outcome::failed(question, failure, served.first().cloned()),
        };
        Ok((outcome, served))
    }

    /// Reports the outcomes to the agent, for `status` and the page. Errors are ignored, because an agent of an
    /// earlier version does not accept reports, and the results of the probe don't depend on it.
    async fn report(&self, outcomes: &[Outcome]) {
        let seen: Vec<_> = outcomes.iter().filter_map(Outcome::seen).collect();
        for some in seen.chunks(REPORTED) {
            let json = serde_json::to_vec(some).unwrap_or_default();
            let _ = client::send(&self.admin_socket, "/probes", json).await;
        }
    }

    async fn ask_agent<T: DeserializeOwned>(&self, page: &str) -> Result<T, String> {
        let answer = client::ask(&self.admin_socket, page).await?;
        serde_json::from_slice(&answer).map_err(|error| not_understood(&self.admin_socket, &error))
    }
}

fn not_understood(socket: &Path, error: &serde_json::Error) -> String {
    format!(
        "the answer on {} is not understood: {error}; is the agent of the same version as this program?",
        socket.display()
    )
}
