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
/// Bytes of that answer.
const MAX_NAMESPACE: usize = 1024 * 1024;

/// The API server is another cluster's. Its text says how that is known.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the folders are of another cluster: {0}")]
pub(crate) struct AnotherCluster(String);

/// Makes clients whose requests are all sent this way.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Inner>);

struct Inner {
    access: Access,
    plugins: Plugins,
    /// The clusters that the API server's must be the same as. The last one that was reached is
    /// among them.
    expected: StdMutex<Vec<Cluster>>,
    /// The cluster as it was when it was reached last.
    reached: StdMutex<Option<Cluster>>,
    /// `None` once it has failed: the next request reads everything again.
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
    /// A way to the cluster that `access` leads to, which must be the same as all of `expected`.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// What keeps `access` from being read.
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

    /// The API server's URL, for people.
    pub(crate) async fn server(&self) -> String {
        let route = self.0.route.lock().await;
        route
            .as_ref()
            .map_or_else(String::new, |route| route.cluster.to_string())
    }

    /// The cluster that was reached last.
    pub(crate) fn cluster(&self) -> Option<Cluster> {
        lock(&self.0.reached).clone()
    }

    /// The files that decide how the cluster is reached.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        lock(&self.0.files).clone()
    }

    /// Reads everything again before the next request.
    pub(crate) async fn renew(&self) {
        *self.0.route.lock().await = None;
    }

    /// Makes sure, with a request, that the API server is still the same cluster's.
    ///
    /// # Errors
    /// It is another one's, or can't be asked.
    pub(crate) async fn verify(&self) -> Result<(), String> {
        let verified = async {
            let route = self.0.route().await?;
            self.0.verify(&route).await
        };
        verified.await.map_err(|error: BoxError| error.to_string())
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
    /// Sends a request; before each list and each watch it is made sure which cluster this is.
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

    /// Makes sure that the API server's cluster is the expected one.
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
        // An account that lost the right to know the uid does not make it unknown.
        if cluster.uid.is_none() {
            cluster.uid = expected.iter().find_map(|one| one.uid.clone());
        }
        *expected = vec![cluster.clone()];
        *lock(&self.reached) = Some(cluster);
        Ok(())
    }

    /// The cluster's uid; `None` where the account may not know it.
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
            StatusCode::TOO_MANY_REQUESTS => return Err("it has too much to do (429)".into()),
            status if status.is_server_error() => {
                return Err(format!("it answers {status}").into());
            }
            // The request that follows says why.
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

/// A legacy auth-provider runs a program here, which blocks.
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
