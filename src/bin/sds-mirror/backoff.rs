//! The pauses between retries.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

/// The first pause; with jitter it is up to twice as long, and doubles with each failure.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause before jitter: a server that recovers is noticed within 20 s.
const LONGEST: Duration = Duration::from_secs(10);
/// A failure this long after the last one starts again with the first pause. A shorter success does not reset
/// the pauses, so that a server that keeps failing is not flooded with requests.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Exponential back-off with jitter, so that many mirrors don't retry at the same time.
pub(crate) struct Backoff {
    delays: ExponentialBackoff,
    last_failure: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self {
            delays: delays(),
            last_failure: None,
        }
    }

    /// The pause after a failure, at least as long as the server requested.
    pub(crate) fn after_failure(&mut self, asked_for: Option<Duration>) -> Duration {
        let now = Instant::now();
        let old = self
            .last_failure
            .is_some_and(|last| now.duration_since(last) > FORGET_AFTER);
        if old {
            self.delays = delays();
        }
        let delay = self.delays.next().unwrap_or(LONGEST);
        let delay = delay.max(asked_for.unwrap_or_default().min(FORGET_AFTER));
        self.last_failure = Some(now + delay);
        delay
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST)
        .with_max_delay(LONGEST)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_limit_and_differ() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..12).map(|_| backoff.after_failure(None)).collect();
        assert!(pauses[0] >= FIRST && pauses[0] <= 2 * FIRST, "{pauses:?}");
        assert!(
            pauses[11] >= LONGEST && pauses[11] <= 2 * LONGEST,
            "{pauses:?}"
        );
        let mut other = Backoff::new();
        let others: Vec<Duration> = (0..12).map(|_| other.after_failure(None)).collect();
        assert_ne!(pauses, others, "there is no jitter");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_long_time_without_failures_resets_the_pauses() {
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            let pause = backoff.after_failure(None);
            tokio::time::sleep(pause + Duration::from_secs(5)).await;
        }
        assert!(backoff.after_failure(None) >= LONGEST);
        tokio::time::sleep(3 * FORGET_AFTER).await;
        assert!(backoff.after_failure(None) <= 2 * FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_the_server_requests_is_kept_up_to_a_limit() {
        let mut backoff = Backoff::new();
        let asked = Duration::from_secs(7);
        assert!(backoff.after_failure(Some(asked)) >= asked);
        let absurd = Duration::from_secs(1 << 40);
        assert_eq!(backoff.after_failure(Some(absurd)), FORGET_AFTER);
    }
}
