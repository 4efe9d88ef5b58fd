//! Compares the desired folders with those on disk: pure logic, without cluster or disk.
//!
//! One mistake elsewhere must not remove all folders of a machine. Removals in large numbers are held back: the
//! folder stays until its object is back or the operator releases it, regardless of other folders. This is
//! recorded in the folder's manifest, so that it persists across restarts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::config::Guard;
use crate::manifest::Found;
use crate::select::{Id, Scope};

/// A deleted object's folder is removed after this time without another deletion in its scope, so that
/// simultaneous deletions are counted together.
const QUIET: Duration = Duration::from_secs(1);
/// The folder is removed at the latest after this time.
const LONGEST: Duration = Duration::from_secs(10);

/// The desired state of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Identifies the object: one that was created again with the same name has another uid.
    pub(crate) uid: String,
    /// Its resource version.
    pub(crate) resource_version: String,
    /// The folder that it should have; `None` when it is not mirrored.
    pub(crate) folder: Option<String>,
}

/// Which objects are mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// All objects of these scopes.
    All(BTreeSet<Scope>),
    /// Not known yet.
    Unknown,
    /// Exactly these objects.
    Only {
        wanted: BTreeSet<Id>,
        /// Objects that may be chosen: that is not known yet.
        undecided: BTreeSet<Id>,
    },
}

/// The known objects of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    /// All existing objects, including those that are not mirrored.
    objects: BTreeMap<Id, Wish>,
    /// The scopes that have been listed as a whole.
    listed: BTreeSet<Scope>,
    /// Objects whose deletion an event reported, and when.
    deleted: BTreeMap<Id, Instant>,
    chosen: Chosen,
}

/// The known state of a folder's object.
enum ObjectState<'a> {
    Unknown,
    Exists(&'a Wish),
    /// An event reported the deletion at this time; or the object is missing from a list, or not chosen.
    Absent(Option<Instant>),
    NotMirrored,
}

impl Objects {
    pub(crate) fn new(chosen: Chosen) -> Self {
        Self {
            objects: BTreeMap::new(),
            listed: BTreeSet::new(),
            deleted: BTreeMap::new(),
            chosen,
        }
    }

    /// Changes which objects are mirrored.
    pub(crate) fn choose(&mut self, chosen: Chosen) {
        self.chosen = chosen;
    }

    /// Records a complete list of a scope's objects.
    pub(crate) fn listed(&mut self, scope: &Scope, objects: BTreeMap<Id, Wish>) {
        self.objects.retain(|id, _| id.scope() != *scope);
        self.deleted.retain(|id, _| !objects.contains_key(id));
        self.objects.extend(objects);
        self.listed.insert(scope.clone());
    }

    /// Records that an object was created or changed.
    pub(crate) fn applied(&mut self, id: Id, wish: Wish) {
        self.deleted.remove(&id);
        self.objects.insert(id, wish);
    }

    /// Records that an object was deleted, or is no longer selected.
    pub(crate) fn deleted(&mut self, id: Id, now: Instant) {
        self.objects.remove(&id);
        self.deleted.insert(id, now);
    }

    /// The existing objects that are chosen.
    pub(crate) fn wishes(&self) -> impl Iterator<Item = (&Id, &Wish)> {
        self.objects.iter().filter(|(id, _)| self.is_chosen(id))
    }

    /// The objects of a scope, chosen or not.
    pub(crate) fn ids_in(&self, scope: &Scope) -> Vec<Id> {
        let ids = self.objects.keys();
        ids.filter(|id| id.scope() == *scope).cloned().collect()
    }

    /// The desired state of an object, if it is chosen.
    pub(crate) fn wish(&self, id: &Id) -> Option<&Wish> {
        self.objects.get(id).filter(|_| self.is_chosen(id))
    }

    /// Forgets deletions of objects that no longer have a folder.
    pub(crate) fn forget_deletions(&mut self, present: &BTreeMap<String, Found>) {
        if self.deleted.is_empty() {
            return;
        }
        let owners: BTreeSet<Id> = ours(present).map(|(_, manifest)| manifest.id()).collect();
        self.deleted.retain(|id, _| owners.contains(id));
    }

    /// Whether an object is chosen, or may be once more is known, so that its content must be kept.
    pub(crate) fn may_be_chosen(&self, id: &Id) -> bool {
        match &self.chosen {
            Chosen::Unknown => true,
            Chosen::Only { undecided, .. } if undecided.contains(id) => true,
            _ => self.is_chosen(id),
        }
    }

    fn is_chosen(&self, id: &Id) -> bool {
        match &self.chosen {
            Chosen::All(_) => true,
            Chosen::Unknown => false,
            Chosen::Only { wanted, .. } => wanted.contains(id),
        }
    }

    fn state_of(&self, id: &Id) -> ObjectState<'_> {
        match &self.chosen {
            Chosen::Unknown => return ObjectState::Unknown,
            Chosen::All(scopes) if !scopes.contains(&id.scope()) => {
                return ObjectState::NotMirrored;
            }
            Chosen::Only { undecided, .. } if undecided.contains(id) => {
                return ObjectState::Unknown;
            }
            Chosen::Only { wanted, .. } if !wanted.contains(id) => {
                return ObjectState::Absent(None);
            }
            _ => {}
        }
        if let Some(wish) = self.objects.get(id) {
            return ObjectState::Exists(wish);
        }
        match self.deleted.get(id) {
            Some(when) => ObjectState::Absent(Some(*when)),
            None if self.listed.contains(&id.scope()) => ObjectState::Absent(None),
            None => ObjectState::Unknown,
        }
    }

    /// The unit for counting removals: a scope, or everything that one Gateway selects.
    fn group(&self, id: &Id) -> Group {
        match &self.chosen {
            Chosen::All(_) => Some(id.scope()),
            _ => None,
        }
    }

    /// The last deletion in each scope.
    fn last_deletions(&self) -> BTreeMap<Scope, Instant> {
        let mut last = BTreeMap::new();
        for (id, when) in &self.deleted {
            let latest = last.entry(id.scope()).or_insert(*when);
            *latest = (*latest).max(*when);
        }
        last
    }
}

type Group = Option<Scope>;

/// Recent removals, done and held, which the guard adds to those that are due.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(BTreeMap<Group, VecDeque<Past>>);

#[derive(Clone, Copy, Debug)]
struct Past {
    when: Instant,
    is_held: bool,
}

impl History {
    fn count(&self, group: &Group, window: Duration, now: Instant) -> (usize, usize) {
        let all = self.0.get(group).into_iter().flatten();
        let recent = all.filter(|past| now.saturating_duration_since(past.when) < window);
        recent.fold((0, 0), |(all, removed), past| {
            (all + 1, removed + usize::from(!past.is_held))
        })
    }

    fn add(&mut self, group: Group, past: Past, window: Duration) {
        let all = self.0.entry(group).or_default();
        all.retain(|old| past.when.saturating_duration_since(old.when) < window);
        all.push_back(past);
    }
}

/// The changes to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The objects whose folder may be written.
    pub(crate) granted: BTreeMap<Id, String>,
    /// The folders to remove, after all writes.
    pub(crate) remove: BTreeSet<String>,
    /// The folders whose removal is held back from now on.
    pub(crate) hold: BTreeSet<String>,
    /// The folders without an object that are kept, including those in `hold`.
    pub(crate) keep: BTreeMap<String, Keep>,
    /// The objects that can't have their folder.
    pub(crate) conflicts: BTreeMap<Id, Conflict>,
    /// When the next removal is due.
    pub(crate) wake: Option<Instant>,
}

/// Why a folder without an object that writes it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Its removal is held back: there were too many at once.
    Held,
    /// Its namespace is not mirrored.
    NotMirrored,
    /// Its object exists, but is no longer a credential.
    NotACredential,
}

/// Why an object can't have its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// The folder was not made by the mirror.
    Foreign { folder: String },
    /// The folder can't be read.
    Unreadable { folder: String, why: String },
    /// Other objects would have the same folder, or a deleted one still has it.
    Clash { folder: String, others: Vec<Id> },
}

/// The rules for removals.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) guard: Guard,
    /// The folders that the operator released.
    pub(crate) released: BTreeSet<String>,
    pub(crate) history: History,
}

impl Policy {
    /// Records that the folder of `id` was removed or held, which counts for later removals.
    pub(crate) fn record(&mut self, objects: &Objects, id: &Id, is_held: bool, when: Instant) {
        let past = Past { when, is_held };
        self.history.add(objects.group(id), past, self.guard.window);
    }
}

/// A folder whose object is gone.
struct Candidate<'a> {
    folder: &'a String,
    /// Whether the object is only missing from a list: no event reported its deletion.
    is_by_list: bool,
    due: Option<Instant>,
}

/// Compares the objects of the cluster with the folders on disk.
pub(crate) fn plan(
    objects: &Objects,
    present: &BTreeMap<String, Found>,
    policy: &Policy,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    let mut groups: BTreeMap<Group, Vec<Candidate<'_>>> = BTreeMap::new();
    let mut moved = Vec::new();
    let last_deletions = objects.last_deletions();
    for (folder, manifest) in ours(present) {
        let id = manifest.id();
        let keep = match objects.state_of(&id) {
            ObjectState::Unknown => continue,
            ObjectState::Exists(wish) => match &wish.folder {
                Some(wanted) if wanted == folder => continue,
                Some(_) => {
                    moved.push((folder, id));
                    continue;
                }
                None if wish.uid == manifest.uid => Some(Keep::NotACredential),
                // It was created again as something that is not a credential.
                None => manifest.held.then_some(Keep::Held),
            },
            ObjectState::NotMirrored => Some(Keep::NotMirrored),
            ObjectState::Absent(_) => manifest.held.then_some(Keep::Held),
        };
        if policy.guard.is_off || policy.released.contains(folder) {
            plan.remove.insert(folder.clone());
        } else if let Some(keep) = keep {
            plan.keep.insert(folder.clone(), keep);
        } else {
            let when = match objects.state_of(&id) {
                ObjectState::Absent(when) => when,
                _ => None,
            };
            groups
                .entry(objects.group(&id))
                .or_default()
                .push(Candidate {
                    folder,
                    is_by_list: when.is_none(),
                    due: when.map(|when| {
                        let last = last_deletions.get(&id.scope()).copied().unwrap_or(when);
                        (last + QUIET).min(when + LONGEST)
                    }),
                });
        }
    }
    for (group, candidates) in groups {
        decide_removals(objects, present, policy, now, &group, candidates, &mut plan);
    }
    grant(objects, present, &mut plan);
    let taken: BTreeSet<&String> = plan.granted.values().collect();
    for (folder, id) in moved {
        // The old folder stays until the new one may be written.
        if plan.granted.contains_key(&id) {
            plan.remove.insert(folder.clone());
        }
    }
    plan.remove.retain(|folder| !taken.contains(folder));
    plan
}

/// Decides about the removals of one group, which are counted together.
fn decide_removals(
    objects: &Objects,
    present: &BTreeMap<String, Found>,
    policy: &Policy,
    now: Instant,
    group: &Group,
    candidates: Vec<Candidate<'_>>,
    plan: &mut Plan,
) {
    let guard = policy.guard;
    let (recent, removed) = policy.history.count(group, guard.window, now);
    let owned = ours(present).filter(|(_, manifest)| objects.group(&manifest.id()) == *group);
    let is_mass = is_mass(
        candidates.len() + recent,
        owned.count() + removed,
        guard.percent,
    );
    let mut left = objects
        .wishes()
        .filter(|(id, wish)| wish.folder.is_some() && objects.group(id) == *group);
    let is_empty = left.next().is_none();
    for candidate in candidates {
        let folder = candidate.folder.clone();
        if is_mass || (is_empty && candidate.is_by_list) {
            plan.hold.insert(folder.clone());
            plan.keep.insert(folder, Keep::Held);
        } else if let Some(due) = candidate.due.filter(|due| *due > now) {
            plan.wake = Some(plan.wake.map_or(due, |wake| wake.min(due)));
        } else {
            plan.remove.insert(folder);
        }
    }
}

/// Whether removing `going` of `owned` folders is too much: more than `percent` of them, and more than one,
/// because deleting the only Secret is normal.
fn is_mass(going: usize, owned: usize, percent: u8) -> bool {
    going > 1 && 100 * going > usize::from(percent) * owned
}

/// Grants each folder to the only object that claims it, or that has it.
fn grant(objects: &Objects, present: &BTreeMap<String, Found>, plan: &mut Plan) {
    for (folder, claimants) in claims(objects) {
        let rivals = rivals(&claimants, present.get(folder), folder, objects, plan);
        let holder = match present.get(folder) {
            Some(Found::Ours(manifest)) => Some(manifest.id()),
            _ => None,
        };
        let blocked = match present.get(folder) {
            Some(Found::Foreign) => Some(Conflict::Foreign {
                folder: folder.clone(),
            }),
            Some(Found::Unreadable(why)) => Some(Conflict::Unreadable {
                folder: folder.clone(),
                why: why.clone(),
            }),
            _ => None,
        };
        for id in claimants {
            // If several objects claim a folder, only the one that already has it gets it.
            let wins = rivals.len() == 1 || holder.as_ref() == Some(id);
            if wins && blocked.is_none() {
                plan.granted.insert(id.clone(), folder.clone());
                continue;
            }
            let conflict = blocked.clone().unwrap_or_else(|| Conflict::Clash {
                folder: folder.clone(),
                others: rivals
                    .iter()
                    .filter(|other| *other != id)
                    .cloned()
                    .collect(),
            });
            plan.conflicts.insert(id.clone(), conflict);
        }
    }
}

/// The objects that claim a folder, and the one that has it, unless that was deleted and the folder is free.
fn rivals(
    claimants: &[&Id],
    holder: Option<&Found>,
    folder: &String,
    objects: &Objects,
    plan: &Plan,
) -> Vec<Id> {
    let mut rivals: Vec<Id> = claimants.iter().map(|id| (*id).clone()).collect();
    if let Some(Found::Ours(manifest)) = holder {
        let id = manifest.id();
        let is_absent = matches!(objects.state_of(&id), ObjectState::Absent(_));
        let is_free =
            plan.remove.contains(folder) || (is_absent && !plan.keep.contains_key(folder));
        if !rivals.contains(&id) && !is_free {
            rivals.push(id);
        }
    }
    rivals
}

/// The objects that claim each folder.
fn claims(objects: &Objects) -> BTreeMap<&String, Vec<&Id>> {
    let mut claims: BTreeMap<&String, Vec<&Id>> = BTreeMap::new();
    for (id, wish) in objects.wishes() {
        if let Some(folder) = &wish.folder {
            claims.entry(folder).or_default().push(id);
        }
    }
    claims
}

fn ours(
    present: &BTreeMap<String, Found>,
) -> impl Iterator<Item = (&String, &crate::manifest::Manifest)> {
    present.iter().filter_map(|(folder, found)| match found {
        Found::Ours(manifest) => Some((folder, manifest)),
        Found::Foreign | Found::Unreadable(_) => None,
    })
}

#[cfg(test)]
mod tests;
