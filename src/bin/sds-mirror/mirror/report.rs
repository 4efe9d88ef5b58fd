//! What is wrong at present, put together from all that is known.

use std::collections::BTreeMap;

use sds_agent::systemd;

use super::Mirror;
use crate::metrics::Counts;
use crate::output::Output;
use crate::problems::{Kind, Problems};
use crate::reconcile::{Conflict, Keep, Plan, Present};

impl Mirror {
    /// Logs and shows what is wrong now.
    pub(super) fn report(&mut self, plan: &Plan, waiting: usize) {
        let mut problems = Problems::default();
        for (folder, text) in &self.notes.write {
            problems.add(format!("folder {folder}"), Kind::Write, text);
        }
        for (id, conflict) in &plan.conflicts {
            let (kind, text) = describe(conflict, &self.output);
            problems.add(id, kind, text);
        }
        for (id, text) in &self.notes.refused {
            problems.add(id, Kind::Refused, text);
        }
        for (id, text) in &self.notes.content {
            let text = format!("it is written as it is, and sds-agent will not serve it: {text}");
            problems.add(id, Kind::Content, text);
        }
        self.report_kept(plan, &mut problems);
        problems.log_changes(&self.problems);
        let secrets = self.said.secrets().values();
        let folders = self.present.values();
        self.status.update(
            &problems,
            Counts {
                mirrored: plan.granted.len() - waiting,
                waiting: waiting + plan.conflicts.len(),
                passed_over: secrets.filter(|wish| wish.folder.is_none()).count(),
                folders: folders.filter(|one| **one != Present::Foreign).count(),
            },
        );
        let line = self.status.line();
        if line != self.line {
            systemd::status(&line);
            self.line = line;
        }
        self.problems = problems;
    }

    fn report_kept(&self, plan: &Plan, problems: &mut Problems) {
        let mut held: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (folder, why) in &plan.keep {
            let namespace = match self.present.get(folder) {
                Some(Present::Ours { id, .. }) => id.namespace.as_str(),
                _ => continue,
            };
            match why {
                Keep::MassRemoval => held.entry(namespace).or_default().push(folder),
                Keep::OtherNamespace => problems.add(
                    format!("folder {folder}"),
                    Kind::Kept,
                    format!(
                        "it stays, though its namespace {namespace} is not mirrored any more; remove                          it, or run once with --allow-mass-removal"
                    ),
                ),
                Keep::Unfit => problems.add(
                    format!("folder {folder}"),
                    Kind::Kept,
                    "it stays as it was: its Secret is there, but is no credential any more",
                ),
            }
        }
        for (namespace, folders) in held {
            let text = format!(
                "the removal of {} folders at once is held back, more than half of this namespace's:                  {}. Is this the right cluster, namespace and selector? If so, run once with                  --allow-mass-removal, or remove them",
                folders.len(),
                some_of(&folders)
            );
            problems.add(format!("namespace {namespace}"), Kind::HeldBack, text);
        }
    }
}

fn describe(conflict: &Conflict, output: &Output) -> (Kind, String) {
    match conflict {
        Conflict::Foreign { folder } => {
            let path = output.path().join(folder);
            let text = format!(
                "it is not mirrored: sds-mirror did not make {}, which is left alone; move it away, \
                 or choose another --name-template",
                path.display()
            );
            (Kind::Foreign, text)
        }
        Conflict::Clash { folder, others } => {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            let text = format!(
                "it is not mirrored: {} wants the folder {folder} too; choose a --name-template with \
                 {{namespace}} and {{name}}, or another name",
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
