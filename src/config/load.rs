//! `sds-agent.toml` and the command line → [`Config`].

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Wrong};
use super::forms::FilePath;
use super::options::nowhere;
use super::{Admin, Config, DEFAULT_CONFIG, DEFAULT_CREDENTIALS, Layout, Listen, Log};
use super::{NAMED_CREDENTIALS, Options, Root, beside, keys, named, renamed, trust};

/// More than any configuration needs. A device, for example, has no end.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The keys at the top of the file that apply to every root without a value of its own.
const INHERITED: [&str; 2] = ["absent", "warn_days"];

impl Config {
    /// Reads the configuration file at `path`, or the default one, which need not exist.
    ///
    /// # Errors
    /// The file at `path` can't be read, or its content is not valid.
    pub fn load(path: Option<&Path>, options: &Options) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_CONFIG));
        let text = match read(file) {
            Err(error) if path.is_none() && error.is_unreadable(io::ErrorKind::NotFound) => {
                String::new()
            }
            text => text?,
        };
        Self::parse(file, &text, options)
    }

    /// Combines `text`, read from the file at `path`, with the command line. Relative paths in it start
    /// from the file's folder.
    ///
    /// # Errors
    /// The text is not valid.
    pub fn parse(path: &Path, text: &str, given: &Options) -> Result<Self, ConfigError> {
        let parse = || {
            let mut document = DeTable::parse(text)?;
            let renamed = renamed::apply(document.get_mut(), text)?;
            keys::check(&keys::sections(), document.get_ref())?;
            inherit(document.get_mut())?;
            let list = document.get_ref().get("credentials");
            let list = list.map(Spanned::span).unwrap_or_default();
            let file = Options::deserialize(toml::Deserializer::from(document))?;
            // The threads that read files don't all have the working directory of the process.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let folder = path.parent().unwrap_or(&path);
            Ok((file.config(given, folder, list)?, renamed))
        };
        let (mut config, renamed) = parse().map_err(|wrong: Wrong| wrong.in_file(path, text))?;
        let warning = |(line, text)| format!("{}:{line}: {text}", path.display());
        config.warnings = renamed.into_iter().map(warning).collect();
        Ok(config)
    }
}

/// The text of the configuration file at `path`.
///
/// # Errors
/// It is not a regular file of text, is too large, or can't be read.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let read = || {
        // Opening a pipe must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat(CWD, path, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut text = String::new();
        let mut file = file.take(MAX_FILE_BYTES + 1);
        if file.read_to_string(&mut text)? as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other("it has more than 4 MiB"));
        }
        Ok(text)
    };
    read().map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

/// Gives each `[[root]]` the settings that it inherits.
fn inherit(top: &mut DeTable<'_>) -> Result<(), Wrong> {
    let inherited = INHERITED.iter().filter_map(|key| top.get_key_value(*key));
    let inherited: Vec<_> = inherited.map(|(k, v)| (k.clone(), v.clone())).collect();
    let Some(DeValue::Array(roots)) = top.get_mut("root").map(Spanned::get_mut) else {
        return Ok(());
    };
    for root in roots.iter_mut() {
        let span = root.span();
        if let DeValue::Table(root) = root.get_mut() {
            if !root.contains_key("path") {
                return Err(Wrong::new(span, "missing field `path`"));
            }
            for (key, value) in &inherited {
                root.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    Ok(())
}

impl Options {
    /// The configuration, from the options of the file in `folder` and those that were `given` on the
    /// command line. `list` is the place of `credentials` in the file.
    fn config(mut self, given: &Self, folder: &Path, list: Range<usize>) -> Result<Config, Wrong> {
        if let Some(days) = given.warn_days {
            (self.root.iter_mut()).for_each(|root| root.get_mut().warn_days = days);
            (self.secret.iter_mut()).for_each(|secret| secret.warn_days = None);
        }
        let default = Config::default();
        let short = self.credentials.take();
        let options = self.overridden(given.clone(), folder);
        let warn_days = options.warn_days.unwrap_or(default.warn_days);
        let plain = |path: Spanned<FilePath>| {
            let root = Root {
                absent: options.absent,
                warn_days,
                ..Root::new(&path.get_ref().0)
            };
            Spanned::new(path.span(), root)
        };
        let short = match short {
            None if options.root.is_empty() => vec![nowhere(DEFAULT_CREDENTIALS.into())],
            short => short.unwrap_or_default(),
        };
        let listed = short.into_iter().map(plain).chain(options.root);
        let mut roots = distinct(listed, folder)?;
        if let Some(given) = options.credentials {
            roots = chosen(given.into_iter().map(plain), &roots);
        }
        let named = named::credentials(options.secret, folder)?;
        if !named.is_empty() {
            let mut root = plain(nowhere(NAMED_CREDENTIALS.into())).into_inner();
            root.layout = Layout::Named(named.into());
            roots.insert(0, root);
        }
        if roots.is_empty() {
            let message = "the list is empty; name at least one folder";
            return Err(Wrong::new(list, message));
        }
        let trust = trust::trust(options.trust)?;
        (roots.iter_mut()).for_each(|root| root.trust = trust.clone());
        let socket = options.socket.unwrap_or(default.listen.socket);
        let admin_socket = options.admin_socket;
        Ok(Config {
            roots,
            access: options.access,
            admin: Admin {
                socket: admin_socket.unwrap_or_else(|| Some(beside(&socket))),
                tcp: options.admin_tcp.flatten(),
                ..options.admin
            },
            listen: Listen {
                socket,
                ..options.listen
            },
            log: Log {
                level: options.log_level.unwrap_or_default(),
                format: options.log_format.unwrap_or_default(),
            },
            limits: options.limits,
            absent: options.absent,
            hosts: options.hosts.unwrap_or(default.hosts),
            default_credential: options.default_credential.flatten(),
            removal_delay: options.removal_delay.unwrap_or(default.removal_delay),
            warn_days,
            lock_memory: options.lock_memory,
            reload: options.reload,
            warnings: Vec::new(),
        })
    }
}

/// The roots of the file, which must have different paths. Relative ones start from `folder`.
fn distinct(
    listed: impl Iterator<Item = Spanned<Root>>,
    folder: &Path,
) -> Result<Vec<Root>, Wrong> {
    let mut roots: Vec<Root> = Vec::new();
    for root in listed {
        let path = folder.join(&root.get_ref().path);
        if roots.iter().any(|other| other.path == path) {
            let path = path.display();
            let message = format!("the root {path} is listed twice; remove one of the two");
            return Err(Wrong::new(root.span(), message));
        }
        let root = root.into_inner();
        roots.push(Root { path, ..root });
    }
    Ok(roots)
}

/// The roots given on the command line, each with its settings in the file, if it has any there.
fn chosen(given: impl Iterator<Item = Spanned<Root>>, listed: &[Root]) -> Vec<Root> {
    let mut chosen: Vec<Root> = Vec::new();
    for root in given.map(Spanned::into_inner) {
        if chosen.iter().all(|other| other.path != root.path) {
            let known = listed.iter().find(|other| other.path == root.path);
            chosen.push(known.cloned().unwrap_or(root));
        }
    }
    chosen
}
