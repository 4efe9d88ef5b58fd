//! `sds-agent get`: shows what Envoy would receive.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use sds_agent::credential::key::KeyType;
use sds_agent::harden;
use sds_agent::proto::SECRET_TYPE_URL;
use sds_agent::proto::core::data_source::Specifier;
use sds_agent::proto::core::{DataSource, Node};
use sds_agent::proto::discovery::{DiscoveryRequest, DiscoveryResponse};
use sds_agent::proto::secret::secret_discovery_service_client::SecretDiscoveryServiceClient;
use sds_agent::proto::tls::{Secret, secret::Type};
use sds_agent::sds::service::CREDENTIAL_HEADER;
use sds_agent::secret::Kind;
use serde::Serialize;
use tonic::transport::Endpoint;
use tonic::{Code, Response, Status};
use tower::service_fn;
use zeroize::Zeroizing;

use super::completions::secrets;
use super::{client, output};

const EXAMPLES: &str = "\
Examples:
  What Envoy would get, without the private key
      sds-agent get site.example.com
  The CAs that its clients are verified against
      sds-agent get site.example.com-cacert
  When the served certificate expires
      sds-agent get site.example.com |
          openssl x509 -noout -enddate
  Whether an Envoy with this node id is allowed to read it
      sds-agent get site.example.com --node edge-1

Exit codes: 0 the secret was printed; 1 the agent has no such secret, or this user and node id are not \
allowed to read it; 2 the agent could not be reached, or the command line is wrong.";

/// The options of `get`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The name of the secret
    #[arg(add = secrets())]
    name: String,

    #[command(flatten)]
    socket: client::SdsSocket,

    /// The form of the secret
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "pem")]
    output: Form,

    /// Show the private key, the session ticket keys or the generic secret too
    #[arg(long)]
    reveal_key: bool,

    /// The node id to send, which access rules can match
    #[arg(long, value_name = "ID", default_value = "sds-agent-get")]
    node: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// PEM, as it is served
    Pem,
    /// One JSON object
    Json,
}

/// A secret, as its JSON shows it.
#[derive(Serialize)]
struct Shown {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    kind: &'static str,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_chain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ocsp_staple: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    session_ticket_keys: Vec<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Zeroizing<String>>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    harden::no_dumps();
    let socket = match args.socket.path() {
        Ok(socket) => socket,
        Err(error) => return output::fail(error),
    };
    let fetched = client::block_on(fetch(&socket, &args.name, args.node));
    match fetched {
        Err(error) => output::fail(error),
        Ok(Err(Failure::Absent)) => output::bad(format_args!(
            "the agent has no secret `{}` for this user; `sds-agent status` shows what it has",
            output::shown(&args.name)
        )),
        Ok(Err(Failure::Other(error))) => output::fail(error),
        Ok(Ok(fetched)) => match shown(fetched, args.reveal_key) {
            Ok(shown) => print(&shown, args.output),
            Err(error) => output::fail(error),
        },
    }
}

/// A secret as it was received.
struct Fetched {
    secret: Secret,
    version: String,
    /// The credential that it comes from.
    credential: Option<String>,
}

enum Failure {
    Absent,
    Other(String),
}

async fn fetch(socket: &Path, name: &str, node: String) -> Result<Fetched, Failure> {
    let asked = ask(socket, name, node);
    let response = tokio::time::timeout(client::PATIENCE, asked).await;
    let response = response.unwrap_or_else(|_| {
        let seconds = client::PATIENCE.as_secs();
        Err(Failure::Other(format!(
            "no answer on {} within {seconds} s: is the agent still reading its roots, or stopped?",
            socket.display()
        )))
    })?;
    let credential = response.metadata().get_bin(CREDENTIAL_HEADER);
    let credential = credential.and_then(|name| name.to_bytes().ok());
    let credential = credential.and_then(|name| String::from_utf8(name.to_vec()).ok());
    let response = response.into_inner();
    let secrets = response.resources.iter();
    let mut secrets = secrets.filter_map(|any| Secret::decode(&*any.value).ok());
    Ok(Fetched {
        secret: secrets.next().ok_or(Failure::Absent)?,
        version: response.version_info,
        credential,
    })
}

async fn ask(
    socket: &Path,
    name: &str,
    node: String,
) -> Result<Response<DiscoveryResponse>, Failure> {
    let stream = client::connect(socket, "--socket").await;
    let mut stream = Some(stream.map_err(Failure::Other)?);
    let connector = service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| std::io::Error::other("the connection broke")))
    });
    // The address is only used for the :authority header.
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| Failure::Other(no_sds(socket, &cause(&error))))?;
    let request = DiscoveryRequest {
        node: Some(Node {
            id: node,
            cluster: "sds-agent".into(),
        }),
        resource_names: vec![name.to_owned()],
        type_url: SECRET_TYPE_URL.into(),
        ..DiscoveryRequest::default()
    };
    let mut client =
        SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    match client.fetch_secrets(request).await {
        Ok(response) => Ok(response),
        Err(status) if status.code() == Code::NotFound => Err(Failure::Absent),
        Err(status) => Err(Failure::Other(no_sds(socket, &message(&status)))),
    }
}

fn message(status: &Status) -> String {
    output::shown(status.message())
}

/// The innermost cause; the outer errors are only "transport error".
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

fn no_sds(socket: &Path, error: &impl std::fmt::Display) -> String {
    format!(
        "{} does not answer like the socket for Envoy: {error}; give that socket with --socket, \
         and check whether this user may connect",
        socket.display()
    )
}

fn shown(fetched: Fetched, reveal: bool) -> Result<Shown, String> {
    let Fetched {
        secret,
        version,
        credential,
    } = fetched;
    let mut shown = Shown {
        name: secret.name,
        credential,
        kind: "certificate",
        version,
        certificate_chain: None,
        private_key: None,
        ocsp_staple: None,
        trusted_ca: None,
        crl: None,
        session_ticket_keys: Vec::new(),
        secret: None,
    };
    match secret.r#type {
        Some(Type::TlsCertificate(pair)) => {
            shown.certificate_chain = text(pair.certificate_chain);
            shown.private_key = bytes(pair.private_key).map(|key| private_key(&key, reveal));
            shown.ocsp_staple = bytes(pair.ocsp_staple)
                .filter(|staple| !staple.is_empty())
                .map(|staple| format!("<OCSP response, {} bytes>", staple.len()));
        }
        Some(Type::ValidationContext(trust)) => {
            shown.kind = "trust_bundle";
            shown.trusted_ca = text(trust.trusted_ca);
            shown.crl = text(trust.crl);
        }
        Some(Type::SessionTicketKeys(keys)) => {
            shown.kind = Kind::TicketKeys.as_str();
            let keys = keys.keys.into_iter().filter_map(|key| bytes(Some(key)));
            shown.session_ticket_keys = keys.map(|key| ticket_key(&key, reveal)).collect();
        }
        Some(Type::GenericSecret(generic)) => {
            shown.kind = Kind::Generic.as_str();
            shown.secret = bytes(generic.secret).map(|secret| generic_secret(&secret, reveal));
        }
        _ => return Err("the secret is of a kind that this program can't show".to_owned()),
    }
    Ok(shown)
}

/// A private key as it is shown: in full, or only its type and length.
fn private_key(pem: &[u8], reveal: bool) -> Zeroizing<String> {
    if reveal {
        return Zeroizing::new(String::from_utf8_lossy(pem).into_owned());
    }
    let kind = PrivateKeyDer::from_pem_slice(pem).ok();
    let kind = kind.as_ref().and_then(KeyType::of_private);
    let kind = kind.map_or_else(String::new, |kind| format!("{kind}, "));
    Zeroizing::new(format!("<private key, {kind}{} bytes>", pem.len()))
}

/// A session ticket key as it is shown: in full as base64, or only its length.
fn ticket_key(key: &[u8], reveal: bool) -> Zeroizing<String> {
    Zeroizing::new(match reveal {
        true => STANDARD.encode(key),
        false => format!("<session ticket key, {} bytes>", key.len()),
    })
}

/// A generic secret as it is shown: in full (as base64 if it is not text), or only its length.
fn generic_secret(secret: &[u8], reveal: bool) -> Zeroizing<String> {
    Zeroizing::new(match (reveal, std::str::from_utf8(secret)) {
        (false, _) => format!("<generic secret, {} bytes>", secret.len()),
        (true, Ok(text)) => text.to_owned(),
        (true, Err(_)) => STANDARD.encode(secret),
    })
}

fn text(source: Option<DataSource>) -> Option<String> {
    let bytes = bytes(source)?;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

fn bytes(source: Option<DataSource>) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = match source?.specifier? {
        Specifier::InlineBytes(bytes) => bytes,
        Specifier::InlineString(text) => text.into_bytes(),
        Specifier::Filename(_) => return None,
    };
    Some(Zeroizing::new(bytes))
}

fn print(shown: &Shown, form: Form) -> ExitCode {
    let mut out = Zeroizing::new(String::new());
    match form {
        Form::Json => {
            // Serialization can't fail.
            *out = serde_json::to_string_pretty(shown).unwrap_or_default();
            out.push('\n');
        }
        Form::Pem => {
            // PEM allows any text outside of its blocks.
            let mut name = output::shown(&shown.name);
            let other = shown.credential.as_ref();
            if let Some(credential) = other.filter(|one| **one != shown.name) {
                let credential = output::shown(credential);
                name.push_str(&format!(", of the credential {credential}"));
            }
            let kind = shown.kind.replace('_', " ");
            let _ = writeln!(out, "# {name}: {kind}, version {}", shown.version);
            let parts = [
                shown.certificate_chain.as_deref(),
                shown.private_key.as_ref().map(|key| key.as_str()),
                shown.ocsp_staple.as_deref(),
                shown.trusted_ca.as_deref(),
                shown.crl.as_deref(),
            ];
            let keys = shown.session_ticket_keys.iter().chain(&shown.secret);
            let keys = keys.map(|key| key.as_str());
            for part in parts.into_iter().flatten().chain(keys) {
                add(&mut out, part);
            }
        }
    }
    output::print(out.as_bytes())
}

/// Adds lines. On a terminal, control characters are escaped.
fn add(out: &mut String, part: &str) {
    if !std::io::stdout().is_terminal() {
        out.push_str(part);
        if !part.ends_with('\n') {
            out.push('\n');
        }
        return;
    }
    for line in part.lines() {
        out.push_str(&output::shown(line));
        out.push('\n');
    }
}
