//! `sds-agent envoy-config`: the Envoy configuration that goes with the agent.

use std::net::SocketAddr;
use std::process::ExitCode;

use sds_agent::envoy_config::{Endpoint, Name, Names, Request, Role};

use super::client::SdsSocket;
use super::completions::secrets;
use super::output;

const EXAMPLES: &str = "\
Examples:
  Serve one credential, for an Envoy that has its own listeners
      sds-agent envoy-config site.example.com
  Try two hosts at once, with client certificates
      sds-agent envoy-config a.example.com b.example.com --mutual --full > envoy.yaml
      envoy -c envoy.yaml
  Serve one host with an RSA and an ECDSA certificate, chosen by the capabilities of the client
      sds-agent envoy-config site site-ecdsa
  Serve every credential that the agent has, or gets later, without naming it
      sds-agent envoy-config fallback.example.com --on-demand
  Present a client certificate to an upstream
      sds-agent envoy-config backend.example.com --upstream
  Send a token, the generic secret backend-token, to an upstream that requests no client certificate
      sds-agent envoy-config backend.example.com --upstream --anonymous --inject backend-token

The agent must serve NAME, and NAME-cacert with --mutual and --upstream: a folder NAME with the
files tls.crt, tls.key and ca.crt gives both.";

/// The options of `envoy-config`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The names of the credentials. With several, the client's server name (SNI) selects one; NAME-ecdsa and
    /// NAME-rsa are additional certificates of NAME
    #[arg(value_name = "NAME", required = true, add = secrets())]
    names: Vec<Name>,

    /// Refuse clients without a certificate that is signed by a CA in NAME-cacert; with --on-demand, the bundle of
    /// the first NAME applies to all hosts
    #[arg(long)]
    mutual: bool,

    /// Serve every host that a client requests, and fetch its certificate at that time; each NAME is fetched in
    /// advance, and the first one is for clients without SNI
    #[arg(long)]
    on_demand: bool,

    /// Connect to upstreams instead: a cluster for each NAME that presents its certificate as the client. The
    /// upstream's certificate must have NAME and be signed by a CA in NAME-cacert
    #[arg(long, conflicts_with_all = ["on_demand", "mutual"])]
    upstream: bool,

    /// Present no client certificate to upstreams; only NAME-cacert is needed then
    #[arg(long, requires = "upstream")]
    anonymous: bool,

    /// Add the generic secret SECRET to each request to an upstream, as the value of the header
    /// Authorization
    #[arg(long, value_name = "SECRET", requires = "upstream")]
    inject: Option<Name>,

    /// Write a complete configuration that runs as it is and answers each request itself
    #[arg(long)]
    full: bool,

    #[command(flatten)]
    socket: SdsSocket,

    /// The address that Envoy listens on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:18443")]
    listen: SocketAddr,

    /// The address of Envoy's admin interface, with --full
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:19901",
        requires = "full"
    )]
    admin: SocketAddr,

    /// The address of the upstream, with --upstream: a host name or an IP address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8443",
        requires = "upstream"
    )]
    upstream_address: Endpoint,

    /// Envoy's node id, which the agent logs and which access rules can match
    #[arg(long, value_name = "ID", default_value = "envoy")]
    node: String,
}

pub(crate) fn run(args: Args) -> ExitCode {
    match request(args) {
        Ok(request) => output::print(request.to_yaml().as_bytes()),
        Err(error) => output::fail(error),
    }
}

fn request(args: Args) -> Result<Request, String> {
    // An Envoy that is started in another folder must find it, too.
    let socket = args.socket.path()?;
    if let Some(doubt) = args.socket.doubt() {
        output::say(format_args!(
            "warning: {doubt}; or name the agent's socket with --socket, if it is not {}",
            socket.display()
        ));
    }
    let socket = std::path::absolute(&socket)
        .map_err(|error| format!("{}: {error}; name a socket", socket.display()))?;
    Ok(Request {
        names: Names::new(args.names)?,
        role: match (args.upstream, args.on_demand) {
            (true, _) => Role::Upstream,
            (_, true) => Role::OnDemand,
            _ => Role::Serve,
        },
        mutual: args.mutual,
        full: args.full,
        socket,
        listen: args.listen,
        admin: args.admin,
        upstream: args.upstream_address,
        client_certificate: !args.anonymous,
        injected: args.inject,
        node: args.node,
    })
}
