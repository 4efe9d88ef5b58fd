//! When an owner's files are read: immediately, or once the writer is done.

use std::time::{Duration, Instant};

/// A file that has not changed for this long counts as complete, even if it was not closed.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// An owner waits no longer than this for files that are being written: a file that is written endlessly must not
/// keep the others from being read. Copying the largest allowed file takes less.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// After a read that could not be used, the next one waits this long unless an event causes it: a file that is
/// written without a pause must not keep the processor busy.
const PAUSE: Duration = Duration::from_millis(10);

/// How many files being written are tracked separately for one owner. More share one entry.
const MAX_WRITING: usize = 128;

/// What has happened to an owner's files since they were read, and the read that is under way.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Due, but not before this.
    due: Option<Instant>,
    /// The files that are being written, and when each was last changed.
    writing: Vec<(FileKey, Instant)>,
    /// Since when no read could be used.
    since: Option<Instant>,
    /// Whether the owner was returned as due and has not been read since.
    handed_over: bool,
    /// When the read that is under way began.
    reading: Option<Instant>,
    /// Whether the content of a file has changed since then.
    torn: bool,
    /// The [deadline](Self::deadline) that the table has in its list of what is due.
    pub(super) planned: Option<Instant>,
}

/// A file, identified among those of an owner by a hash of its path.
pub(super) type FileKey = u32;

/// What an event means for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Its content changes, and may change further.
    Written,
    /// Its writer has closed it.
    Finished,
    /// It arrived complete, was removed, or is another file now.
    Replaced,
    /// Something else about it changed.
    Touched,
}

impl Pending {
    pub(super) fn note(&mut self, change: Change, file: FileKey, now: Instant) {
        // The replaced file may have been read in part.
        self.torn |= matches!(change, Change::Written | Change::Finished) || self.is_written(file);
        match change {
            Change::Written => {
                self.write(file, now);
                self.since.get_or_insert(now);
                return;
            }
            Change::Finished | Change::Replaced => self.writing.retain(|(key, _)| *key != file),
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
        if !self.is_written(file) {
            self.write(file, when);
        }
    }

    fn is_written(&self, file: FileKey) -> bool {
        self.writing.iter().any(|(key, _)| *key == file)
    }

    fn write(&mut self, file: FileKey, now: Instant) {
        let full = self.writing.len() >= MAX_WRITING;
        match self.writing.iter_mut().find(|(key, _)| *key == file) {
            Some((_, last)) => *last = now,
            None if full => self.writing[0] = (file, now),
            None => self.writing.push((file, now)),
        }
    }

    /// When the next read is due, if at all. While one is under way, none is.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let quiet = self.writing.iter().map(|(_, last)| *last + QUIET).max();
        let settled = self.due.max(quiet).filter(|_| self.reading.is_none())?;
        // The limit ends the wait for writers, once, but not that for a delayed mark.
        let patience = self
            .since
            .filter(|_| !self.handed_over)
            .map(|since| since + PATIENCE);
        Some(patience.map_or(settled, |end| settled.min(end.max(self.due.unwrap_or(end)))))
    }

    /// Whether nothing calls for a read and none is under way or about to begin.
    pub(super) fn is_over(&self) -> bool {
        self.deadline().is_none() && !self.handed_over && self.reading.is_none()
    }

    /// The owner was returned as due; what happens from now on calls for another read.
    pub(super) fn hand_over(&mut self, now: Instant) {
        self.due = None;
        self.writing.retain(|(_, last)| *last + QUIET > now);
        self.handed_over = true;
    }

    /// A read begins, unless another one is under way: then the owner is due again after that one.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        if self.reading.is_some() {
            self.mark(now);
            return false;
        }
        self.hand_over(now);
        (self.handed_over, self.reading, self.torn) = (false, Some(now), false);
        true
    }

    /// The read that is under way ends; it `found` something or failed. Returns whether that may be used.
    pub(super) fn end(&mut self, found: bool, now: Instant) -> bool {
        let began = self.reading.take().unwrap_or(now);
        let is_usable = found && self.is_usable(began, now);
        if is_usable {
            let quiet = self.due.is_none() && self.writing.is_empty();
            self.since = (!quiet).then_some(began);
        } else {
            self.mark(now + PAUSE);
        }
        is_usable
    }

    fn is_usable(&self, began: Instant, now: Instant) -> bool {
        let writing = self.writing.iter().any(|(_, last)| *last + QUIET > now);
        match self.since {
            // With a file that is rewritten without a pause, no read would be consistent.
            Some(since) if since + 2 * PATIENCE <= began => true,
            Some(since) if since + PATIENCE <= began => !self.torn,
            _ => !self.torn && !writing,
        }
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

    /// Whether a read from `began` to `ended` may be used.
    fn read(pending: &mut Pending, began: Instant, ended: Instant) -> bool {
        assert!(pending.begin(began));
        pending.end(true, ended)
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
        assert!(read(&mut pending, now, now));
        assert_eq!(pending.deadline(), Some(start + 6050 * MS));
        assert!(
            !read(&mut pending, now + MS, now + MS),
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
            pending.begin(now);
            pending.note(Change::Written, 1, now);
            pending.note(Change::Finished, 1, now);
            if pending.end(true, now) {
                used.push(at);
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
            assert!(read(&mut pending, start, start));
            assert!(pending.is_over());
            assert!(pending.begin(start));
            for change in changes {
                pending.note(*change, 1, start + MS);
            }
            assert!(!pending.end(true, start + 300 * MS));
            assert!(pending.deadline().is_some());
        }
        let mut pending = Pending::default();
        pending.begin(start);
        pending.note(Change::Replaced, 1, start + MS);
        assert!(pending.end(true, start + MS), "whole files can't be torn");
        pending.begin(start);
        pending.suspect(1, start);
        pending.note(Change::Replaced, 1, start + MS);
        assert!(
            !pending.end(true, start + 2 * MS),
            "a part of the old one was read"
        );
    }

    #[test]
    fn one_read_at_a_time_and_one_that_fails_is_repeated() {
        let (mut pending, start) = noted(&[]);
        assert!(pending.begin(start));
        assert!(!pending.begin(start + MS) && pending.deadline().is_none());
        assert!(pending.end(true, start + 2 * MS));
        assert_eq!(pending.deadline(), Some(start + MS));
        assert!(!{
            pending.begin(start + 3 * MS);
            pending.end(false, start + 4 * MS)
        });
        assert_eq!(pending.deadline(), Some(start + 4 * MS + PAUSE));
    }

    #[test]
    fn a_suspect_file_is_due_when_it_has_been_silent() {
        let (mut pending, start) = noted(&[]);
        pending.begin(start);
        pending.suspect(1, start - 40 * MS);
        assert!(!pending.end(true, start));
        assert_eq!(pending.deadline(), Some(start + 60 * MS));
        let mut usable = Pending::default();
        usable.begin(start);
        usable.suspect(1, start - 40 * MS);
        assert!(usable.end(true, start + 60 * MS));
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
