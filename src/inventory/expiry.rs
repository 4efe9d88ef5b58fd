//! Decides when to log that a certificate or a staple expires: a state machine without I/O.
//!
//! A leaf, its staple, and each CA certificate of a bundle, is logged once when it becomes expiring (see
//! [`Validity::lead`]), once when a third of that time is left, once when it has expired, and then every day.
//! Lines are only repeated if the clock is set back by more than an hour.

use std::time::{Duration, SystemTime};

use super::{Credential, Key};
use crate::secret::Kind;
use crate::validity::Validity;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A clock that is set back by less is only being adjusted: no line is repeated.
const ADJUSTMENT: Duration = Duration::from_secs(3600);

/// An expiry to log.
#[derive(Debug, PartialEq, Eq)]
pub struct Reminder {
    /// The folder.
    pub key: Key,
    /// What expires: the leaf of a certificate pair, its staple, or a CA certificate of a trust bundle.
    pub kind: Kind,
    /// When.
    pub end: SystemTime,
}

/// The kinds of secrets that expire.
const KINDS: [Kind; 3] = [Kind::Certificate, Kind::OcspStaple, Kind::TrustBundle];

/// What of a credential expires, and how near each end was when it was logged.
#[derive(Clone, Debug, Default)]
pub(super) struct Expiry(Box<[Tracked]>);

/// The expiry of one certificate. Those of a kind are sorted by time.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    kind: Kind,
    end: End,
    logged: Stage,
}

/// Notices that the clock was set back.
#[derive(Default)]
pub(super) struct Clock(Option<SystemTime>);

impl Clock {
    /// Whether the clock was set back since the last check.
    pub(super) fn was_set_back(&self, now: SystemTime) -> bool {
        let back = self.0.and_then(|last| last.duration_since(now).ok());
        back.is_some_and(|back| back > ADJUSTMENT)
    }

    /// Checks it, and returns whether it was set back.
    pub(super) fn check(&mut self, now: SystemTime) -> bool {
        let was_set_back = self.was_set_back(now);
        self.0 = Some(now);
        was_set_back
    }
}

/// The expiry of a certificate. Sorted by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    at: SystemTime,
    /// How long before it the certificate becomes expiring.
    lead: Duration,
}

impl End {
    fn of(validity: Validity, warn_days: u32) -> Self {
        Self {
            at: validity.not_after,
            lead: validity.lead(warn_days),
        }
    }

    /// How long before the end there is a log line.
    fn before(self) -> [Duration; 2] {
        [self.lead, self.lead / 3]
    }
}

/// How near the expiry is: the number of reminders that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stage(u32);

impl Stage {
    /// Nothing is due yet.
    const FAR: Self = Self(0);

    fn of(end: End, now: SystemTime) -> Self {
        let left = end.at.duration_since(now).unwrap_or_default();
        let before = end.before().into_iter().filter(|lead| left <= *lead);
        let after = now
            .duration_since(end.at)
            .map_or(0, |past| 1 + past.as_secs() / DAY.as_secs());
        let stage = before.count() as u64 + after;
        Self(u32::try_from(stage).unwrap_or(u32::MAX))
    }

    /// When the next stage begins.
    fn next(self, end: End) -> SystemTime {
        let before = end.before();
        match before.get(self.0 as usize) {
            Some(lead) => end.at.checked_sub(*lead),
            None => end.at.checked_add(DAY * (self.0 - before.len() as u32)),
        }
        // A time that can't be written is never reached.
        .unwrap_or(end.at)
    }
}

impl Expiry {
    /// Tracks what `credential` serves. `warned`: its log line already reports that it expires soon.
    pub(super) fn set(&mut self, credential: &Credential, warned: bool, now: SystemTime) {
        for kind in KINDS {
            let ends = credential.validities(kind).into_iter();
            let ends = ends.map(|validity| End::of(validity, credential.warn_days));
            let warned = warned && kind != Kind::TrustBundle;
            self.set_part(kind, ends.collect(), warned, now);
        }
    }

    /// When [`Self::remind`] has something to return next.
    pub(super) fn next(&self) -> Option<SystemTime> {
        let all = self.0.iter();
        all.map(|tracked| tracked.logged.next(tracked.end)).min()
    }

    /// The ends to log now.
    pub(super) fn remind(&mut self, now: SystemTime) -> Vec<(Kind, SystemTime)> {
        let mut due = Vec::new();
        for tracked in &mut self.0 {
            let stage = Stage::of(tracked.end, now);
            if stage > tracked.logged {
                tracked.logged = stage;
                due.push((tracked.kind, tracked.end.at));
            }
        }
        if self.0.len() > 1 && !due.is_empty() {
            let all = self
                .0
                .iter()
                .zip(self.0.iter().skip(1).map(Some).chain([None]));
            // An expired CA next to valid ones needs no action.
            let over = |one: &Tracked, next: Option<&Tracked>| {
                one.end.at <= now && next.is_some_and(|next| next.kind == one.kind)
            };
            let left = all.filter(|(one, next)| !over(one, *next));
            self.0 = left.map(|(one, _)| *one).collect();
        }
        due
    }

    /// The clock was set back: what is in the future again will be logged again.
    pub(super) fn set_back(&mut self, now: SystemTime) {
        for tracked in &mut self.0 {
            let stage = Stage::of(tracked.end, now + ADJUSTMENT);
            tracked.logged = stage.min(tracked.logged);
        }
    }

    fn set_part(&mut self, kind: Kind, mut ends: Vec<End>, warned: bool, now: SystemTime) {
        ends.sort_unstable();
        ends.dedup();
        let last = ends.last().copied();
        ends.retain(|end| end.at >= now || Some(*end) == last);
        let (old, mut all): (Vec<Tracked>, Vec<Tracked>) =
            self.0.iter().partition(|tracked| tracked.kind == kind);
        let logged = |end: End| {
            let same = old.iter().find(|one| one.end == end);
            // It may be the same certificate with another `warn_days`.
            let similar = old.iter().find(|one| one.end.at == end.at);
            match (same, similar) {
                (Some(same), _) => same.logged,
                _ if warned => Stage::of(end, now),
                (None, Some(similar)) => Stage::of(end, now).min(similar.logged),
                (None, None) => Stage::FAR,
            }
        };
        all.extend(ends.into_iter().map(|end| Tracked {
            kind,
            end,
            logged: logged(end),
        }));
        // A copy of the exact size, as in `Texts`.
        self.0 = (*all).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Duration = Duration::from_secs(1_000 * 24 * 3600);

    fn at(days: f64) -> SystemTime {
        let end = SystemTime::UNIX_EPOCH + END;
        if days < 0.0 {
            end - DAY.mul_f64(-days)
        } else {
            end + DAY.mul_f64(days)
        }
    }

    /// The expiry at `days` of a certificate that becomes expiring `lead` days before.
    fn end(days: f64, lead: f64) -> End {
        End {
            at: at(days),
            lead: DAY.mul_f64(lead),
        }
    }

    fn ends(ends: &[f64]) -> Vec<End> {
        ends.iter().map(|days| end(*days, 30.0)).collect()
    }

    /// The expiry of one part of a credential.
    #[derive(Default)]
    struct Part {
        clock: Clock,
        expiry: Expiry,
    }

    impl Part {
        fn new(all: &[f64], now: f64) -> Self {
            let mut part = Self::default();
            part.set(ends(all), false, now);
            part
        }

        fn set(&mut self, ends: Vec<End>, warned: bool, now: f64) {
            self.expiry
                .set_part(Kind::Certificate, ends, warned, at(now));
        }

        fn remind(&mut self, now: SystemTime) -> Vec<SystemTime> {
            if self.clock.check(now) {
                self.expiry.set_back(now);
            }
            let due = self.expiry.remind(now);
            due.into_iter().map(|(_, end)| end).collect()
        }
    }

    /// The days, counted from the end, at which there is a log line while the clock goes from `from` to
    /// `to` in steps of a quarter of a day.
    fn logged(part: &mut Part, from: f64, to: f64) -> Vec<f64> {
        let steps = ((to - from) * 4.0) as usize;
        (0..=steps)
            .map(|step| from + step as f64 / 4.0)
            .filter(|now| !part.remind(at(*now)).is_empty())
            .collect()
    }

    #[test]
    fn an_end_is_logged_when_it_is_near_at_a_third_of_that_when_it_comes_and_each_day_after() {
        let mut expiry = Part::new(&[0.0], -40.0);
        assert_eq!(
            logged(&mut expiry, -40.0, 3.5),
            [-30.0, -10.0, 0.0, 1.0, 2.0, 3.0]
        );
        for (lifetime, expected) in [(12.0, [-3.0, -1.0, 0.0]), (3.0, [-0.75, -0.25, 0.0])] {
            let mut expiry = Part::default();
            let validity = Validity {
                not_before: at(-lifetime),
                not_after: at(0.0),
            };
            expiry.set(vec![End::of(validity, 30)], false, -lifetime);
            assert_eq!(logged(&mut expiry, -lifetime, 0.5), expected);
        }
    }

    #[test]
    fn of_several_stages_that_have_passed_only_the_last_is_logged() {
        let mut late = Part::new(&[0.0], -5.0);
        assert_eq!(logged(&mut late, -5.0, 0.0), [-5.0, 0.0]);
        let mut asleep = Part::new(&[0.0], -40.0);
        assert_eq!(logged(&mut asleep, -40.0, -35.0), [0.0; 0]);
        assert_eq!(logged(&mut asleep, 10.0, 11.0), [10.0, 11.0]);
    }

    #[test]
    fn what_its_own_log_line_reported_is_not_logged_again() {
        let mut expiry = Part::default();
        expiry.set(ends(&[0.0]), true, -15.0);
        assert_eq!(logged(&mut expiry, -15.0, 0.0), [-10.0, 0.0]);
    }

    #[test]
    fn an_adjustment_of_the_clock_logs_nothing_twice_and_a_real_change_does() {
        let mut expiry = Part::new(&[0.0], -40.0);
        assert_eq!(logged(&mut expiry, -31.0, -29.0), [-30.0]);
        assert!(
            expiry
                .remind(at(-30.0) - Duration::from_secs(60))
                .is_empty()
        );
        assert!(expiry.remind(at(-30.0)).is_empty());

        assert_eq!(logged(&mut expiry, 100.0, 100.0), [100.0]);
        assert_eq!(logged(&mut expiry, -29.0, -6.0), [-10.0]);
    }

    #[test]
    fn the_same_certificate_again_logs_nothing_and_another_one_starts_again() {
        let mut expiry = Part::new(&[0.0], -40.0);
        assert_eq!(logged(&mut expiry, -31.0, -29.0), [-30.0]);
        expiry.set(ends(&[0.0]), false, -29.0);
        assert_eq!(logged(&mut expiry, -29.0, -28.0), [0.0; 0]);
        expiry.set(ends(&[60.0]), false, -28.0);
        assert_eq!(logged(&mut expiry, -28.0, 31.0), [30.0]);
        expiry.set(Vec::new(), false, 31.0);
        assert_eq!(expiry.expiry.next(), None);
        assert_eq!(logged(&mut expiry, 31.0, 70.0), [0.0; 0]);
    }

    #[test]
    fn another_threshold_logs_what_is_near_by_it_and_nothing_twice() {
        let mut expiry = Part::new(&[0.0], -40.0);
        assert_eq!(logged(&mut expiry, -31.0, -29.0), [-30.0]);
        expiry.set(vec![end(0.0, 6.0)], false, -29.0);
        assert_eq!(logged(&mut expiry, -29.0, -5.0), [-6.0]);
        expiry.set(vec![end(0.0, 9.0)], false, -5.0);
        assert_eq!(logged(&mut expiry, -5.0, 0.0), [-3.0, 0.0]);
    }

    #[test]
    fn an_expired_authority_is_followed_by_the_next_one() {
        let mut expiry = Part::new(&[-100.0, 0.0, 50.0], -40.0);
        let days = logged(&mut expiry, -40.0, 52.0);
        assert_eq!(days, [-30.0, -10.0, 0.0, 20.0, 40.0, 50.0, 51.0, 52.0]);
    }

    #[test]
    fn authorities_that_end_soon_after_each_other_are_each_logged_in_time() {
        let mut awake = Part::new(&[0.0, 5.0], -40.0);
        let days = logged(&mut awake, -40.0, 6.0);
        assert_eq!(days, [-30.0, -25.0, -10.0, -5.0, 0.0, 5.0, 6.0]);
        // Both have ended while the machine was asleep.
        let mut asleep = Part::new(&[0.0, 5.0], -40.0);
        let ends: Vec<_> = asleep.remind(at(6.0));
        assert_eq!(ends, [at(0.0), at(5.0)]);
        assert_eq!(logged(&mut asleep, 6.0, 7.0), [7.0]);
    }
}
