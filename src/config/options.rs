//! The keys of `sds-agent.toml`. `examples/sds-agent.toml` explains each.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use serde::Deserialize;
use toml::Spanned;

use super::forms::FilePath;
use super::named::NamedFiles;
use super::values::{LogFilter, or, parse_duration, parse_name, parse_path, parse_tcp};
use super::{
    Absent, AccessRule, Admin, Limits, Listen, LogFormat, Reload, Root, TrustOptions, forms,
};

/// A value, or `off` for none.
pub type OrOff<T> = Option<T>;

/// The keys as they were given: all of them in the file, and those at its top that are not `skip`ped also
/// on the command line of `serve`. Everything may be left out.
#[derive(clap::Args, Deserialize, Clone, Debug, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// A root: a folder of credential folders to watch; can be repeated. If several roots have a credential of the
    /// same name, the first one is served [default: /etc/sds-agent/credentials]
    #[arg(long, value_name = "DIR", value_parser = PathBufValueParser::new().try_map(std::path::absolute).map(nowhere))]
    pub(super) credentials: Option<Vec<Spanned<FilePath>>>,

    /// The Unix socket that Envoy connects to [default: /run/sds-agent/sds.sock]
    #[arg(
        long,
        value_name = "PATH",
        env = "SDS_AGENT_SOCKET",
        hide_env_values = true
    )]
    #[serde(deserialize_with = "forms::path")]
    pub socket: Option<PathBuf>,

    /// The Unix socket for status, metrics and health, or "off" [default: admin.sock in the folder of
    /// the socket]
    #[arg(
        long,
        value_name = "PATH",
        env = "SDS_AGENT_ADMIN_SOCKET",
        hide_env_values = true,
        value_parser = |text: &str| or("off", text, parse_path)
    )]
    #[serde(deserialize_with = "forms::path_or_off")]
    pub admin_socket: Option<OrOff<PathBuf>>,

    /// A loopback address for metrics, health and the page, or "off" [default: off]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = |text: &str| or("off", text, parse_tcp))]
    #[serde(deserialize_with = "forms::tcp_or_off")]
    pub admin_tcp: Option<OrOff<SocketAddr>>,

    /// What is logged: a level, or levels by module as in `info,sds_agent::sds=debug` [default: info]
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", hide_env_values = true)]
    pub log_level: Option<LogFilter>,

    /// The format of a log line [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// A certificate is `expiring` when less than a quarter of its lifetime is left, and at most this many
    /// days [default: 30]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    #[serde(deserialize_with = "forms::number::<_, _, 0, 36_500>")]
    pub warn_days: Option<u32>,

    /// How long a folder must be missing before its secrets are removed [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(deserialize_with = "forms::duration")]
    pub removal_delay: Option<Duration>,

    /// The credential that is served for hosts that no certificate covers, or "off" [default: off]
    #[arg(long, value_name = "NAME", value_parser = |text: &str| or("off", text, parse_name))]
    #[serde(deserialize_with = "forms::name_or_off")]
    pub default_credential: Option<OrOff<String>>,

    #[arg(skip)]
    pub(super) absent: Absent,
    #[arg(skip)]
    pub(super) hosts: Option<bool>,
    #[arg(skip)]
    pub(super) lock_memory: bool,
    #[arg(skip)]
    pub(super) reload: Reload,
    #[arg(skip)]
    pub(super) root: Vec<Spanned<Root>>,
    #[arg(skip)]
    pub(super) secret: Vec<NamedFiles>,
    #[arg(skip)]
    pub(super) listen: Listen,
    #[arg(skip)]
    pub(super) access: Vec<AccessRule>,
    #[arg(skip)]
    pub(super) admin: Admin,
    #[arg(skip)]
    pub(super) limits: Limits,
    #[arg(skip)]
    pub(super) trust: Vec<Spanned<TrustOptions>>,
}

impl Options {
    /// The options of the file, whose relative paths start from `folder`, except for those that were
    /// `given` on the command line.
    pub(super) fn overridden(self, given: Self, folder: &Path) -> Self {
        let path = |path: PathBuf| folder.join(path);
        let admin_socket = self.admin_socket.map(|socket| socket.map(path));
        Self {
            credentials: given.credentials,
            socket: given.socket.or(self.socket.map(path)),
            admin_socket: given.admin_socket.or(admin_socket),
            admin_tcp: given.admin_tcp.or(self.admin_tcp),
            log_level: given.log_level.or(self.log_level),
            log_format: given.log_format.or(self.log_format),
            warn_days: given.warn_days.or(self.warn_days),
            removal_delay: given.removal_delay.or(self.removal_delay),
            default_credential: given.default_credential.or(self.default_credential),
            ..self
        }
    }
}

/// A path that is not in the file.
pub(super) fn nowhere(path: PathBuf) -> Spanned<FilePath> {
    Spanned::new(0..0, FilePath(path))
}
