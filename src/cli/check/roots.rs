//! The folders on the command line → the roots to read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sds_agent::config::{Config, Layout, Root};
use sds_agent::credential::layout;
use sds_agent::files::roots;

/// Roots of which only the folder with this name is to be read.
type Only = BTreeMap<Arc<Path>, Arc<str>>;

/// The configuration, with `folders` in place of its roots if there are any; the roots of which only one credential
/// is to be read; and the configured roots.
pub(super) fn chosen(folders: &[PathBuf], mut config: Config) -> (Config, Only, Vec<Root>) {
    let mut only = Only::new();
    let configured = config.roots.clone();
    if !folders.is_empty() {
        let roots = folders.iter();
        let roots = roots.map(|folder| root_of(folder, &config, &mut only));
        config.roots = roots.collect();
    }
    (config, only, configured)
}

/// The root to read for `folder`, an absolute path: the folder itself, or its parent if it is a credential folder.
/// Nothing else is then read in that parent.
fn root_of(folder: &Path, config: &Config, only: &mut Only) -> Root {
    let is_root = config.roots.iter().any(|root| root.path == *folder);
    if is_root || !is_credential(folder) {
        return settings(folder, config);
    }
    let parent = folder.parent().unwrap_or(folder);
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    only.insert(parent.into(), name.to_string_lossy().into());
    Root {
        layout: Layout::Folders,
        ..settings(parent, config)
    }
}

/// Whether `folder` is a credential folder rather than a root: it has files that may be parts of one credential,
/// and no folder with such files; or it has only files.
fn is_credential(folder: &Path) -> bool {
    let Some(Content { files, folders }) = Content::of(folder) else {
        return false;
    };
    let is_part = |name: &String| layout::takes(name);
    let holds_parts = |folder: &PathBuf| {
        Content::of(folder).is_some_and(|content| content.files.iter().any(is_part))
    };
    let parts: Vec<_> = files.iter().filter(|name| is_part(name)).cloned().collect();
    match parts.is_empty() {
        true => !files.is_empty() && folders.is_empty(),
        false => !roots::is_flat(&parts) && !folders.iter().any(holds_parts),
    }
}

/// What is directly in a folder.
struct Content {
    /// The names of the files.
    files: Vec<String>,
    /// The paths of the folders, without hidden ones.
    folders: Vec<PathBuf>,
}

impl Content {
    fn of(folder: &Path) -> Option<Self> {
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match fs::metadata(entry.path()).is_ok_and(|found| found.is_dir()) {
                true if name.starts_with('.') => {}
                true => folders.push(entry.path()),
                false => files.push(name),
            }
        }
        Some(Self { files, folders })
    }
}

/// The settings of the root at `path`.
fn settings(path: &Path, config: &Config) -> Root {
    let same = |root: &&Root| root.path == path;
    match config.roots.iter().find(same) {
        Some(root) => root.clone(),
        None => Root {
            warn_days: config.warn_days,
            ..Root::new(path)
        },
    }
}
