//! The way that requests take: paced, bounded in time, with fresh credentials, and counted as a sign
//! of life.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::BoxError;

use crate::access::{Access, Loaded, TokenFile};
use crate::cluster::Cluster;

/// How long the API server may take to begin its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Requests that may go out at once, and the pause that each one costs after that. A server or proxy
/// that ends every watch at once is asked this often and no more.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Makes clients whose requests all take this way.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Inner>);

struct Inner {
    access: Access,
    /// The cluster that requests may go to.
    cluster: Cluster,
    /// `None` once it has failed: the next request reads everything again.
    route: Mutex<Option<Route>>,
}

#[derive(Clone)]
struct Route {
    client: Client,
    token: Option<TokenFile>,
}

impl Transport {
    /// A way to the cluster that `access` leads to. Nothing is sent yet.
    ///
    /// # Errors
    /// What keeps `access` from being read.
    pub(crate) async fn new(access: Access) -> Result<Self, String> {
        let loaded = access.load().await?;
        let cluster = loaded.cluster.clone();
        let route = route(loaded).await?;
        Ok(Self(Arc::new(Inner {
            access,
            cluster,
            route: Mutex::new(Some(route)),
        })))
    }

    /// The cluster that this leads to, as far as it is known without asking it.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// A client with a pace of its own. `on_answer` is called whenever the API server has agreed to
    /// a request.
    pub(crate) fn client(&self, on_answer: impl Fn() + Send + Sync + 'static) -> Client {
        let inner = Arc::clone(&self.0);
        let pace = Arc::new(Mutex::new(Pace::new()));
        let on_answer = Arc::new(on_answer);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, pace, on_answer) = (
                Arc::clone(&inner),
                Arc::clone(&pace),
                Arc::clone(&on_answer),
            );
            async move {
                let pause = pace.lock().await.next(Instant::now());
                tokio::time::sleep(pause).await;
                let response = inner.send(request).await?;
                if response.status().is_success() {
                    on_answer();
                }
                Ok::<_, BoxError>(response)
            }
        });
        Client::new(service, "default")
    }
}

impl Inner {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let Route { client, token } = self.route().await?;
        if let Some(token) = token {
            token.authorize(&mut request).await?;
        }
        let result = tokio::time::timeout(ANSWER_LIMIT, client.send(request)).await;
        let result = match result {
            Ok(result) => result.map_err(BoxError::from),
            Err(_) => Err(format!("no answer within {ANSWER_LIMIT:?}").into()),
        };
        let works =
            matches!(&result, Ok(response) if response.status() != StatusCode::UNAUTHORIZED);
        if !works {
            *self.route.lock().await = None;
        }
        result
    }

    async fn route(&self) -> Result<Route, BoxError> {
        let mut current = self.route.lock().await;
        if let Some(route) = &*current {
            return Ok(route.clone());
        }
        let loaded = self.access.load().await?;
        if !loaded.cluster.is(&self.cluster) {
            return Err(format!(
                "the configuration leads to another cluster now: {}, no longer {}; restart \
                 sds-mirror if this is meant",
                loaded.cluster, self.cluster
            )
            .into());
        }
        let route = route(loaded).await?;
        *current = Some(route.clone());
        Ok(route)
    }
}

/// Making a client may run a credential plugin, which blocks.
async fn route(loaded: Loaded) -> Result<Route, String> {
    let Loaded { config, token, .. } = loaded;
    let client = tokio::task::spawn_blocking(move || Client::try_from(config))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| crate::access::chain(&error))?;
    Ok(Route { client, token })
}

/// A bucket of tokens: it holds [`BURST`], and gets a new one every [`PAUSE`].
struct Pace {
    /// When the bucket is full again.
    full_at: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            full_at: Instant::now(),
        }
    }

    /// How long the request that is to go out at `now` has to wait.
    fn next(&mut self, now: Instant) -> Duration {
        self.full_at = self.full_at.max(now) + PAUSE;
        let missing = self.full_at - now;
        missing.saturating_sub(PAUSE * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_through_and_a_flood_is_slowed() {
        let mut pace = Pace::new();
        for _ in 0..BURST {
            assert_eq!(pace.next(Instant::now()), Duration::ZERO);
        }
        let started = Instant::now();
        for _ in 0..10 {
            let pause = pace.next(Instant::now());
            tokio::time::sleep(pause).await;
        }
        assert_eq!(started.elapsed(), 10 * PAUSE);
        tokio::time::sleep(BURST * PAUSE).await;
        assert_eq!(pace.next(Instant::now()), Duration::ZERO);
    }
}
