//! When an owner's files are read: immediately, or once the writer is done.

use std::time::{Duration, Instant};

/// A file that has not changed for this long is taken for complete, though it was not closed.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// An owner waits no longer than this for files that are being written: one that is written for
/// ever must not keep the others from being read. Copying the largest file allowed takes less.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How many files being written are tracked separately for one owner. More share one entry.
const MAX_WRITING: usize = 128;

/// What has happened to an owner's files since they were read.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Due, but not before this.
    due: Option<Instant>,
    /// The files that are being written, and when each was last changed.
    writing: Vec<(FileKey, Instant)>,
    /// Since when no read could be used.
    since: Option<Instant>,
    /// Whether the content of a file changed since the last read began.
    torn: bool,
    /// Whether the owner was returned as due and has not been read since.
    handed_over: bool,
}

/// Conditions under which a read may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Excuse {
    Nothing,
    /// A file that is being written, but did not change during the read.
    Writing,
    /// A file that changed during the read.
    Tearing,
}

/// A file, identified among those of an owner by a hash of its path.
pub(super) type FileKey = u64;

/// What an event means for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Its content changes, and there is more to come.
    Written,
    /// Whoever wrote it is done.
    Finished,
    /// It came whole, went, or is another one now.
    Replaced,
    /// Something else about it changed.
    Touched,
}

impl Pending {
    pub(super) fn note(&mut self, change: Change, file: FileKey, now: Instant) {
        match change {
            Change::Written => {
                self.torn = true;
                self.write(file, now);
                self.since.get_or_insert(now);
                return;
            }
            Change::Finished => {
                self.torn = true;
                self.writing.retain(|(key, _)| *key != file);
            }
            Change::Replaced => self.writing.retain(|(key, _)| *key != file),
            Change::Touched => {}
        }
        self.mark(now);
    }

    /// Due, but not before `when`.
    pub(super) fn mark(&mut self, when: Instant) {
        self.due = Some(self.due.map_or(when, |due| due.min(when)));
        self.since.get_or_insert(when);
    }

    /// `file` had changed at `when`, and it is unknown whether it is complete.
    pub(super) fn suspect(&mut self, file: FileKey, when: Instant) {
        if !self.writing.iter().any(|(key, _)| *key == file) {
            self.write(file, when);
        }
    }

    fn write(&mut self, file: FileKey, now: Instant) {
        let full = self.writing.len() >= MAX_WRITING;
        match self.writing.iter_mut().find(|(key, _)| *key == file) {
            Some((_, last)) => *last = now,
            None if full => self.writing[0] = (file, now),
            None => self.writing.push((file, now)),
        }
    }

    /// When a read is next called for, if at all.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let quiet = self.writing.iter().map(|(_, last)| *last + QUIET).max();
        let settled = self.due.max(quiet)?;
        // Patience ends the wait for writers, once, and not that for a delayed mark.
        let patience = self
            .since
            .filter(|_| !self.handed_over)
            .map(|since| since + PATIENCE);
        Some(patience.map_or(settled, |end| settled.min(end.max(self.due.unwrap_or(end)))))
    }

    /// The owner was returned as due; what happens from now on calls for another read.
    pub(super) fn hand_over(&mut self, now: Instant) {
        self.due = None;
        self.writing.retain(|(_, last)| *last + QUIET > now);
        self.handed_over = true;
    }

    /// A read begins. Returns the conditions under which it may be used.
    pub(super) fn begin(&mut self, now: Instant) -> Excuse {
        self.hand_over(now);
        self.handed_over = false;
        self.torn = false;
        match self.since {
            // One that is rewritten without a pause lets no read be whole.
            Some(since) if since + 2 * PATIENCE <= now => Excuse::Tearing,
            Some(since) if since + PATIENCE <= now => Excuse::Writing,
            _ => Excuse::Nothing,
        }
    }

    /// Whether the read that is under way may be used.
    pub(super) fn is_usable(&self, excuse: Excuse, now: Instant) -> bool {
        let writing = self.writing.iter().any(|(_, last)| *last + QUIET > now);
        match excuse {
            Excuse::Nothing => !self.torn && !writing,
            Excuse::Writing => !self.torn,
            Excuse::Tearing => true,
        }
    }

    /// The read that began at `began` is used.
    pub(super) fn settle(&mut self, began: Instant) {
        let quiet = self.due.is_none() && self.writing.is_empty();
        self.since = (!quiet).then_some(began);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn noted(changes: &[(Change, FileKey, u32)]) -> (Pending, Instant) {
        let start = Instant::now();
        let mut pending = Pending::default();
        for (change, file, at) in changes {
            pending.note(*change, *file, start + *at * MS);
        }
        (pending, start)
    }

    #[test]
    fn whole_changes_are_due_at_once() {
        assert_eq!(Pending::default().deadline(), None);
        for change in [Change::Finished, Change::Replaced, Change::Touched] {
            let (pending, start) = noted(&[(change, 1, 3)]);
            assert_eq!(pending.deadline(), Some(start + 3 * MS));
        }
    }

    #[test]
    fn a_file_being_written_is_due_when_closed_or_silent() {
        let written = [(Change::Written, 1, 0), (Change::Written, 1, 60)];
        let (mut pending, start) = noted(&written);
        assert_eq!(pending.deadline(), Some(start + 160 * MS));
        pending.note(Change::Finished, 1, start + 61 * MS);
        assert_eq!(pending.deadline(), Some(start + 61 * MS));
    }

    #[test]
    fn other_changes_wait_for_a_file_being_written() {
        let (mut pending, start) = noted(&[
            (Change::Written, 1, 0),
            (Change::Replaced, 2, 1),
            (Change::Touched, 1, 2),
            (Change::Written, 3, 50),
            (Change::Finished, 1, 60),
        ]);
        assert_eq!(pending.deadline(), Some(start + 150 * MS));
        pending.note(Change::Finished, 3, start + 70 * MS);
        assert_eq!(pending.deadline(), Some(start + MS));
    }

    #[test]
    fn a_file_written_for_ever_ends_the_patience() {
        let mut pending = Pending::default();
        let start = Instant::now();
        for at in (0..6000).step_by(50) {
            pending.note(Change::Written, 1, start + at * MS);
        }
        assert_eq!(pending.deadline(), Some(start + PATIENCE));
        let now = start + 6000 * MS;
        pending.hand_over(now);
        assert_eq!(pending.deadline(), Some(start + 6050 * MS), "told of once");
        assert_eq!(pending.begin(now), Excuse::Writing);
        assert!(pending.is_usable(Excuse::Writing, now));
        pending.settle(now);
        assert_eq!(pending.deadline(), Some(start + 6050 * MS));
        assert_eq!(
            pending.begin(now + MS),
            Excuse::Nothing,
            "the patience starts again"
        );
    }

    #[test]
    fn a_file_rewritten_without_a_pause_ends_all_patience() {
        let mut pending = Pending::default();
        let start = Instant::now();
        let mut used = Vec::new();
        for at in 0..11_000 {
            let now = start + at * MS;
            let excuse = pending.begin(now);
            pending.note(Change::Written, 1, now);
            pending.note(Change::Finished, 1, now);
            if pending.is_usable(excuse, now) {
                pending.settle(now);
                used.push(at);
            } else {
                pending.mark(now);
            }
        }
        assert_eq!(used, [10_000]);
    }

    #[test]
    fn a_read_during_which_a_file_was_written_is_torn() {
        let start = Instant::now();
        for changes in [
            &[Change::Written][..],
            &[Change::Finished],
            &[Change::Written, Change::Finished],
        ] {
            let mut pending = Pending::default();
            pending.begin(start);
            assert!(pending.is_usable(Excuse::Nothing, start));
            for change in changes {
                pending.note(*change, 1, start + MS);
            }
            assert!(!pending.is_usable(Excuse::Writing, start + 300 * MS));
            assert!(pending.deadline().is_some());
        }
        let mut pending = Pending::default();
        pending.begin(start);
        pending.note(Change::Replaced, 1, start + MS);
        assert!(
            pending.is_usable(Excuse::Nothing, start + MS),
            "whole files can't be torn"
        );
    }

    #[test]
    fn a_suspect_file_is_due_when_it_has_been_silent() {
        let (mut pending, start) = noted(&[]);
        pending.begin(start);
        pending.suspect(1, start - 40 * MS);
        assert!(!pending.is_usable(Excuse::Nothing, start));
        assert!(pending.is_usable(Excuse::Nothing, start + 60 * MS));
        assert_eq!(pending.deadline(), Some(start + 60 * MS));
        pending.suspect(1, start - 20 * MS);
        assert_eq!(pending.deadline(), Some(start + 60 * MS));
    }

    #[test]
    fn a_delayed_mark_keeps_its_delay() {
        let (mut pending, start) = noted(&[]);
        pending.mark(start + 200 * MS);
        assert_eq!(pending.deadline(), Some(start + 200 * MS));
        pending.note(Change::Written, 1, start);
        assert_eq!(pending.deadline(), Some(start + 200 * MS));
    }

    #[test]
    fn very_many_files_being_written_are_bounded() {
        let start = Instant::now();
        let mut pending = Pending::default();
        for file in 0..10_000 {
            pending.note(Change::Written, file, start);
        }
        assert!(pending.writing.len() <= MAX_WRITING);
        assert_eq!(pending.deadline(), Some(start + QUIET));
    }
}
