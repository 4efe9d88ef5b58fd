//! What one credential folder serves: its parts, which are checked separately, and how they depend on each other.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::part::{Missing, Now, PartState, Parts, Trouble};
use super::snapshot::{Credential as View, Rejection, Unserved};
use crate::credential::{Credential, StapleFacts, Verdict};
use crate::name;
use crate::problem::{Problem, Reason};
use crate::secret::{Facts, Kind, Part, Secret};
use crate::text::{self, Texts};
use crate::times;

/// How long a folder must hold a trust bundle and no pair before the bundle is announced under the
/// folder's own name: the CA may have been copied before the pair.
pub(super) const ALONE: Duration = Duration::from_secs(1);

/// What a read of a folder found.
#[derive(Debug)]
pub enum Found {
    /// The folder does not exist.
    Gone,
    /// Its files can't be checked.
    Rejected(Vec<Problem>),
    /// The results of checking its files.
    Judged(Box<Judged>),
}

/// The results of checking the files of a folder, with secrets ready to be served.
#[derive(Debug)]
pub struct Judged {
    verdicts: [Verdict<Part>; Kind::ALL.len()],
    skipped: Texts,
}

impl Judged {
    /// The valid parts.
    pub fn into_parts(self) -> impl Iterator<Item = Part> {
        self.verdicts.into_iter().filter_map(|verdict| verdict.part)
    }
}

impl From<Credential> for Judged {
    fn from(credential: Credential) -> Self {
        fn encoded<T>(verdict: Verdict<T>) -> Verdict<Part>
        where
            Part: From<T>,
        {
            Verdict {
                part: verdict.part.map(Part::from),
                problems: verdict.problems,
                warnings: verdict.warnings,
            }
        }
        // In the order of `Kind::ALL`.
        Self {
            verdicts: [
                encoded(credential.pair),
                encoded(credential.bundle),
                encoded(credential.staple),
                encoded(credential.ticket_keys),
                encoded(credential.generic),
            ],
            skipped: credential.skipped,
        }
    }
}

/// What it means when no file is left of a part.
#[derive(Clone, Copy, Debug)]
pub(super) enum WhenGone {
    /// The part stays as long as its folder is there.
    KeepFolder,
    /// The part stays as long as another file of the credential is there.
    KeepFiles,
    /// The configuration no longer names its files: the part is removed.
    TakeOut,
}

/// What happened to a folder.
#[derive(Debug)]
pub enum Event {
    /// It serves something new.
    Changed {
        /// Whether it served nothing before.
        first: bool,
        /// Warnings that it did not have before.
        warnings: Vec<Problem>,
    },
    /// Problems have persisted.
    Rejected {
        /// The part that is rejected; none where it is the whole folder.
        kind: Option<Kind>,
        /// Why.
        problems: Vec<Problem>,
        /// Whether a previous version stays in service.
        keeps: bool,
    },
    /// Problems that had been logged are resolved.
    Recovered {
        /// The part that had them; none where it was the whole folder.
        kind: Option<Kind>,
    },
    /// It has been missing for long enough that it no longer serves anything.
    Removed,
}

impl Event {
    /// Whether what is served changed.
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Changed { .. } | Self::Removed)
    }

    /// Whether its log line reports that a certificate expires soon, or has expired.
    pub fn warns_of_expiry(&self) -> bool {
        matches!(self, Self::Changed { warnings, .. } if warnings.iter().any(is_of_time))
    }
}

/// A credential folder. While it [rests](Self::rests), what is published of it is enough to make it again, and
/// takes less memory: there may be thousands.
#[derive(Debug)]
pub(super) struct Folder {
    /// Its published state: what it serves is up to date at any time, the rest since the last
    /// [`Self::publish`].
    view: Arc<View>,
    when_gone: WhenGone,
    parts: Parts,
    /// Problems that prevent a check of the whole folder.
    trouble: Trouble,
    /// The warnings that its last log line was about.
    warned: Arc<[Problem]>,
    /// When the staple of the certificate in service ended, if it has.
    staple_ended: Option<SystemTime>,
    alone_since: Option<Instant>,
    gone_since: Option<Instant>,
    /// The deadline that the inventory has stored for it.
    pub(super) timer: Option<Instant>,
}

impl Folder {
    /// The folder of which this is published: one that is new, or rested.
    pub(super) fn woken(view: Arc<View>, when_gone: WhenGone) -> Self {
        let mut parts = Parts::default();
        for kind in Kind::ALL {
            if let Some(part) = view.part(kind) {
                let warnings = (view.warns == Some(kind)).then(|| (*view.warnings).into());
                parts.wake(kind, part.clone(), warnings.unwrap_or_default());
            }
        }
        Self {
            warned: view.warnings.clone(),
            view,
            when_gone,
            parts,
            trouble: Trouble::default(),
            staple_ended: None,
            alone_since: None,
            gone_since: None,
            timer: None,
        }
    }

    /// Whether [`Self::woken`] makes the same folder of what is published of it: it has nothing to do until its
    /// files change or a date comes.
    pub(super) fn rests(&self) -> bool {
        let is_published = |kind| {
            let part = |part: Option<&Arc<Part>>| part.map(Arc::as_ptr);
            part(self.parts.of(kind).current()) == part(self.view.part(kind))
        };
        let rests = self.trouble.problems().is_empty()
            && self.parts.iter().all(PartState::rests)
            && Kind::ALL.into_iter().all(is_published)
            && Arc::ptr_eq(&self.warned, &self.view.warnings)
            && (self.warned.is_empty() || self.view.warns.is_some())
            && [self.alone_since, self.gone_since, self.timer] == [None; 3]
            && self.staple_ended.is_none();
        debug_assert!(
            !rests
                || format!("{self:?}")
                    == format!("{:?}", Self::woken(self.view.clone(), self.when_gone)),
            "{self:?}"
        );
        rests
    }

    /// Whether it was read since the start.
    pub(super) fn is_observed(&self) -> bool {
        self.view.observed
    }

    /// Serves `part` from before the agent's restart until the files are valid or removed.
    pub(super) fn restore(&mut self, part: Part, now: Now) {
        let kind = part.kind();
        self.parts.of_mut(kind).restore(Arc::new(part));
        self.refresh(now.system, now.instant);
    }

    /// Handles the result of a read. The change that caused it was noticed at `noticed`. Parts that are
    /// missing for `delay` are no longer served.
    pub(super) fn observe(
        &mut self,
        found: Found,
        delay: Duration,
        now: Now,
        noticed: Instant,
    ) -> Vec<Event> {
        self.view_mut().observed = true;
        let mut events = Vec::new();
        match found {
            Found::Gone => self.gone(now.instant),
            Found::Rejected(problems) => {
                self.gone_since = None;
                self.alone_since = None;
                self.trouble.set(problems, now.instant);
            }
            Found::Judged(judged) => events.extend(self.judge(*judged, now)),
        }
        events.extend(self.advance(delay, now, noticed));
        events
    }

    /// Handles the passing of time.
    pub(super) fn tick(&mut self, delay: Duration, now: Now) -> Vec<Event> {
        self.advance(delay, now, now.instant)
    }

    /// Makes the next [`Self::tick`] report problems without waiting to see whether they persist.
    pub(super) fn expedite_reports(&mut self) {
        self.troubles_mut().for_each(Trouble::expedite);
    }

    /// When [`Self::tick`] has something to do next.
    pub(super) fn deadline(&self, delay: Duration) -> Option<Instant> {
        let gone = self
            .gone_since
            .filter(|_| self.serves() || self.is_unread());
        let parts = self.parts.iter().filter_map(|part| part.deadline(delay));
        [
            gone.map(|since| since + delay),
            self.settles_at(),
            self.trouble.deadline(),
        ]
        .into_iter()
        .flatten()
        .chain(parts)
        .min()
    }

    /// The next date at which it may change what is served or which certificate is the best for a host,
    /// or at which an expiry is to be logged.
    fn next_date(&self, now: SystemTime) -> Option<SystemTime> {
        let dates = self.parts.iter().flat_map(PartState::dates);
        let dates = dates.filter(|date| *date > now);
        dates.chain(self.view.expiry.next()).min()
    }

    /// The ends of certificates to log now.
    pub(super) fn remind(&mut self, now: SystemTime) -> Vec<(Kind, SystemTime)> {
        self.view_mut().expiry.remind(now)
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, now: SystemTime) {
        self.view_mut().expiry.set_back(now);
    }

    /// When the wait ends for a pair to follow its bundle, or for a preferred chain to follow another one.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        let alone = self.alone_since.map(|since| since + ALONE);
        let parts = self.parts.iter().filter_map(PartState::settles_at);
        alone.into_iter().chain(parts).min()
    }

    /// Whether it is gone, serves nothing, and clients can't hold anything from it from before the start.
    pub(super) fn is_over(&self) -> bool {
        self.gone_since.is_some() && !self.serves() && !self.is_unread()
    }

    /// Whether anything of it is served.
    pub(super) fn serves(&self) -> bool {
        self.view.serves()
    }

    /// The parts whose previous version is served instead of the content of the files.
    pub(super) fn previous(&self) -> impl Iterator<Item = &Arc<Part>> {
        let held = self.parts.iter().filter(|part| part.holds_previous());
        held.filter_map(PartState::current)
    }

    /// Its state at `now`, to be published. `changed` is none if it serves the same as before. Otherwise it tells
    /// whether the log line of the change already reports that the certificate expires soon.
    pub(super) fn publish(
        &mut self,
        warn_days: u32,
        changed: Option<bool>,
        now: SystemTime,
    ) -> Arc<View> {
        let of_parts = Kind::ALL.iter().flat_map(|kind| {
            let problems = self.parts.of(*kind).trouble().problems();
            problems.iter().map(|problem| (Some(*kind), problem))
        });
        let of_folder = self
            .trouble
            .problems()
            .iter()
            .map(|problem| (None, problem));
        let rejections = of_folder.chain(of_parts);
        let rejections = rejections.map(|(kind, problem)| Rejection {
            kind,
            problem: problem.clone(),
        });
        let rejections: Box<[_]> = rejections.collect();
        let warnings = self.warnings();
        let warnings = match warnings == *self.warned {
            true => self.warned.clone(),
            false => warnings.into(),
        };
        let all_of = |kind: &Kind| self.parts.of(*kind).warnings().len() == warnings.len();
        let warns = Kind::ALL.into_iter().find(all_of);
        let awaits_pair = self.awaits_pair();
        let (unread, bundle_unknown) = (self.is_unread(), self.is_bundle_unknown());
        let view = self.view_mut();
        view.warn_days = warn_days;
        let skipped = view.unserved.take().map(|unserved| unserved.skipped);
        let skipped = skipped.unwrap_or_default();
        let unserved = Unserved {
            rejections,
            skipped,
        };
        view.unserved = (!unserved.is_empty()).then(|| Box::new(unserved));
        view.warnings = warnings;
        view.warns = warns;
        view.awaits_pair = awaits_pair;
        view.unread = unread;
        view.bundle_unknown = bundle_unknown;
        if let Some(warned) = changed {
            let mut expiry = std::mem::take(&mut view.expiry);
            expiry.set(view, warned, now);
            view.expiry = expiry;
        }
        self.view_mut().next_date = self.next_date(now);
        self.view.clone()
    }

    fn judge(&mut self, judged: Judged, now: Now) -> Vec<Event> {
        self.gone_since = None;
        let recovered = self
            .trouble
            .clear()
            .then_some(Event::Recovered { kind: None });
        let mut events: Vec<_> = recovered.into_iter().collect();
        let pair = &judged.verdicts[Kind::Certificate as usize];
        let (without_pair, beside_pair) = (pair.is_absent(), pair.part.is_some());
        let view = self.view_mut();
        view.judged = true;
        view.without_pair = without_pair;
        view.was_without_pair |= without_pair;
        view.unserved.get_or_insert_default().skipped = judged.skipped;
        for (kind, verdict) in Kind::ALL.into_iter().zip(judged.verdicts) {
            let missing = match kind {
                Kind::TrustBundle | Kind::OcspStaple if beside_pair => Missing::TakenOut,
                _ => self.without_files(),
            };
            if self.parts.observe(kind, verdict, missing, now) {
                events.push(Event::Recovered { kind: Some(kind) });
            }
        }
        self.alone_since = match without_pair && self.has_bundle_alone() && !self.view.alone {
            true => self.alone_since.or(Some(now.instant)),
            false => None,
        };
        events
    }

    /// How to handle that a part has no files, though other parts may have some.
    fn without_files(&self) -> Missing {
        let folder = self.view.path();
        let problem = |what, remedy| Problem::new(Reason::Incomplete, folder, what, remedy);
        match self.when_gone {
            WhenGone::KeepFolder => Missing::Kept(problem(
                "its files are gone from the folder, which is still there".to_owned(),
                "put them back, or delete the folder if they should no longer be served",
            )),
            WhenGone::KeepFiles => Missing::Kept(problem(
                format!(
                    "files of {} are gone, while others are still there",
                    text::escape(&*self.view.name)
                ),
                "put them back, or delete the others too if they should no longer be served",
            )),
            WhenGone::TakeOut => Missing::TakenOut,
        }
    }

    fn gone(&mut self, now: Instant) {
        self.gone_since.get_or_insert(now);
        self.alone_since = None;
        // Problems during its removal are of no interest.
        self.troubles_mut().for_each(Trouble::clear_unlogged);
    }

    fn advance(&mut self, delay: Duration, now: Now, noticed: Instant) -> Vec<Event> {
        let is_gone = is_due(self.gone_since, delay, now.instant);
        if is_gone && self.serves() {
            *self = Self {
                gone_since: self.gone_since,
                timer: self.timer,
                ..Self::woken(Arc::new(self.view.emptied()), self.when_gone)
            };
            return vec![Event::Removed];
        }
        if is_gone {
            self.view_mut().since_start = false;
        }
        let (first, was_alone) = (!self.serves(), self.view.alone);
        for (_, part) in self.parts.iter_mut() {
            part.tick(delay, now);
        }
        let alone = self
            .alone_since
            .take_if(|since| now.instant >= *since + ALONE);
        let is_alone = (was_alone || alone.is_some()) && self.has_bundle_alone();
        if is_alone != was_alone {
            self.view_mut().alone = is_alone;
        }
        let mut events = Vec::new();
        if self.refresh(now.system, noticed) || is_alone != was_alone {
            let warnings = self.new_warnings();
            events.push(Event::Changed { first, warnings });
        }
        events.extend(self.report(now.instant));
        events
    }

    /// Updates the secrets from the parts. Returns whether one changed.
    fn refresh(&mut self, now: SystemTime, noticed: Instant) -> bool {
        let mut changed = false;
        for kind in Kind::ALL {
            if kind == Kind::OcspStaple {
                continue;
            }
            let part = self.parts.of(kind).current();
            let staple = part.and_then(|part| self.staple_for(part, now));
            let old = &self.view.secrets[kind as usize];
            let keeps = match (old, part) {
                (None, None) => true,
                (Some(old), Some(part)) if Arc::ptr_eq(old.part(), part) => {
                    let same = |one: &Arc<Part>| one.version();
                    // Envoy rejects a must-staple certificate without a staple.
                    old.staple().map(same) == staple.as_ref().map(same)
                        || (staple.is_none() && requires_staple(part))
                }
                _ => false,
            };
            if !keeps {
                let part = part.filter(|part| staple.is_some() || !requires_staple(part));
                let secret = part.map(|part| Secret::new(part.clone(), staple, noticed));
                changed |= old.is_some() || secret.is_some();
                self.view_mut().secrets[kind as usize] = secret.map(Arc::new);
            }
        }
        let pair = self.view.secret(Kind::Certificate);
        let staple = pair.and_then(|pair| self.staple_about(pair.part()));
        let end = staple.and_then(|(_, facts)| facts.next_update);
        self.staple_ended = end.filter(|end| *end <= now);
        changed
    }

    /// The staple for this certificate, if it has not expired.
    fn staple_for(&self, pair: &Part, now: SystemTime) -> Option<Arc<Part>> {
        let (staple, facts) = self.staple_about(pair)?;
        let ended = facts.next_update.is_some_and(|end| end <= now);
        (!ended).then(|| staple.clone())
    }

    /// The staple for this certificate, expired or not.
    fn staple_about(&self, pair: &Part) -> Option<(&Arc<Part>, &StapleFacts)> {
        let staple = self.parts.of(Kind::OcspStaple).current()?;
        match (pair.facts(), staple.facts()) {
            (Facts::Certificate(pair), Facts::OcspStaple(facts)) => {
                facts.is_about(&pair.leaf).then_some((staple, facts))
            }
            _ => None,
        }
    }

    /// A staple that has expired in service.
    fn lapsed(&self) -> Option<Problem> {
        let end = self.staple_ended?;
        let pair = self.view.secret(Kind::Certificate)?;
        let (_, facts) = self.staple_about(pair.part())?;
        let outcome = match pair.staple() {
            None => "the certificate is served without it",
            // A must-staple certificate, which Envoy does not accept without one.
            Some(_) => "clients refuse the certificate, which requires a valid one",
        };
        Some(Problem::new(
            Reason::Expired,
            self.view.path().join(facts.files.iter().next()?),
            format!("the OCSP staple expired on {}: {outcome}", times::date(end)),
            "fetch a new one from the CA's OCSP responder",
        ))
    }

    fn has_bundle_alone(&self) -> bool {
        let has = |kind: Kind| self.parts.of(kind).current().is_some();
        has(Kind::TrustBundle)
            && ![Kind::Certificate, Kind::TicketKeys, Kind::Generic]
                .into_iter()
                .any(has)
    }

    /// Whether its content before the start is unknown: nothing in it could be read, or it has files of a
    /// pair that could not be read.
    fn is_unread(&self) -> bool {
        let pair = self.parts.of(Kind::Certificate);
        let seen_good = self.parts.iter().any(PartState::seen_good);
        let holds_no_pair = self.view.judged && self.view.without_pair && seen_good;
        self.view.since_start && !pair.seen_good() && !holds_no_pair
    }

    /// Whether it has had files of a pair since it was first read, but never a valid pair.
    fn awaits_pair(&self) -> bool {
        let pair = self.parts.of(Kind::Certificate);
        self.view.judged && !self.view.was_without_pair && !pair.seen_good()
    }

    fn is_bundle_unknown(&self) -> bool {
        let bundle = self.parts.of(Kind::TrustBundle);
        let seen_good = self.parts.iter().any(PartState::seen_good);
        !bundle.seen_good() && (!seen_good || !bundle.trouble().problems().is_empty())
    }

    /// All warnings about what is served.
    fn warnings(&self) -> Vec<Problem> {
        let of_parts = self.parts.iter().flat_map(PartState::warnings).cloned();
        of_parts
            .chain(self.waiting())
            .chain(self.lapsed())
            .chain(self.nameless())
            .chain(self.uncovered())
            .collect()
    }

    /// A version in the files that will be served when it becomes valid.
    fn waiting(&self) -> Option<Problem> {
        let pair = self.parts.of(Kind::Certificate);
        let (served, next) = (pair.current()?.facts(), pair.successor()?);
        let (reason, what) = if next.not_before() > served.not_before() {
            let from = next.not_before().map(times::date).unwrap_or_default();
            let what = format!("the certificate is not valid before {from}");
            (Reason::NotYetValid, what)
        } else {
            (Reason::Expired, "the certificate has expired".to_owned())
        };
        Some(Problem::new(
            reason,
            self.view.path(),
            format!("{what}; the previous version, which is valid, is served until then"),
            "nothing needs to be done if that is intended; otherwise write a certificate that is valid now",
        ))
    }

    /// A certificate that clients don't accept for any host.
    fn nameless(&self) -> Option<Problem> {
        let pair = self.parts.of(Kind::Certificate).current()?;
        let Facts::Certificate(facts) = pair.facts() else {
            return None;
        };
        facts.leaf.common_name()?;
        Some(Problem::new(
            Reason::Name,
            self.view.path().join(facts.files.iter().next()?),
            "the certificate has no subject alternative name: most clients do not accept it for \
             any host, even if its common name matches",
            "have it issued with its hosts as subject alternative names; nothing needs to be done if \
             only a client uses it",
        ))
    }

    /// A folder whose name is a host that its certificate does not cover.
    fn uncovered(&self) -> Option<Problem> {
        let pair = self.parts.of(Kind::Certificate).current()?;
        let Facts::Certificate(facts) = pair.facts() else {
            return None;
        };
        let host = name::host_of(&self.view.name)?;
        let covered = super::hosts::coverages(facts).any(|coverage| coverage.covers(&host));
        (!covered).then(|| {
            Problem::new(
                Reason::Name,
                self.view.path(),
                format!(
                    "the credential is named like the host {host}, which its certificate does not cover"
                ),
                "use a certificate for that host, or give the credential another name",
            )
        })
    }

    /// The warnings that it did not have before, and those about dates, which are repeated for each new
    /// certificate.
    fn new_warnings(&mut self) -> Vec<Problem> {
        let warnings = self.warnings().into();
        let warned = std::mem::replace(&mut self.warned, warnings);
        let is_new = |warning: &&Problem| is_of_time(warning) || !warned.contains(warning);
        self.warned.iter().filter(is_new).cloned().collect()
    }

    /// Its published state, to be changed: a copy, where it is published.
    fn view_mut(&mut self) -> &mut View {
        Arc::make_mut(&mut self.view)
    }

    fn report(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let whole = (None, self.serves(), &mut self.trouble);
        let parts = self.parts.iter_mut().map(|(kind, part)| {
            let keeps = part.current().is_some();
            (Some(kind), keeps, part.trouble_mut())
        });
        for (kind, keeps, trouble) in std::iter::once(whole).chain(parts) {
            if let Some(problems) = trouble.report(now) {
                events.push(Event::Rejected {
                    kind,
                    problems,
                    keeps,
                });
            }
        }
        events
    }

    fn troubles_mut(&mut self) -> impl Iterator<Item = &mut Trouble> {
        let parts = self.parts.iter_mut().map(|(_, part)| part.trouble_mut());
        std::iter::once(&mut self.trouble).chain(parts)
    }
}

fn requires_staple(part: &Part) -> bool {
    matches!(part.facts(), Facts::Certificate(facts) if facts.must_staple)
}

/// Whether a warning is about the dates of the certificate, and is repeated for each new one.
fn is_of_time(warning: &Problem) -> bool {
    let reason = warning.reason();
    matches!(
        reason,
        Reason::Expiring | Reason::Expired | Reason::NotYetValid
    )
}

fn is_due(since: Option<Instant>, delay: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now >= since + delay)
}

#[cfg(test)]
mod tests;
