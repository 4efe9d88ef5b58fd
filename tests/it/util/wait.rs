//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// How long a test waits for an expected event, far longer than it takes on an idle machine: tests check that it
/// happens, and benches/ measures how fast.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// How long a test waits for an event that must not happen, after the last expected one.
pub(crate) const QUIET: Duration = Duration::from_millis(400);

/// How often a condition is checked.
const PERIOD: Duration = Duration::from_millis(5);

/// Calls `probe` until it returns a value, and returns that. Fails the test after [`BOUND`]; `what` describes the
/// expected event.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    eventually_within(BOUND, what, probe)
}

/// Does the same as [`eventually`], with another bound.
#[track_caller]
pub(crate) fn eventually_within<T>(
    bound: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "this did not come within {bound:?}: {what}"
        );
        std::thread::sleep(PERIOD);
    }
}

/// Does the same as [`eventually`] for a condition.
#[track_caller]
pub(crate) fn eventually_true(what: &str, mut probe: impl FnMut() -> bool) {
    eventually(what, || probe().then_some(()));
}
