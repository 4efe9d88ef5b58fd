//! The output folder of a mirror.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::util::eventually_true;

pub(super) struct Output(TempDir);

impl Output {
    pub(super) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("mirror").tempdir().unwrap())
    }

    /// An output folder on a file system in memory, if there is one: a disk takes a minute to remove thousands of
    /// synced folders.
    pub(super) fn in_memory() -> Self {
        let memory = tempfile::Builder::new()
            .prefix("mirror")
            .tempdir_in("/dev/shm");
        memory.map_or_else(|_| Self::new(), Self)
    }

    /// The folder, which does not exist yet.
    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("credentials")
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A path next to it.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path of the mirror's admin socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.beside("admin.sock")
    }

    /// The manifest of a folder.
    pub(super) fn manifest(&self, name: &str) -> serde_json::Value {
        let path = self.folder(name).join("..data/..sds-mirror.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// The names of the folders.
    pub(super) fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path()) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// The files of a folder, read through its links; `None` if there is no folder.
    pub(super) fn files(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.folder(name)).ok()? {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().unwrap();
            if !name.starts_with("..") {
                files.insert(name, fs::read_to_string(entry.path()).ok()?);
            }
        }
        Some(files)
    }

    /// Whether the folder has exactly these files.
    pub(super) fn holds(&self, name: &str, content: &[(&str, &str)]) -> bool {
        let content = content
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.files(name) == Some(content.collect())
    }

    #[track_caller]
    pub(super) fn wait_for(&self, names: &[&str]) {
        eventually_true(&format!("the folders {names:?}"), || self.names() == names);
    }

    #[track_caller]
    pub(super) fn wait_for_content(&self, name: &str, content: &[(&str, &str)]) {
        eventually_true(&format!("{content:?} in {name}"), || {
            self.holds(name, content)
        });
    }
}
