//! What a read begins with, and what it comes to.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Polled;
use super::pending::{Excuse, FileKey};
use super::table::Table;
use super::watched::{FolderId, Need, OwnerId, Placement};
use crate::files::read::Stamps;

/// Reads in a row during which something changed, before the next one waits a little.
const RACES: u32 = 3;

/// What a read has come to.
pub(super) struct Ended {
    pub(super) began: Instant,
    pub(super) needs: HashSet<(FolderId, Need)>,
    pub(super) stamps: Stamps,
    /// Files that may be being written, and when they last changed.
    pub(super) suspects: Vec<(FileKey, Instant)>,
    /// What it is good for use in spite of.
    pub(super) excuse: Excuse,
    /// Whether what had happened to its files until they were read has been heard of.
    pub(super) heard_all: bool,
    /// The device that may keep a look waiting.
    pub(super) device: Option<u64>,
    /// Whether a file can be changed without a word to the folder that it is in.
    pub(super) shared: bool,
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// A read of `id` begins: what happens from now on calls for another one. Tells what it is good
    /// for use in spite of.
    pub(super) fn begin_read(&mut self, id: OwnerId, now: Instant) -> Excuse {
        self.reads += 1;
        let serial = self.reads;
        let Some(owner) = self.owner_mut(id) else {
            return Excuse::Nothing;
        };
        owner.reading = true;
        owner.forgotten = false;
        owner.serial = serial;
        owner.pending.begin(now)
    }

    /// A read of `id` has ended. Tells whether what it found is good for use.
    pub(super) fn end_read(&mut self, id: OwnerId, read: Ended, now: Instant) -> bool {
        let Some(mut owner) = self.owners.get_mut(id as usize).and_then(Option::take) else {
            return false;
        };
        for (file, when) in read.suspects {
            owner.pending.suspect(file, when);
        }
        let usable = read.heard_all && owner.pending.is_usable(read.excuse, now);
        let (raced, refused) = self.placements(&read.needs);
        if usable {
            owner.pending.settle(read.began);
        }
        if usable && !raced {
            owner.races = 0;
        } else {
            owner.races += 1;
            owner.pending.mark(now + back_off(owner.races));
        }
        let passing = read.stamps.unsure().then_some(Polled::PassingFailure);
        let shared = read.shared.then_some(Polled::SharedFile);
        let polled = [refused, passing, shared].into_iter().max().flatten();
        let every = self.settings.poll_interval;
        self.tally.change(owner.polled, polled, every);
        owner.polled = polled;
        owner.device = read.device;
        owner.stamps = Arc::new(read.stamps);
        owner.reading = false;
        let forgotten = owner.forgotten;
        let before = std::mem::take(&mut owner.needs);
        for (folder, need) in before {
            if !read.needs.contains(&(folder, need.clone())) {
                self.drop_need(folder, &need, id);
            }
        }
        owner.needs = read.needs.into_iter().collect();
        self.owners[id as usize] = Some(owner);
        self.pending.insert(id);
        self.plan_check(id, now);
        if forgotten {
            self.remove(id);
        }
        usable && !forgotten
    }

    /// A read of `id` ended in a panic: it is as if it had not been.
    pub(super) fn abort_read(&mut self, id: OwnerId, needs: HashSet<(FolderId, Need)>) {
        let Some(owner) = self.owner_mut(id) else {
            return;
        };
        owner.reading = false;
        owner.pending.mark(Instant::now());
        let kept: HashSet<(FolderId, Need)> = owner.needs.drain(..).chain(needs).collect();
        owner.needs = kept.into_iter().collect();
        if owner.forgotten {
            self.remove(id);
        } else {
            self.pending.insert(id);
        }
    }

    /// Whether the watch on one of the folders is gone again, and why one can't be had.
    fn placements(&self, needs: &HashSet<(FolderId, Need)>) -> (bool, Option<Polled>) {
        let mut raced = false;
        let mut refused = None;
        for (id, _) in needs {
            match self.index.folder(*id).map(|folder| folder.placement) {
                Some(Placement::Live(_)) => {}
                Some(Placement::Refused(why)) => refused = refused.max(Some(why)),
                _ => raced = true,
            }
        }
        (raced, refused)
    }
}

/// How long the next read waits after this many in a row during which something changed.
fn back_off(races: u32) -> Duration {
    match races.checked_sub(RACES + 1) {
        None => Duration::ZERO,
        Some(more) => Duration::from_millis(10 << more.min(4)),
    }
}
