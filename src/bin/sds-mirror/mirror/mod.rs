//! Puts it all together: what the API server tells is noted, compared with what is on disk, and
//! carried out.

mod report;
mod take;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use sds_agent::systemd::Pulse;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backoff::Backoff;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::manifest::Manifest;
use crate::output::{Found, Output};
use crate::problems::Problems;
use crate::reconcile::{self, Plan, Policy, Present, Said};
use crate::select::{Files, Id};
use crate::source::{Event, Source};
use crate::status::Status;
use crate::transport::Transport;

/// Events that may wait: when the disk is slow, the API server's connection is read no further.
const QUEUE: usize = 256;
/// How often the disk is looked at: whether a folder is gone that should be there, or is gone that
/// was in the way.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The same while something waits for it.
const LOOK_AGAIN_SOON: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to, or it was one pass and all is well.
    Good,
    /// It was one pass, and something could not be done.
    WithProblems,
}

/// The mirror at work.
pub(crate) struct Mirror {
    config: Config,
    policy: Policy,
    output: Arc<Output>,
    status: Arc<Status>,
    cluster: Cluster,
    said: Said,
    /// What stands in the output folder.
    present: BTreeMap<String, Present>,
    /// What is to be written, the latest of each Secret.
    pending: BTreeMap<Id, Content>,
    /// Those of them that the system refused to write, until it is time to try again.
    failed: BTreeSet<Id>,
    /// Namespaces that have been listed, or could not be: nothing is done before all have.
    settled: BTreeSet<String>,
    notes: Notes,
    problems: Problems,
    retry: Backoff,
    look_again: Instant,
    /// There is more to do right now.
    unfinished: bool,
    /// What systemd was told last.
    line: String,
}

/// What is to be written for a Secret.
struct Content {
    manifest: Manifest,
    files: Files,
}

/// What is known of Secrets and folders beyond what the plan says.
#[derive(Default)]
struct Notes {
    /// Why a Secret, or a part of it, is not mirrored.
    refused: BTreeMap<Id, String>,
    /// Why sds-agent will not serve it.
    content: BTreeMap<Id, String>,
    /// What the system said when a folder was to be written or removed.
    write: BTreeMap<String, String>,
}

impl Mirror {
    /// A mirror of the cluster that `transport` leads to.
    ///
    /// # Errors
    /// An output folder that can't be used, or that belongs to another cluster.
    pub(crate) fn new(
        config: Config,
        cluster: Cluster,
        status: Arc<Status>,
    ) -> Result<Self, String> {
        let output = Output::open(&config.output, config.group)?;
        let mut mirror = Self {
            policy: Policy {
                namespaces: config.namespaces.clone(),
                allow_mass_removal: config.allow_mass_removal,
            },
            output: Arc::new(output),
            status,
            cluster: cluster.clone(),
            said: Said::default(),
            present: BTreeMap::new(),
            pending: BTreeMap::new(),
            failed: BTreeSet::new(),
            settled: BTreeSet::new(),
            notes: Notes::default(),
            problems: Problems::default(),
            retry: Backoff::new(),
            look_again: Instant::now() + LOOK_AGAIN,
            unfinished: false,
            line: String::new(),
            config,
        };
        mirror.check_cluster(cluster)?;
        Ok(mirror)
    }

    /// Mirrors until `shutdown`, or for one pass.
    ///
    /// # Errors
    /// Another cluster's answer; and, for one pass, whatever kept it from being done.
    pub(crate) async fn run(
        mut self,
        transport: &Transport,
        mut pulse: Pulse,
        shutdown: &CancellationToken,
    ) -> Result<End, String> {
        let (sender, mut events) = mpsc::channel(QUEUE);
        let clients = self.start_sources(transport, &sender);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(End::Good),
                () = pulse.beat() => continue,
                () = tokio::time::sleep_until(self.look_again) => {
                    self.look()?;
                    self.fetch_lost(&clients, &sender);
                }
                Some((namespace, event)) = events.recv() => {
                    self.take(&namespace, event)?;
                    // What has come meanwhile is done in one go.
                    for _ in 0..QUEUE {
                        let Ok((namespace, event)) = events.try_recv() else { break };
                        self.take(&namespace, event)?;
                    }
                }
                () = std::future::ready(()), if self.unfinished => {}
            }
            self.step(shutdown).await;
            if self.config.once && self.is_settled() && !self.unfinished {
                return Ok(match self.problems.has_errors() {
                    true => End::WithProblems,
                    false => End::Good,
                });
            }
        }
    }

    fn start_sources(
        &self,
        transport: &Transport,
        events: &mpsc::Sender<(Arc<str>, Event)>,
    ) -> BTreeMap<String, Client> {
        let mut clients = BTreeMap::new();
        for namespace in &self.config.namespaces {
            let (status, name) = (Arc::clone(&self.status), namespace.clone());
            let client = transport.client(move || status.heard(&name));
            let source = Source {
                namespace: namespace.as_str().into(),
                selector: self.config.selector.clone(),
                field_selector: self.config.field_selector.clone(),
                template: Arc::clone(&self.config.template),
            };
            tokio::spawn(source.run(client.clone(), events.clone()));
            clients.insert(namespace.clone(), client);
        }
        clients
    }

    /// Makes sure that this is the cluster that the folders came from, and reads what is on disk.
    fn check_cluster(&mut self, cluster: Cluster) -> Result<(), String> {
        let found = self.scan()?;
        let other = found.values().find_map(|found| match found {
            Found::Ours(manifest) if !manifest.cluster.is(&cluster) => Some(manifest),
            _ => None,
        });
        if let Some(manifest) = other
            && !self.config.allow_cluster_change
        {
            return Err(format!(
                "{} has folders of another cluster, {} of {}: this is {cluster}. Nothing was changed. \
                 Give this cluster an --output of its own, or --allow-cluster-change to take them over",
                self.output.path().display(),
                manifest.id(),
                manifest.cluster,
            ));
        }
        self.cluster = cluster;
        Ok(())
    }

    fn scan(&mut self) -> Result<BTreeMap<String, Found>, String> {
        let failed = |error| format!("can't read {}: {error}", self.output.path().display());
        let found = self.output.scan().map_err(failed)?;
        self.present = found.iter().map(|(k, v)| (k.clone(), present(v))).collect();
        Ok(found)
    }

    /// Looks at the disk again, and tries again what failed.
    fn look(&mut self) -> Result<(), String> {
        if !self.output.is_in_place() {
            return Err(format!(
                "{} was removed or replaced; restart sds-mirror, which makes it anew",
                self.output.path().display()
            ));
        }
        self.failed.clear();
        match self.scan() {
            Ok(_) => Ok(()),
            Err(error) if self.config.once => Err(error),
            Err(error) => {
                warn!("{error}");
                self.look_again = Instant::now() + LOOK_AGAIN_SOON;
                Ok(())
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.config.namespaces.is_subset(&self.settled)
    }

    /// Compares and carries out.
    async fn step(&mut self, shutdown: &CancellationToken) {
        if !self.is_settled() {
            return;
        }
        let plan = self.plan();
        let written = self.write(&plan, shutdown).await;
        let removed = self.remove(&plan, shutdown).await;
        if shutdown.is_cancelled() {
            return;
        }
        self.said.forget_deletions(&self.present);
        // Some of it may be otherwise now.
        let plan = self.plan();
        let waiting = self.waiting(&plan);
        self.report(&plan, waiting);
        self.unfinished = waiting > 0 || removed.more;
        let pause = match written && removed.all_worked {
            false => self.retry.after_failure(None),
            true if plan.conflicts.is_empty() => LOOK_AGAIN,
            true => LOOK_AGAIN_SOON,
        };
        let now = Instant::now();
        if self.look_again <= now || now + pause < self.look_again {
            self.look_again = now + pause;
        }
    }

    fn plan(&self) -> Plan {
        reconcile::plan(&self.said, &self.present, &self.policy)
    }

    /// How many folders could be written right now.
    fn waiting(&self, plan: &Plan) -> usize {
        self.writable(plan).count()
    }

    /// The Secrets whose folders could be written right now.
    fn writable<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Id> {
        let pending = self.pending.keys();
        pending.filter(|id| plan.granted.contains_key(id) && !self.failed.contains(id))
    }
}

fn present(found: &Found) -> Present {
    match found {
        Found::Ours(manifest) => Present::Ours {
            id: manifest.id(),
            uid: manifest.uid.clone(),
        },
        Found::Foreign => Present::Foreign,
    }
}
