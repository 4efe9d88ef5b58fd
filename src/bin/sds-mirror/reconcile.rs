//! What should be there against what is there: pure logic, without a cluster and without a disk.
//!
//! Two kinds of absence are told apart. A Secret that the API server said was deleted is gone for
//! certain. One that is only missing from a list may be missing because the list is of another
//! place: a removal that follows from lists alone and takes more than half of a namespace's folders
//! is held back.

use std::collections::{BTreeMap, BTreeSet};

use crate::select::Id;

/// What the API server has said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// The Secrets that there are, those that are not mirrored included.
    secrets: BTreeMap<Id, Wish>,
    /// The namespaces that have been listed as a whole.
    listed: BTreeSet<String>,
    /// Secrets that were deleted, as an event said.
    deleted: BTreeSet<Id>,
}

/// What a Secret wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Which Secret it is: one made anew under the same name has another uid.
    pub(crate) uid: String,
    /// The folder that it should have; `None` when it is not mirrored.
    pub(crate) folder: Option<String>,
}

impl Said {
    /// A whole list of a namespace's Secrets.
    pub(crate) fn listed(&mut self, namespace: &str, secrets: BTreeMap<Id, Wish>) {
        self.secrets.retain(|id, _| id.namespace != namespace);
        self.deleted.retain(|id| !secrets.contains_key(id));
        self.secrets.extend(secrets);
        self.listed.insert(namespace.to_owned());
    }

    /// A Secret was made or changed.
    pub(crate) fn applied(&mut self, id: Id, wish: Wish) {
        self.deleted.remove(&id);
        self.secrets.insert(id, wish);
    }

    /// A Secret was deleted.
    pub(crate) fn deleted(&mut self, id: Id) {
        self.secrets.remove(&id);
        self.deleted.insert(id);
    }

    /// The Secrets that there are.
    pub(crate) fn secrets(&self) -> &BTreeMap<Id, Wish> {
        &self.secrets
    }

    /// Forgets deletions that no folder is left of.
    pub(crate) fn forget_deletions(&mut self, present: &BTreeMap<String, Present>) {
        let owners: BTreeSet<&Id> = present.values().filter_map(Present::owner).collect();
        self.deleted.retain(|id| owners.contains(id));
    }
}

/// What stands in the output folder under some name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Present {
    /// A folder that the mirror made for this Secret.
    Ours { id: Id, uid: String },
    /// Anything else. It is never touched.
    Foreign,
}

impl Present {
    fn owner(&self) -> Option<&Id> {
        match self {
            Self::Ours { id, .. } => Some(id),
            Self::Foreign => None,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The Secrets that have their folder, and may write it.
    pub(crate) granted: BTreeMap<Id, String>,
    /// The folders to remove, after all that is to be written has been.
    pub(crate) remove: Vec<String>,
    /// The folders that would go, and are kept.
    pub(crate) keep: BTreeMap<String, Keep>,
    /// The Secrets that can't have their folder.
    pub(crate) conflicts: BTreeMap<Id, Conflict>,
}

/// Why a folder without a Secret that writes it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Too many would go at once.
    MassRemoval,
    /// Its namespace is not mirrored (any more).
    OtherNamespace,
    /// Its Secret is there, but is not fit to be mirrored any more.
    Unfit,
}

/// Why a Secret can't have its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// The folder was not made by the mirror.
    Foreign { folder: String },
    /// Other Secrets want the same folder.
    Clash { folder: String, others: Vec<Id> },
}

/// What may be done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// The namespaces that are mirrored.
    pub(crate) namespaces: BTreeSet<String>,
    /// Whether any number of folders may go at once.
    pub(crate) allow_mass_removal: bool,
}

/// Compares what the API server said with what is present.
pub(crate) fn plan(said: &Said, present: &BTreeMap<String, Present>, policy: &Policy) -> Plan {
    let (granted, conflicts) = grant(said, present, policy);
    let taken: BTreeSet<&String> = granted.values().collect();
    let mut plan = Plan::default();
    let mut missing: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (folder, owner) in present {
        let Present::Ours { id, uid } = owner else {
            continue;
        };
        if taken.contains(folder) {
            continue;
        }
        match fate(said, policy, granted.contains_key(id), id, uid) {
            Fate::Stay => {}
            Fate::Go => plan.remove.push(folder.clone()),
            Fate::Missing => missing.entry(&id.namespace).or_default().push(folder),
            Fate::Kept(why) => {
                plan.keep.insert(folder.clone(), why);
            }
        }
    }
    for (namespace, folders) in missing {
        let is_held = is_mass(folders.len(), count(present, namespace));
        for folder in folders.into_iter().cloned() {
            if is_held && !policy.allow_mass_removal {
                plan.keep.insert(folder, Keep::MassRemoval);
            } else {
                plan.remove.push(folder);
            }
        }
    }
    plan.remove.sort();
    plan.granted = granted;
    plan.conflicts = conflicts;
    plan
}

/// Whether removing `going` of `owned` folders on the word of a list alone is too much at once:
/// more than half, and more than one. A single Secret that was deleted while the mirror was down
/// is the ordinary case, also where it was the only one.
pub(crate) fn is_mass(going: usize, owned: usize) -> bool {
    going > 1 && 2 * going > owned
}

/// Gives each folder to the one Secret that wants it, or that has it.
fn grant(
    said: &Said,
    present: &BTreeMap<String, Present>,
    policy: &Policy,
) -> (BTreeMap<Id, String>, BTreeMap<Id, Conflict>) {
    let (mut granted, mut conflicts) = (BTreeMap::new(), BTreeMap::new());
    for (folder, claimants) in claims(said) {
        let holder = present.get(folder);
        let rivals = rivals(said, policy, &claimants, holder);
        let winner = match (holder, rivals.as_slice()) {
            (Some(Present::Foreign), _) => None,
            (_, [alone]) => Some(*alone),
            // Nobody gets a name that two want, but who has it goes on having it.
            _ => holder.and_then(Present::owner),
        };
        for id in claimants {
            if Some(id) == winner {
                granted.insert(id.clone(), folder.clone());
            } else {
                conflicts.insert(id.clone(), conflict(folder, id, holder, &rivals));
            }
        }
    }
    (granted, conflicts)
}

/// Those who want a folder, and who has it, unless that one is gone.
fn rivals<'a>(
    said: &Said,
    policy: &Policy,
    claimants: &[&'a Id],
    holder: Option<&'a Present>,
) -> Vec<&'a Id> {
    let mut rivals = claimants.to_vec();
    if let Some(Present::Ours { id, uid }) = holder
        && !claimants.contains(&id)
        && !matches!(fate(said, policy, false, id, uid), Fate::Go | Fate::Missing)
    {
        rivals.push(id);
    }
    rivals
}

fn conflict(folder: &str, id: &Id, holder: Option<&Present>, rivals: &[&Id]) -> Conflict {
    let folder = folder.to_owned();
    if holder == Some(&Present::Foreign) {
        return Conflict::Foreign { folder };
    }
    let others = rivals.iter().filter(|other| **other != id);
    Conflict::Clash {
        folder,
        others: others.map(|other| (*other).clone()).collect(),
    }
}

/// The Secrets that want each folder.
fn claims(said: &Said) -> BTreeMap<&String, Vec<&Id>> {
    let mut claims: BTreeMap<&String, Vec<&Id>> = BTreeMap::new();
    for (id, wish) in &said.secrets {
        if let Some(folder) = &wish.folder {
            claims.entry(folder).or_default().push(id);
        }
    }
    claims
}

enum Fate {
    Stay,
    Go,
    /// It would go on the word of a list alone.
    Missing,
    Kept(Keep),
}

/// What becomes of a folder that nobody writes, and that the Secret `id` with this `uid` has.
/// `moved`: that Secret writes another folder now.
fn fate(said: &Said, policy: &Policy, moved: bool, id: &Id, uid: &str) -> Fate {
    if said.deleted.contains(id) {
        return Fate::Go;
    }
    if !policy.namespaces.contains(&id.namespace) {
        return match policy.allow_mass_removal {
            true => Fate::Go,
            false => Fate::Kept(Keep::OtherNamespace),
        };
    }
    if !said.listed.contains(&id.namespace) {
        return Fate::Stay;
    }
    match said.secrets.get(id) {
        // What was written there takes this one's place.
        Some(_) if moved => Fate::Go,
        // It wants another folder, and can't have it.
        Some(wish) if wish.folder.is_some() => Fate::Stay,
        Some(wish) if wish.uid == uid => Fate::Kept(Keep::Unfit),
        // It was deleted, or made anew as something else.
        Some(_) | None => Fate::Missing,
    }
}

fn count(present: &BTreeMap<String, Present>, namespace: &str) -> usize {
    let owners = present.values().filter_map(Present::owner);
    owners.filter(|id| id.namespace == namespace).count()
}

#[cfg(test)]
mod tests;
