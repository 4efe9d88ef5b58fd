//! Follows a few files that are replaced now and then, such as a configuration file: reports when one of them may
//! have changed, however it was written, and whatever links lead to it.
//!
//! Credential folders have their own [watch](super::watch), because unnecessary reports cost more there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Config, INotifyWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Where no event reports a change (network file systems, folders replaced as a whole), it is found
/// within this time.
const POLL: Duration = Duration::from_secs(5);

/// A change is reported when nothing has happened for this long, so that a file that is being
/// written is complete.
const QUIET: Duration = Duration::from_millis(100);

/// A change is reported after this long at the latest.
const PATIENCE: Duration = Duration::from_secs(2);

/// The maximum number of links from one file to the next, as in Linux.
const MAX_LINKS: usize = 40;

/// Follows files until it is dropped.
pub struct Follow {
    changed: Arc<Notify>,
}

impl Follow {
    /// Starts following the files at these paths, which need not exist. Changes from now on are
    /// reported.
    pub fn start(paths: Vec<PathBuf>) -> Self {
        let changed = Arc::<Notify>::default();
        let report = Arc::downgrade(&changed);
        let before = states(&paths);
        let thread = thread::Builder::new().name("files-follow".into());
        if let Err(error) = thread.spawn(move || run(&paths, before, &report)) {
            tracing::warn!(%error, "files are not watched for changes; raise the limit on threads");
        }
        Self { changed }
    }

    /// Waits until one of the files may have changed. Nothing is lost when the future is dropped;
    /// several changes may be reported as one.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// What is compared: the identity of a file, and when it changed.
type State = Option<[i64; 7]>;

fn run(paths: &[PathBuf], mut before: Vec<State>, report: &Weak<Notify>) {
    let (send, events) = sync_channel(1);
    let handler = move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| matters(event.kind)) {
            // If a report is already waiting, it stands for both.
            let _ = send.try_send(());
        }
    };
    let mut watcher = INotifyWatcher::new(handler, Config::default())
        .inspect_err(|error| {
            tracing::debug!(%error, "changes of files are noticed only by \
                                                      polling")
        })
        .ok();
    loop {
        if let Some(watcher) = &mut watcher {
            for folder in folders(paths) {
                // A folder that does not exist yet is found by polling.
                let _ = watcher.watch(&folder, RecursiveMode::NonRecursive);
            }
        }
        let now = states(paths);
        let Some(report) = report.upgrade() else {
            return;
        };
        if now != before {
            report.notify_one();
            before = now;
        }
        drop(report);
        wait(&events);
    }
}

/// Whether an event may be a change. Reads by other processes are not.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// Waits for an event, and then until no other follows; or until the next poll is due.
fn wait(events: &Receiver<()>) {
    match events.recv_timeout(POLL) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => return,
        Err(RecvTimeoutError::Disconnected) => return thread::sleep(POLL),
    }
    let start = Instant::now();
    while start.elapsed() < PATIENCE && events.recv_timeout(QUIET).is_ok() {}
}

/// The folders that have an event when one of the files changes.
fn folders(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for path in paths {
        let mut path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        for _ in 0..MAX_LINKS {
            let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
            let target = fs::read_link(&path);
            let next = target.map(|target| folder.join(target));
            folders.insert(folder);
            match next {
                Ok(next) => path = next,
                Err(_) => break,
            }
        }
    }
    folders
}

fn states(paths: &[PathBuf]) -> Vec<State> {
    let state = |path: &PathBuf| {
        let stat = fs::metadata(path).ok()?;
        let times = [
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
        ];
        let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
        let file = [stat.dev(), stat.ino(), stat.size()].map(u64::cast_signed);
        let [device, inode, size] = file;
        Some([device, inode, size, mtime, mtime_nsec, ctime, ctime_nsec])
    };
    paths.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::files::kubelet;

    /// A change that is not reported within this time is lost.
    const LOST: Duration = Duration::from_secs(20);

    async fn reported(follow: &Follow) {
        let report = tokio::time::timeout(LOST, follow.changed()).await;
        report.expect("a change that was not reported");
    }

    async fn is_silent(follow: &Follow) -> bool {
        let report = tokio::time::timeout(3 * QUIET, follow.changed()).await;
        report.is_err()
    }

    #[tokio::test]
    async fn whatever_is_done_to_a_file_is_reported_and_reading_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        let follow = Follow::start(vec![file.clone(), dir.path().join("not/there")]);
        fs::write(&file, "1").unwrap();
        reported(&follow).await;
        fs::write(&file, "2").unwrap();
        reported(&follow).await;
        fs::write(dir.path().join("new"), "3").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        reported(&follow).await;
        for _ in 0..100 {
            fs::read(&file).unwrap();
            fs::write(dir.path().join("other"), "x").unwrap();
        }
        assert!(is_silent(&follow).await);
        fs::remove_file(&file).unwrap();
        reported(&follow).await;
        assert!(is_silent(&follow).await);
        // In a folder that did not exist when it was first opened.
        fs::create_dir(dir.path().join("not")).unwrap();
        fs::write(dir.path().join("not/there"), "x").unwrap();
        reported(&follow).await;
    }

    #[tokio::test]
    async fn files_behind_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mount");
        fs::create_dir(&mount).unwrap();
        kubelet::write(&mount, 1, &[("a.toml", "1")]).unwrap();
        symlink("mount/a.toml", dir.path().join("link")).unwrap();
        let follow = Follow::start(vec![dir.path().join("link")]);
        for n in 2..5 {
            kubelet::write(&mount, n, &[("a.toml", n.to_string())]).unwrap();
            reported(&follow).await;
        }
        assert!(is_silent(&follow).await);
    }

    #[tokio::test]
    async fn a_file_is_reported_once_when_it_is_complete() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let follow = Follow::start(vec![path.clone()]);
        let mut file = fs::File::create(&path).unwrap();
        for _ in 0..10 {
            file.write_all(b"x").unwrap();
            tokio::time::sleep(QUIET / 4).await;
        }
        drop(file);
        reported(&follow).await;
        assert_eq!(fs::read(&path).unwrap().len(), 10);
    }
}
