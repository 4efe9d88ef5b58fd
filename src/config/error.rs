//! Errors in a configuration: the file, the line, what is wrong, and what to write instead.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {error}; {}", .path.display(), remedy(error))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file is empty, on a reload.
    #[error("{}: it is empty, which a reload does not accept; write the configuration into it, or just a \
             comment to use the defaults", .0.display())]
    Empty(PathBuf),
    /// The file's content is not valid.
    #[error("{}:{line}:{column}: {message}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong there, and what to write.
        message: String,
    },
}

impl ConfigError {
    /// Whether the file can't be read for this reason.
    pub fn is_unreadable(&self, kind: io::ErrorKind) -> bool {
        matches!(self, Self::Unreadable { error, .. } if error.kind() == kind)
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "run this with sudo, or as a user who may read the file, such as the agent's"
        }
        _ => "name a file of UTF-8 text that the agent may read",
    }
}

/// What is wrong, and where in the text it is.
pub(super) struct Wrong {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

impl Wrong {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
        }
    }

    /// The error for the file at `path` with this `text`.
    pub(super) fn in_file(self, path: &Path, text: &str) -> ConfigError {
        let before = text.get(..self.span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ConfigError::Wrong {
            path: path.to_owned(),
            line: line(text, self.span.start),
            column: before[line_start..].chars().count() + 1,
            message: one_line(&self.message),
        }
    }
}

/// The line that `text` has at the byte `at`, from 1.
pub(super) fn line(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).matches('\n').count() + 1
}

impl From<toml::de::Error> for Wrong {
    fn from(error: toml::de::Error) -> Self {
        // Only an error about the whole document has no span.
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim_end().replace('\n', "; ");
        Self { span, message }
    }
}

/// Escapes control characters. The message quotes the file, which must not be able to forge a log line or
/// control a terminal.
fn one_line(message: &str) -> String {
    message
        .chars()
        .flat_map(|c| match c.is_control() {
            true => c.escape_default().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}
