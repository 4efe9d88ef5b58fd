//! What one part of a credential folder serves, and how that follows its files: a state machine without I/O.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use crate::credential::Verdict;
use crate::problem::Problem;
use crate::secret::{Facts, Kind, Part};

/// How long a problem must persist before it is logged: tools that write files one after the other cause
/// brief invalid states.
const LASTING: Duration = Duration::from_secs(1);

/// How long to wait for a preferred part before another one is used: a tool may be in the middle of writing.
const SETTLING: Duration = Duration::from_secs(1);

/// The time, by the clock that never goes back and by the one that dates certificates.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What delays are measured by.
    pub instant: Instant,
    /// What the dates of certificates are compared with.
    pub system: SystemTime,
}

impl Now {
    /// The current time.
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            system: SystemTime::now(),
        }
    }
}

/// The parts of a folder. Most folders have one or two of them, and there may be thousands of folders:
/// a part that was never there takes a pointer.
#[derive(Debug, Default)]
pub(super) struct Parts([Option<Box<PartState>>; Kind::ALL.len()]);

/// The state of one part.
#[derive(Debug, Default)]
pub(super) struct PartState {
    /// What is served, or would be if the rest of the folder allowed it.
    current: Option<Arc<Part>>,
    /// The previous version is served instead of the content of the files.
    holds_previous: bool,
    warnings: Box<[Problem]>,
    /// What replaces the current version when it becomes valid.
    successor: Option<Box<Successor>>,
    trouble: Trouble,
    missing_since: Option<Instant>,
    seen_good: bool,
}

#[derive(Debug)]
struct Successor {
    part: Arc<Part>,
    warnings: Box<[Problem]>,
    /// When it is used although the files promise a better one; none when its dates decide.
    settles: Option<Instant>,
}

/// Why files are not served, and whether that has been logged. Boxed, because most folders have no problem.
#[derive(Debug, Default)]
pub(super) struct Trouble(Option<Box<Present>>);

#[derive(Debug)]
struct Present {
    problems: Vec<Problem>,
    since: Instant,
    logged: bool,
}

/// What the absence of a part's files means.
#[derive(Debug)]
pub(super) enum Missing {
    /// They were removed next to a valid pair: the part is removed too, after a delay.
    TakenOut,
    /// The folder would serve nothing without them: the part stays, with this problem.
    Kept(Problem),
}

impl Trouble {
    pub(super) fn problems(&self) -> &[Problem] {
        self.0.as_ref().map_or(&[], |present| &present.problems)
    }

    /// Sets the current problems; if they differ from before, they are logged again.
    pub(super) fn set(&mut self, problems: Vec<Problem>, now: Instant) {
        if self.problems() == problems {
            return;
        }
        let pending = self.0.as_ref().filter(|present| !present.logged);
        let since = pending.map_or(now, |present| present.since);
        self.0 = Some(Box::new(Present {
            problems,
            since,
            logged: false,
        }));
    }

    /// Clears the problems. Returns whether they had been logged.
    pub(super) fn clear(&mut self) -> bool {
        self.0.take().is_some_and(|present| present.logged)
    }

    /// Forgets problems that were not logged.
    pub(super) fn clear_unlogged(&mut self) {
        self.0.take_if(|present| !present.logged);
    }

    /// The problems, if they have persisted and are not logged yet.
    pub(super) fn report(&mut self, now: Instant) -> Option<Vec<Problem>> {
        let due = |present: &&mut Box<Present>| !present.logged && present.since + LASTING <= now;
        let present = self.0.as_mut().filter(due)?;
        present.logged = true;
        Some(present.problems.clone())
    }

    /// Reports the problems without waiting to see whether they persist.
    pub(super) fn expedite(&mut self) {
        if let Some(Present { since, .. }) = self.0.as_deref_mut() {
            *since = since.checked_sub(LASTING).unwrap_or(*since);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let pending = self.0.as_ref().filter(|present| !present.logged);
        pending.map(|present| present.since + LASTING)
    }
}

impl Parts {
    pub(super) fn of(&self, kind: Kind) -> &PartState {
        static NEVER_THERE: LazyLock<PartState> = LazyLock::new(PartState::default);
        self.0[kind as usize].as_deref().unwrap_or(&NEVER_THERE)
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut PartState {
        self.0[kind as usize].get_or_insert_default()
    }

    /// The part of a folder that [rested](PartState::rests).
    pub(super) fn wake(&mut self, kind: Kind, part: Arc<Part>, warnings: Box<[Problem]>) {
        *self.of_mut(kind) = PartState {
            current: Some(part),
            warnings,
            seen_good: true,
            ..PartState::default()
        };
    }

    /// Those that were there once.
    pub(super) fn iter(&self) -> impl Iterator<Item = &PartState> {
        self.0.iter().flatten().map(|part| &**part)
    }

    /// As [`Self::iter`], with their kinds.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Kind, &mut PartState)> {
        let parts = Kind::ALL.into_iter().zip(&mut self.0);
        parts.filter_map(|(kind, part)| Some((kind, &mut **part.as_mut()?)))
    }

    /// Handles a check of the current files. Returns whether a logged problem is resolved.
    pub(super) fn observe(
        &mut self,
        kind: Kind,
        verdict: Verdict<Part>,
        missing: Missing,
        now: Now,
    ) -> bool {
        let is_new = self.0[kind as usize].is_none();
        if is_new && verdict.is_absent() {
            return false;
        }
        self.of_mut(kind).observe(verdict, missing, now)
    }
}

impl PartState {
    /// The part that was served before the agent's restart.
    pub(super) fn restore(&mut self, part: Arc<Part>) {
        if self.current.is_none() && !self.seen_good {
            self.current = Some(part);
            self.holds_previous = true;
        }
    }

    /// Handles a check of the current files.
    fn observe(&mut self, verdict: Verdict<Part>, missing: Missing, now: Now) -> bool {
        let Verdict {
            part,
            problems,
            warnings,
        } = verdict;
        let pending = self.successor.take();
        if let Some(part) = part {
            self.missing_since = None;
            return self.accept(Arc::new(part), (*warnings).into(), pending, now);
        }
        self.holds_previous = self.current.is_some();
        let problems = match missing {
            _ if !problems.is_empty() => problems,
            Missing::Kept(problem) if self.current.is_some() => vec![problem],
            Missing::TakenOut if self.current.is_some() => {
                self.missing_since.get_or_insert(now.instant);
                return self.trouble.clear();
            }
            _ => return self.trouble.clear(),
        };
        self.missing_since = None;
        self.trouble.set(problems, now.instant);
        false
    }

    /// Returns whether a logged problem is resolved.
    fn accept(
        &mut self,
        part: Arc<Part>,
        warnings: Box<[Problem]>,
        pending: Option<Box<Successor>>,
        now: Now,
    ) -> bool {
        self.seen_good = true;
        let current = self.current.as_ref();
        let is_other = current.is_none_or(|current| current.version() != part.version());
        let waits_for_dates = current.is_some_and(|current| {
            current.facts().is_valid(now.system) && !part.facts().is_valid(now.system)
        });
        let settles = part.is_provisional().then(|| {
            let since = pending.and_then(|pending| pending.settles);
            since.unwrap_or(now.instant + SETTLING)
        });
        if is_other && (waits_for_dates || settles.is_some_and(|at| at > now.instant)) {
            self.holds_previous = self.current.is_some();
            self.successor = Some(Box::new(Successor {
                part,
                warnings,
                settles: settles.filter(|_| !waits_for_dates),
            }));
        } else {
            self.holds_previous = false;
            self.warnings = warnings;
            if self.current.as_ref().map(|part| part.version()) != Some(part.version()) {
                self.current = Some(part);
            }
        }
        self.trouble.clear()
    }

    /// Handles the passing of time. A part that is missing for `removal_delay` is removed.
    pub(super) fn tick(&mut self, removal_delay: Duration, now: Now) {
        if self
            .missing_since
            .take_if(|since| now.instant >= *since + removal_delay)
            .is_some()
        {
            self.current = None;
            self.holds_previous = false;
            self.warnings = Box::default();
        }
        let takes_over = self.successor.as_ref().is_some_and(|successor| {
            if let Some(settles) = successor.settles {
                return settles <= now.instant;
            }
            let current = self.current.as_ref();
            successor.part.facts().is_valid(now.system)
                || current.is_none_or(|current| !current.facts().is_valid(now.system))
        });
        if takes_over && let Some(successor) = self.successor.take() {
            self.current = Some(successor.part);
            self.warnings = successor.warnings;
            self.holds_previous = false;
        }
    }

    /// Whether it serves what is in the files, and has nothing to do until they change or a date comes.
    pub(super) fn rests(&self) -> bool {
        self.current.is_some()
            && self.seen_good
            && !self.holds_previous
            && self.successor.is_none()
            && self.trouble.problems().is_empty()
            && self.missing_since.is_none()
    }

    pub(super) fn current(&self) -> Option<&Arc<Part>> {
        self.current.as_ref()
    }

    /// The version in the files that is not served yet, because it is not valid yet.
    pub(super) fn successor(&self) -> Option<&Facts> {
        let next = self
            .successor
            .as_ref()
            .filter(|next| next.settles.is_none());
        next.map(|next| next.part.facts())
    }

    /// When the wait for a preferred part ends.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        self.successor.as_ref()?.settles
    }

    pub(super) fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    pub(super) fn trouble(&self) -> &Trouble {
        &self.trouble
    }

    pub(super) fn trouble_mut(&mut self) -> &mut Trouble {
        &mut self.trouble
    }

    /// Whether its files were valid at least once since the start.
    pub(super) fn seen_good(&self) -> bool {
        self.seen_good
    }

    /// Whether a version is served that is no longer in the files.
    pub(super) fn holds_previous(&self) -> bool {
        self.holds_previous
    }

    /// When [`Self::tick`] has something to do next, by the clock of delays.
    pub(super) fn deadline(&self, removal_delay: Duration) -> Option<Instant> {
        let missing = self.missing_since.map(|since| since + removal_delay);
        let deadlines = [missing, self.trouble.deadline(), self.settles_at()];
        deadlines.into_iter().flatten().min()
    }

    /// The dates at which it may change what is served, or which certificate is best for a host.
    pub(super) fn dates(&self) -> impl Iterator<Item = SystemTime> {
        let facts = self.current.as_ref().map(|part| part.facts());
        facts
            .into_iter()
            .chain(self.successor())
            .flat_map(|facts| facts.turning_points())
    }
}
