//! Where the configuration comes from, at the start and at each reload.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sds_agent::config::{self, Config, ConfigError, DEFAULT_CONFIG, Options, Reload};
use sds_agent::files::follow::Follow;

/// Where the configuration comes from.
pub(super) struct Source {
    /// The file that was given, or exists at the default path.
    file: Option<PathBuf>,
    options: Options,
    /// The result of the last attempt to read the file.
    last: Mutex<Option<Result<String, String>>>,
}

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// SIGHUP.
    Signal,
    /// The file has changed.
    File,
}

impl Source {
    /// The file at this path, or at the default path, and the command line.
    pub(super) fn new(file: Option<PathBuf>, options: Options) -> Self {
        // A file that this user can't see may exist: then reading it must fail, instead of the defaults being
        // applied.
        let is_absent = |file: &PathBuf| matches!(file.try_exists(), Ok(false));
        let usual = || Some(PathBuf::from(DEFAULT_CONFIG)).filter(|file| !is_absent(file));
        Self {
            file: file.or_else(usual),
            options,
            last: Mutex::default(),
        }
    }

    /// The configuration file, if there was one at the start.
    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The configuration at the start. Without a file, the defaults apply.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        let text = match &self.file {
            Some(file) => config::read(file)?,
            None => String::new(),
        };
        let config = self.parse(&text);
        self.keep(Ok(text));
        config
    }

    /// The configuration at a reload. A missing or empty file is refused: an editor may be replacing it, and
    /// without it all roots and access rules would be lost.
    ///
    /// `None` if it is read because the file has changed, but the text is the same as the last time.
    pub(super) fn reload(&self, cause: Cause) -> Option<Result<Config, ConfigError>> {
        let text = match config::read(self.path()) {
            Err(error)
                if self.file.is_none()
                    && error.is_unreadable(io::ErrorKind::NotFound)
                    && self.was_absent() =>
            {
                Ok(String::new())
            }
            // A file that was empty at the start may stay empty.
            Ok(text) if text.trim().is_empty() && !self.was_absent() => {
                Err(ConfigError::Empty(self.path().to_owned()))
            }
            text => text,
        };
        let known = match &text {
            Ok(text) => Ok(text.clone()),
            Err(error) => Err(error.to_string()),
        };
        let is_same = self.keep(known);
        if is_same && cause == Cause::File {
            return None;
        }
        Some(text.and_then(|text| self.parse(&text)))
    }

    /// Follows the file, if the configuration asks for that.
    pub(super) fn follow(&self, config: &Config) -> Option<Follow> {
        let follow = || Follow::start(vec![self.path().to_owned()]);
        (config.reload == Reload::Auto).then(follow)
    }

    fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }

    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        Config::parse(self.path(), text, &self.options)
    }

    /// Whether the file was missing or empty the last time.
    fn was_absent(&self) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&*last, Some(Ok(text)) if text.trim().is_empty())
    }

    /// Stores the result of an attempt to read the file. Returns whether the previous result was the same.
    fn keep(&self, read: Result<String, String>) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = last.as_ref() == Some(&read);
        *last = Some(read);
        is_same
    }
}
