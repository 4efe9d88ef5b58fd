//! Decides when to log that a certificate or a staple expires: a state machine without I/O.
//!
//! A leaf, its staple, and each CA certificate of a bundle, is logged once when it becomes expiring (see
//! [`Validity::lead`]), once when a third of that time is left, once when it has expired, and then every day.
//! Lines are only repeated if the clock is set back by more than an hour.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use super::{Credential, Key};
use crate::secret::Kind;
use crate::validity::Validity;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A clock that is set back by less is only being adjusted: no line is repeated.
const ADJUSTMENT: Duration = Duration::from_secs(3600);
/// How long a change of the clock, or suspension of the machine, may go unnoticed.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

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

/// All expiry times.
#[derive(Default)]
pub(super) struct Expiry {
    /// What was logged for each certificate of a part.
    ends: HashMap<(Key, Kind), BTreeMap<End, Stage>>,
    /// When each will be logged next.
    due: BTreeSet<(SystemTime, (Key, Kind), End)>,
    last_check: Option<SystemTime>,
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
    pub(super) fn set(
        &mut self,
        key: &Key,
        credential: &Credential,
        warned: bool,
        now: SystemTime,
    ) {
        for kind in KINDS {
            let ends = credential.validities(kind).into_iter();
            let ends = ends.map(|validity| End::of(validity, credential.warn_days));
            let warned = warned && kind != Kind::TrustBundle;
            self.set_part((key.clone(), kind), ends.collect(), warned, now);
        }
    }

    /// Forgets a folder.
    pub(super) fn forget(&mut self, key: &Key, now: SystemTime) {
        for kind in KINDS {
            self.set_part((key.clone(), kind), Vec::new(), false, now);
        }
    }

    /// Forgets folders.
    pub(super) fn retain(&mut self, keeps: impl Fn(&Key) -> bool) {
        self.ends.retain(|(key, _), _| keeps(key));
        self.due.retain(|(_, (key, _), _)| keeps(key));
    }

    /// How long until [`Self::remind`] may return something.
    pub(super) fn wait(&self, now: SystemTime) -> Option<Duration> {
        let (due, ..) = self.due.first()?;
        if self.was_set_back(now) {
            return Some(Duration::ZERO);
        }
        Some(
            due.duration_since(now)
                .unwrap_or_default()
                .min(CHECK_INTERVAL),
        )
    }

    /// The reminders that are due.
    pub(super) fn remind(&mut self, now: SystemTime) -> Vec<Reminder> {
        if self.was_set_back(now) {
            self.set_back(now);
        }
        self.last_check = Some(now);
        let mut reminders = Vec::new();
        while let Some((due, id, end)) = self.due.first().cloned()
            && due <= now
        {
            self.due.pop_first();
            let Some(ends) = self.ends.get_mut(&id) else {
                continue;
            };
            let is_last = ends.keys().next_back() == Some(&end);
            let Some(logged) = ends.get_mut(&end) else {
                continue;
            };
            let stage = Stage::of(end, now);
            let is_due = stage > *logged;
            *logged = stage.max(*logged);
            let next = logged.next(end);
            if is_due {
                let (key, kind) = id.clone();
                reminders.push(Reminder {
                    key,
                    kind,
                    end: end.at,
                });
            }
            // An expired CA next to valid ones needs no action.
            if end.at <= now && !is_last {
                ends.remove(&end);
            } else {
                self.due.insert((next, id, end));
            }
        }
        reminders
    }

    fn set_part(&mut self, id: (Key, Kind), all: Vec<End>, warned: bool, now: SystemTime) {
        let mut all = BTreeSet::from_iter(all);
        while all.len() > 1 && all.first().is_some_and(|end| end.at < now) {
            all.pop_first();
        }
        let old = self.ends.remove(&id).unwrap_or_default();
        for (end, logged) in &old {
            self.due.remove(&(logged.next(*end), id.clone(), *end));
        }
        let logged = |end: End| {
            // It may be the same certificate with another `warn_days`.
            let same = old.iter().find(|(one, _)| one.at == end.at);
            match (old.get(&end), same) {
                (Some(logged), _) => *logged,
                _ if warned => Stage::of(end, now),
                (None, Some((_, logged))) => Stage::of(end, now).min(*logged),
                (None, None) => Stage::FAR,
            }
        };
        let ends: BTreeMap<_, _> = all.into_iter().map(|end| (end, logged(end))).collect();
        for (end, logged) in &ends {
            self.due.insert((logged.next(*end), id.clone(), *end));
        }
        if !ends.is_empty() {
            self.ends.insert(id, ends);
        }
    }

    fn was_set_back(&self, now: SystemTime) -> bool {
        let last = self.last_check;
        last.is_some_and(|last| last.duration_since(now).is_ok_and(|back| back > ADJUSTMENT))
    }

    /// The clock was set back: reminders that are in the future again will be repeated.
    fn set_back(&mut self, now: SystemTime) {
        self.due.clear();
        for (id, ends) in &mut self.ends {
            for (end, logged) in ends {
                *logged = Stage::of(*end, now + ADJUSTMENT).min(*logged);
                self.due.insert((logged.next(*end), id.clone(), *end));
            }
        }
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

    fn id() -> (Key, Kind) {
        let key = Key {
            root: std::path::Path::new("/c").into(),
            name: "site".into(),
        };
        (key, Kind::Certificate)
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

    fn expiry(all: &[f64], now: f64) -> Expiry {
        let mut expiry = Expiry::default();
        expiry.set_part(id(), ends(all), false, at(now));
        expiry
    }

    /// The days, counted from the end, at which there is a log line while the clock goes from `from` to
    /// `to` in steps of a quarter of a day.
    fn logged(expiry: &mut Expiry, from: f64, to: f64) -> Vec<f64> {
        let steps = ((to - from) * 4.0) as usize;
        (0..=steps)
            .map(|step| from + step as f64 / 4.0)
            .filter(|now| !expiry.remind(at(*now)).is_empty())
            .collect()
    }

    #[test]
    fn an_end_is_logged_when_it_is_near_at_a_third_of_that_when_it_comes_and_each_day_after() {
        let mut expiry = expiry(&[0.0], -40.0);
        assert_eq!(
            logged(&mut expiry, -40.0, 3.5),
            [-30.0, -10.0, 0.0, 1.0, 2.0, 3.0]
        );
        for (lifetime, expected) in [(12.0, [-3.0, -1.0, 0.0]), (3.0, [-0.75, -0.25, 0.0])] {
            let mut expiry = Expiry::default();
            let validity = Validity {
                not_before: at(-lifetime),
                not_after: at(0.0),
            };
            expiry.set_part(id(), vec![End::of(validity, 30)], false, at(-lifetime));
            assert_eq!(logged(&mut expiry, -lifetime, 0.5), expected);
        }
    }

    #[test]
    fn of_several_stages_that_have_passed_only_the_last_is_logged() {
        let mut late = expiry(&[0.0], -5.0);
        assert_eq!(logged(&mut late, -5.0, 0.0), [-5.0, 0.0]);
        let mut asleep = expiry(&[0.0], -40.0);
        assert_eq!(logged(&mut asleep, -40.0, -35.0), [0.0; 0]);
        assert_eq!(logged(&mut asleep, 10.0, 11.0), [10.0, 11.0]);
    }

    #[test]
    fn what_its_own_log_line_reported_is_not_logged_again() {
        let mut expiry = Expiry::default();
        expiry.set_part(id(), ends(&[0.0]), true, at(-15.0));
        assert_eq!(logged(&mut expiry, -15.0, 0.0), [-10.0, 0.0]);
    }

    #[test]
    fn an_adjustment_of_the_clock_logs_nothing_twice_and_a_real_change_does() {
        let mut expiry = expiry(&[0.0], -40.0);
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
    fn the_same_certificate_again_logs_nothing_and_another_one_begins_anew() {
        let mut expiry = expiry(&[0.0], -40.0);
        assert_eq!(logged(&mut expiry, -31.0, -29.0), [-30.0]);
        expiry.set_part(id(), ends(&[0.0]), false, at(-29.0));
        assert_eq!(logged(&mut expiry, -29.0, -28.0), [0.0; 0]);
        expiry.set_part(id(), ends(&[60.0]), false, at(-28.0));
        assert_eq!(logged(&mut expiry, -28.0, 31.0), [30.0]);
        expiry.set_part(id(), Vec::new(), false, at(31.0));
        assert_eq!(expiry.wait(at(31.0)), None);
        assert_eq!(logged(&mut expiry, 31.0, 70.0), [0.0; 0]);
    }

    #[test]
    fn another_threshold_logs_what_is_near_by_it_and_nothing_twice() {
        let mut expiry = expiry(&[0.0], -40.0);
        assert_eq!(logged(&mut expiry, -31.0, -29.0), [-30.0]);
        expiry.set_part(id(), vec![end(0.0, 6.0)], false, at(-29.0));
        assert_eq!(logged(&mut expiry, -29.0, -5.0), [-6.0]);
        expiry.set_part(id(), vec![end(0.0, 9.0)], false, at(-5.0));
        assert_eq!(logged(&mut expiry, -5.0, 0.0), [-3.0, 0.0]);
    }

    #[test]
    fn an_authority_that_has_ended_gives_way_to_the_next_one() {
        let mut expiry = expiry(&[-100.0, 0.0, 50.0], -40.0);
        let days = logged(&mut expiry, -40.0, 52.0);
        assert_eq!(days, [-30.0, -10.0, 0.0, 20.0, 40.0, 50.0, 51.0, 52.0]);
    }

    #[test]
    fn authorities_that_end_soon_after_each_other_are_each_logged_in_time() {
        let mut awake = expiry(&[0.0, 5.0], -40.0);
        let days = logged(&mut awake, -40.0, 6.0);
        assert_eq!(days, [-30.0, -25.0, -10.0, -5.0, 0.0, 5.0, 6.0]);
        // Both have ended while the machine was asleep.
        let mut asleep = expiry(&[0.0, 5.0], -40.0);
        let ends: Vec<_> = asleep.remind(at(6.0)).iter().map(|one| one.end).collect();
        assert_eq!(ends, [at(0.0), at(5.0)]);
        assert_eq!(logged(&mut asleep, 6.0, 7.0), [7.0]);
    }

    #[test]
    fn it_looks_at_the_clock_each_minute_at_least_and_when_something_is_due() {
        let expiry = expiry(&[0.0], -40.0);
        assert_eq!(expiry.wait(at(-40.0)), Some(CHECK_INTERVAL));
        let soon = at(-30.0) - Duration::from_secs(5);
        assert_eq!(expiry.wait(soon), Some(Duration::from_secs(5)));
        assert_eq!(expiry.wait(at(-20.0)), Some(Duration::ZERO));
        let mut expiry = expiry;
        expiry.remind(at(-20.0));
        assert_eq!(expiry.wait(at(-20.0)), Some(CHECK_INTERVAL));
        assert_eq!(expiry.wait(at(-21.0)), Some(Duration::ZERO));
    }
}
