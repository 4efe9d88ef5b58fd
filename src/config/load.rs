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
use super::file::{Common, File, FileRoot};
use super::{Admin, Config, DEFAULT_CONFIG, DEFAULT_CREDENTIALS, Options, OrOff};
use super::{Listen, Log, Root, beside, keys, named, renamed};

/// More than any configuration needs. A device, for example, has no end.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

impl Config {
    /// Reads the configuration file at `path`, or the default one, which need not exist.
    ///
    /// # Errors
    /// The file at `path` can't be read, or its content is not valid.
    pub fn load(path: Option<&Path>, options: &Options) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_CONFIG));
        let text = match read(file) {
            Err(error) if path.is_none() && error.is_not_found() => String::new(),
            text => text?,
        };
        Self::parse(file, &text, options)
    }

    /// Combines `text`, read from the file at `path`, with the command line. Relative paths in it start
    /// from the file's folder.
    ///
    /// # Errors
    /// The text is not valid.
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
/// It is not a regular file of text, is too large, or can't be read.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    text(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

fn text(path: &Path) -> io::Result<String> {
    // Opening a pipe must not wait for a writer.
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
        given: &Options,
        spans: &Spans,
    ) -> Result<Config, Wrong> {
        let default = Config::default();
        let short = of_file.credentials.clone();
        let options = given.clone().or(of_file, folder);
        let common = Common {
            absent: self.absent,
            warn_days: options.warn_days.unwrap_or(default.warn_days),
        };
        let named = named::root(self.secret, common, folder)?;
        let roots = roots(short, self.root, common, folder, named.is_some(), spans)?;
        let roots = chosen(given.credentials.as_deref(), roots, common);
        let trust = super::trust::trust(self.trust)?;
        let with_options = |root: Root| {
            let trust = Arc::clone(&trust);
            let root = Root { trust, ..root };
            match given.warn_days {
                Some(days) => root.warned_within(days),
                None => root,
            }
        };
        let socket = options.socket.unwrap_or(default.listen.socket);
        let admin_socket = match options.admin_socket {
            Some(socket) => socket.on(),
            None => Some(beside(&socket)),
        };
        let default_credential = options.default_credential.and_then(OrOff::on);
        Ok(Config {
            roots: named.into_iter().chain(roots).map(with_options).collect(),
            access: self.access,
            listen: Listen {
                socket,
                ..self.listen
            },
            admin: Admin {
                socket: admin_socket,
                tcp: options.admin_tcp.and_then(OrOff::on),
                ..self.admin
            },
            log: Log {
                level: options.log_level.unwrap_or_default(),
                format: options.log_format.unwrap_or_default(),
            },
            limits: self.limits,
            absent: common.absent,
            hosts: self.hosts.unwrap_or(default.hosts),
            default_credential: default_credential.map(|name| name.0),
            removal_delay: options.removal_delay.unwrap_or(default.removal_delay),
            warn_days: common.warn_days,
            lock_memory: self.lock_memory,
            reload: self.reload,
            warnings: Vec::new(),
        })
    }
}

/// The roots of the file, those of the short form first. `is_optional`: the short form may be an empty
/// list.
fn roots(
    short: Option<Vec<PathBuf>>,
    long: Vec<FileRoot>,
    common: Common,
    folder: &Path,
    is_optional: bool,
    spans: &Spans,
) -> Result<Vec<Root>, Wrong> {
    let is_given = short.is_some();
    let short = short.unwrap_or_default().into_iter();
    let short = spans.items.iter().cloned().zip(short);
    let short = short.map(|(span, path)| (span, common.root(folder.join(path))));
    let mut roots: Vec<Root> = Vec::new();
    for (span, root) in short.chain(long.into_iter().map(|root| root.root(common, folder))) {
        if roots.iter().any(|other| other.path == root.path) {
            let message = format!(
                "the root {} is listed twice; remove one of the two",
                root.path.display()
            );
            return Err(Wrong::new(span, message));
        }
        roots.push(root);
    }
    match roots.is_empty() {
        true if is_given && !is_optional => Err(Wrong::new(
            spans.list.clone(),
            "the list is empty; name at least one folder",
        )),
        true if !is_given => Ok(vec![common.root(DEFAULT_CREDENTIALS)]),
        _ => Ok(roots),
    }
}

/// The roots given on the command line, with their settings in the file; without any, those of the file.
fn chosen(given: Option<&[PathBuf]>, roots: Vec<Root>, common: Common) -> Vec<Root> {
    let Some(given) = given else {
        return roots;
    };
    let mut chosen: Vec<Root> = Vec::new();
    for path in given {
        if chosen.iter().all(|root| root.path != *path) {
            let known = roots.iter().find(|root| root.path == *path);
            chosen.push(known.cloned().unwrap_or_else(|| common.root(path)));
        }
    }
    chosen
}
