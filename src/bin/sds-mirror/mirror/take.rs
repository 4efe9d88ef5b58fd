//! Records what the API server reports.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Content, Mirror};
use crate::manifest::Manifest;
use crate::reconcile::{Chosen, Wish};
use crate::select::{Choice, Id, Kind, Scope, Selected};
use crate::source::{Event, Failure, FailureKind, Item};

impl Mirror {
    /// Records an event.
    pub(super) fn take(&mut self, scope: &Scope, event: Event) -> Result<(), String> {
        match event {
            Event::Listed(items) => self.take_list(scope, items),
            Event::Applied(Item::Object(selected)) => {
                let (id, wish) = self.note(selected);
                self.objects.applied(id, wish);
            }
            Event::Applied(item) => self.take_selector(item),
            Event::Deleted(id) => self.take_deletion(id),
            Event::Failed(failure, pause) => self.take_failure(scope, &failure, pause)?,
        }
        Ok(())
    }

    fn take_list(&mut self, scope: &Scope, items: BTreeMap<Id, Item>) {
        info!(
            namespace = scope.namespace,
            resource = scope.kind.resource(),
            objects = items.len(),
            "listed"
        );
        self.status.listed(scope);
        self.settled.insert(scope.clone());
        self.listing.remove(scope);
        match scope.kind {
            Kind::Secret | Kind::ConfigMap => self.take_objects(scope, items),
            Kind::Gateway => {
                if let Some(selector) = &mut self.selector {
                    selector.set_gateway(None);
                }
                items
                    .into_values()
                    .for_each(|item| self.take_selector(item));
                self.choose();
            }
            Kind::ReferenceGrant => {
                let grants = items.into_values().filter_map(|item| match item {
                    Item::Grant(grant) => Some(grant),
                    Item::Object(_) | Item::Gateway(_) => None,
                });
                if let Some(selector) = &mut self.selector {
                    selector.set_grants(&scope.namespace, grants.collect());
                }
                self.choose();
            }
        }
    }

    fn take_objects(&mut self, scope: &Scope, items: BTreeMap<Id, Item>) {
        let known = self.objects.ids_in(scope);
        for id in known.iter().filter(|id| !items.contains_key(id)) {
            self.forget(id);
        }
        let objects = items.into_values().filter_map(|item| match item {
            Item::Object(selected) => Some(self.note(selected)),
            Item::Gateway(_) | Item::Grant(_) => None,
        });
        let wishes = objects.collect();
        self.objects.listed(scope, wishes);
    }

    fn take_deletion(&mut self, id: Id) {
        match (id.kind, &mut self.selector) {
            (Kind::Secret | Kind::ConfigMap, _) => {
                self.forget(&id);
                self.objects.deleted(id, Instant::now());
                return;
            }
            (Kind::Gateway, Some(selector)) => selector.set_gateway(None),
            (Kind::ReferenceGrant, Some(selector)) => selector.remove_grant(&id),
            _ => {}
        }
        self.choose();
    }

    fn take_selector(&mut self, item: Item) {
        match (item, &mut self.selector) {
            (Item::Gateway(gateway), Some(selector)) => selector.set_gateway(Some(gateway)),
            (Item::Grant(grant), Some(selector)) => selector.add_grant(grant),
            _ => {}
        }
        self.choose();
    }

    /// Applies what the Gateway selects now.
    fn choose(&mut self) {
        let Some(selector) = &self.selector else {
            return;
        };
        let Some(selected) = selector.selected() else {
            return;
        };
        self.notes.gateway = selected.problems;
        self.objects.choose(Chosen::Only {
            wanted: selected.wanted,
            undecided: selected.undecided,
        });
        // Objects that are not chosen need no content in memory. If they are chosen later, they are listed again.
        let objects = &self.objects;
        self.pending.retain(|id, _| objects.may_be_chosen(id));
        self.done.retain(|id, _| objects.may_be_chosen(id));
    }

    fn take_failure(
        &mut self,
        scope: &Scope,
        failure: &Failure,
        pause: Duration,
    ) -> Result<(), String> {
        let text = format!("{}; {}", failure.text, failure.kind.remedy(scope));
        self.status.metrics.failed(scope, failure.kind);
        // A list whose version expired while it was read is restarted.
        if self.config.once && failure.kind != FailureKind::Gone {
            return Err(format!("{scope}: {text}"));
        }
        if self.status.failed(scope, &failure.text) {
            warn!(
                namespace = scope.namespace,
                resource = scope.kind.resource(),
                kind = failure.kind.as_str(),
                next_try_in = ?pause,
                "{text}"
            );
        }
        if !self.config.once {
            self.settled.insert(scope.clone());
        }
        Ok(())
    }

    /// Records an object and its pending write. Returns its desired state.
    fn note(&mut self, selected: Selected) -> (Id, Wish) {
        let Selected {
            id,
            uid,
            resource_version,
            choice,
            bad_keys,
        } = selected;
        let mut wish = Wish {
            uid,
            resource_version,
            folder: None,
        };
        let done = self.done.get(&id);
        if let Choice::Take { folder, .. } = &choice
            && done.is_some_and(|done| done.resource_version == wish.resource_version)
        {
            // It is already on disk.
            wish.folder = Some(folder.clone());
            return (id, wish);
        }
        self.forget(&id);
        if !bad_keys.is_empty() {
            let text = format!("{}; it is not written", bad_keys.join(", "));
            self.notes.refused.insert(id.clone(), text);
        }
        match choice {
            Choice::Take { folder, files } => {
                let manifest = Manifest {
                    // It is known: the cluster is verified before each list and watch.
                    cluster: self.transport.cluster().unwrap_or_default(),
                    kind: id.kind,
                    namespace: id.namespace.clone(),
                    name: id.name.clone(),
                    uid: wish.uid.clone(),
                    resource_version: wish.resource_version.clone(),
                    written: now(),
                    held: false,
                };
                if self.objects.may_be_chosen(&id) {
                    self.pending.insert(id.clone(), Content { manifest, files });
                }
                wish.folder = Some(folder);
            }
            Choice::Skip(why) => tracing::debug!("{id}: skipped: {why}"),
            Choice::Refuse(why) => {
                self.notes.refused.insert(id.clone(), why);
            }
        }
        (id, wish)
    }

    fn forget(&mut self, id: &Id) {
        self.pending.remove(id);
        self.failed.remove(id);
        self.done.remove(id);
        self.notes.refused.remove(id);
        self.notes.rejected.remove(id);
    }
}

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
