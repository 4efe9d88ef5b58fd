//! How near the end of a validity period is: the one rule for warnings, states, log lines and metrics.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The period in which something is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The beginning.
    pub not_before: SystemTime,
    /// The end.
    pub not_after: SystemTime,
}

impl Validity {
    /// How long before its end it begins to count as expiring: a quarter of its lifetime, and at most `warn_days`.
    /// So nothing that is renewed in time is ever expiring, whether it lasts an hour or ten years.
    pub fn lead(self, warn_days: u32) -> Duration {
        self.quarter().min(DAY * warn_days)
    }

    /// Whether it is expiring at `now`: it has not ended, and less than a quarter of its lifetime is left,
    /// and at most `warn_days`.
    pub fn is_expiring(self, now: SystemTime, warn_days: u32) -> bool {
        let left = self.not_after.duration_since(now);
        left.is_ok_and(|left| left < self.quarter() && left <= DAY * warn_days)
    }

    fn quarter(self) -> Duration {
        let lifetime = self.not_after.duration_since(self.not_before);
        lifetime.unwrap_or_default() / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Whether something that lasts for `lifetime` is expiring when `left` of that is left.
    fn is_expiring(lifetime: Duration, left: Duration, warn_days: u32) -> bool {
        let not_before = SystemTime::UNIX_EPOCH + DAY * 10_000;
        let validity = Validity {
            not_before,
            not_after: not_before + lifetime,
        };
        validity.is_expiring(validity.not_after - left, warn_days)
    }

    #[test]
    fn renewed_in_time_nothing_ever_expires_whatever_its_lifetime() {
        for (lifetime, renewed, late) in [
            (HOUR, HOUR / 3, HOUR / 5),
            (HOUR * 24, HOUR * 8, HOUR * 5),
            (HOUR * 72, HOUR * 24, HOUR * 17),
            (DAY * 6, DAY * 2, DAY),
            (DAY * 47, DAY * 15, DAY * 11),
            (DAY * 90, DAY * 30, DAY * 22),
            (DAY * 365, DAY * 31, DAY * 30),
            (DAY * 3650, DAY * 31, DAY * 30),
        ] {
            assert!(!is_expiring(lifetime, renewed, 30), "{lifetime:?}");
            assert!(is_expiring(lifetime, late, 30), "{lifetime:?}");
        }
    }

    #[test]
    fn the_bounds_are_a_quarter_and_the_days_that_are_set() {
        assert!(!is_expiring(HOUR * 8, HOUR * 2, 30));
        assert!(is_expiring(
            HOUR * 8,
            HOUR * 2 - Duration::from_nanos(1),
            30
        ));
        assert!(is_expiring(DAY * 400, DAY * 7, 7));
        assert!(!is_expiring(DAY * 400, DAY * 7 + HOUR, 7));
        assert!(!is_expiring(DAY * 400, HOUR, 0));
    }
}
