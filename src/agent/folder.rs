//! What one credential folder serves, whatever happens to its files: a state machine without I/O.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::credential::{Bundle, Pair};
use crate::problem::{Problem, Reason};

/// How long a folder must hold a trust bundle and no pair before the bundle is announced under the
/// folder's own name: a pair whose CA was copied first is none.
const ALONE: Duration = Duration::from_secs(1);
/// How long a problem must last before it is logged: the tools that write one file after the
/// other pass through states that are nobody's problem.
const LASTING: Duration = Duration::from_secs(1);

/// What a read of a folder amounts to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The folder is not there.
    Gone,
    /// It can't be read, or what is in it can't be served.
    Bad(Vec<Problem>),
    /// All parts are good.
    Good(Box<Whole>),
}

/// The parts of a credential none of which is rejected.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) pair: Option<Pair>,
    pub(crate) bundle: Option<Bundle>,
    pub(crate) warnings: Vec<Problem>,
}

/// What became of a folder.
#[derive(Debug)]
pub(crate) enum Event {
    /// What it serves is not what it served before.
    Changed {
        /// Whether it served nothing before.
        first: bool,
        /// What is worth a warning, and was not before.
        warnings: Vec<Problem>,
    },
    /// A problem has lasted; whether the last good parts are still served.
    Rejected { problems: Vec<Problem>, keeps: bool },
    /// A problem that had been logged is over.
    Recovered,
    /// It was gone for long enough: it serves nothing any more.
    Removed,
}

/// The parts that a folder serves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) pair: Option<Arc<Pair>>,
    pub(crate) bundle: Option<Arc<Bundle>>,
    /// Whether the bundle goes by the folder's own name too, for want of a pair.
    pub(crate) alone: bool,
}

/// A credential folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    removal_delay: Duration,
    parts: Parts,
    warnings: Vec<Problem>,
    trouble: Option<Trouble>,
    gone_since: Option<Instant>,
    bundle_gone_since: Option<Instant>,
    alone_since: Option<Instant>,
}

#[derive(Debug)]
struct Trouble {
    problems: Vec<Problem>,
    since: Instant,
    logged: bool,
}

impl Event {
    /// Whether its log line says that a certificate ends soon, or has ended.
    pub(crate) fn warns_of_expiry(&self) -> bool {
        matches!(self, Self::Changed { warnings, .. } if warnings.iter().any(is_of_time))
    }

    /// Whether what is served is not what it was.
    pub(crate) fn is_change(&self) -> bool {
        matches!(self, Self::Changed { .. } | Self::Removed)
    }
}

impl Parts {
    pub(crate) fn is_empty(&self) -> bool {
        self.pair.is_none() && self.bundle.is_none()
    }
}

impl Folder {
    /// The folder at `path`, of which nothing is known yet. Its secrets go when it was gone for
    /// `removal_delay`.
    pub(crate) fn new(path: PathBuf, removal_delay: Duration) -> Self {
        Self {
            path,
            removal_delay,
            parts: Parts::default(),
            warnings: Vec::new(),
            trouble: None,
            gone_since: None,
            bundle_gone_since: None,
            alone_since: None,
        }
    }

    /// What it serves.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What is worth a warning in what it serves.
    pub(crate) fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// What keeps its present files from being served.
    pub(crate) fn problems(&self) -> &[Problem] {
        self.trouble
            .as_ref()
            .map_or(&[], |trouble| &trouble.problems)
    }

    /// Whether it is gone for good, and nothing of it is served.
    pub(crate) fn is_over(&self) -> bool {
        self.gone_since.is_some() && self.parts.is_empty()
    }

    /// Changes how long it must be gone before its secrets go.
    pub(crate) fn set_removal_delay(&mut self, delay: Duration) {
        self.removal_delay = delay;
    }

    /// Takes in what a read found.
    pub(crate) fn observe(&mut self, outcome: Outcome, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        match outcome {
            Outcome::Gone => {
                self.gone_since.get_or_insert(now);
                self.alone_since = None;
                // What was wrong with it while it was being removed is nobody's problem.
                self.trouble.take_if(|trouble| !trouble.logged);
            }
            Outcome::Bad(problems) => self.reject(problems, now),
            Outcome::Good(credential) => events.extend(self.accept(*credential, now)),
        }
        events.extend(self.tick(now));
        events
    }

    /// Takes in that time has passed.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        if due(self.gone_since, self.removal_delay, now) && !self.parts.is_empty() {
            *self = Self {
                gone_since: self.gone_since,
                ..Self::new(std::mem::take(&mut self.path), self.removal_delay)
            };
            events.push(Event::Removed);
        }
        let before = (self.parts.bundle.is_some(), self.parts.alone);
        if due(self.bundle_gone_since, self.removal_delay, now) {
            self.bundle_gone_since = None;
            self.parts.bundle = None;
        }
        if due(self.alone_since, ALONE, now) {
            self.alone_since = None;
            self.parts.alone = true;
        }
        if before != (self.parts.bundle.is_some(), self.parts.alone) {
            events.push(Event::Changed {
                first: false,
                warnings: Vec::new(),
            });
        }
        events.extend(self.report(now));
        events
    }

    /// Reports a problem that has not been reported yet, without waiting whether it lasts.
    pub(crate) fn report_now(&mut self) -> Option<Event> {
        let keeps = !self.parts.is_empty();
        let trouble = self.trouble.as_mut().filter(|trouble| !trouble.logged)?;
        trouble.logged = true;
        Some(Event::Rejected {
            problems: trouble.problems.clone(),
            keeps,
        })
    }

    /// When [`Self::tick`] has something to do next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let gone = self.gone_since.filter(|_| !self.parts.is_empty());
        let lasting = self.trouble.as_ref().filter(|trouble| !trouble.logged);
        [
            gone.map(|since| since + self.removal_delay),
            self.bundle_gone_since
                .map(|since| since + self.removal_delay),
            self.alone_since.map(|since| since + ALONE),
            lasting.map(|trouble| trouble.since + LASTING),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When it will be known whether a bundle without a pair stays one.
    pub(crate) fn alone_deadline(&self) -> Option<Instant> {
        self.alone_since.map(|since| since + ALONE)
    }

    fn reject(&mut self, problems: Vec<Problem>, now: Instant) {
        self.gone_since = None;
        self.alone_since = None;
        self.bundle_gone_since = None;
        match &mut self.trouble {
            Some(trouble) if trouble.problems == problems => {}
            // The folder is still bad: other problems are logged too, and not more often.
            Some(trouble) => {
                trouble.problems = problems;
                if std::mem::take(&mut trouble.logged) {
                    trouble.since = now;
                }
            }
            None => {
                self.trouble = Some(Trouble {
                    problems,
                    since: now,
                    logged: false,
                });
            }
        }
    }

    fn accept(&mut self, credential: Whole, now: Instant) -> Vec<Event> {
        if credential.pair.is_none() && self.parts.pair.is_some() {
            self.reject(vec![pair_is_gone(&self.path)], now);
            return Vec::new();
        }
        self.gone_since = None;
        let recovered = self.trouble.take().is_some_and(|trouble| trouble.logged);
        let mut events: Vec<_> = recovered.then_some(Event::Recovered).into_iter().collect();

        let old = self.parts.clone();
        self.take_pair(credential.pair, now);
        self.take_bundle(credential.bundle, now);
        if !same(&old, &self.parts) {
            let warned = std::mem::take(&mut self.warnings);
            let warnings = credential.warnings.iter().cloned();
            events.push(Event::Changed {
                first: old.is_empty(),
                warnings: warnings
                    .filter(|w| is_of_time(w) || !warned.contains(w))
                    .collect(),
            });
        }
        self.warnings = credential.warnings;
        events
    }

    fn take_pair(&mut self, pair: Option<Pair>, now: Instant) {
        match pair {
            Some(pair) => {
                self.parts.pair = Some(Arc::new(pair));
                self.parts.alone = false;
                self.alone_since = None;
            }
            None if self.parts.alone => {}
            None => {
                self.alone_since.get_or_insert(now);
            }
        }
    }

    /// A bundle that is missing beside a good pair has been taken out, or is being replaced.
    fn take_bundle(&mut self, bundle: Option<Bundle>, now: Instant) {
        match bundle {
            Some(bundle) => {
                self.parts.bundle = Some(Arc::new(bundle));
                self.bundle_gone_since = None;
            }
            None if self.parts.bundle.is_some() => {
                self.bundle_gone_since.get_or_insert(now);
            }
            None => {}
        }
    }

    fn report(&mut self, now: Instant) -> Option<Event> {
        let lasts = self
            .trouble
            .as_ref()
            .is_some_and(|trouble| now >= trouble.since + LASTING);
        lasts.then(|| self.report_now()).flatten()
    }
}

/// Whether a warning is of the end of the certificate, which each new one has anew.
fn is_of_time(warning: &Problem) -> bool {
    matches!(warning.reason(), Reason::ExpiresSoon | Reason::Expired)
}

fn due(since: Option<Instant>, delay: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now >= since + delay)
}

fn pair_is_gone(folder: &Path) -> Problem {
    Problem::new(
        Reason::Incomplete,
        folder,
        "the certificate and the key are gone",
        "put them back, or delete the folder if they should no longer be served",
    )
}

/// Whether nothing that is served differs.
fn same(old: &Parts, new: &Parts) -> bool {
    let pair = |parts: &Parts| parts.pair.clone();
    let bundle = |parts: &Parts| parts.bundle.clone();
    old.alone == new.alone
        && match (pair(old), pair(new)) {
            (Some(old), Some(new)) => old.chain == new.chain && old.key == new.key,
            (None, None) => true,
            _ => false,
        }
        && match (bundle(old), bundle(new)) {
            (Some(old), Some(new)) => old.trusted_ca == new.trusted_ca && old.crl == new.crl,
            (None, None) => true,
            _ => false,
        }
}

#[cfg(test)]
pub(crate) mod tests;
