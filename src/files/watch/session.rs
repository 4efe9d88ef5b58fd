//! One read: places a watch before each look, and keeps what the read depended on.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::Inner;
use super::index::{FolderId, Need, OwnerId, Placement};
use super::pending::{Excuse, FileKey, QUIET};
use super::table::Ended;
use crate::files::read::{Arm, Dir, FileId, Interest, Stamps};

/// A watch is placed in microseconds. Where the kernel takes longer than this, the read goes on
/// without, and is repeated.
const PLACING: Duration = Duration::from_secs(2);

/// How long a word of an event takes to get here at most, on a machine that is not overloaded.
const LAG: Duration = Duration::from_millis(50);

/// One read for one owner.
pub(super) struct Session<'a, K> {
    inner: &'a Inner<K>,
    owner: OwnerId,
    excuse: Excuse,
    began: Instant,
    needs: HashSet<(FolderId, Need)>,
    /// Folders that were not watched before: what was going on in them is not known.
    fresh: HashSet<FileId>,
    suspects: Vec<(FileKey, Instant)>,
    /// Whether a file changed so lately that somebody may be writing it.
    recent: bool,
    device: Option<u64>,
}

impl<'a, K> Session<'a, K> {
    pub(super) fn new(
        inner: &'a Inner<K>,
        (owner, excuse): (OwnerId, Excuse),
        began: Instant,
    ) -> Self {
        Self {
            inner,
            owner,
            excuse,
            began,
            needs: HashSet::new(),
            fresh: HashSet::new(),
            suspects: Vec::new(),
            recent: false,
            device: None,
        }
    }

    /// Whether somebody may be writing a file without a word of it having got here.
    pub(super) fn may_lag(&self) -> bool {
        self.recent && self.excuse < Excuse::Tearing
    }

    pub(super) fn take_needs(&mut self) -> HashSet<(FolderId, Need)> {
        std::mem::take(&mut self.needs)
    }

    pub(super) fn end(&mut self, stamps: Stamps, heard_all: bool) -> Ended {
        Ended {
            began: self.began,
            needs: self.take_needs(),
            stamps,
            suspects: std::mem::take(&mut self.suspects),
            excuse: self.excuse,
            heard_all,
            device: self.device,
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Arm for Session<'_, K> {
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
        let now = Instant::now();
        let mut table = self.inner.lock();
        let (id, replaced) = table.index.enter(dir);
        if replaced {
            let mut owners = Vec::new();
            table.index.replace(id, dir.id, &mut owners);
            if table.mark(&owners, now) {
                self.inner.wake.notify_one();
            }
        }
        let need = (id, Need::from(interest));
        if !self.needs.contains(&need) {
            table.index.add(id, &need.1, self.owner);
            self.needs.insert(need);
        }
        let Some(placement) = table.index.folder(id).map(|folder| folder.placement) else {
            return;
        };
        if placement == Placement::Live {
            return;
        }
        if !dir.complete && !table.has_arrived(dir.path, now) {
            self.fresh.insert(dir.id);
        }
        if dir.remote {
            // A watch would tell of this machine's changes alone, and placing one can hang.
            self.device = Some(dir.id.device);
            return table.index.refuse(id, super::Polled::RemoteFileSystem);
        }
        if matches!(placement, Placement::Refused(_)) || table.index.share(id) {
            return;
        }
        self.inner.place(table, id, now + PLACING);
    }

    fn saw(&mut self, dir: Dir<'_>, name: &OsStr, modified: SystemTime) {
        // A time in the future is a clock's fault and tells nothing.
        let Ok(age) = SystemTime::now().duration_since(modified) else {
            return;
        };
        self.recent |= age < QUIET + LAG;
        if age < QUIET
            && self.fresh.contains(&dir.id)
            && let Some(when) = Instant::now().checked_sub(age)
        {
            self.suspects.push((file_key(&dir.path.join(name)), when));
        }
    }
}

pub(super) fn file_key(path: &Path) -> FileKey {
    let mut hasher = DefaultHasher::new();
    path.as_os_str().hash(&mut hasher);
    hasher.finish()
}
