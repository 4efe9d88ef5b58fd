//! Why owners are polled, and the log lines when that begins or ends.

use std::collections::BTreeMap;
use std::time::Duration;

/// Why an owner is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Polled {
    /// Something could not be read for a temporary reason, such as the limit on open files.
    PassingFailure,
    /// A file has other names, and a change made under another name is not reported.
    SharedFile,
    /// The file system may change without a word to this machine's kernel.
    RemoteFileSystem,
    /// A folder can't be watched for another reason, such as its permissions.
    Refused,
    /// The kernel's limit on watches is reached.
    WatchLimit,
    /// Nothing can be watched: inotify can't be had.
    NoInotify,
}

impl Polled {
    /// Every reason, for whoever lists them.
    pub const ALL: [Self; 6] = [
        Self::PassingFailure,
        Self::SharedFile,
        Self::RemoteFileSystem,
        Self::Refused,
        Self::WatchLimit,
        Self::NoInotify,
    ];

    /// The reason as a metric label and JSON value, in snake case.
    pub fn as_str(self) -> &'static str {
        self.texts().0
    }

    /// What it means, and what to do about it.
    pub fn remedy(self) -> &'static str {
        self.texts().1
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::PassingFailure => (
                "passing_failure",
                "files could not be read for a temporary reason; raise the limit on open files, \
                 or see the system's log",
            ),
            Self::SharedFile => (
                "shared_file",
                "files have several hard links or are mounted one by one; mount or link their \
                 folder to have changes seen at once",
            ),
            Self::RemoteFileSystem => (
                "remote_file_system",
                "their file system does not report changes; keep them on a local one to have \
                 changes seen at once",
            ),
            Self::Refused => (
                "refused",
                "folders can't be watched; let the agent's user read every folder on the way",
            ),
            Self::WatchLimit => (
                "watch_limit",
                "the kernel's limit on watches is reached; raise fs.inotify.max_user_watches \
                 (sysctl)",
            ),
            Self::NoInotify => (
                "no_inotify",
                "inotify can't be had; raise fs.inotify.max_user_instances (sysctl)",
            ),
        }
    }
}

/// How many owners are polled for which reason.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<Polled, isize>);

impl Tally {
    /// An owner that was polled for the reason `before` is polled for the reason `after` now. The
    /// first of a kind and the last one gone are logged: there may be thousands.
    pub(super) fn change(
        &mut self,
        before: Option<Polled>,
        after: Option<Polled>,
        every: Duration,
    ) {
        if before == after {
            return;
        }
        for (why, change) in [(before, -1), (after, 1)] {
            let Some(why) = why else { continue };
            let count = self.0.entry(why).or_default();
            *count += change;
            let (reason, remedy) = (why.as_str(), why.remedy());
            match (change, *count) {
                (1, 1) => tracing::warn!(reason, ?every, "folders are polled: {remedy}"),
                (-1, 0) => tracing::info!(
                    reason,
                    "polling ended: no folder is polled for this reason any more"
                ),
                _ => {}
            }
        }
    }
}
