//! The main loop: records what the API server reports, compares it with the folders on disk, and carries out
//! the changes.

mod dry_run;
mod report;
mod take;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sds_agent::files::follow::Follow;
use sds_agent::systemd::Heartbeat;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::cluster::Cluster;
use crate::config::{Config, Selection};
use crate::events::Reports;
use crate::gateway::Selector;
use crate::manifest::{Found, Manifest};
use crate::output::{Output, Stamp};
use crate::problems::Problems;
use crate::reconcile::{self, Chosen, History, Objects, Plan, Policy};
use crate::select::{Files, Id, Kind, Scope};
use crate::source::{Event, Source, Wake};
use crate::status::Status;
use crate::transport::Transport;

/// The maximum number of pending events. If the disk is slow, no more is read from the API server.
const QUEUE: usize = 256;
/// How often the disk is checked while a folder can't be granted.
const SHORT_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was stopped, or its one pass had no problems.
    Good,
    /// Its one pass had problems.
    WithProblems,
}

/// A running mirror.
pub(crate) struct Mirror {
    config: Config,
    transport: Transport,
    output: Arc<Output>,
    status: Arc<Status>,
    objects: Objects,
    /// The Gateway that selects the objects, if one does.
    selector: Option<Selector>,
    policy: Policy,
    /// The entries of the output folder.
    present: BTreeMap<String, Found>,
    /// The pending writes, with the latest version of each object.
    pending: BTreeMap<Id, Content>,
    /// The pending writes that failed, until the next attempt.
    failed: BTreeSet<Id>,
    /// The objects whose current version was written, except for rejected parts.
    done: BTreeMap<Id, Done>,
    /// The watched scopes.
    sources: BTreeMap<Scope, Arc<Wake>>,
    /// Scopes that have been listed, or whose first list failed. Nothing is done before all are settled.
    settled: BTreeSet<Scope>,
    /// Scopes that are being listed again to restore folders.
    listing: BTreeSet<Scope>,
    notes: Notes,
    problems: Problems,
    reports: Option<Reports>,
    retry: Backoff,
    next_check: Instant,
    /// Whether there is more to do immediately.
    unfinished: bool,
    /// The last status line for systemd.
    line: String,
}

/// A pending write for an object.
struct Content {
    manifest: Manifest,
    files: Files,
}

/// What was written for an object.
struct Done {
    resource_version: String,
    /// The files on disk; `None` if all content was rejected.
    stamp: Option<Stamp>,
}

/// Facts about objects and folders that are not part of the plan.
#[derive(Default)]
struct Notes {
    /// Why an object, or one of its keys, is not mirrored.
    refused: BTreeMap<Id, String>,
    /// The parts of an object that sds-agent would reject, with the reasons.
    rejected: BTreeMap<Id, String>,
    /// Why a folder could not be written or removed.
    write: BTreeMap<String, String>,
    /// Problems of the Gateway's references.
    gateway: BTreeMap<String, String>,
    /// Why removals are delayed.
    removals: Option<String>,
}

impl Mirror {
    /// Opens the output folder and reads the cluster's configuration. `history` has the removals of an earlier
    /// mirror in this process.
    ///
    /// # Errors
    /// The output folder or the cluster's configuration can't be used.
    pub(crate) async fn new(
        config: Config,
        status: Arc<Status>,
        history: History,
    ) -> Result<Self, String> {
        let output = match config.dry_run {
            true => Output::peek(&config.output, config.rights)?,
            false => Output::open(&config.output, config.rights)?,
        };
        let present = scan(&output)?;
        let expected = match config.allow_cluster_change {
            true => Vec::new(),
            false => clusters(&present),
        };
        let transport = Transport::new(config.access.clone(), expected).await?;
        info!(
            version = sds_agent::VERSION,
            cluster = transport.server().await,
            output = %config.output.display(),
            "mirroring"
        );
        let (chosen, selector) = match &config.selection {
            Selection::Gateway { .. } => (Chosen::Unknown, Some(Selector::default())),
            Selection::Namespaces { .. } => (Chosen::All(scopes(&config.selection)), None),
        };
        Ok(Self {
            policy: Policy {
                guard: config.guard,
                released: BTreeSet::new(),
                history,
            },
            next_check: Instant::now() + config.check_interval,
            config,
            transport,
            output: Arc::new(output),
            status,
            objects: Objects::new(chosen),
            selector,
            present,
            pending: BTreeMap::new(),
            failed: BTreeSet::new(),
            done: BTreeMap::new(),
            sources: BTreeMap::new(),
            settled: BTreeSet::new(),
            listing: BTreeSet::new(),
            notes: Notes::default(),
            problems: Problems::default(),
            reports: None,
            retry: Backoff::new(),
            unfinished: false,
            line: String::new(),
        })
    }

    /// Mirrors until `shutdown`, or for one pass. Also returns the recent removals.
    ///
    /// # Errors
    /// The output folder was removed; or the one pass could not be completed.
    pub(crate) async fn run(
        mut self,
        mut heartbeat: Heartbeat,
        shutdown: &CancellationToken,
    ) -> Result<(End, History), String> {
        let (sender, mut events) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let mut files = self.transport.files();
        let mut follow = Follow::start(files.clone());
        if self.config.events {
            self.reports = Some(Reports::start(self.transport.client(|| ())));
        }
        loop {
            self.start_sources(&sender, &mut tasks);
            if files != self.transport.files() {
                files = self.transport.files();
                follow = Follow::start(files.clone());
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok((End::Good, self.policy.history)),
                () = heartbeat.beat() => continue,
                folders = self.status.released() => self.policy.released.extend(folders),
                () = tokio::time::sleep_until(self.next_check) => self.check_disk().await?,
                () = follow.changed() => self.reconnect().await,
                Some((scope, event)) = events.recv() => {
                    self.take(&scope, event)?;
                    // Events that arrived meanwhile are handled in the same step.
                    for _ in 0..QUEUE {
                        let Ok((scope, event)) = events.try_recv() else { break };
                        self.take(&scope, event)?;
                    }
                }
                () = std::future::ready(()), if self.unfinished => {}
            }
            if self.config.dry_run && self.is_settled() {
                return Ok((self.dry_run().await?, self.policy.history));
            }
            self.step(shutdown).await;
            let is_done = self.is_settled() && self.listing.is_empty() && !self.unfinished;
            if self.config.once && is_done {
                return Ok((self.end(), self.policy.history));
            }
        }
    }

    fn end(&self) -> End {
        match self.problems.has_errors() {
            true => End::WithProblems,
            false => End::Good,
        }
    }

    /// The scopes that have to be watched.
    fn scopes(&self) -> BTreeSet<Scope> {
        let mut scopes = scopes(&self.config.selection);
        scopes.extend(self.selector.iter().flat_map(Selector::scopes));
        scopes
    }

    /// Starts to watch scopes that are not watched yet.
    fn start_sources(&mut self, events: &mpsc::Sender<(Scope, Event)>, tasks: &mut JoinSet<()>) {
        for scope in self.scopes() {
            if self.sources.contains_key(&scope) {
                continue;
            }
            self.status.expect(&scope);
            let (selector, field_selector) = selectors(&self.config.selection, scope.kind);
            let wake = Arc::new(Wake::default());
            let source = Source {
                scope: scope.clone(),
                selector,
                field_selector,
                rules: Arc::clone(&self.config.rules),
                wake: Arc::clone(&wake),
            };
            let (status, answered) = (Arc::clone(&self.status), scope.clone());
            let client = self.transport.client(move || status.answered(&answered));
            tasks.spawn(source.run(client, events.clone()));
            self.sources.insert(scope, wake);
        }
    }

    /// Reconnects after one of the files with address and credentials has changed.
    async fn reconnect(&mut self) {
        info!(
            "reading address and credentials of the cluster again: one of their files has changed"
        );
        self.transport.renew().await;
        for wake in self.sources.values() {
            wake.retry();
        }
    }

    /// Checks the files on disk, and retries what failed.
    async fn check_disk(&mut self) -> Result<(), String> {
        if !self.output.is_in_place() {
            return Err(format!(
                "{} was removed or replaced; restart sds-mirror, which creates it again",
                self.output.path().display()
            ));
        }
        self.failed.clear();
        self.next_check = Instant::now() + self.config.check_interval;
        let output = Arc::clone(&self.output);
        match work::blocking(move || scan(&output)).await {
            Ok(present) => self.found(present),
            Err(error) if self.config.once => return Err(error),
            Err(error) => warn!("{error}"),
        }
        self.inspect().await;
        Ok(())
    }

    /// Records the entries of the output folder.
    fn found(&mut self, present: BTreeMap<String, Found>) {
        let before = std::mem::replace(&mut self.present, present);
        for (folder, found) in &mut self.present {
            // A hold lasts even if it could not be recorded on disk.
            if let (Found::Ours(now), Some(Found::Ours(before))) = (found, before.get(folder)) {
                now.held |= before.held;
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.scopes().is_subset(&self.settled)
    }

    /// Compares the cluster with the disk, and makes the changes.
    async fn step(&mut self, shutdown: &CancellationToken) {
        if !self.is_settled() {
            return;
        }
        let plan = self.plan();
        self.hold(&plan).await;
        let rewritten = self.rewrite_clusters().await;
        let written = self.write(&plan, shutdown).await;
        let removed = self.remove(&plan, shutdown).await;
        if shutdown.is_cancelled() {
            return;
        }
        self.objects.forget_deletions(&self.present);
        // The changes may have changed the plan.
        let plan = self.plan();
        self.policy
            .released
            .retain(|folder| plan.remove.contains(folder));
        self.list_lost(&plan);
        self.report(&plan).await;
        self.unfinished = rewritten.more || removed.more || self.writable(&plan).next().is_some();
        let all_worked = written && removed.all_worked && rewritten.all_worked;
        let pause = match all_worked {
            false => self.retry.after_failure(None),
            true if plan.conflicts.is_empty() => self.config.check_interval,
            true => SHORT_CHECK_INTERVAL.min(self.config.check_interval),
        };
        self.next_check = self.next_check.min(Instant::now() + pause);
        if let Some(wake) = plan.wake {
            self.next_check = self.next_check.min(wake.into());
        }
    }

    fn plan(&self) -> Plan {
        let now = std::time::Instant::now();
        reconcile::plan(&self.objects, &self.present, &self.policy, now)
    }

    /// The objects whose folders can be written now.
    fn writable<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Id> {
        let pending = self.pending.keys();
        pending.filter(|id| plan.granted.contains_key(id) && !self.failed.contains(id))
    }

    /// The objects whose folders differ from the cluster.
    fn not_in_step<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Id> {
        plan.granted.keys().filter(|id| !self.done.contains_key(id))
    }

    /// Requests a new list of each scope with objects that are missing on disk and not in memory.
    fn list_lost(&mut self, plan: &Plan) {
        let lost = self
            .not_in_step(plan)
            .filter(|id| !self.pending.contains_key(id));
        let scopes: BTreeSet<Scope> = lost.map(Id::scope).collect();
        for scope in scopes {
            if let Some(wake) = self.sources.get(&scope)
                && self.listing.insert(scope.clone())
            {
                info!(
                    namespace = scope.namespace,
                    resource = scope.kind.resource(),
                    "folders are missing or were changed: listing again to restore them"
                );
                wake.list();
            }
        }
    }
}

/// The scopes that are always watched.
fn scopes(selection: &Selection) -> BTreeSet<Scope> {
    let scope = |kind, namespace: &String| Scope {
        kind,
        namespace: namespace.clone(),
    };
    match selection {
        Selection::Gateway { namespace, .. } => [scope(Kind::Gateway, namespace)].into(),
        Selection::Namespaces {
            namespaces,
            configmaps,
            ..
        } => {
            let secrets = namespaces.iter().map(|one| scope(Kind::Secret, one));
            let bundles = namespaces.iter().map(|one| scope(Kind::ConfigMap, one));
            secrets
                .chain(bundles.filter(|_| configmaps.is_some()))
                .collect()
        }
    }
}

/// The label selector and the field selector.
fn selectors(selection: &Selection, kind: Kind) -> (Option<String>, Option<String>) {
    match (selection, kind) {
        (Selection::Gateway { name, .. }, Kind::Gateway) => {
            (None, Some(format!("metadata.name={name}")))
        }
        (
            Selection::Namespaces {
                selector,
                field_selector,
                ..
            },
            Kind::Secret,
        ) => (selector.clone(), Some(field_selector.clone())),
        (Selection::Namespaces { configmaps, .. }, Kind::ConfigMap) => (configmaps.clone(), None),
        (Selection::Gateway { .. }, Kind::Secret) => {
            (None, Some(crate::select::LEAVE_OUT.to_owned()))
        }
        _ => (None, None),
    }
}

fn scan(output: &Output) -> Result<BTreeMap<String, Found>, String> {
    let failed = |error| format!("can't read {}: {error}", output.path().display());
    output.scan().map_err(failed)
}

/// The clusters that the folders came from.
fn clusters(present: &BTreeMap<String, Found>) -> Vec<Cluster> {
    let mut clusters = Vec::new();
    for found in present.values() {
        if let Found::Ours(manifest) = found
            && !clusters.contains(&manifest.cluster)
        {
            clusters.push(manifest.cluster.clone());
        }
    }
    clusters
}
