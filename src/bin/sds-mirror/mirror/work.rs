//! Carries out a plan: holds, writes and removes folders, and checks what was written.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Content, Done, Mirror};
use crate::content::{self, Part};
use crate::manifest::{Found, Manifest};
use crate::output::{Inspection, Outcome, Output, WriteError};
use crate::reconcile::Plan;
use crate::select::{Files, Id};

/// How many folders are written concurrently: file systems sync several as fast as one.
const WRITERS: usize = 8;
/// How many folders are written or removed before other events are handled.
const BATCH: usize = 128;

/// The result of a batch.
pub(super) struct Worked {
    pub(super) all_worked: bool,
    /// Whether there is more to do immediately.
    pub(super) more: bool,
}

impl Mirror {
    /// Records in the manifests that folders are held.
    pub(super) async fn hold(&mut self, plan: &Plan) {
        for folder in &plan.hold {
            let Some(Found::Ours(manifest)) = self.present.get_mut(folder) else {
                continue;
            };
            manifest.held = true;
            let manifest = manifest.clone();
            self.policy
                .record(&self.objects, &manifest.id(), true, Instant::now());
            self.annotate(folder, manifest).await;
        }
    }

    /// Updates the cluster in manifests that have another one: its CA was replaced, or the change to another
    /// cluster was allowed.
    pub(super) async fn rewrite_clusters(&mut self) -> Worked {
        let mut worked = Worked {
            all_worked: true,
            more: false,
        };
        let Some(cluster) = self.transport.cluster() else {
            return worked;
        };
        let stale = self
            .present
            .iter_mut()
            .filter_map(|(folder, found)| match found {
                Found::Ours(manifest) if manifest.cluster != cluster => Some((folder, manifest)),
                _ => None,
            });
        let mut batch: Vec<(String, Manifest)> = Vec::new();
        for (folder, manifest) in stale {
            if batch.len() == BATCH {
                worked.more = true;
                break;
            }
            manifest.cluster = cluster.clone();
            batch.push((folder.clone(), manifest.clone()));
        }
        for (folder, manifest) in batch {
            worked.all_worked &= self.annotate(&folder, manifest).await;
        }
        worked
    }

    async fn annotate(&mut self, folder: &str, manifest: Manifest) -> bool {
        let (output, name) = (Arc::clone(&self.output), folder.to_owned());
        let result = blocking(move || output.annotate(&name, &manifest)).await;
        match &result {
            Ok(()) => self.notes.write.remove(folder),
            Err(error) => {
                let text =
                    format!("its manifest can't be written: {error}; the next attempt follows");
                self.notes.write.insert(folder.to_owned(), text)
            }
        };
        result.is_ok()
    }

    /// Checks the folders that were written. Changed modes are corrected immediately; changed or removed files are
    /// marked to be written again.
    pub(super) async fn inspect(&mut self) {
        let folders = self.folders_done();
        let output = Arc::clone(&self.output);
        let inspected = blocking(move || {
            let inspect = |(id, folder): (Id, String)| {
                let inspection = output.inspect(&folder);
                (id, folder, inspection)
            };
            folders.into_iter().map(inspect).collect::<Vec<_>>()
        });
        for (id, folder, inspection) in inspected.await {
            match inspection {
                Ok(Some(inspection)) => self.inspected(&id, &folder, inspection),
                Ok(None) => {
                    self.done.remove(&id);
                }
                Err(error) => {
                    self.done.remove(&id);
                    let text = format!("can't be checked: {error}; the next attempt follows");
                    self.notes.write.insert(folder, text);
                }
            }
        }
    }

    fn inspected(&mut self, id: &Id, folder: &str, inspection: Inspection) {
        log_mended(folder, &inspection);
        let stamp = self.done.get(id).and_then(|done| done.stamp.as_ref());
        if stamp.is_some_and(|stamp| *stamp != inspection.stamp) {
            warn!(
                folder,
                "its files were changed by another program: writing them again"
            );
            self.done.remove(id);
        }
    }

    /// The objects that have files on disk, with their folders.
    fn folders_done(&self) -> Vec<(Id, String)> {
        let done = self.done.iter().filter(|(_, done)| done.stamp.is_some());
        let folder = |id: &Id| self.objects.wish(id)?.folder.clone();
        done.filter_map(|(id, _)| Some((id.clone(), folder(id)?)))
            .collect()
    }

    /// Does a batch of the pending writes. Returns whether all of them succeeded.
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

    /// Records the result of a write. Returns whether it succeeded.
    fn wrote(&mut self, written: Written) -> bool {
        let Written {
            id,
            folder,
            content,
            rejected,
            result,
        } = written;
        let written = match result {
            Ok(written) => written,
            Err(WriteError::Foreign) => {
                self.present.insert(folder, Found::Foreign);
                self.pending.insert(id, content);
                return true;
            }
            Err(WriteError::System(error)) => {
                self.status.metrics.wrote("error");
                let text = format!("can't be written: {error}; the next attempt follows");
                self.notes.write.insert(folder, text);
                self.failed.insert(id.clone());
                self.pending.insert(id, content);
                return false;
            }
        };
        let outcome = written.as_ref().map(|(outcome, _)| *outcome);
        match outcome {
            Some(Outcome::Made) => info!("{id}: made folder {folder}"),
            Some(Outcome::Changed) => info!("{id}: changed folder {folder}"),
            Some(Outcome::Same) | None => tracing::debug!("{id}: folder {folder} is unchanged"),
        }
        self.status
            .metrics
            .wrote(outcome.map_or("rejected", Outcome::as_str));
        self.notes.write.remove(&folder);
        match rejected.is_empty() {
            true => self.notes.rejected.remove(&id),
            false => self.notes.rejected.insert(id.clone(), text_of(&rejected)),
        };
        let done = Done {
            resource_version: content.manifest.resource_version,
            stamp: written
                .as_ref()
                .map(|(_, inspection)| inspection.stamp.clone()),
        };
        self.done.insert(id, done);
        if let Some((_, inspection)) = written {
            log_mended(&folder, &inspection);
            self.present
                .insert(folder, Found::Ours(inspection.manifest));
        }
        true
    }

    /// Does a batch of the pending removals.
    pub(super) async fn remove(&mut self, plan: &Plan, shutdown: &CancellationToken) -> Worked {
        let mut worked = Worked {
            all_worked: true,
            more: false,
        };
        // If the object has another folder now, that is written first.
        let is_next = |folder: &&String| match self.present.get(*folder) {
            Some(Found::Ours(manifest)) => !self.pending.contains_key(&manifest.id()),
            _ => false,
        };
        let folders: Vec<String> = plan.remove.iter().filter(is_next).cloned().collect();
        self.notes.removals = None;
        if folders.is_empty() {
            return worked;
        }
        if let Err(error) = self.transport.verify().await {
            self.notes.removals = Some(error);
            worked.all_worked = false;
            return worked;
        }
        for folder in folders.iter().take(BATCH) {
            if shutdown.is_cancelled() {
                break;
            }
            worked.all_worked &= self.remove_one(folder).await;
        }
        // Failed removals come first in the next batch, so they must not be retried immediately.
        worked.more = worked.all_worked && folders.len() > BATCH;
        worked
    }

    async fn remove_one(&mut self, folder: &String) -> bool {
        let (output, name) = (Arc::clone(&self.output), folder.clone());
        let result = blocking(move || output.remove(&name)).await;
        self.status.metrics.removed(result.is_ok());
        if let Err(error) = result {
            let text = format!("can't be removed: {error}; the next attempt follows");
            self.notes.write.insert(folder.clone(), text);
            return false;
        }
        info!("removed folder {folder}");
        if let Some(Found::Ours(manifest)) = self.present.remove(folder)
            && !self.policy.released.contains(folder)
        {
            let id = manifest.id();
            self.policy
                .record(&self.objects, &id, false, Instant::now());
        }
        self.notes.write.remove(folder);
        true
    }
}

fn log_mended(folder: &str, inspection: &Inspection) {
    if !inspection.mended.is_empty() {
        warn!(
            folder,
            "corrected mode, owner or group, which another program had changed: {}",
            inspection.mended.join(", ")
        );
    }
}

/// Runs `job` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(job).await {
        Ok(value) => value,
        // The task was not aborted, so it panicked; the panic is propagated.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(super) fn text_of(rejected: &BTreeMap<Part, String>) -> String {
    // A staple that is only rejected together with its certificate is not reported.
    let is_reported = |(part, _): &(&Part, &String)| {
        **part != Part::Staple || !rejected.contains_key(&Part::Pair)
    };
    let parts = rejected
        .iter()
        .filter(is_reported)
        .map(|(part, why)| format!("{}: {why}", part.as_str()));
    parts.collect::<Vec<_>>().join("; ")
}

/// The result of a write.
struct Written {
    id: Id,
    folder: String,
    content: Content,
    rejected: BTreeMap<Part, String>,
    /// `None` if sds-agent would reject all content, and nothing was on disk before.
    result: Result<Option<(Outcome, Inspection)>, WriteError>,
}

async fn write_one(
    output: Arc<Output>,
    (id, folder, content): (Id, String, Content),
    shutdown: CancellationToken,
) -> Written {
    blocking(move || {
        let path = output.path().join(&folder);
        let rejected = content::rejected(&path, &content.files);
        let result = match shutdown.is_cancelled() {
            true => Err(io::Error::from(io::ErrorKind::Interrupted).into()),
            false => write(&output, &folder, &content, &rejected),
        };
        Written {
            id,
            folder,
            content,
            rejected,
            result,
        }
    })
    .await
}

fn write(
    output: &Output,
    folder: &str,
    content: &Content,
    rejected: &BTreeMap<Part, String>,
) -> Result<Option<(Outcome, Inspection)>, WriteError> {
    let files = to_write(output, folder, content, rejected)?;
    if files.is_empty() {
        return Ok(None);
    }
    let outcome = output.write(folder, &content.manifest, &files)?;
    let inspection = output.inspect(folder)?;
    let inspection = inspection.filter(|inspection| inspection.stamp.is_of(&files));
    let changed = || io::Error::other("another program changed the folder during the write");
    Ok(Some((outcome, inspection.ok_or_else(changed)?)))
}

/// The content, with the files on disk instead of the rejected parts.
pub(super) fn to_write(
    output: &Output,
    folder: &str,
    content: &Content,
    rejected: &BTreeMap<Part, String>,
) -> io::Result<Files> {
    let is_rejected = |name: &str| rejected.contains_key(&Part::of(name));
    let good = content.files.iter().filter(|(name, _)| !is_rejected(name));
    let mut files: Files = good
        .map(|(name, bytes)| (name.clone(), bytes.clone()))
        .collect();
    if !rejected.is_empty() {
        let mut previous = output.files(folder, &content.manifest)?;
        previous.retain(|name, _| is_rejected(name));
        files.extend(previous);
    }
    Ok(files)
}
