//! `envoy.service.secret.v3.SecretDiscoveryService` over HTTP/2: dispatches requests to calls.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::audit::{Audit, Refused};
use super::budget::Budget;
use super::conversation::Conversation;
use super::delta::Delta;
use super::grpc::{Messages, Reply, Segments, refused};
use super::hub::Hub;
use super::introspection::Introspection;
use super::ledger::{Entry, Ledger, Protocol};
use super::message;
use super::session::{Named, Session, View, check_count, check_type_url};
use super::shared::{Seen, Shared};
use super::sotw::{Sotw, version_info};
use crate::config::Limits;
use crate::metrics::{Limit, Metrics, Refusal};
use crate::peer::Peer;
use crate::proto::discovery::DiscoveryRequest;

const SERVICE: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";
/// The header in a response of `FetchSecrets` with the credential of its secret: the secret of a host carries
/// the name of the host.
pub const CREDENTIAL_HEADER: &str = "sds-agent-credential-bin";

/// The Secret Discovery Service. Cheap to clone.
#[derive(Clone)]
pub struct Sds {
    shared: Arc<Shared>,
    /// Created on first use.
    introspection: Arc<OnceCell<Introspection>>,
}

impl Sds {
    /// Serves what `hub` publishes, and records it in `ledger`. All streams end when `stopping` is cancelled.
    pub fn new(
        hub: Arc<Hub>,
        ledger: Arc<Ledger>,
        limits: Limits,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                hub,
                ledger,
                audit: Audit::default(),
                limits,
                stopping,
                client_bytes: Budget::new(limits.client_bytes),
                streams: Budget::new(limits.streams),
            }),
            introspection: Arc::default(),
        }
    }

    /// Answers one request of `peer`.
    pub async fn call<B>(&self, peer: Arc<Peer>, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some(place) = self.shared.streams.grant(self.shared.holder(&peer), 1) else {
            return self.no_place(&peer);
        };
        let hold = move |frame| {
            let _ = &place;
            frame
        };
        let response = self.answer(peer, request).await;
        response.map(|body| body.map_frame(hold).boxed_unsync())
    }

    /// The response to a request when there are too many streams.
    fn no_place(&self, peer: &Peer) -> Response<Reply> {
        self.metrics().limit_reached(Limit::Streams);
        let message = "stream refused: too many streams in total, or by this user";
        let audit = &self.shared.audit;
        audit.limited(peer.uid, peer.pid, Limit::Streams, message);
        refused(Status::resource_exhausted(message))
    }

    async fn answer<B>(&self, peer: Arc<Peer>, request: Request<B>) -> Response<Reply>
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
                .unwrap_or_else(refused),
            _ => {
                let stopping = self.shared.stopping.clone();
                let introspection = self
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
        let admitted = self.shared.hub.current().rules.admits(peer);
        if !admitted {
            self.metrics().refused(Refusal::Connection);
            self.shared.audit.refused(peer, Refused::Connection);
        }
        admitted
    }

    /// Whether this user may use the reserve for users that the configuration names.
    pub(crate) fn has_reserve(&self, peer: &Peer) -> bool {
        self.shared.hub.current().rules.has_reserve(peer)
    }

    /// The log of the actions of clients.
    pub fn audit(&self) -> &Audit {
        &self.shared.audit
    }

    /// The metrics.
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

    async fn fetch<B>(&self, entry: &Entry, body: B) -> Result<Response<Reply>, Status>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let mut requests = Messages::new(body, self.shared.bounds(entry));
        let request: DiscoveryRequest = poll_fn(|cx| requests.poll_next(cx))
            .await
            .ok_or_else(|| Status::invalid_argument("there is no request"))?
            .map_err(|broken| self.shared.broken(broken))?;
        check_type_url(&request.type_url)?;
        let names = request.resource_names.len();
        check_count(names, self.shared.limits.names_per_stream)
            .inspect_err(|status| self.shared.count_limit(status, Limit::NamesPerStream))?;
        if let Some(node) = request.node {
            entry.introduce(node);
        }
        let names = request.resource_names;
        let view = Seen::new(&self.shared, entry);
        let secrets: Vec<_> = names
            .iter()
            .inspect(|name| self.shared.log_refusal(&view, name))
            .filter_map(|name| {
                let found = view.lookup(name).found()?;
                let name = name.as_str().into();
                Some(Named { name, found })
            })
            .collect();
        if secrets.is_empty() {
            return Err(Status::not_found("there is no secret of that name"));
        }
        for secret in &secrets {
            entry.sent(secret);
            self.shared.log_delivery(entry, secret);
        }
        let mut response = answered(message::sotw(&version_info(&secrets), "", &secrets));
        if let [one] = &secrets[..] {
            let credential = MetadataValue::from_bytes(one.found.credential.as_bytes());
            let mut metadata = MetadataMap::new();
            metadata.insert_bin(CREDENTIAL_HEADER, credential);
            response.headers_mut().extend(metadata.into_headers());
        }
        Ok(response)
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

fn answer(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/grpc"),
    );
    response
}
