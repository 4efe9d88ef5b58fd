//! Keeps remote input from flooding the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many lines a window has room for: enough to see what is going on.
const LINES: u32 = 10;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(1);

/// Lets so many lines through in a second, and counts the rest.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u32,
    left_out: u64,
}

impl Throttle {
    /// Whether a line may be written now, and how many were left out since the last one.
    pub(crate) fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let window = window.get_or_insert(Window {
            start: now,
            lines: 0,
            left_out: 0,
        });
        if now.saturating_duration_since(window.start) >= WINDOW {
            window.start = now;
            window.lines = 0;
        }
        if window.lines == LINES {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let let_through = (0..100).filter_map(|_| throttle.allow_at(start)).count();
        assert_eq!(let_through, LINES as usize);
        assert_eq!(throttle.allow_at(start + WINDOW), Some(90));
        assert_eq!(throttle.allow_at(start + WINDOW), Some(0));
    }
}
