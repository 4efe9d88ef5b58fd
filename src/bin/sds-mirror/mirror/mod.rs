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
use sds_agent::systemd::Pulse;
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

/// Events that may wait: when the disk is slow, the API server's connection is read no further.
const QUEUE: usize = 256;
/// How often the disk is checked while a foreign folder is in the way.
const SHORT_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was stopped, or it was one pass and all is well.
    Good,
    /// It was one pass, and something could not be done.
    WithProblems,
}

/// The mirror at work.
pub(crate) struct Mirror {
    config: Config,
    transport: Transport,
    output: Arc<Output>,
    status: Arc<Status>,
    objects: Objects,
    /// What a Gateway selects, where one does.
    selector: Option<Selector>,
    policy: Policy,
    /// What stands in the output folder.
    present: BTreeMap<String, Found>,
    /// The pending writes, with the latest version of each object.
    pending: BTreeMap<Id, Content>,
    /// Those of them that the system refused to write, until it is time to try again.
    failed: BTreeSet<Id>,
    /// The objects that are on disk as they are in the cluster, as far as they can be.
    done: BTreeMap<Id, Done>,
    /// What is watched.
    sources: BTreeMap<Scope, Arc<Wake>>,
    /// Scopes that have been listed, or could not be: nothing is done before all have.
    settled: BTreeSet<Scope>,
    /// Scopes that are being listed again, for what was lost on disk.
    listing: BTreeSet<Scope>,
    notes: Notes,
    problems: Problems,
    reports: Option<Reports>,
    retry: Backoff,
    next_check: Instant,
    /// There is more to do right now.
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
    /// The files on disk; `None` where all of the content was rejected.
    stamp: Option<Stamp>,
}

/// What is known of objects and folders beyond what the plan says.
#[derive(Default)]
struct Notes {
    /// Why an object, or a key of one, is not mirrored.
    refused: BTreeMap<Id, String>,
    /// What sds-agent would reject of it.
    rejected: BTreeMap<Id, String>,
    /// What the system reported when a folder was to be written or removed.
    write: BTreeMap<String, String>,
    /// What is wrong with the Gateway's references.
    gateway: BTreeMap<String, String>,
    /// Why removals wait.
    removals: Option<String>,
}

impl Mirror {
    /// A mirror that is about to begin. `history` is what an earlier one of this process removed.
    ///
    /// # Errors
    /// An output folder or a configuration of the cluster that can't be used.
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

    /// Mirrors until `shutdown`, or for one pass. Returns what was removed of late, too.
    ///
    /// # Errors
    /// An output folder that was taken away; and, for one pass, whatever kept it from being done.
    pub(crate) async fn run(
        mut self,
        mut pulse: Pulse,
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
                () = pulse.beat() => continue,
                folders = self.status.released() => self.policy.released.extend(folders),
                () = tokio::time::sleep_until(self.next_check) => self.check_disk().await?,
                () = follow.changed() => self.reconnect().await,
                Some((scope, event)) = events.recv() => {
                    self.take(&scope, event)?;
                    // What has come meanwhile is done in one go.
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

    /// Starts to watch what is not watched yet.
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
            let (status, heard) = (Arc::clone(&self.status), scope.clone());
            let client = self.transport.client(move || status.heard(&heard));
            tasks.spawn(source.run(client, events.clone()));
            self.sources.insert(scope, wake);
        }
    }

    /// One of the files that decide how the cluster is reached has changed.
    async fn reconnect(&mut self) {
        info!("the way to the cluster is read again: one of its files has changed");
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

    /// Takes over what stands in the output folder.
    fn found(&mut self, present: BTreeMap<String, Found>) {
        let before = std::mem::replace(&mut self.present, present);
        for (folder, found) in &mut self.present {
            // A hold lasts also where it could not be noted on disk.
            if let (Found::Ours(now), Some(Found::Ours(before))) = (found, before.get(folder)) {
                now.held |= before.held;
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.scopes().is_subset(&self.settled)
    }

    /// Compares and carries out.
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
        // Some of it may be otherwise now.
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

    /// The objects whose folders could be written right now.
    fn writable<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Id> {
        let pending = self.pending.keys();
        pending.filter(|id| plan.granted.contains_key(id) && !self.failed.contains(id))
    }

    /// The objects that should be on disk, and differ there from the cluster.
    fn not_in_step<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Id> {
        plan.granted.keys().filter(|id| !self.done.contains_key(id))
    }

    /// Has whole lists made for what is missing on disk and not at hand: one for each scope.
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
                    "folders are missing or were changed: listing again to write them"
                );
                wake.list();
            }
        }
    }
}

/// The scopes that are watched in any case.
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

/// The selectors of labels and of fields.
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
