//! A root or credential folder, as the watch knows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Polled;
use super::pending::Pending;
use super::watched::{FolderId, Need};
use crate::files::read::Stamps;

/// A root or credential folder.
pub(super) struct Owner<K> {
    key: K,
    pub(super) needs: Vec<(FolderId, Need)>,
    pub(super) stamps: Arc<Stamps>,
    pub(super) pending: Pending,
    pub(super) reading: bool,
    /// Forgotten while it was being read.
    pub(super) forgotten: bool,
    /// The number of its last read, among all reads.
    pub(super) serial: u64,
    /// When it is looked at by `stat` alone, if that is planned.
    pub(super) check_at: Option<Instant>,
    /// How often, when not as usual.
    pub(super) interval: Option<Duration>,
    pub(super) polled: Option<Polled>,
    /// The device that may keep a look at it waiting.
    pub(super) device: Option<u64>,
    /// Reads in a row during which something changed.
    pub(super) races: u32,
}

impl<K> Owner<K> {
    pub(super) fn new(key: K) -> Self {
        Self {
            key,
            needs: Vec::new(),
            stamps: Arc::default(),
            pending: Pending::default(),
            reading: false,
            forgotten: false,
            serial: 0,
            check_at: None,
            interval: None,
            polled: None,
            device: None,
            races: 0,
        }
    }

    pub(super) fn key(&self) -> &K {
        &self.key
    }
}
