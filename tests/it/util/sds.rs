//! A client of the SDS socket, which a test drives step by step.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use sds_agent::proto::core::data_source::Specifier;
use sds_agent::proto::core::{DataSource, Node};
use sds_agent::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use sds_agent::proto::rpc::Status as Rejection;
use sds_agent::proto::secret::secret_discovery_service_client::SecretDiscoveryServiceClient;
use sds_agent::proto::tls::{Secret, secret::Type};
use sds_agent::proto::{SECRET_TYPE_URL, tls};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::wait::{BOUND, QUIET, eventually};

/// One thread drives the connections of all tests.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
});

/// Waits for the result of a client on some [`Channel`]; fails the test after [`BOUND`].
#[track_caller]
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let bounded = async { tokio::time::timeout(BOUND, future).await };
    RUNTIME.block_on(bounded).expect("no answer in time")
}

/// A client with one connection and any number of streams.
#[derive(Clone)]
pub(crate) struct Sds {
    client: SecretDiscoveryServiceClient<Channel>,
    channel: Channel,
    node: String,
}

impl Sds {
    /// Connects, and waits until that succeeds.
    #[track_caller]
    pub(crate) fn connect(socket: &Path) -> Self {
        eventually("a connection to the agent", || Self::try_connect(socket))
    }

    fn try_connect(socket: &Path) -> Option<Self> {
        let socket: PathBuf = socket.to_owned();
        Self::over(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
    }

    /// A client on an existing connection; `None` if the other side has closed it.
    pub(crate) fn on(connection: std::os::unix::net::UnixStream) -> Option<Self> {
        connection.set_nonblocking(true).unwrap();
        let mut connection = Some(connection);
        Self::over(tower::service_fn(move |_| {
            let connection = connection.take().ok_or(std::io::ErrorKind::NotConnected);
            async move { UnixStream::from_std(connection?).map(TokioIo::new) }
        }))
    }

    fn over<C, F>(connector: C) -> Option<Self>
    where
        C: tower::Service<
                http::Uri,
                Response = TokioIo<UnixStream>,
                Error = std::io::Error,
                Future = F,
            > + Send
            + 'static,
        F: Future<Output = std::io::Result<TokioIo<UnixStream>>> + Send,
    {
        // The address is only for the :authority header.
        let endpoint = Endpoint::from_static("http://localhost")
            // Small, so that the server soon notices a client that does not read.
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(1 << 20);
        let channel = RUNTIME
            .block_on(endpoint.connect_with_connector(connector))
            .ok()?;
        let client = SecretDiscoveryServiceClient::new(channel.clone());
        Some(Self {
            channel,
            client: client.max_decoding_message_size(64 << 20),
            node: "test-node".into(),
        })
    }

    /// Its connection, for clients of other services.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Sets the node id of later streams.
    pub(crate) fn node(mut self, id: &str) -> Self {
        self.node = id.into();
        self
    }

    /// Opens a state-of-the-world stream.
    pub(crate) fn sotw(&self) -> Sotw {
        let mut client = self.client.clone();
        let (requests, outgoing) = mpsc::channel(16);
        let (incoming, responses) = mpsc::channel(1);
        RUNTIME.spawn(async move {
            pump(
                client.stream_secrets(ReceiverStream::new(outgoing)).await,
                incoming,
            )
            .await;
        });
        Sotw {
            stream: Stream {
                requests,
                responses,
                node: Some(self.node.clone()),
            },
            names: Vec::new(),
            version: String::new(),
            nonce: String::new(),
        }
    }

    /// Opens a delta stream.
    pub(crate) fn delta(&self) -> Delta {
        let mut client = self.client.clone();
        let (requests, outgoing) = mpsc::channel(16);
        let (incoming, responses) = mpsc::channel(1);
        RUNTIME.spawn(async move {
            pump(
                client.delta_secrets(ReceiverStream::new(outgoing)).await,
                incoming,
            )
            .await;
        });
        Delta(Stream {
            requests,
            responses,
            node: Some(self.node.clone()),
        })
    }

    /// Opens a stream with a message that is not a request, and returns the stream's end.
    pub(crate) fn garbage_message(&self) -> Code {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        // Its second field has arbitrary bytes where a request has the node's message.
        let message = prost_types::Any {
            type_url: String::new(),
            value: vec![0xff; 64],
        };
        let path = http::uri::PathAndQuery::from_static(
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        );
        let codec = tonic_prost::ProstCodec::<prost_types::Any, DiscoveryResponse>::default();
        let requests = tonic::Request::new(tokio_stream::once(message));
        let end = async {
            client.ready().await.expect("a connection");
            let mut responses = client.streaming(requests, path, codec).await?.into_inner();
            responses.message().await
        };
        let end = RUNTIME.block_on(async { tokio::time::timeout(BOUND, end).await });
        match end.expect("the stream was to end") {
            Err(status) => status.code(),
            Ok(response) => panic!("garbage was answered: {response:?}"),
        }
    }

    /// `FetchSecrets`.
    pub(crate) fn fetch(&self, request: DiscoveryRequest) -> Result<DiscoveryResponse, Status> {
        let mut client = self.client.clone();
        let answer = async { tokio::time::timeout(BOUND, client.fetch_secrets(request)).await };
        let answer = RUNTIME.block_on(answer).expect("no answer to FetchSecrets");
        Ok(answer?.into_inner())
    }
}

/// Passes on the responses. At most one waits here, so that a test that does not receive is a client that does not
/// read.
async fn pump<T>(
    response: Result<tonic::Response<tonic::Streaming<T>>, Status>,
    incoming: mpsc::Sender<Result<T, Status>>,
) {
    let mut stream = match response {
        Ok(response) => response.into_inner(),
        Err(status) => {
            let _ = incoming.send(Err(status)).await;
            return;
        }
    };
    loop {
        let next = tokio::select! {
            next = stream.message() => next,
            () = incoming.closed() => return,
        };
        let end = Status::ok("the stream has ended");
        let next = next.and_then(|message| message.ok_or(end));
        let last = next.is_err();
        if incoming.send(next).await.is_err() || last {
            return;
        }
    }
}

/// A stream of either kind.
pub(crate) struct Stream<Q, R> {
    requests: mpsc::Sender<Q>,
    responses: mpsc::Receiver<Result<R, Status>>,
    /// Sent with the first request, then gone.
    node: Option<String>,
}

impl<Q, R: std::fmt::Debug> Stream<Q, R> {
    /// Sends a request unchanged. If the stream has ended, the next call that waits for a response reports why.
    pub(crate) fn send(&self, request: Q) {
        self.try_send(request);
    }

    /// Sends a request if the stream is still open. Returns whether it was.
    pub(crate) fn try_send(&self, request: Q) -> bool {
        RUNTIME.block_on(self.requests.send(request)).is_ok()
    }

    /// Waits for the next response or the end of the stream.
    #[track_caller]
    pub(crate) fn recv_or_end(&mut self) -> Result<R, Code> {
        match self.next(BOUND) {
            Some(next) => next.map_err(|status| status.code()),
            None => panic!("neither a response nor an end within {BOUND:?}"),
        }
    }

    /// Waits for the next response.
    #[track_caller]
    pub(crate) fn recv(&mut self) -> R {
        match self.next(BOUND) {
            Some(Ok(response)) => response,
            Some(Err(status)) => panic!("expected a response, but the stream ended: {status:?}"),
            None => panic!("no response within {BOUND:?}"),
        }
    }

    /// The next response, if there is one within `bound`.
    #[track_caller]
    pub(crate) fn recv_within(&mut self, bound: Duration) -> Option<R> {
        let next = self.next(bound)?;
        Some(next.unwrap_or_else(|status| panic!("the stream has ended: {status:?}")))
    }

    /// Waits for the end of the stream: `Ok` if it ended without an error.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Code {
        match self.next(BOUND) {
            Some(Err(status)) => status.code(),
            other => panic!("the stream was to end within {BOUND:?}, and there was {other:?}"),
        }
    }

    /// Asserts that for a while neither a response is received nor the stream ends.
    #[track_caller]
    pub(crate) fn assert_silent(&mut self) {
        let next = self.next(QUIET);
        assert!(next.is_none(), "unexpected: {next:#?}");
    }

    /// A response or the end of the stream, if there is one within `bound`.
    pub(crate) fn next(&mut self, bound: Duration) -> Option<Result<R, Status>> {
        let next = async { tokio::time::timeout(bound, self.responses.recv()).await };
        match RUNTIME.block_on(next) {
            Ok(Some(next)) => Some(next),
            Ok(None) => Some(Err(Status::ok("the stream had ended before"))),
            Err(_) => None,
        }
    }

    fn node(&mut self) -> Option<Node> {
        self.node.take().map(|id| Node {
            id,
            ..Node::default()
        })
    }
}

/// A state-of-the-world stream.
pub(crate) struct Sotw {
    pub(crate) stream: Stream<DiscoveryRequest, DiscoveryResponse>,
    /// What it is subscribed to.
    names: Vec<String>,
    /// The last version that was accepted.
    version: String,
    /// The last response's.
    nonce: String,
}

impl Sotw {
    /// Subscribes to exactly `names`, in the first request or in a later one.
    pub(crate) fn subscribe(&mut self, names: &[&str]) {
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
        self.send_request(None);
    }

    /// Subscribes like a reconnecting stream, with the version that it has and no nonce.
    pub(crate) fn resume(&mut self, names: &[&str], version: &str) {
        self.version = version.into();
        self.subscribe(names);
    }

    /// Waits for the next response, and does not answer it.
    #[track_caller]
    pub(crate) fn recv(&mut self) -> DiscoveryResponse {
        let response = self.stream.recv();
        assert_eq!(response.type_url, SECRET_TYPE_URL);
        assert!(
            !response.resources.is_empty(),
            "a response with no resource"
        );
        assert!(!response.nonce.is_empty(), "a response without a nonce");
        response
    }

    /// Accepts `response`.
    pub(crate) fn ack(&mut self, response: &DiscoveryResponse) {
        self.version.clone_from(&response.version_info);
        self.nonce.clone_from(&response.nonce);
        let request = self.next_request(None);
        self.stream.send(request);
    }

    /// Rejects `response` with a message of Envoy.
    pub(crate) fn nack(&mut self, response: &DiscoveryResponse, words: &str) {
        self.nonce.clone_from(&response.nonce);
        self.send_request(Some(rejection(words)));
    }

    fn send_request(&mut self, error_detail: Option<Rejection>) {
        let request = self.next_request(error_detail);
        self.stream.send(request);
    }

    fn next_request(&mut self, error_detail: Option<Rejection>) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.version.clone(),
            node: self.stream.node(),
            resource_names: self.names.clone(),
            type_url: SECRET_TYPE_URL.into(),
            response_nonce: self.nonce.clone(),
            error_detail,
        }
    }

    /// The secrets of the next response, which is accepted.
    #[track_caller]
    pub(crate) fn secrets(&mut self) -> Vec<Served> {
        let response = self.recv();
        self.ack(&response);
        secrets_of(&response)
    }

    /// The one secret of the next response, which is accepted.
    #[track_caller]
    pub(crate) fn secret(&mut self) -> Served {
        one(self.secrets())
    }
}

/// A delta stream.
pub(crate) struct Delta(pub(crate) Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>);

impl Delta {
    pub(crate) fn subscribe(&mut self, names: &[&str]) {
        let mut request = self.request();
        request.resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        self.0.send(request);
    }

    pub(crate) fn unsubscribe(&mut self, names: &[&str]) {
        let mut request = self.request();
        request.resource_names_unsubscribe = names.iter().map(|name| (*name).to_owned()).collect();
        self.0.send(request);
    }

    /// Accepts `response`.
    pub(crate) fn ack(&mut self, response: &DeltaDiscoveryResponse) {
        let mut request = self.request();
        request.response_nonce = response.nonce.clone();
        self.0.send(request);
    }

    /// Rejects `response` with a message of Envoy.
    pub(crate) fn nack(&mut self, response: &DeltaDiscoveryResponse, words: &str) {
        let mut request = self.request();
        request.response_nonce = response.nonce.clone();
        request.error_detail = Some(rejection(words));
        self.0.send(request);
    }

    /// Subscribes like a reconnecting stream, with the names and versions that it has.
    pub(crate) fn resume(&mut self, versions: &[(&str, &str)]) {
        let mut request = self.request();
        for (name, version) in versions {
            request.resource_names_subscribe.push((*name).to_owned());
            let versions = &mut request.initial_resource_versions;
            versions.insert((*name).to_owned(), (*version).to_owned());
        }
        self.0.send(request);
    }

    /// Waits for the next response, and does not answer it.
    #[track_caller]
    pub(crate) fn recv(&mut self) -> DeltaDiscoveryResponse {
        let response = self.0.recv();
        assert_eq!(response.type_url, SECRET_TYPE_URL);
        assert!(!response.nonce.is_empty(), "a response without a nonce");
        response
    }

    /// An empty request, with the node if it is the first one.
    pub(crate) fn request(&mut self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: self.0.node(),
            type_url: SECRET_TYPE_URL.into(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// The next response, which is accepted.
    #[track_caller]
    pub(crate) fn changes(&mut self) -> Changes {
        let response = self.recv();
        self.accept(&response)
    }

    /// The content of the next response, which is accepted.
    pub(crate) fn accept(&mut self, response: &DeltaDiscoveryResponse) -> Changes {
        self.ack(response);
        Changes {
            secrets: response.resources.iter().map(served_by_delta).collect(),
            removed: response.removed_resources.clone(),
        }
    }

    /// The names that the next response reports as nonexistent. It has nothing else, and is accepted.
    #[track_caller]
    pub(crate) fn removed(&mut self) -> Vec<String> {
        let changes = self.changes();
        assert!(
            changes.secrets.is_empty(),
            "unexpected secrets: {changes:?}"
        );
        changes.removed
    }

    /// The one secret of the next response, which is accepted.
    #[track_caller]
    pub(crate) fn secret(&mut self) -> Served {
        let changes = self.changes();
        assert_eq!(changes.removed, Vec::<String>::new());
        one(changes.secrets)
    }
}

/// The content of a delta response.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) secrets: Vec<Served>,
    pub(crate) removed: Vec<String>,
}

/// A secret as it was served.
#[derive(Clone, PartialEq)]
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) content: Content,
}

/// The content of a secret.
#[derive(Clone, PartialEq)]
pub(crate) enum Content {
    Pair { chain: Vec<u8>, key: Vec<u8> },
    Trust { ca: Vec<u8>, crl: Vec<u8> },
    Other(Box<Secret>),
}

impl Served {
    /// Whether it is this pair, byte for byte.
    pub(crate) fn is_pair(&self, chain: &str, key: &str) -> bool {
        self.content
            == Content::Pair {
                chain: chain.into(),
                key: key.into(),
            }
    }

    /// Its session ticket keys, if it has any.
    pub(crate) fn ticket_keys(&self) -> Vec<DataSource> {
        match &self.content {
            Content::Other(secret) => match &secret.r#type {
                Some(Type::SessionTicketKeys(keys)) => keys.keys.clone(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// Whether it is this bundle, byte for byte, with no revocation list.
    pub(crate) fn is_trust(&self, ca: &str) -> bool {
        self.content
            == Content::Trust {
                ca: ca.into(),
                crl: Vec::new(),
            }
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let content = match &self.content {
            Content::Pair { chain, .. } => format!("pair {}", String::from_utf8_lossy(chain)),
            Content::Trust { ca, .. } => format!("trust {}", String::from_utf8_lossy(ca)),
            Content::Other(secret) => format!("{secret:?}"),
        };
        write!(f, "{} at {}: {content}", self.name, self.version)
    }
}

/// The secrets of a state-of-the-world response.
pub(crate) fn secrets_of(response: &DiscoveryResponse) -> Vec<Served> {
    let decode = |any: &prost_types::Any| served(any, &response.version_info);
    response.resources.iter().map(decode).collect()
}

fn served_by_delta(resource: &sds_agent::proto::discovery::Resource) -> Served {
    let any = resource
        .resource
        .as_ref()
        .expect("a resource without content");
    let served = served(any, &resource.version);
    assert_eq!(
        served.name, resource.name,
        "Envoy rejects a resource under another name"
    );
    served
}

fn served(any: &prost_types::Any, version: &str) -> Served {
    assert_eq!(any.type_url, SECRET_TYPE_URL);
    let secret = Secret::decode(any.value.as_slice()).unwrap();
    Served {
        name: secret.name.clone(),
        version: version.to_owned(),
        content: match secret.r#type {
            Some(Type::TlsCertificate(pair)) => pair_of(pair),
            Some(Type::ValidationContext(trust)) => trust_of(trust),
            _ => Content::Other(Box::new(secret)),
        },
    }
}

fn pair_of(pair: tls::TlsCertificate) -> Content {
    Content::Pair {
        chain: bytes(pair.certificate_chain),
        key: bytes(pair.private_key),
    }
}

fn trust_of(trust: tls::CertificateValidationContext) -> Content {
    Content::Trust {
        ca: bytes(trust.trusted_ca),
        crl: bytes(trust.crl),
    }
}

/// The content of a source, which must be inline: Envoy may not be able to read the agent's files.
fn bytes(source: Option<DataSource>) -> Vec<u8> {
    match source {
        None => Vec::new(),
        Some(DataSource {
            specifier: Some(Specifier::InlineBytes(bytes)),
            ..
        }) => bytes.to_vec(),
        Some(other) => panic!("not inline bytes: {other:?}"),
    }
}

fn rejection(words: &str) -> Rejection {
    Rejection {
        code: Code::Internal as i32,
        message: words.into(),
    }
}

#[track_caller]
fn one(mut secrets: Vec<Served>) -> Served {
    assert_eq!(secrets.len(), 1, "expected one secret: {secrets:?}");
    secrets.remove(0)
}
