//! Collects the current problems.

use std::collections::{BTreeMap, BTreeSet};

use sds_agent::systemd;

use super::Mirror;
use crate::events::Refusal;
use crate::manifest::{Found, Manifest};
use crate::metrics::Counts;
use crate::output::Output;
use crate::problems::{Kind, Problems, Subject};
use crate::reconcile::{Conflict, Keep, Plan};
use crate::select::{self, Id, Scope};
use crate::status::{Findings, Shown};

impl Mirror {
    /// Logs and publishes the current problems.
    pub(super) async fn report(&mut self, plan: &Plan) {
        let problems = self.find_problems(plan);
        if let Some(reports) = &self.reports {
            for (id, problem) in problems.new_since(&self.problems) {
                let wish = self.objects.wish(id);
                reports.report(Refusal {
                    id: id.clone(),
                    uid: wish.map_or_else(String::new, |wish| wish.uid.clone()),
                    kind: problem.kind,
                    text: problem.text.clone(),
                });
            }
        }
        let objects = self.show(plan, &problems);
        self.status.update(Findings {
            cluster: self.transport.server().await,
            problems: problems.clone(),
            counts: self.counts(plan),
            objects,
            held: plan.keep.keys().cloned().collect(),
        });
        // Logged last: whoever reads a log line and then queries the status must see the problem there.
        problems.log_changes(&self.problems);
        let line = self.status.line();
        if line != self.line {
            systemd::status(&line);
            self.line = line;
        }
        self.problems = problems;
    }

    fn counts(&self, plan: &Plan) -> Counts {
        let wishes = self.objects.wishes();
        let found = |is: fn(&Found) -> bool| self.present.values().filter(|one| is(one)).count();
        let done = self
            .done
            .iter()
            .filter(|(id, done)| done.stamp.is_some() && plan.granted.contains_key(id));
        Counts {
            mirrored: done.count(),
            waiting: self.not_in_step(plan).count() + plan.conflicts.len(),
            skipped: wishes.filter(|(_, wish)| wish.folder.is_none()).count(),
            folders: found(|one| matches!(one, Found::Ours(_))),
            held: plan
                .keep
                .values()
                .filter(|keep| **keep == Keep::Held)
                .count(),
            foreign: found(|one| *one == Found::Foreign),
            unreadable: found(|one| matches!(one, Found::Unreadable(_))),
        }
    }

    pub(super) fn find_problems(&self, plan: &Plan) -> Problems {
        let mut problems = Problems::default();
        let granted: BTreeSet<&String> = plan.granted.values().collect();
        for (folder, text) in &self.notes.write {
            if !granted.contains(folder) && !self.present.contains_key(folder) {
                continue;
            }
            problems.add(Subject::Folder(folder.clone()), Kind::Write, text);
        }
        if let Some(why) = &self.notes.removals {
            let text = format!("they are delayed until the cluster is verified: {why}");
            problems.add(Subject::Other("removals".to_owned()), Kind::Write, text);
        }
        for (folder, found) in &self.present {
            if let Found::Unreadable(why) = found {
                let text = format!(
                    "it can't be read, and is not changed: {why}; give it the owner and mode of the \
                     other folders, or remove it"
                );
                problems.add(Subject::Folder(folder.clone()), Kind::Unreadable, text);
            }
        }
        for (id, conflict) in &plan.conflicts {
            let (kind, text) = describe(conflict, &self.output);
            problems.add(Subject::Object(id.clone()), kind, text);
        }
        for (id, text) in &self.notes.refused {
            if self.objects.wish(id).is_some() {
                problems.add(Subject::Object(id.clone()), Kind::Refused, text);
            }
        }
        for (id, text) in &self.notes.rejected {
            let text = format!("sds-agent would reject it, so it replaces nothing on disk: {text}");
            problems.add(Subject::Object(id.clone()), Kind::Content, text);
        }
        for (subject, text) in &self.notes.gateway {
            problems.add(Subject::Other(subject.clone()), Kind::Refused, text);
        }
        self.find_kept(plan, &mut problems);
        problems
    }

    fn find_kept(&self, plan: &Plan, problems: &mut Problems) {
        let mut held: BTreeMap<Scope, Vec<&str>> = BTreeMap::new();
        for (folder, keep) in &plan.keep {
            let Some(Found::Ours(manifest)) = self.present.get(folder) else {
                continue;
            };
            let text = match keep {
                Keep::Held => {
                    held.entry(manifest.id().scope()).or_default().push(folder);
                    continue;
                }
                Keep::NotMirrored => format!(
                    "it stays, although {} are no longer mirrored; to remove it: sds-mirror \
                     release {folder}",
                    manifest.id().scope()
                ),
                Keep::NotACredential => format!(
                    "it stays unchanged: its object exists, but is no longer a credential; to \
                     remove it: sds-mirror release {folder}"
                ),
            };
            problems.add(Subject::Folder(folder.clone()), Kind::Kept, text);
        }
        for (scope, folders) in held {
            let text = format!(
                "the removal of {} folders is held back, because they were too many at once or \
                 nothing is left in the cluster: {}. Is this the right cluster, namespace and \
                 selector? To remove them: sds-mirror release NAME..., or --all",
                folders.len(),
                some_of(&folders)
            );
            problems.add(Subject::Scope(scope), Kind::HeldBack, text);
        }
    }

    /// Every object, and every folder without an object.
    fn show(&self, plan: &Plan, problems: &Problems) -> Vec<Shown> {
        let mut all = Vec::new();
        for (id, wish) in self.objects.wishes() {
            let problem = problems.of(id);
            if wish.folder.is_none() && problem.is_none() {
                continue;
            }
            let is_done = self.done.contains_key(id);
            let state = match problem.map(|problem| problem.kind) {
                Some(Kind::Refused | Kind::Content) => "rejected",
                Some(_) => "blocked",
                None if is_done => "ok",
                None => "waiting",
            };
            let found = wish
                .folder
                .as_ref()
                .and_then(|folder| self.present.get(folder));
            let on_disk = match found {
                Some(Found::Ours(manifest)) if manifest.id() == *id => Some(manifest),
                _ => None,
            };
            all.push(Shown {
                folder: wish.folder.clone(),
                problem: problem.map(|problem| problem.text.clone()),
                ..shown(id, on_disk, state)
            });
        }
        for (folder, keep) in &plan.keep {
            if let Some(Found::Ours(manifest)) = self.present.get(folder) {
                let (state, problem) = match keep {
                    Keep::Held => ("held", "its object is gone, and its removal is held back"),
                    Keep::NotMirrored => ("kept", "its namespace is no longer mirrored"),
                    Keep::NotACredential => ("kept", "its object is no longer a credential"),
                };
                all.push(Shown {
                    folder: Some(folder.clone()),
                    problem: Some(problem.to_owned()),
                    ..shown(&manifest.id(), Some(manifest), state)
                });
            }
        }
        all
    }
}

fn shown(id: &Id, on_disk: Option<&Manifest>, state: &str) -> Shown {
    let kind = match id.kind {
        select::Kind::ConfigMap => "configmap",
        _ => "secret",
    };
    Shown {
        kind: kind.to_owned(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        folder: None,
        resource_version: on_disk.map(|manifest| manifest.resource_version.clone()),
        written: on_disk.map(|manifest| manifest.written),
        state: state.to_owned(),
        problem: None,
    }
}

fn describe(conflict: &Conflict, output: &Output) -> (Kind, String) {
    match conflict {
        Conflict::Foreign { folder } => {
            let path = output.path().join(folder);
            let text = format!(
                "it is not mirrored: sds-mirror did not make {}, which is not changed; move it away, \
                 or choose another --name-template",
                path.display()
            );
            (Kind::Foreign, text)
        }
        Conflict::Unreadable { folder, why } => {
            let path = output.path().join(folder);
            let text = format!(
                "it is not mirrored: {} can't be read: {why}",
                path.display()
            );
            (Kind::Unreadable, text)
        }
        Conflict::Clash { folder, others } => {
            let others: BTreeSet<String> = others.iter().map(ToString::to_string).collect();
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            let text = format!(
                "it is not mirrored: {} has or would have the same folder, {folder}; choose a \
                 --name-template with {{namespace}} and {{name}}, or another name",
                some_of(&others)
            );
            (Kind::Clash, text)
        }
    }
}

/// The first few of a list, and how many more there are.
fn some_of(all: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = all.iter().take(SHOWN).copied().collect::<Vec<_>>();
    match all.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}
