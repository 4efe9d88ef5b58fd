//! Carrying out a plan: writing, removing, and asking for what was lost.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures::{StreamExt, stream};
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Content, Mirror};
use crate::content;
use crate::output::{Outcome, Output, WriteError};
use crate::reconcile::{Plan, Present};
use crate::select::Id;
use crate::source::{self, Event};

/// Folders that are written at once: file systems sync several as fast as one.
const WRITERS: usize = 8;
/// Folders that are written before anything else is attended to.
const BATCH: usize = 128;

impl Mirror {
    /// Whether a Secret that is mirrored has lost its folder.
    pub(super) fn is_lost(&self, id: &Id) -> bool {
        let wish = self.said.secrets().get(id);
        let folder = wish.and_then(|wish| wish.folder.as_ref());
        !self.pending.contains_key(id)
            && folder.is_some_and(|folder| !self.present.contains_key(folder))
    }

    /// Asks for the Secrets whose folders somebody took away.
    pub(super) fn fetch_lost(
        &self,
        clients: &BTreeMap<String, Client>,
        events: &mpsc::Sender<(Arc<str>, Event)>,
    ) {
        for id in self.said.secrets().keys().filter(|id| self.is_lost(id)) {
            let Some(client) = clients.get(&id.namespace) else {
                continue;
            };
            info!(secret = %id, "its folder is gone: it is made again");
            let fetch = source::fetch(
                client.clone(),
                id.clone(),
                Arc::clone(&self.config.template),
            );
            let events = events.clone();
            tokio::spawn(async move {
                if let Some(selected) = fetch.await {
                    let namespace = selected.id.namespace.as_str().into();
                    // Nobody listens when the mirror ends.
                    let _ = events.send((namespace, Event::Fetched(selected))).await;
                }
            });
        }
    }

    /// Writes some of what is to be written. Returns whether all of that worked.
    pub(super) async fn write(&mut self, plan: &Plan, shutdown: &CancellationToken) -> bool {
        let ids: Vec<Id> = self.writable(plan).take(BATCH).cloned().collect();
        let jobs = ids.into_iter().filter_map(|id| {
            let content = self.pending.remove(&id)?;
            let folder = plan.granted.get(&id)?.clone();
            Some((id, folder, content))
        });
        let jobs: Vec<_> = jobs.collect();
        let output = &self.output;
        let mut results = stream::iter(jobs)
            .map(|job| write_one(Arc::clone(output), job, shutdown.clone()))
            .buffer_unordered(WRITERS)
            .collect::<Vec<_>>()
            .await;
        let mut all_worked = true;
        for written in results.drain(..) {
            all_worked &= self.wrote(written);
        }
        all_worked
    }

    /// Takes in what came of a write.
    fn wrote(&mut self, written: Written) -> bool {
        let Written {
            id,
            folder,
            content,
            objection,
            result,
        } = written;
        let uid = content.manifest.uid.clone();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(WriteError::Foreign) => {
                self.present.insert(folder, Present::Foreign);
                self.pending.insert(id, content);
                return true;
            }
            Err(WriteError::System(error)) => {
                self.status.metrics.wrote(None);
                let text = format!("can't be written: {error}; it is tried again");
                self.notes.write.insert(folder, text);
                self.failed.insert(id.clone());
                self.pending.insert(id, content);
                return false;
            }
        };
        match outcome {
            Outcome::Made => info!(secret = %id, folder, "made"),
            Outcome::Changed => info!(secret = %id, folder, "changed"),
            Outcome::Same => tracing::debug!(secret = %id, folder, "unchanged"),
        }
        self.status.metrics.wrote(Some(outcome));
        self.notes.write.remove(&folder);
        match objection {
            Some(objection) => self.notes.content.insert(id.clone(), objection),
            None => self.notes.content.remove(&id),
        };
        self.present.insert(folder, Present::Ours { id, uid });
        true
    }

    /// Removes some of what is to be removed.
    pub(super) async fn remove(&mut self, plan: &Plan, shutdown: &CancellationToken) -> Removed {
        // Where its Secret has another folder now, that one comes first.
        let is_next = |folder: &&String| match self.present.get(*folder) {
            Some(Present::Ours { id, .. }) => !self.pending.contains_key(id),
            _ => false,
        };
        let folders: Vec<&String> = plan.remove.iter().filter(is_next).collect();
        let mut all_worked = true;
        for folder in folders.iter().copied().take(BATCH) {
            if shutdown.is_cancelled() {
                break;
            }
            all_worked &= self.remove_one(folder).await;
        }
        Removed {
            all_worked,
            // What failed stands first the next time: it must not be tried again at once.
            more: all_worked && folders.len() > BATCH,
        }
    }

    async fn remove_one(&mut self, folder: &String) -> bool {
        let (output, name) = (Arc::clone(&self.output), folder.clone());
        let result = tokio::task::spawn_blocking(move || output.remove(&name)).await;
        let error = match result {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let is_done = error.is_none();
        self.status.metrics.removed(is_done);
        if let Some(error) = error {
            let text = format!("can't be removed: {error}; it is tried again");
            self.notes.write.insert(folder.clone(), text);
        } else {
            info!(folder, "removed");
            self.present.remove(folder);
            self.notes.write.remove(folder);
        }
        is_done
    }
}

/// What came of removals.
pub(super) struct Removed {
    pub(super) all_worked: bool,
    /// Whether there is more to remove right now.
    pub(super) more: bool,
}

/// What came of a write.
struct Written {
    id: Id,
    folder: String,
    content: Content,
    objection: Option<String>,
    result: Result<Outcome, WriteError>,
}

async fn write_one(
    output: Arc<Output>,
    (id, folder, content): (Id, String, Content),
    shutdown: CancellationToken,
) -> Written {
    let written = tokio::task::spawn_blocking(move || {
        let result = if shutdown.is_cancelled() {
            Err(io::Error::from(io::ErrorKind::Interrupted).into())
        } else {
            output.write(&folder, &content.manifest, &content.files)
        };
        Written {
            objection: content::objection(&output.path().join(&folder), &content.files),
            id,
            folder,
            content,
            result,
        }
    });
    match written.await {
        Ok(written) => written,
        // A task that is not aborted ends otherwise only by a panic, which goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
