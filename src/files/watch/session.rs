//! One read: places a watch before each look, and keeps what the read depended on.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::pending::{Excuse, FileKey, QUIET};
use super::reads::Ended;
use super::table::Table;
use super::watched::{FolderId, Need, OwnerId, Placement};
use super::{Inner, Polled};
use crate::files::read::{Arm, Dir, FileId, Interest, Seen, Stamps};

/// A watch is placed in microseconds. Where all those of a read take longer than this, it goes on
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
    /// How much longer it may wait for watches.
    patience: Duration,
    needs: HashSet<(FolderId, Need)>,
    /// Folders of which nothing was heard before this time, or nothing is.
    unheard: HashMap<FileId, Option<Instant>>,
    suspects: Vec<(FileKey, Instant)>,
    /// Whether a file changed so lately that somebody may be writing it.
    recent: bool,
    device: Option<u64>,
    /// Whether a file can be changed without a word to the folder that it is in.
    shared: bool,
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
            patience: PLACING,
            needs: HashSet::new(),
            unheard: HashMap::new(),
            suspects: Vec::new(),
            recent: false,
            device: None,
            shared: false,
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
            shared: self.shared,
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Session<'_, K> {
    /// Keeps what is not known of the folder: what went on in it before it was watched.
    fn suspect(&mut self, table: &Table<K>, dir: Dir<'_>, id: FolderId, now: Instant) {
        let placement = table.index.folder(id).map(|folder| folder.placement);
        let since = match placement {
            Some(Placement::Live(since)) if since + QUIET <= now => return,
            Some(Placement::Live(since)) => Some(since),
            _ => None,
        };
        if !dir.complete && !table.has_arrived(dir.path, now) {
            self.unheard.insert(dir.id, since);
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Arm for Session<'_, K> {
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
        let now = Instant::now();
        let mut owners = Vec::new();
        let mut table = self.inner.lock();
        let id = table.index.enter(dir, &mut owners);
        if table.mark(&owners, now) {
            self.inner.wake.notify_one();
        }
        let need = (id, Need::from(interest));
        let Some(folder) = table.index.folder_mut(id) else {
            return;
        };
        if !self.needs.contains(&need) {
            folder.add(&need.1, self.owner);
            self.needs.insert(need);
        }
        if dir.remote {
            folder.placement = Placement::Refused(Polled::RemoteFileSystem);
            self.device = Some(dir.id.device);
        }
        let decided = matches!(folder.placement, Placement::Live(_) | Placement::Refused(_));
        if !decided && !table.index.share(id, now) {
            table = self.inner.place(table, id, now + self.patience);
            self.patience = self.patience.saturating_sub(now.elapsed());
        }
        self.suspect(&table, dir, id, now);
    }

    fn saw(&mut self, dir: Dir<'_>, file: Seen<'_>) {
        self.shared |= file.shared;
        // A time in the future is a clock's fault and tells nothing.
        let Ok(age) = SystemTime::now().duration_since(file.modified) else {
            return;
        };
        self.recent |= age < QUIET + LAG;
        let Some(when) = Instant::now().checked_sub(age).filter(|_| age < QUIET) else {
            return;
        };
        if let Some(since) = self.unheard.get(&dir.id)
            && since.is_none_or(|since| when <= since)
        {
            self.suspects
                .push((file_key(&dir.path.join(file.name)), when));
        }
    }
}

pub(super) fn file_key(path: &Path) -> FileKey {
    let mut hasher = DefaultHasher::new();
    path.as_os_str().hash(&mut hasher);
    hasher.finish()
}
