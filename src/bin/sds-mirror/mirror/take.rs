//! Noting what the API server tells.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::{info, warn};

use super::{Content, Mirror};
use crate::manifest::Manifest;
use crate::reconcile::Wish;
use crate::select::{Choice, Id, Selected};
use crate::source::{Event, Failure, FailureKind};

impl Mirror {
    /// Notes what the API server told.
    pub(super) fn take(&mut self, namespace: &str, event: Event) -> Result<(), String> {
        match event {
            Event::Listed {
                secrets,
                cluster_uid,
            } => {
                let mut cluster = self.cluster.clone();
                cluster.uid = cluster_uid.or(cluster.uid);
                self.check_cluster(cluster)?;
                self.take_list(namespace, secrets);
            }
            Event::Applied(selected) => {
                let (id, wish) = self.note(selected);
                self.said.applied(id, wish);
            }
            Event::Deleted(id) => {
                self.forget(&id);
                self.said.deleted(id);
            }
            // What an event told meanwhile is newer.
            Event::Fetched(selected) if self.is_lost(&selected.id) => {
                let (id, wish) = self.note(selected);
                self.said.applied(id, wish);
            }
            Event::Fetched(_) => {}
            Event::Failed(failure, pause) => self.take_failure(namespace, &failure, pause)?,
        }
        Ok(())
    }

    fn take_list(&mut self, namespace: &str, secrets: BTreeMap<Id, Selected>) {
        info!(namespace, secrets = secrets.len(), "listed");
        self.status.listed(namespace);
        self.settled.insert(namespace.to_owned());
        self.pending.retain(|id, _| id.namespace != namespace);
        let known = self.said.secrets().keys();
        let gone = known.filter(|id| id.namespace == namespace && !secrets.contains_key(id));
        for id in gone.cloned().collect::<Vec<_>>() {
            self.forget(&id);
        }
        let secrets = secrets.into_values().map(|selected| self.note(selected));
        let wishes = secrets.collect();
        self.said.listed(namespace, wishes);
    }

    fn take_failure(
        &mut self,
        namespace: &str,
        failure: &Failure,
        pause: Duration,
    ) -> Result<(), String> {
        let text = format!("{}; {}", failure.text, failure.kind.remedy());
        self.status.metrics.failed(namespace, failure.kind);
        // A list that takes too long to be read to its end is begun anew.
        if self.config.once && failure.kind != FailureKind::Gone {
            return Err(format!("namespace {namespace}: {text}"));
        }
        if self.status.failed(namespace, &failure.text) {
            warn!(namespace, kind = failure.kind.as_str(), next_try_in = ?pause, "{text}");
        }
        if !self.config.once {
            self.settled.insert(namespace.to_owned());
        }
        Ok(())
    }

    /// Notes a Secret, and what of it is to be written.
    fn note(&mut self, selected: Selected) -> (Id, Wish) {
        let Selected {
            id,
            uid,
            resource_version,
            choice,
            bad_keys,
        } = selected;
        self.forget(&id);
        if !bad_keys.is_empty() {
            let text = format!("{}; it is left out", bad_keys.join(", "));
            self.notes.refused.insert(id.clone(), text);
        }
        let folder = match choice {
            Choice::Take { folder, files } => {
                let manifest = Manifest {
                    cluster: self.cluster.clone(),
                    namespace: id.namespace.clone(),
                    name: id.name.clone(),
                    uid: uid.clone(),
                    resource_version,
                };
                self.pending.insert(id.clone(), Content { manifest, files });
                Some(folder)
            }
            Choice::PassOver(why) => {
                tracing::debug!(secret = %id, "passed over: {why}");
                None
            }
            Choice::Refuse(why) => {
                self.notes.refused.insert(id.clone(), why);
                None
            }
        };
        (id, Wish { uid, folder })
    }

    fn forget(&mut self, id: &Id) {
        self.pending.remove(id);
        self.failed.remove(id);
        self.notes.refused.remove(id);
        self.notes.content.remove(id);
    }
}
