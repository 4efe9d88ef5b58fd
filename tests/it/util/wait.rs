//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// How long a test waits for what must come. Far more than it takes on an idle machine: what is
/// tested is that it comes, and benches/ measures how fast.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// How long a test watches for what must not come, after the last thing that must.
pub(crate) const QUIET: Duration = Duration::from_millis(400);

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(5);

/// Calls `probe` until it gives a value, and returns that. Fails the test after [`BOUND`] with
/// `what` was waited for.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    eventually_within(BOUND, what, probe)
}

/// As [`eventually`], with a bound of its own.
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

/// As [`eventually`], for a condition.
#[track_caller]
pub(crate) fn eventually_true(what: &str, mut probe: impl FnMut() -> bool) {
    eventually(what, || probe().then_some(()));
}
