//! Which page is at which path.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::StatusCode;
use tokio::sync::Mutex;

use super::http::{BoxFuture, JSON, Page, Pages};
use super::probes::Probes;
use super::survey::Sources;
use super::{exposition, live, metrics, page};
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::text::escape_json;

const INDEX: &str = "\
sds-agent

/status   what is served, with subscribers and expiry (JSON)
/metrics  metrics for Prometheus
/livez    whether every part of the agent reports progress
/readyz   whether all roots were read and clients are served

/hosts               the hosts that certificates cover (JSON)
/served/HOST         the certificates that are served for a host, the best first (JSON)
/certificate/SHA256  the credential of the certificate with that fingerprint, or when it was \
replaced (JSON)
/probes              accepts the results of `sds-agent probe` (POST, JSON)
";

/// The index where details are not shown.
const TCP_INDEX: &str = "\
sds-agent

/metrics  metrics for Prometheus
/livez    whether every part of the agent reports progress
/readyz   whether all roots were read and clients are served

The page and /status are on the admin socket; here they are shown with `tcp_details = true` in [admin].
";

/// The pause after a snapshot, as a multiple of the time that the snapshot took; at most `LONGEST_PAUSE`. So
/// snapshots use at most a fiftieth of one processor, however many clients ask.
const PAUSE: u32 = 50;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// All that the agent shows. Cheap to clone.
#[derive(Clone)]
pub struct AdminPages {
    snapshots: Arc<Snapshots>,
    with: With,
}

/// What is shown besides metrics and health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// The state.
    State,
    /// The state, and the status page.
    Page,
    /// Nothing, because every local user can connect.
    Nothing,
}

impl AdminPages {
    /// Pages that show these sources.
    pub fn new(sources: Sources, metrics: Arc<Metrics>) -> Self {
        let snapshots = Snapshots {
            sources,
            metrics,
            last: Arc::default(),
            probes: Probes::default(),
            pool: Pool::new("admin", 1),
        };
        Self {
            snapshots: Arc::new(snapshots),
            with: With::State,
        }
    }

    /// The same pages, with more or fewer details.
    pub fn with(&self, with: With) -> Self {
        Self {
            snapshots: self.snapshots.clone(),
            with,
        }
    }

    async fn alive(&self) -> Page {
        match self.snapshots.sources.health.alive().await {
            Ok(()) => Page::text(StatusCode::OK, "alive\n"),
            Err(silent) => Page::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the {} has not reported progress\n", silent.0),
            ),
        }
    }

    fn ready(&self) -> Page {
        let waits = self.snapshots.sources.health.waits_for();
        if waits.is_empty() {
            let degraded = self
                .snapshots
                .sources
                .health
                .degraded(self.with != With::Nothing);
            let lines = degraded.iter().map(|line| format!("degraded: {line}\n"));
            return Page::text(
                StatusCode::OK,
                format!("ready\n{}", lines.collect::<String>()),
            );
        }
        let lines: String = waits.iter().map(|wait| format!("{wait}\n")).collect();
        Page::text(StatusCode::SERVICE_UNAVAILABLE, lines)
    }

    async fn at(&self, path: &str) -> Option<Page> {
        Some(match (path, self.with) {
            ("/", With::State) => Page::text(StatusCode::OK, INDEX),
            ("/", With::Nothing) => Page::text(StatusCode::OK, TCP_INDEX),
            ("/status", With::Nothing) => Page::text(StatusCode::FORBIDDEN, TCP_INDEX),
            ("/", With::Page) => self.snapshots.page(Rendered::Page).await,
            ("/status", _) => self.snapshots.page(Rendered::Status).await,
            ("/metrics", _) => self.snapshots.page(Rendered::Metrics).await,
            ("/livez", _) => self.alive().await,
            ("/readyz", _) => self.ready(),
            (path, With::State | With::Page) => self.snapshots.live(path).await?,
            _ => return None,
        })
    }
}

impl Pages for AdminPages {
    fn page<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Option<Page>> {
        Box::pin(self.at(path))
    }

    fn action<'a>(&'a self, path: &'a str, body: &'a [u8]) -> BoxFuture<'a, Option<Page>> {
        let page = (path == "/probes").then(|| self.snapshots.probes.take(body));
        Box::pin(std::future::ready(page))
    }
}

/// Renders pages of the whole state on a separate thread. All clients that ask in the meantime share the next
/// result, so that many requests take hardly any processor time from the streams.
struct Snapshots {
    sources: Sources,
    metrics: Arc<Metrics>,
    last: Arc<Mutex<Option<Made>>>,
    probes: Probes,
    pool: Pool,
}

/// A snapshot.
struct Made {
    begun: Instant,
    /// No new snapshot is made before this time.
    until: Instant,
    pages: Arc<[Page; 3]>,
}

/// The forms that a snapshot is rendered in.
#[derive(Clone, Copy)]
enum Rendered {
    Status,
    Metrics,
    Page,
}

impl Snapshots {
    /// A page of a snapshot that was begun after this call.
    async fn page(self: &Arc<Self>, which: Rendered) -> Page {
        match self.pages(Instant::now()).await {
            Some(pages) => pages[which as usize].clone(),
            None => Page::text(StatusCode::INTERNAL_SERVER_ERROR, "this page failed\n"),
        }
    }

    async fn pages(self: &Arc<Self>, asked: Instant) -> Option<Arc<[Page; 3]>> {
        // Requests that wait here share the next snapshot.
        let mut last = self.last.clone().lock_owned().await;
        if let Some(made) = &*last {
            if made.begun >= asked {
                return Some(made.pages.clone());
            }
            tokio::time::sleep_until(made.until.into()).await;
        }
        // A separate task: a snapshot that was begun is finished for the next request, even if this client
        // disconnects.
        let this = self.clone();
        let made = tokio::spawn(async move {
            let begun = Instant::now();
            let snapshots = this.clone();
            let pages = this.pool.run(move || Arc::new(snapshots.render())).await?;
            let ended = Instant::now();
            let pause = (PAUSE * (ended - begun)).min(LONGEST_PAUSE);
            *last = Some(Made {
                begun,
                until: ended + pause,
                pages: pages.clone(),
            });
            Some(pages)
        });
        made.await.ok()?
    }

    /// A page that `sds-agent probe` uses. It, too, may take time in proportion to the number of credentials.
    async fn live(self: &Arc<Self>, path: &str) -> Option<Page> {
        let (this, path) = (self.clone(), path.to_owned());
        self.pool.run(move || this.render_live(&path)).await?
    }

    fn render_live(&self, path: &str) -> Option<Page> {
        let snapshot = &self.sources.hub.current().snapshot;
        let json = if path == "/hosts" {
            serde_json::to_string(&live::hosts(snapshot))
        } else if let Some(host) = path.strip_prefix("/served/") {
            serde_json::to_string(&live::served(snapshot, host, SystemTime::now()))
        } else {
            let leaf = path.strip_prefix("/certificate/")?.parse().ok()?;
            let known = live::known(snapshot, &leaf, self.sources.started.0);
            serde_json::to_string(&known)
        };
        // Serialization can't fail.
        Some(Page::ok(JSON, escape_json(&json.unwrap_or_default())))
    }

    /// Takes time in proportion to the number of credentials and streams.
    fn render(&self) -> [Page; 3] {
        let mut status = self.sources.survey();
        self.probes.add_to(&mut status.report);
        let json = match serde_json::to_string(&status) {
            Ok(json) => Page::ok(JSON, escape_json(&json)),
            Err(error) => Page::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the state can't be written: {error}\n"),
            ),
        };
        let text = metrics::text(&status, &self.metrics);
        let metrics = Page::ok(exposition::CONTENT_TYPE, text);
        [json, metrics, page::of(&status)]
    }
}
