//! Credential folders, and the ways in which tools write them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::kubelet;
use super::pki::Identity;

/// A root of credential folders, removed when dropped.
pub(crate) struct Root {
    folder: TempDir,
}

impl Root {
    pub(crate) fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// A root somewhere in `folder`, which exists.
    pub(crate) fn new_in(folder: &Path) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("root")
            .tempdir_in(folder)
            .unwrap();
        fs::create_dir(folder.path().join("live")).unwrap();
        Self { folder }
    }

    /// The folder that the agent watches.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("live")
    }

    /// A folder next to the root, for a tool's own files.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of a credential folder.
    pub(crate) fn credential(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Creates or changes a credential folder. Each file is written completely, and then renamed to its name.
    pub(crate) fn write<C: AsRef<[u8]>>(&self, name: &str, files: &[(&str, C)]) {
        write_files(&self.credential(name), files);
    }

    /// A folder of the files `cert` and `key`.
    pub(crate) fn write_pair(&self, name: &str, identity: &Identity) {
        self.write(name, &[("cert", &identity.chain), ("key", &identity.key)]);
    }

    /// Removes a credential folder with all that is in it.
    pub(crate) fn remove(&self, name: &str) {
        fs::remove_dir_all(self.credential(name)).unwrap();
    }
}

/// Writes files into `folder`, which is created. Each file is written completely, and then renamed to its name.
pub(crate) fn write_files<C: AsRef<[u8]>>(folder: &Path, files: &[(&str, C)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        write_by_rename(&folder.join(name), content);
    }
}

/// Writes a file completely, and then renames it to its name.
fn write_by_rename(path: &Path, content: impl AsRef<[u8]>) {
    let mut name = path.file_name().unwrap().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, content).unwrap();
    fs::rename(&temporary, path).unwrap();
}

/// A way of replacing a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// kubelet: a new folder, and the link `..data` renamed onto the old one.
    Kubelet,
    /// Key, then certificate, each renamed over the old one.
    Rename,
    /// `cp`: certificate and key copied over in place.
    Copy,
    /// `cp` of a slow source: in pieces, with pauses.
    SlowCopy,
    /// certbot: the links of one certificate removed and created again, one by one.
    Certbot,
}

impl Way {
    pub(crate) const ALL: [Self; 5] = [
        Self::Kubelet,
        Self::Rename,
        Self::Copy,
        Self::SlowCopy,
        Self::Certbot,
    ];

    /// A credential's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Rename => "rename",
            Self::Copy => "copy",
            Self::SlowCopy => "slow-copy",
            Self::Certbot => "certbot",
        }
    }

    /// A host's name for it.
    pub(crate) fn host(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet.test",
            Self::Rename => "rename.test",
            Self::Copy => "copy.test",
            Self::SlowCopy => "slow-copy.test",
            Self::Certbot => "certbot.test",
        }
    }

    /// Writes `generation` of the pair as credential `name`: the first one, or over the last one.
    /// The numbers of successive generations differ.
    pub(crate) fn write(self, root: &Root, name: &str, generation: usize, identity: &Identity) {
        let folder = root.credential(name);
        fs::create_dir_all(&folder).unwrap();
        match self {
            Self::Kubelet => {
                let files = [("tls.crt", &identity.chain), ("tls.key", &identity.key)];
                kubelet::write(&folder, generation, &files).unwrap();
            }
            Self::Rename => {
                write_by_rename(&folder.join("tls.key"), &identity.key);
                write_by_rename(&folder.join("tls.crt"), &identity.chain);
            }
            Self::Copy => {
                fs::write(folder.join("tls.crt"), &identity.chain).unwrap();
                fs::write(folder.join("tls.key"), &identity.key).unwrap();
            }
            Self::SlowCopy => {
                copy_slowly(&folder.join("tls.crt"), &identity.chain);
                copy_slowly(&folder.join("tls.key"), &identity.key);
            }
            Self::Certbot => certbot(&root.beside("archive"), &folder, name, generation, identity),
        }
    }
}

/// As certbot does: the files of each generation in `archive/NAME/`, and links to them, which are removed and
/// created again in this order.
fn certbot(archive: &Path, live: &Path, name: &str, generation: usize, identity: &Identity) {
    let folder = archive.join(name);
    fs::create_dir_all(&folder).unwrap();
    let chain = identity.chain.strip_prefix(&identity.leaf).unwrap();
    let files = [
        ("cert", identity.leaf.as_str()),
        ("privkey", identity.key.as_str()),
        ("chain", chain),
        ("fullchain", identity.chain.as_str()),
    ];
    for (kind, content) in files {
        fs::write(folder.join(format!("{kind}{generation}.pem")), content).unwrap();
    }
    for (kind, _) in files {
        let link = live.join(format!("{kind}.pem"));
        let _ = fs::remove_file(&link);
        let target = format!("../../archive/{name}/{kind}{generation}.pem");
        symlink(target, &link).unwrap();
    }
}

/// Truncates, then writes in three pieces with a pause after each.
fn copy_slowly(path: &Path, content: &str) {
    const PAUSE: Duration = Duration::from_millis(2);
    let mut file = fs::File::create(path).unwrap();
    for piece in content.as_bytes().chunks(content.len().div_ceil(3)) {
        std::thread::sleep(PAUSE);
        file.write_all(piece).unwrap();
    }
    std::thread::sleep(PAUSE);
}
