//! Points and lengths of time, in words.

use std::time::{Duration, SystemTime};

use sds_agent::admin::state::Time;

/// As `in 12 days` or `3 h ago`.
pub(super) fn when(time: Time, now: SystemTime) -> String {
    match time.get().duration_since(now) {
        Ok(left) => format!("in {}", span(left)),
        Err(past) => format!("{} ago", span(past.duration())),
    }
}

/// A length of time in its largest unit.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
