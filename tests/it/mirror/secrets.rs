//! Which Secrets become which folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::util::kube::{self, Mirror, secret};
use crate::util::{Ca, eventually, eventually_true};

/// A folder to mirror into.
pub(super) struct Output(TempDir);

impl Output {
    pub(super) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("mirror").tempdir().unwrap())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("credentials")
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.path().join(name)
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

    /// The files of a folder, as somebody reads them; `None` where there is no folder.
    pub(super) fn files(&self, name: &str) -> Option<BTreeMap<String, String>> {
        files(&self.folder(name))
    }

    #[track_caller]
    pub(super) fn wait_for(&self, names: &[&str]) {
        eventually_true(&format!("the folders {names:?}"), || self.names() == names);
    }
}

fn files(folder: &Path) -> Option<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("..") {
            files.insert(name, fs::read_to_string(entry.path()).ok()?);
        }
    }
    Some(files)
}

#[test]
fn a_secret_becomes_a_folder_follows_its_changes_and_goes() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let namespace = cluster.namespace();
    let output = Output::new();
    let ca = Ca::new("CA");
    let identity = ca.server(&["a.example.com"]);
    namespace.create_tls("first", &identity);
    let _mirror = Mirror::start(&namespace, &output.path());
    output.wait_for(&["first"]);
    let files = output.files("first").unwrap();
    assert_eq!(files["tls.crt"], identity.chain);
    assert_eq!(files["tls.key"], identity.key);

    namespace.create_generic("second", &[("cert", "C"), ("key", "K"), ("cacert", "A")]);
    let files = eventually("the second one", || output.files("second"));
    let expected = [("cacert", "A"), ("cert", "C"), ("key", "K")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(files, expected.into());

    namespace.apply(&secret(
        "second",
        "Opaque",
        &[("cert", "C2"), ("key", "K2")],
    ));
    eventually_true("the change", || {
        output
            .files("second")
            .is_some_and(|files| files.get("key").is_some_and(|key| key == "K2"))
    });
    namespace.delete("second");
    output.wait_for(&["first"]);
}
