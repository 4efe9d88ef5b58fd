//! Keeps clients from flooding the log: each user has a budget of lines and bytes for each kind of line.
//! Suppressed lines are counted, and the count is logged.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The maximum burst of lines of one kind and user.
const LINES: u32 = 200;
/// The maximum burst of their bytes.
const BYTES: usize = 64 * 1024;
/// After that, one more line and kibibyte is allowed per this interval.
const REFILL: Duration = Duration::from_secs(1);
/// How long a count of suppressed lines waits for the next line before it is logged separately.
const OVERDUE: Duration = Duration::from_secs(5);
/// The number of buckets; beyond it, the fullest ones are reset.
const BUCKETS: usize = 4096;

/// A kind of log line that clients can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Line {
    /// A connection or a name was refused by the rules.
    Refused,
    /// A limit was reached.
    Limited,
    /// A stream subscribed to a name.
    Subscribed,
    /// A secret without a private key was delivered.
    Delivered,
    /// A client rejected a secret.
    Rejected,
    /// A stream ended with an error.
    Ended,
}

/// A number of suppressed lines of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) line: Line,
    pub(crate) uid: u32,
    pub(crate) lines: u64,
}

/// Decides which lines are logged.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    buckets: Mutex<HashMap<(Line, u32), Bucket>>,
    /// Notified when a count begins.
    suppressed: Notify,
}

#[derive(Debug)]
struct Bucket {
    lines: u32,
    bytes: usize,
    refilled: Instant,
    left_out: u64,
    /// When the first of those was suppressed.
    since: Instant,
}

impl Line {
    /// What the lines are about, as a plural.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refusals",
            Self::Limited => "limits reached",
            Self::Subscribed => "subscriptions",
            Self::Delivered => "deliveries without a private key",
            Self::Rejected => "rejections by the client",
            Self::Ended => "streams that ended with an error",
        }
    }
}

impl Throttle {
    /// Whether a line of about this size may be logged now, and how many were suppressed before it.
    pub(crate) fn allow(&self, line: Line, uid: u32, bytes: usize) -> Option<u64> {
        self.allow_at(Instant::now(), line, uid, bytes)
    }

    /// Waits until counts may have waited too long for a next line, and returns those that have, to be logged
    /// separately.
    pub(crate) async fn overdue(&self) -> Vec<LeftOut> {
        self.suppressed.notified().await;
        tokio::time::sleep(OVERDUE).await;
        let now = Instant::now();
        let mut buckets = self.lock();
        let overdue = buckets.iter_mut().filter(|(_, bucket)| {
            bucket.left_out > 0 && now.saturating_duration_since(bucket.since) >= OVERDUE
        });
        overdue
            .map(|(&(line, uid), bucket)| LeftOut {
                line,
                uid,
                lines: std::mem::take(&mut bucket.left_out),
            })
            .collect()
    }

    fn allow_at(&self, now: Instant, line: Line, uid: u32, bytes: usize) -> Option<u64> {
        let mut buckets = self.lock();
        if buckets.len() >= BUCKETS && !buckets.contains_key(&(line, uid)) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
            if buckets.len() >= BUCKETS {
                buckets.clear();
            }
        }
        let bucket = buckets
            .entry((line, uid))
            .or_insert_with(|| Bucket::new(now));
        let allowed = bucket.spend(now, bytes);
        if bucket.left_out == 1 {
            self.suppressed.notify_one();
        }
        allowed
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Line, u32), Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self {
            lines: LINES,
            bytes: BYTES,
            refilled: now,
            left_out: 0,
            since: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.lines = self.lines.saturating_add(earned).min(LINES);
            self.bytes = self
                .bytes
                .saturating_add((earned as usize).saturating_mul(1024))
                .min(BYTES);
            self.refilled = now;
        }
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.lines == LINES && self.bytes == BYTES && self.left_out == 0
    }

    fn spend(&mut self, now: Instant, bytes: usize) -> Option<u64> {
        self.refill(now);
        if self.lines == 0 || self.bytes < bytes {
            if self.left_out == 0 {
                self.since = now;
            }
            self.left_out += 1;
            return None;
        }
        self.lines -= 1;
        self.bytes -= bytes;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_hides_no_other_user_or_kind() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for _ in 0..LINES {
            assert_eq!(throttle.allow_at(now, Line::Refused, 1, 10), Some(0));
        }
        for _ in 0..50 {
            assert_eq!(throttle.allow_at(now, Line::Refused, 1, 10), None);
        }
        assert_eq!(throttle.allow_at(now, Line::Refused, 2, 10), Some(0));
        assert_eq!(throttle.allow_at(now, Line::Ended, 1, 10), Some(0));
        let later = now + REFILL;
        assert_eq!(throttle.allow_at(later, Line::Refused, 1, 10), Some(50));
        assert_eq!(throttle.allow_at(later, Line::Refused, 1, 10), None);
    }

    #[test]
    fn long_lines_are_counted_by_their_bytes() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let logged = (0..100)
            .filter_map(|_| throttle.allow_at(now, Line::Rejected, 1, BYTES / 10))
            .count();
        assert_eq!(logged, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_is_logged_even_if_no_further_line_comes() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let flood = |uid| {
            for _ in 0..LINES + 7 {
                throttle.allow(Line::Ended, uid, 10);
            }
            LeftOut {
                line: Line::Ended,
                uid,
                lines: 7,
            }
        };
        let first = flood(1);
        let meanwhile = async {
            tokio::time::sleep(OVERDUE / 2).await;
            flood(2)
        };
        let (counts, second) = tokio::join!(throttle.overdue(), meanwhile);
        assert_eq!(counts, [first]);
        assert_eq!(throttle.overdue().await, [second]);
        assert!(start.elapsed() < 3 * OVERDUE);
        // Without suppressed lines, there is nothing to do.
        let idle = tokio::time::timeout(100 * OVERDUE, throttle.overdue());
        assert!(idle.await.is_err());
    }

    #[test]
    fn users_without_end_cost_no_memory_without_end() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for uid in 0..3 * BUCKETS as u32 {
            assert_eq!(throttle.allow_at(now, Line::Refused, uid, 10), Some(0));
        }
        assert!(throttle.lock().len() <= BUCKETS);
    }
}
