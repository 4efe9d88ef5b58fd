//! `sds-agent.toml` as it is written. `examples/sds-agent.toml` explains each key.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::forms::{Interval, Text, days, or_auto};
use super::named::FileSecret;
use super::trust::FileTrust;
use super::{Absent, AccessRule, Admin, Layout, Limits, Listen, Reload, Root};

/// The keys of the file that are not [`Options`](super::Options). `keys` refuses unknown keys.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct File {
    pub(super) absent: Absent,
    pub(super) hosts: Option<bool>,
    pub(super) lock_memory: bool,
    pub(super) reload: Reload,
    pub(super) root: Vec<FileRoot>,
    pub(super) secret: Vec<FileSecret>,
    pub(super) listen: Listen,
    pub(super) access: Vec<AccessRule>,
    pub(super) admin: Admin,
    pub(super) limits: Limits,
    pub(super) trust: Vec<FileTrust>,
}

/// The settings of every root that has none of its own.
#[derive(Clone, Copy)]
pub(super) struct Common {
    pub(super) absent: Absent,
    pub(super) warn_days: u32,
}

impl Common {
    /// The root at `path` without settings of its own.
    pub(super) fn root(self, path: impl Into<PathBuf>) -> Root {
        Root {
            absent: self.absent,
            warn_days: self.warn_days,
            ..Root::new(path)
        }
    }
}

#[derive(Deserialize)]
pub(super) struct FileRoot {
    path: Spanned<Text<PathBuf>>,
    layout: Option<Layout>,
    absent: Option<Absent>,
    confine: Option<bool>,
    strict_permissions: Option<bool>,
    skip_token_folders: Option<bool>,
    reserved_names: Option<bool>,
    #[serde(default, deserialize_with = "or_auto")]
    poll_interval: Option<Interval>,
    #[serde(default, deserialize_with = "days")]
    warn_days: Option<u32>,
}

impl FileRoot {
    pub(super) fn root(self, common: Common, folder: &Path) -> (Range<usize>, Root) {
        let default = common.root(folder.join(&self.path.get_ref().0));
        let root = Root {
            layout: self.layout.unwrap_or(default.layout),
            absent: self.absent.unwrap_or(default.absent),
            confine: self.confine.unwrap_or(default.confine),
            strict_permissions: self
                .strict_permissions
                .unwrap_or(default.strict_permissions),
            skip_token_folders: self
                .skip_token_folders
                .unwrap_or(default.skip_token_folders),
            reserved_names: self.reserved_names.unwrap_or(default.reserved_names),
            poll_interval: self.poll_interval.map(|every| every.0),
            warn_days: self.warn_days.unwrap_or(default.warn_days),
            path: default.path,
            trust: default.trust,
        };
        (self.path.span(), root)
    }
}
