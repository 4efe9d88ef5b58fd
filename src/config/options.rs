//! What can be set on the command line of `serve` and, under the same name, at the top of
//! `sds-agent.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::LogFormat;
use super::forms::{OrOff, days, paths, text};
use super::values::{CredentialName, LogFilter, parse_duration};

/// The options, as they were given. Everything may be left out.
#[derive(clap::Args, Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub struct Options {
    /// A folder of credential folders to watch; may be given several times, the first one that has
    /// a name wins [default: /etc/sds-agent/credentials]
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "paths")]
    pub credentials: Option<Vec<PathBuf>>,

    /// The Unix socket that Envoy connects to [default: /run/sds-agent/sds.sock]
    #[arg(
        long,
        value_name = "PATH",
        env = "SDS_AGENT_SOCKET",
        hide_env_values = true
    )]
    #[serde(deserialize_with = "text")]
    pub socket: Option<PathBuf>,

    /// The Unix socket for status, metrics and health, or "off" [default: admin.sock beside the
    /// socket]
    #[arg(
        long,
        value_name = "PATH",
        env = "SDS_AGENT_ADMIN_SOCKET",
        hide_env_values = true
    )]
    pub admin_socket: Option<OrOff<PathBuf>>,

    /// A loopback address for metrics, health and the page, or "off" [default: off]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_tcp: Option<OrOff<SocketAddr>>,

    /// What is logged: a level, or levels by module as in `info,sds_agent::sds=debug` [default: info]
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", hide_env_values = true)]
    pub log_level: Option<LogFilter>,

    /// The form of a log line [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// How many days before its end a certificate is warned of at most, and only when less than a quarter
    /// of its lifetime is left [default: 30]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    #[serde(deserialize_with = "days")]
    pub warn_days: Option<u32>,

    /// How long a folder must be gone before its secrets go too [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(deserialize_with = "text")]
    pub removal_delay: Option<Duration>,

    /// The credential that is served for hosts that none covers, or "off" [default: off]
    #[arg(long, value_name = "NAME")]
    pub default_credential: Option<OrOff<CredentialName>>,
}

impl Options {
    /// These options, completed by those of `file`, whose relative paths start from `folder`.
    pub(super) fn or(self, file: Self, folder: &Path) -> Self {
        let path = |path: PathBuf| folder.join(path);
        let roots = |roots: Vec<PathBuf>| roots.into_iter().map(path).collect();
        Self {
            credentials: self.credentials.or(file.credentials.map(roots)),
            socket: self.socket.or(file.socket.map(path)),
            admin_socket: self
                .admin_socket
                .or(file.admin_socket.map(|one| one.map(path))),
            admin_tcp: self.admin_tcp.or(file.admin_tcp),
            log_level: self.log_level.or(file.log_level),
            log_format: self.log_format.or(file.log_format),
            warn_days: self.warn_days.or(file.warn_days),
            removal_delay: self.removal_delay.or(file.removal_delay),
            default_credential: self.default_credential.or(file.default_credential),
        }
    }
}
