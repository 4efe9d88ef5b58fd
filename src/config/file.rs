//! `sds-agent.toml` as it is written. `examples/sds-agent.toml` says what each key means.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::Wrong;
use super::forms::{Auto, Mode, Number, OrWord, Pause, Text};
use super::named::FileSecret;
use super::trust::FileTrust;
use super::values::{Account, Pattern};
use super::{Absent, AccessRule, Layout, Limits, Reload, Root};

/// The file without what is an [`Options`](super::Options) too. `keys` refuses unknown keys.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct File {
    pub(super) absent: Option<Absent>,
    pub(super) hosts: Option<bool>,
    pub(super) lock_memory: Option<bool>,
    pub(super) reload: Option<Reload>,
    pub(super) root: Vec<FileRoot>,
    pub(super) secret: Vec<FileSecret>,
    pub(super) listen: FileListen,
    pub(super) access: Vec<FileAccess>,
    pub(super) admin: FileAdmin,
    pub(super) limits: FileLimits,
    pub(super) trust: Vec<FileTrust>,
}

/// What holds for every root that sets nothing else.
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
    pub(super) path: Spanned<Text<PathBuf>>,
    pub(super) layout: Option<FileLayout>,
    pub(super) absent: Option<Absent>,
    pub(super) confine: Option<bool>,
    pub(super) strict_permissions: Option<bool>,
    pub(super) skip_token_folders: Option<bool>,
    pub(super) reserved_names: Option<bool>,
    pub(super) poll_interval: Option<OrWord<Auto, Text<Pause>>>,
    pub(super) warn_days: Option<Number<0, 36_500>>,
}

/// The layouts of a root that is a folder.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FileLayout {
    Folders,
    Flat,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct FileListen {
    pub(super) mode: Option<Text<Mode>>,
    pub(super) group: Option<OrWord<Auto, Account>>,
    pub(super) allow_users: Vec<Account>,
    pub(super) allow_groups: Vec<Account>,
}

#[derive(Deserialize)]
pub(super) struct FileAccess {
    pub(super) secrets: Spanned<Vec<Pattern>>,
    #[serde(default)]
    pub(super) users: Vec<Account>,
    #[serde(default)]
    pub(super) groups: Vec<Account>,
    #[serde(default)]
    pub(super) nodes: Vec<Pattern>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct FileAdmin {
    pub(super) mode: Option<Text<Mode>>,
    pub(super) group: Option<OrWord<Auto, Account>>,
    pub(super) allow_users: Vec<Account>,
    pub(super) allow_groups: Vec<Account>,
    pub(super) tcp_details: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct FileLimits {
    pub(super) file_bytes: Option<Number<1_024, 67_108_864>>,
    pub(super) files: Option<Number<1, 4_096>>,
    pub(super) credentials: Option<Number<1, 1_000_000>>,
    pub(super) connections: Option<Number<1, 1_000_000>>,
    pub(super) streams: Option<Number<1, 10_000_000>>,
    pub(super) streams_per_connection: Option<Number<1, 1_000_000>>,
    pub(super) names_per_stream: Option<Number<1, 1_000_000>>,
    // Envoy's node alone has 61 kB.
    pub(super) request_bytes: Option<Number<65_536, 67_108_864>>,
    pub(super) client_bytes: Option<Number<1_048_576, 4_294_967_295>>,
}

impl FileRoot {
    pub(super) fn root(self, common: Common, folder: &Path) -> (Range<usize>, Root) {
        let default = common.root(folder.join(&self.path.get_ref().0));
        let root = Root {
            layout: match self.layout {
                Some(FileLayout::Flat) => Layout::Flat,
                Some(FileLayout::Folders) | None => Layout::Folders,
            },
            absent: self.absent.unwrap_or(default.absent),
            warn_days: self.warn_days.map_or(default.warn_days, |days| days.0),
            confine: self.confine.unwrap_or(default.confine),
            strict_permissions: self
                .strict_permissions
                .unwrap_or(default.strict_permissions),
            skip_token_folders: self
                .skip_token_folders
                .unwrap_or(default.skip_token_folders),
            reserved_names: self.reserved_names.unwrap_or(default.reserved_names),
            poll_interval: self
                .poll_interval
                .and_then(|said| said.0)
                .map(|every| every.0.0),
            path: default.path,
            // One for all roots, set when all of the file has been read.
            trust: default.trust,
        };
        (self.path.span(), root)
    }
}

impl FileAccess {
    pub(super) fn rule(self) -> Result<AccessRule, Wrong> {
        if self.secrets.get_ref().is_empty() {
            let message = "the rule gives nothing; name secrets, or `*` for all of them";
            return Err(Wrong::new(self.secrets.span(), message));
        }
        Ok(AccessRule {
            secrets: self.secrets.into_inner(),
            users: self.users,
            groups: self.groups,
            nodes: self.nodes,
        })
    }
}

impl FileLimits {
    pub(super) fn limits(self) -> Limits {
        let default = Limits::default();
        Limits {
            file_bytes: or(self.file_bytes, default.file_bytes),
            files: or(self.files, default.files),
            credentials: or(self.credentials, default.credentials),
            connections: or(self.connections, default.connections),
            streams: or(self.streams, default.streams),
            streams_per_connection: or(self.streams_per_connection, default.streams_per_connection),
            names_per_stream: or(self.names_per_stream, default.names_per_stream),
            request_bytes: or(self.request_bytes, default.request_bytes),
            client_bytes: or(self.client_bytes, default.client_bytes),
        }
    }
}

/// The number that the file says, or the default.
fn or<const MIN: u32, const MAX: u32>(said: Option<Number<MIN, MAX>>, default: usize) -> usize {
    said.map_or(default, |number| number.0 as usize)
}
