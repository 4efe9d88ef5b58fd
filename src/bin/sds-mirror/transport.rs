//! Sends requests: rate-limited, with timeouts and current credentials, and only to the right cluster. Records
//! that the API server answers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::BoxError;

use crate::access::{Access, Loaded, TokenFile, chain, client_error};
use crate::cluster::Cluster;
use crate::exec::Plugins;

/// How long the API server may take until it begins to respond.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The maximum burst of requests, and the pause for each one after that. It limits requests to a server or
/// proxy that ends every watch immediately.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);
/// The object whose uid identifies the cluster by convention; most accounts are not allowed to read it.
const CLUSTER_PATH: &str = "/api/v1/namespaces/kube-system";
/// The maximum size of that response in bytes.
const MAX_NAMESPACE: usize = 1024 * 1024;

/// The API server belongs to another cluster than the folders; the text has the difference.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the folders belong to another cluster: {0}")]
pub(crate) struct AnotherCluster(String);

/// Makes clients whose requests are sent in this way.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Inner>);

struct Inner {
    access: Access,
    plugins: Plugins,
    /// The API server's cluster must be the same as all of these. They include the last one that was reached.
    expected: StdMutex<Vec<Cluster>>,
    /// The cluster that was last reached.
    reached: StdMutex<Option<Cluster>>,
    /// `None` after a failure, so that the next request reads everything again.
    route: Mutex<Option<Route>>,
    files: StdMutex<Vec<PathBuf>>,
}

#[derive(Clone)]
struct Route {
    client: Client,
    token: Option<TokenFile>,
    cluster: Cluster,
    proxy: Option<String>,
    renew_at: Option<SystemTime>,
}

impl Transport {
    /// Reads `access`. The cluster must be the same as all of `expected`, which is checked with each request.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// `access` can't be read.
    pub(crate) async fn new(access: Access, expected: Vec<Cluster>) -> Result<Self, String> {
        let transport = Self(Arc::new(Inner {
            access,
            plugins: Plugins::default(),
            expected: StdMutex::new(expected),
            reached: StdMutex::default(),
            route: Mutex::default(),
            files: StdMutex::default(),
        }));
        transport
            .0
            .route()
            .await
            .map_err(|error| error.to_string())?;
        Ok(transport)
    }

    /// A description of the cluster, for messages.
    pub(crate) async fn server(&self) -> String {
        let route = self.0.route.lock().await;
        route
            .as_ref()
            .map_or_else(String::new, |route| route.cluster.to_string())
    }

    /// The cluster that was last reached.
    pub(crate) fn cluster(&self) -> Option<Cluster> {
        lock(&self.0.reached).clone()
    }

    /// The files with the cluster's address and credentials.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        lock(&self.0.files).clone()
    }

    /// Reads everything again before the next request.
    pub(crate) async fn renew(&self) {
        *self.0.route.lock().await = None;
    }

    /// Verifies with a request that the API server still belongs to the same cluster.
    ///
    /// # Errors
    /// It belongs to another one, or the request fails.
    pub(crate) async fn verify(&self) -> Result<(), String> {
        let verified = async {
            let route = self.0.route().await?;
            self.0.verify(&route).await
        };
        verified.await.map_err(|error: BoxError| error.to_string())
    }

    /// A client with its own rate limit. `on_answer` is called after each successful response.
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
    /// Sends a request. Before each list and each watch, the cluster is verified.
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let route = self.route().await?;
        let query = request.uri().query().unwrap_or_default();
        if request.method() == http::Method::GET && !query.contains("continue=") {
            self.verify(&route).await?;
        }
        self.send_on(&route, request).await
    }

    async fn send_on(
        &self,
        route: &Route,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, BoxError> {
        if let Some(token) = &route.token {
            token.authorize(&mut request).await?;
        }
        let result = tokio::time::timeout(ANSWER_LIMIT, route.client.send(request)).await;
        let result = match result {
            Ok(result) => result.map_err(|error| client_error(&error)),
            Err(_) => Err(format!("no answer within {ANSWER_LIMIT:?}")),
        };
        let refused =
            matches!(&result, Ok(response) if response.status() == StatusCode::UNAUTHORIZED);
        if refused {
            self.plugins.forget().await;
        }
        if refused || result.is_err() {
            *self.route.lock().await = None;
        }
        result.map_err(|error| match &route.proxy {
            Some(proxy) => format!("{error} (through the proxy {proxy})").into(),
            None => error.into(),
        })
    }

    /// Verifies that the API server belongs to the expected cluster.
    async fn verify(&self, route: &Route) -> Result<(), BoxError> {
        let mut cluster = route.cluster.clone();
        cluster.uid = self.cluster_uid(route).await?;
        let mut expected = lock(&self.expected);
        let differs = |one: &Cluster| Some((cluster.difference(one)?, one.clone()));
        if let Some((difference, one)) = expected.iter().find_map(differs) {
            drop(expected);
            let text = format!(
                "the API server is {} and theirs is {}: {difference}",
                cluster.server, one.server
            );
            return Err(AnotherCluster(text).into());
        }
        // The uid stays known if the account is no longer allowed to read it.
        if cluster.uid.is_none() {
            cluster.uid = expected.iter().find_map(|one| one.uid.clone());
        }
        *expected = vec![cluster.clone()];
        *lock(&self.reached) = Some(cluster);
        Ok(())
    }

    /// The cluster's uid; `None` if the account is not allowed to read it.
    async fn cluster_uid(&self, route: &Route) -> Result<Option<String>, BoxError> {
        #[derive(serde::Deserialize)]
        struct Namespace {
            metadata: Metadata,
        }
        #[derive(serde::Deserialize)]
        struct Metadata {
            uid: Option<String>,
        }
        let request = Request::get(CLUSTER_PATH).body(Body::empty())?;
        let response = self.send_on(route, request).await?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::TOO_MANY_REQUESTS => {
                return Err("the API server is overloaded (429)".into());
            }
            status if status.is_server_error() => {
                return Err(format!("the API server answers {status}").into());
            }
            // The request that follows reports the reason.
            _ => return Ok(None),
        }
        let body = Limited::new(response.into_body(), MAX_NAMESPACE).collect();
        let body = tokio::time::timeout(ANSWER_LIMIT, body)
            .await
            .map_err(|_| format!("no answer within {ANSWER_LIMIT:?}"))??;
        let namespace: Namespace = serde_json::from_slice(&body.to_bytes())
            .map_err(|_| "the namespace kube-system is not what Kubernetes sends")?;
        Ok(namespace.metadata.uid)
    }

    async fn route(&self) -> Result<Route, BoxError> {
        let mut current = self.route.lock().await;
        let is_fresh = |route: &&Route| route.renew_at.is_none_or(|at| at > SystemTime::now());
        if let Some(route) = current.as_ref().filter(is_fresh) {
            return Ok(route.clone());
        }
        *current = None;
        let loaded = self.access.load(&self.plugins).await?;
        *lock(&self.files) = loaded.files.clone();
        let route = route(loaded).await?;
        *current = Some(route.clone());
        Ok(route)
    }
}

/// Makes the client on a thread that may block: a legacy auth-provider runs a program here.
async fn route(loaded: Loaded) -> Result<Route, String> {
    let config = loaded.config;
    let client = tokio::task::spawn_blocking(move || Client::try_from(config))
        .await
        .map_err(|error| chain(&error))?
        .map_err(|error| client_error(&error))?;
    Ok(Route {
        client,
        token: loaded.token,
        cluster: loaded.cluster,
        proxy: loaded.proxy,
        renew_at: loaded.renew_at,
    })
}

fn lock<T>(mutex: &StdMutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token bucket: it holds [`BURST`] tokens, and gets a new one every [`PAUSE`].
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

    /// How long a request at `now` has to wait.
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
    async fn a_burst_is_sent_immediately_and_a_flood_is_slowed_down() {
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
