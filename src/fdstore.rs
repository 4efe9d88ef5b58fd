//! Stores previous versions that are in service across a restart, in the service manager's file descriptor
//! store: in sealed memory, never on disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use prost::Message;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::credential;
use crate::files::read::File as CredentialFile;
use crate::inventory::{Judged, Key};
use crate::proto::core::{DataSource, data_source::Specifier};
use crate::proto::tls::{self, secret::Type};
use crate::secret::{Kind, Part, Version};

/// The prefix of the names of these descriptors; sockets have other names.
const PREFIX: &str = "previous-";
/// More than the size of a part with its head: files are limited to 64 MiB each.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The head before the content, as a line of JSON.
#[derive(Serialize, Deserialize)]
struct Head {
    root: PathBuf,
    name: String,
}

/// Stores previous versions in the service manager's store. Uses a separate thread, because a service manager
/// that does not read must not block the handling of files. Does nothing if the agent does not run as a unit.
#[derive(Debug)]
pub struct Keeper {
    wanted: Arc<Wanted>,
}

/// The versions to store for changed folders, until the thread handles them.
#[derive(Debug, Default)]
struct Wanted {
    folders: Mutex<HashMap<Key, Vec<Arc<Part>>>>,
    changed: Condvar,
}

impl Keeper {
    /// Whether a descriptor of that name holds a previous version.
    pub fn owns(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// Starts the thread, with the current content of the store.
    pub fn start<'a>(stored: impl IntoIterator<Item = &'a (Key, Part)>) -> Self {
        let mut kept = Kept::default();
        for (key, part) in stored {
            let parts = kept.0.entry(key.clone()).or_default();
            parts.insert(part.kind(), part.version());
        }
        let wanted = Arc::<Wanted>::default();
        let thread = std::thread::Builder::new().name("fdstore".into());
        let spawned = thread.spawn({
            let wanted = wanted.clone();
            move || {
                loop {
                    let (key, parts) = wanted.next();
                    kept.keep(&key, &parts);
                }
            }
        });
        report(spawned.map(drop));
        Self { wanted }
    }

    /// Replaces the stored versions of a folder with `parts`, asynchronously.
    pub fn keep(&self, key: &Key, parts: Vec<Arc<Part>>) {
        self.wanted.lock().insert(key.clone(), parts);
        self.wanted.changed.notify_one();
    }
}

impl Wanted {
    /// Waits for a folder whose stored versions must change.
    fn next(&self) -> (Key, Vec<Arc<Part>>) {
        let mut folders = self.lock();
        loop {
            let key = folders.keys().next().cloned();
            if let Some(found) = key.and_then(|key| folders.remove_entry(&key)) {
                return found;
            }
            let waited = self.changed.wait(folders);
            folders = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<Part>>>> {
        // Each change under the lock is a single insert or remove.
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content of the store, by folder: the version of each part.
#[derive(Debug, Default)]
struct Kept(HashMap<Key, HashMap<Kind, Version>>);

impl Kept {
    fn keep(&mut self, key: &Key, parts: &[Arc<Part>]) {
        let kept = self.0.entry(key.clone()).or_default();
        kept.retain(|kind, _| {
            let stays = parts.iter().any(|part| part.kind() == *kind);
            if !stays {
                report(remove(key, *kind));
            }
            stays
        });
        for part in parts {
            if kept.get(&part.kind()) == Some(&part.version()) {
                continue;
            }
            // Storing a name twice would leave two descriptors.
            if kept.insert(part.kind(), part.version()).is_some() {
                report(remove(key, part.kind()));
            }
            report(store(key, part));
        }
        if kept.is_empty() {
            self.0.remove(key);
        }
    }
}

fn store(key: &Key, part: &Part) -> io::Result<()> {
    let memory = sealed(key, part)?;
    let name = descriptor_name(key, part.kind());
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    sd_notify::notify_with_fds(&states, &[memory.as_fd()])
}

fn remove(key: &Key, kind: Kind) -> io::Result<()> {
    let name = descriptor_name(key, kind);
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)])
}

fn report(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(
            "the service manager can't store a previous version, which would be lost on a restart: {error}"
        );
    }
}

/// The part, in sealed memory that can no longer be changed.
fn sealed(key: &Key, part: &Part) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("sds-agent-previous", flags)?);
    let head = Head {
        root: key.root.to_path_buf(),
        name: key.name.to_string(),
    };
    serde_json::to_writer(&file, &head)?;
    file.write_all(b"\n")?;
    file.write_all(&part.message(&key.name))?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// The name of a part in the store: names are limited to 255 characters, and can't contain a colon.
fn descriptor_name(key: &Key, kind: Kind) -> String {
    let mut hash = Sha256::new_with_prefix(key.path().as_os_str().as_encoded_bytes());
    hash.update([0]);
    hash.update(kind.as_str());
    format!("{PREFIX}{}", Version::of(hash))
}

/// The folders and parts in descriptors of the store. Parts that can't be read, or would now fail the check,
/// are left out.
pub fn restore(descriptors: Vec<File>) -> Vec<(Key, Part)> {
    let mut files: HashMap<Key, Vec<CredentialFile>> = HashMap::new();
    for descriptor in descriptors {
        match read(descriptor) {
            Ok((key, parts)) => files.entry(key).or_default().extend(parts),
            Err(error) => tracing::warn!("a previous version can't be restored: {error}"),
        }
    }
    let mut parts = Vec::new();
    for (key, files) in files {
        let credential =
            credential::from_files(&key.path(), files, std::time::SystemTime::now(), 0);
        for problem in credential.problems() {
            tracing::warn!("a previous version is rejected now: {problem}");
        }
        let restored = Judged::from(credential).into_parts();
        parts.extend(restored.map(|part| (key.clone(), part)));
    }
    parts
}

fn read(mut file: File) -> io::Result<(Key, Vec<CredentialFile>)> {
    file.rewind()?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (head, message) = bytes.split_at(end.ok_or(io::ErrorKind::InvalidData)?);
    let head: Head = serde_json::from_slice(head)?;
    let secret = tls::Secret::decode(&message[1..]).map_err(io::Error::other)?;
    let root: Arc<Path> = head.root.into();
    Ok((Key::new(&root, head.name.into()), files_of(secret)))
}

/// Files that would make up a part.
fn files_of(secret: tls::Secret) -> Vec<CredentialFile> {
    let mut files = Vec::new();
    let mut add = |name: &str, source: Option<DataSource>| {
        if let Some(Specifier::InlineBytes(bytes)) = source.and_then(|source| source.specifier) {
            files.push(CredentialFile {
                name: name.to_owned(),
                bytes: Zeroizing::new(bytes),
                mode: 0o600,
            });
        }
    };
    match secret.r#type {
        Some(Type::TlsCertificate(pair)) => {
            add("tls.crt", pair.certificate_chain);
            add("tls.key", pair.private_key);
            add("tls.ocsp-staple", pair.ocsp_staple);
        }
        Some(Type::ValidationContext(bundle)) => {
            add("ca.crt", bundle.trusted_ca);
            add("ca.crl", bundle.crl);
        }
        Some(Type::SessionTicketKeys(keys)) => {
            // The last one by name encrypts, and Envoy gets it first.
            for (at, key) in keys.keys.into_iter().rev().enumerate() {
                add(&format!("{at:04}.ticketkey"), Some(key));
            }
        }
        Some(Type::GenericSecret(generic)) => add("secret.bin", generic.secret),
        None => {}
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::{ca, files, leaf};

    #[test]
    fn what_is_kept_is_restored_as_it_was() {
        let (cert, key) = leaf(&ca("root"), "a.example");
        let authority = ca("root").pem;
        let list = files(&[
            ("tls.crt", &cert),
            ("tls.key", &key),
            ("ca.crt", &authority),
        ]);
        let folder = Key::new(&Path::new("/c").into(), "a".into());
        let credential =
            credential::from_files(&folder.path(), list, std::time::SystemTime::now(), 0);
        let parts: Vec<_> = Judged::from(credential).into_parts().collect();
        assert_eq!(parts.len(), 2);
        let memory = parts.iter().map(|part| sealed(&folder, part).unwrap());
        let mut memory: Vec<_> = memory.collect();
        let error = memory[0].write_all(b"x").unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::PERM.raw_os_error())
        );
        memory.push(File::open("/dev/null").unwrap());
        let mut restored = restore(memory);
        restored.sort_by_key(|(_, part)| part.kind());
        let shown = |part: &Part| (part.kind(), part.version());
        assert_eq!(
            restored
                .iter()
                .map(|(_, part)| shown(part))
                .collect::<Vec<_>>(),
            parts.iter().map(shown).collect::<Vec<_>>()
        );
        assert!(restored.iter().all(|(key, _)| *key == folder));
    }
}
