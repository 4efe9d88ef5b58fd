//! `sds-agent.toml` and the command line → [`Config`].

use std::fs::File as OpenFile;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Deserialize;
use toml::Spanned;

use super::error::{ConfigError, Wrong};
use super::file::{Common, File, FileAccess, FileListen, FileLog, FileRoot};
use super::forms::{Off, OrWord, Text};
use super::values::LogFilter;
use super::{Admin, Config, DEFAULT_CONFIG, DEFAULT_CREDENTIALS};
use super::{Listen, Log, LogFormat, Root, beside, keys, named};
use crate::name::is_requestable;

/// More than any configuration has: what is no file of text, such as a device, has no end.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What the command line says, which wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The roots in place of the file's. One that the file has too keeps its settings there.
    pub credentials: Vec<PathBuf>,
    /// The socket for Envoy.
    pub socket: Option<PathBuf>,
    /// The admin socket.
    pub admin_socket: Option<PathBuf>,
    /// The address for metrics, health and the page.
    pub admin_tcp: Option<SocketAddr>,
    /// What is logged.
    pub log_level: Option<LogFilter>,
    /// The form of a log line.
    pub log_format: Option<LogFormat>,
    /// How long before its end a certificate is warned of, in days.
    pub warn_days: Option<u32>,
    /// How long a folder must be gone before its secrets go too.
    pub removal_delay: Option<Duration>,
    /// The credential for hosts that none covers.
    pub default_credential: Option<String>,
}

impl Config {
    /// Reads the configuration file at `path`, or the one at its usual place, which may be absent.
    ///
    /// # Errors
    /// A file that was named and can't be read, and whatever in it can't be.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_CONFIG));
        let text = match read(file) {
            Err(error) if path.is_none() && error.is_not_found() => String::new(),
            text => text?,
        };
        Self::parse(file, &text, overrides)
    }

    /// The configuration that `text`, read from the file at `path`, and the command line amount to.
    /// Relative paths in it start from the file's folder.
    ///
    /// # Errors
    /// Whatever in it can't be.
    pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let wrong = |wrong: Wrong| wrong.in_file(path, text);
        let document = toml::de::DeTable::parse(text).map_err(|error| wrong(error.into()))?;
        keys::check(document.get_ref()).map_err(wrong)?;
        let file = File::deserialize(toml::Deserializer::from(document))
            .map_err(|error| wrong(error.into()))?;
        file.config(folder, overrides).map_err(wrong)
    }
}

/// The text of the configuration file at `path`.
///
/// # Errors
/// It is not a regular file of text, too large, or can't be read.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    text(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn text(path: &Path) -> io::Result<String> {
    // A pipe that nobody writes to must not be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = OpenFile::from(openat(CWD, path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    let mut file = file.take(MAX_FILE_BYTES + 1);
    if file.read_to_string(&mut text)? as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it has more than 4 MiB"));
    }
    Ok(text)
}

impl File {
    fn config(self, folder: &Path, said: &Overrides) -> Result<Config, Wrong> {
        let default = Config::default();
        let absent = self.absent.unwrap_or_default();
        let warn_days = said.warn_days.or(self.warn_days.map(|days| days.0));
        let warn_days = warn_days.unwrap_or(default.warn_days);
        let common = Common { absent, warn_days };
        let named = named::root(self.secret, common, folder)?;
        let roots = roots(self.credentials, self.root, common, folder, named.is_some())?;
        let listen = listen(self.socket, self.listen, folder, said)?;
        let rules = self.access.into_iter().map(FileAccess::rule);
        let trust = super::trust::trust(self.trust)?;
        let removal_delay = said
            .removal_delay
            .or(self.removal_delay.map(|delay| delay.0));
        Ok(Config {
            roots: named
                .into_iter()
                .chain(said_roots(&said.credentials, roots, common))
                .map(|root| Root {
                    trust: Arc::clone(&trust),
                    ..root
                })
                .map(|root| match said.warn_days {
                    Some(days) => root.warned_within(days),
                    None => root,
                })
                .collect(),
            access: rules.collect::<Result<_, _>>()?,
            admin: Admin {
                socket: admin_socket(self.admin_socket, self.admin.socket, folder, said)?
                    .unwrap_or_else(|| Some(beside(&listen.socket))),
                mode: self.admin.mode.map_or(default.admin.mode, |mode| mode.0.0),
                group: self.admin.group.and_then(|group| group.0),
                allow_users: self.admin.allow_users,
                allow_groups: self.admin.allow_groups,
                tcp: admin_tcp(self.admin_tcp, self.admin.tcp, said)?,
                tcp_details: self.admin.tcp_details.unwrap_or_default(),
            },
            log: log(self.log_level, self.log_format, self.log, said)?,
            limits: self.limits.limits(),
            absent,
            hosts: self.hosts.unwrap_or(default.hosts),
            default_credential: default_credential(self.default_credential, said)?,
            removal_delay: removal_delay.unwrap_or(default.removal_delay),
            warn_days,
            lock_memory: self.lock_memory.unwrap_or(default.lock_memory),
            reload: self.reload.unwrap_or(default.reload),
            listen,
        })
    }
}

fn default_credential(
    file: Option<Spanned<OrWord<Off, String>>>,
    said: &Overrides,
) -> Result<Option<String>, Wrong> {
    let Some(file) = file else {
        return Ok(said.default_credential.clone());
    };
    let span = file.span();
    let name = file.into_inner().0;
    if name.as_deref().is_some_and(|name| !is_requestable(name)) {
        let message = "no credential can have this name; use the name of a folder, or \"off\"";
        return Err(Wrong::new(span, message));
    }
    Ok(said.default_credential.clone().or(name))
}

fn listen(
    short: Option<Spanned<Text<PathBuf>>>,
    file: FileListen,
    folder: &Path,
    said: &Overrides,
) -> Result<Listen, Wrong> {
    let default = Listen::default();
    let socket = once(short, file.socket, ["socket", "listen.socket"])?;
    let socket = said
        .socket
        .clone()
        .or(socket.map(|path| folder.join(path.0)));
    Ok(Listen {
        socket: socket.unwrap_or(default.socket),
        mode: file.mode.map_or(default.mode, |mode| mode.0.0),
        group: file.group.and_then(|group| group.0),
        allow_users: file.allow_users,
        allow_groups: file.allow_groups,
    })
}

/// `None` where nothing is said of it, `Some(None)` where there shall be none.
fn admin_socket(
    short: Option<Spanned<OrWord<Off, Text<PathBuf>>>>,
    long: Option<OrWord<Off, Text<PathBuf>>>,
    folder: &Path,
    said: &Overrides,
) -> Result<Option<Option<PathBuf>>, Wrong> {
    let socket = once(short, long, ["admin_socket", "admin.socket"])?;
    let socket = socket.map(|socket| socket.0.map(|path| folder.join(path.0)));
    Ok(said.admin_socket.clone().map(Some).or(socket))
}

fn admin_tcp(
    short: Option<Spanned<OrWord<Off, Text<SocketAddr>>>>,
    long: Option<OrWord<Off, Text<SocketAddr>>>,
    said: &Overrides,
) -> Result<Option<SocketAddr>, Wrong> {
    let tcp = once(short, long, ["admin_tcp", "admin.tcp"])?;
    Ok(said
        .admin_tcp
        .or(tcp.and_then(|tcp| tcp.0).map(|address| address.0)))
}

fn log(
    level: Option<Spanned<LogFilter>>,
    format: Option<Spanned<LogFormat>>,
    file: FileLog,
    said: &Overrides,
) -> Result<Log, Wrong> {
    let level = once(level, file.level, ["log_level", "log.level"])?;
    let format = once(format, file.format, ["log_format", "log.format"])?;
    Ok(Log {
        level: said.log_level.clone().or(level).unwrap_or_default(),
        format: said.log_format.or(format).unwrap_or_default(),
    })
}

/// The value of a key that may stand at the top, or in its section.
fn once<T: PartialEq>(
    at_top: Option<Spanned<T>>,
    in_section: Option<T>,
    names: [&str; 2],
) -> Result<Option<T>, Wrong> {
    let [short, long] = names;
    match (at_top, in_section) {
        (Some(top), Some(value)) if *top.get_ref() != value => Err(Wrong::new(
            top.span(),
            format!("`{short}` says another thing than `{long}`; write one of the two"),
        )),
        (Some(top), _) => Ok(Some(top.into_inner())),
        (None, value) => Ok(value),
    }
}

/// The roots that the file names: the short form first. `is_optional`: an empty list is meant.
fn roots(
    short: Option<Spanned<Vec<Spanned<Text<PathBuf>>>>>,
    long: Vec<FileRoot>,
    common: Common,
    folder: &Path,
    is_optional: bool,
) -> Result<Vec<Root>, Wrong> {
    let said = short.as_ref().map(Spanned::span);
    let short = short.map(Spanned::into_inner).unwrap_or_default();
    let short = short
        .into_iter()
        .map(|path| FileRoot::at(path).root(common, folder));
    let mut roots: Vec<Root> = Vec::new();
    for (span, root) in short.chain(long.into_iter().map(|root| root.root(common, folder))) {
        if roots.iter().any(|other| other.path == root.path) {
            let message = format!("{} is a root twice; name it once", root.path.display());
            return Err(Wrong::new(span, message));
        }
        roots.push(root);
    }
    match said {
        Some(_) if is_optional => Ok(roots),
        _ if !roots.is_empty() => Ok(roots),
        Some(span) => Err(Wrong::new(
            span,
            "there is no root; name at least one folder",
        )),
        None => Ok(vec![common.root(DEFAULT_CREDENTIALS)]),
    }
}

/// The roots that the command line names, with the settings of the file, or else the file's.
fn said_roots(said: &[PathBuf], roots: Vec<Root>, common: Common) -> Vec<Root> {
    if said.is_empty() {
        return roots;
    }
    let mut chosen: Vec<Root> = Vec::new();
    for path in said {
        if chosen.iter().all(|root| root.path != *path) {
            let known = roots.iter().find(|root| root.path == *path);
            chosen.push(known.cloned().unwrap_or_else(|| common.root(path)));
        }
    }
    chosen
}
