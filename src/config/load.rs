//! `sds-agent.toml` and the command line → [`Config`].

use std::fs::File as OpenFile;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Deserialize;
use toml::Spanned;
use toml::de::DeTable;

use super::error::{ConfigError, Wrong};
use super::file::{Common, File, FileAccess, FileRoot};
use super::{Admin, Config, DEFAULT_CONFIG, DEFAULT_CREDENTIALS, Options, OrOff};
use super::{Listen, Log, Root, beside, keys, named, renamed};

/// More than any configuration has: what is no file of text, such as a device, has no end.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

impl Config {
    /// Reads the configuration file at `path`, or the one at its usual place, which may be absent.
    ///
    /// # Errors
    /// A file that was named and can't be read, and whatever in it can't be.
    pub fn load(path: Option<&Path>, options: &Options) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_CONFIG));
        let text = match read(file) {
            Err(error) if path.is_none() && error.is_not_found() => String::new(),
            text => text?,
        };
        Self::parse(file, &text, options)
    }

    /// The configuration that `text`, read from the file at `path`, and the command line amount to.
    /// Relative paths in it start from the file's folder.
    ///
    /// # Errors
    /// Whatever in it can't be.
    pub fn parse(path: &Path, text: &str, options: &Options) -> Result<Self, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let wrong = |wrong: Wrong| wrong.in_file(path, text);
        let mut document = DeTable::parse(text).map_err(|error| wrong(error.into()))?;
        let renamed = renamed::apply(document.get_mut(), text).map_err(wrong)?;
        keys::check(document.get_ref()).map_err(wrong)?;
        let spans = Spans::of(document.get_ref());
        let of_file = Options::deserialize(toml::Deserializer::from(document.clone()))
            .map_err(|error| wrong(error.into()))?;
        let file = File::deserialize(toml::Deserializer::from(document))
            .map_err(|error| wrong(error.into()))?;
        let mut config = file
            .config(of_file, folder, options, &spans)
            .map_err(wrong)?;
        config.warnings = renamed
            .into_iter()
            .map(|(line, warning)| format!("{}:{line}: {warning}", path.display()))
            .collect();
        Ok(config)
    }
}

/// The text of the configuration file at `path`.
///
/// # Errors
/// It is not a regular file of text, too large, or can't be read.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    text(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
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

/// Where `credentials` and its items are in the file.
struct Spans {
    list: Range<usize>,
    items: Vec<Range<usize>>,
}

impl Spans {
    fn of(top: &DeTable<'_>) -> Self {
        let list = top.get("credentials");
        let items = list.and_then(|list| list.get_ref().as_array());
        Self {
            list: list.map(Spanned::span).unwrap_or_default(),
            items: items.into_iter().flatten().map(Spanned::span).collect(),
        }
    }
}

impl File {
    fn config(
        self,
        of_file: Options,
        folder: &Path,
        said: &Options,
        spans: &Spans,
    ) -> Result<Config, Wrong> {
        let default = Config::default();
        let short = of_file.credentials.clone();
        let options = said.clone().or(of_file, folder);
        let common = Common {
            absent: self.absent.unwrap_or_default(),
            warn_days: options.warn_days.unwrap_or(default.warn_days),
        };
        let named = named::root(self.secret, common, folder)?;
        let roots = roots(short, self.root, common, folder, named.is_some(), spans)?;
        let rules = self.access.into_iter().map(FileAccess::rule);
        let trust = super::trust::trust(self.trust)?;
        let socket = options.socket.unwrap_or(default.listen.socket);
        let admin_socket = match options.admin_socket {
            Some(socket) => socket.on(),
            None => Some(beside(&socket)),
        };
        Ok(Config {
            roots: named
                .into_iter()
                .chain(said_roots(said.credentials.as_deref(), roots, common))
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
            listen: Listen {
                socket,
                mode: self
                    .listen
                    .mode
                    .map_or(default.listen.mode, |mode| mode.0.0),
                group: self.listen.group.and_then(|group| group.0),
                allow_users: self.listen.allow_users,
                allow_groups: self.listen.allow_groups,
            },
            admin: Admin {
                socket: admin_socket,
                mode: self.admin.mode.map_or(default.admin.mode, |mode| mode.0.0),
                group: self.admin.group.and_then(|group| group.0),
                allow_users: self.admin.allow_users,
                allow_groups: self.admin.allow_groups,
                tcp: options.admin_tcp.and_then(OrOff::on),
                tcp_details: self.admin.tcp_details.unwrap_or_default(),
            },
            log: Log {
                level: options.log_level.unwrap_or_default(),
                format: options.log_format.unwrap_or_default(),
            },
            limits: self.limits.limits(),
            absent: common.absent,
            hosts: self.hosts.unwrap_or(default.hosts),
            default_credential: options
                .default_credential
                .and_then(OrOff::on)
                .map(|name| name.0),
            removal_delay: options.removal_delay.unwrap_or(default.removal_delay),
            warn_days: common.warn_days,
            lock_memory: self.lock_memory.unwrap_or(default.lock_memory),
            reload: self.reload.unwrap_or(default.reload),
            warnings: Vec::new(),
        })
    }
}

/// The roots that the file names: the short form first. `is_optional`: an empty list is meant.
fn roots(
    short: Option<Vec<PathBuf>>,
    long: Vec<FileRoot>,
    common: Common,
    folder: &Path,
    is_optional: bool,
    spans: &Spans,
) -> Result<Vec<Root>, Wrong> {
    let is_said = short.is_some();
    let short = short.unwrap_or_default().into_iter();
    let short = spans.items.iter().cloned().zip(short);
    let short = short.map(|(span, path)| (span, common.root(folder.join(path))));
    let mut roots: Vec<Root> = Vec::new();
    for (span, root) in short.chain(long.into_iter().map(|root| root.root(common, folder))) {
        if roots.iter().any(|other| other.path == root.path) {
            let message = format!("{} is a root twice; name it once", root.path.display());
            return Err(Wrong::new(span, message));
        }
        roots.push(root);
    }
    match roots.is_empty() {
        true if is_said && !is_optional => Err(Wrong::new(
            spans.list.clone(),
            "there is no root; name at least one folder",
        )),
        true if !is_said => Ok(vec![common.root(DEFAULT_CREDENTIALS)]),
        _ => Ok(roots),
    }
}

/// The roots that the command line names, with the settings of the file, or else the file's.
fn said_roots(said: Option<&[PathBuf]>, roots: Vec<Root>, common: Common) -> Vec<Root> {
    let Some(said) = said else {
        return roots;
    };
    let mut chosen: Vec<Root> = Vec::new();
    for path in said {
        if chosen.iter().all(|root| root.path != *path) {
            let known = roots.iter().find(|root| root.path == *path);
            chosen.push(known.cloned().unwrap_or_else(|| common.root(path)));
        }
    }
    chosen
}
