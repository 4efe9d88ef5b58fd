//! `envoy.service.secret.v3.SecretDiscoveryService` over HTTP/2: which request is which call.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::info;

use super::access::Access;
use super::audit::{Audit, Refused};
use super::conversation::Conversation;
use super::delta::Delta;
use super::grpc::{Messages, Segments};
use super::introspection::Introspection;
use super::ledger::{Account, Entry, Ledger, Protocol};
use super::message;
use super::session::{Session, check_count, check_type_url};
use super::sotw::{Sotw, version_info};
use super::throttle::Throttle;
use crate::config::Limits;
use crate::metrics::{Limit, Metrics, Refusal};
use crate::peer::Peer;
use crate::proto::discovery::DiscoveryRequest;
use crate::secret::{Kind, Secret};
use crate::store::Store;

/// The body of an answer.
pub type Reply = UnsyncBoxBody<Segments, Status>;

const SERVICE: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";

/// The Secret Discovery Service. Cheap to clone.
#[derive(Clone)]
pub struct Sds {
    shared: Arc<Shared>,
}

/// What all streams share.
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) access: Arc<Access>,
    pub(crate) audit: Audit,
    pub(crate) limits: Limits,
    pub(crate) stopping: CancellationToken,
    pub(crate) unknown_names: Throttle,
    /// Made when it is asked for the first time.
    introspection: OnceCell<Introspection>,
}

impl Sds {
    /// Serves the secrets of `store` to those who may have them by `access`, and keeps account in
    /// `ledger`. When `stopping` is cancelled all streams end.
    pub fn new(
        store: Arc<Store>,
        ledger: Arc<Ledger>,
        access: Arc<Access>,
        limits: Limits,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                ledger,
                access,
                audit: Audit::default(),
                limits,
                stopping,
                unknown_names: Throttle::default(),
                introspection: OnceCell::new(),
            }),
        }
    }

    /// Answers one request of `peer`.
    pub async fn call<B>(&self, peer: Arc<Peer>, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let max_names = self.shared.limits.names_per_stream;
        match head.uri.path().strip_prefix(SERVICE) {
            Some("StreamSecrets") => {
                self.stream(Sotw::new(max_names), self.open(Protocol::Sotw, peer), body)
            }
            Some("DeltaSecrets") => self.stream(
                Delta::new(max_names),
                self.open(Protocol::Delta, peer),
                body,
            ),
            Some("FetchSecrets") => self
                .fetch(&self.open(Protocol::Fetch, peer), body)
                .await
                .map_or_else(refused, answered),
            _ => {
                let stopping = self.shared.stopping.clone();
                let introspection = self
                    .shared
                    .introspection
                    .get_or_init(|| Introspection::new(stopping));
                introspection
                    .await
                    .call(Request::from_parts(head, body))
                    .await
            }
        }
    }

    /// Whether `peer` may connect. A refusal is logged.
    pub fn admits(&self, peer: &Peer) -> bool {
        let admitted = self.shared.access.admits(peer);
        if !admitted {
            self.metrics().refused(Refusal::Connection);
            self.shared.audit.refused(peer, "", Refused::Connection);
        }
        admitted
    }

    /// Where everything is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.shared.ledger.metrics()
    }

    fn open(&self, protocol: Protocol, peer: Arc<Peer>) -> Entry {
        self.shared.ledger.open(protocol, peer)
    }

    fn stream<S, B>(&self, session: S, entry: Entry, body: B) -> Response<Reply>
    where
        S: Session + Send + Unpin + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let conversation = Conversation::new(session, body, self.shared.clone(), entry);
        answer(conversation.boxed_unsync())
    }

    async fn fetch<B>(&self, entry: &Entry, body: B) -> Result<Segments, Status>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let mut requests = Messages::new(body, self.shared.limits.request_bytes);
        let request: DiscoveryRequest = poll_fn(|cx| requests.poll_next(cx))
            .await
            .ok_or_else(|| Status::invalid_argument("there is no request"))?
            .inspect_err(|status| self.shared.count_limit(status, Limit::RequestBytes))?;
        check_type_url(&request.type_url)?;
        let names = request.resource_names.len();
        check_count(names, self.shared.limits.names_per_stream)
            .inspect_err(|status| self.shared.count_limit(status, Limit::NamesPerStream))?;
        if let Some(node) = request.node {
            entry.introduce(node);
        }
        let mut names = request.resource_names;
        names.sort_unstable();
        names.dedup();
        names.retain(|name| self.shared.allows_or_logs(entry, name));
        let secrets: Vec<_> = names
            .iter()
            .filter_map(|name| self.shared.secret(entry, name))
            .collect();
        if secrets.is_empty() {
            return Err(Status::not_found("there is no secret of that name"));
        }
        for secret in &secrets {
            entry.sent(secret);
            self.shared.log_delivery(entry, secret);
        }
        Ok(message::sotw(&version_info(&secrets), "", &secrets))
    }
}

impl Shared {
    /// The current secret of that name, if the stream's client may have it.
    pub(crate) fn secret(&self, entry: &Account, name: &str) -> Option<Arc<Secret>> {
        if !self.allows(entry, name) {
            return None;
        }
        self.store.get(name)
    }

    /// Whether the stream's client may have the secret of that name.
    pub(crate) fn allows(&self, entry: &Account, name: &str) -> bool {
        self.access.allows(entry.peer(), entry.node_id(), name)
    }

    /// As [`allows`](Self::allows), for a name that is asked for: a refusal is logged.
    pub(crate) fn allows_or_logs(&self, entry: &Account, name: &str) -> bool {
        let allowed = self.allows(entry, name);
        if !allowed {
            self.ledger.metrics().refused(Refusal::Name);
            self.audit
                .refused(entry.peer(), entry.node_id(), Refused::Name(name));
        }
        allowed
    }

    /// Counts that a limit was reached, if that is what the status says.
    pub(crate) fn count_limit(&self, status: &Status, limit: Limit) {
        if status.code() == tonic::Code::ResourceExhausted {
            self.ledger.metrics().limit_reached(limit);
        }
    }

    /// Logs that a secret goes to a stream's client. One line, for the audit where there is a key.
    pub(crate) fn log_delivery(&self, entry: &Account, secret: &Secret) {
        let (name, version) = (secret.name(), secret.version());
        match secret.kind() {
            Kind::Certificate => {
                self.audit
                    .key_delivered(entry.peer(), entry.node_id(), name, version);
            }
            Kind::TrustBundle => info!(
                secret = &**name,
                version = &**version,
                node = entry.node_id(),
                peer = %entry.peer(),
                "delivered"
            ),
        }
    }
}

fn answered(message: Segments) -> Response<Reply> {
    let trailers = std::future::ready(Some(Ok(http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]))));
    let body = Full::new(message).with_trailers(trailers);
    answer(
        body.map_err(|never: Infallible| match never {})
            .boxed_unsync(),
    )
}

pub(super) fn refused(status: Status) -> Response<Reply> {
    status.into_http()
}

fn answer(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/grpc"),
    );
    response
}
