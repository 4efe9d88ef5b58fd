//! A real Envoy that accepts or rejects secrets: a server in the test sends it any secret.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost::Message;
use sds_agent::proto::SECRET_TYPE_URL;
use sds_agent::proto::core::{DataSource, data_source::Specifier};
use sds_agent::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use sds_agent::proto::secret::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use sds_agent::proto::tls::{
    CertificateValidationContext, Secret, TlsCertificate, secret::Type as Kind,
};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::envoy::bootstrap;
use super::sds::{RUNTIME, block_on};
use super::{Ca, Envoy, Host, Protocol, eventually};

/// Whether Envoy accepts a secret: `Err` with its message if it rejects it.
pub(crate) type Verdict = Result<(), String>;

/// How many secrets of each kind are sent at a time.
pub(crate) const LANES: usize = 24;

/// A running Envoy with a filter chain for each lane: one half of them use a pair, the other half a trust bundle.
pub(crate) struct Judge {
    pub(crate) envoy: Envoy,
    desk: Desk,
    version: u64,
    _folder: TempDir,
}

impl Judge {
    pub(crate) fn start(program: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("judge").tempdir().unwrap();
        let socket = folder.path().join("sds.sock");
        let desk = Desk::default();
        serve(&socket, desk.clone());
        let hosts = (0..LANES).flat_map(|lane| {
            let (pair, bundle) = (pair_name(lane), bundle_name(lane));
            [
                Host::new(&pair, &pair),
                Host::new(&bundle, "anchor").client_ca(&bundle),
            ]
        });
        let hosts: Vec<Host> = hosts.collect();
        let mut bootstrap = bootstrap(&socket);
        let cluster = &mut bootstrap["static_resources"]["clusters"][0];
        // No keepalive: on a machine that is busy with other tests, the connection would be closed, and with it
        // the streams.
        let options = &mut cluster["typed_extension_protocol_options"];
        let http = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        options[http]["explicit_http_config"]["http2_protocol_options"] = serde_json::json!({});
        let envoy = Envoy::start_with(program, &bootstrap, Protocol::Delta, &hosts);
        let mut judge = Self {
            envoy,
            desk,
            version: 0,
            _folder: folder,
        };
        let anchor = Ca::new("anchor").server(&["anchor.test"]);
        let anchor = pair(anchor.chain.as_bytes(), anchor.key.as_bytes());
        assert_eq!(judge.verdicts(vec![("anchor".into(), anchor)]), [Ok(())]);
        judge
    }

    /// The verdicts on secrets of these kinds, in that order.
    pub(crate) fn judge(&mut self, kinds: Vec<Kind>) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let mut kinds = kinds.into_iter().peekable();
        while kinds.peek().is_some() {
            let batch = kinds.by_ref().take(LANES).enumerate().map(|(lane, kind)| {
                let name = match kind {
                    Kind::ValidationContext(_) => bundle_name(lane),
                    _ => pair_name(lane),
                };
                (name, kind)
            });
            let batch = batch.collect();
            verdicts.extend(self.verdicts(batch));
        }
        verdicts
    }

    fn verdicts(&mut self, batch: Vec<(String, Kind)>) -> Vec<Verdict> {
        let mut waiting = Vec::new();
        for (name, kind) in batch {
            self.version += 1;
            let line = eventually("a subscription", || self.desk.take(&name));
            // Envoy accepts what it has just rejected if it is sent the same again.
            let known = line.last.clone().filter(|(last, _)| *last == kind);
            if known.is_none() {
                let response = response(&name, kind.clone(), self.version);
                if block_on(line.responses.send(Ok(response))).is_err() {
                    self.lost(&name);
                }
            }
            waiting.push((name, kind, line, known));
        }
        waiting
            .into_iter()
            .map(|(name, kind, mut line, known)| {
                let verdict = match known {
                    Some((_, verdict)) => verdict,
                    None => {
                        let verdict = block_on(line.verdicts.recv());
                        verdict.unwrap_or_else(|| self.lost(&name))
                    }
                };
                line.last = Some((kind, verdict.clone()));
                self.desk.put(name, line);
                verdict
            })
            .collect()
    }

    /// Envoy has closed the stream of that name while a secret was being tested on it.
    fn lost(&mut self, name: &str) -> ! {
        let state = match self.envoy.is_running() {
            true => "is running",
            false => "has ended",
        };
        let log = self.envoy.lines();
        let last = &log[log.len().saturating_sub(40)..];
        panic!("the stream of {name} is closed, and Envoy {state}: {last:#?}")
    }
}

fn pair_name(lane: usize) -> String {
    format!("pair-{lane}")
}

fn bundle_name(lane: usize) -> String {
    format!("bundle-{lane}")
}

/// A certificate pair with arbitrary bytes.
pub(crate) fn pair(chain: &[u8], key: &[u8]) -> Kind {
    pair_with_staple(chain, key, None)
}

/// A certificate pair with arbitrary bytes, with an OCSP staple.
pub(crate) fn pair_with_staple(chain: &[u8], key: &[u8], staple: Option<&[u8]>) -> Kind {
    Kind::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(key)),
        ocsp_staple: staple.map(inline),
        ..TlsCertificate::default()
    })
}

/// A trust bundle with arbitrary bytes.
pub(crate) fn bundle(trusted_ca: &[u8], crl: Option<&[u8]>) -> Kind {
    Kind::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(trusted_ca)),
        crl: crl.map(inline),
    })
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
    }
}

fn response(name: &str, kind: Kind, version: u64) -> DeltaDiscoveryResponse {
    let secret = Secret {
        name: name.into(),
        r#type: Some(kind),
    };
    let resource = Resource {
        name: name.into(),
        version: version.to_string(),
        resource: Some(prost_types::Any {
            type_url: SECRET_TYPE_URL.into(),
            value: secret.encode_to_vec(),
        }),
    };
    DeltaDiscoveryResponse {
        type_url: SECRET_TYPE_URL.into(),
        nonce: version.to_string(),
        resources: vec![resource],
        ..DeltaDiscoveryResponse::default()
    }
}

/// A stream of Envoy, for one secret.
struct Line {
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    verdicts: mpsc::Receiver<Verdict>,
    /// What was sent last, and the verdict on it.
    last: Option<(Kind, Verdict)>,
}

/// The streams that are open, by the names of their secrets.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<HashMap<String, Line>>>);

impl Desk {
    fn put(&self, name: String, line: Line) {
        self.0.lock().unwrap().insert(name, line);
    }

    fn take(&self, name: &str) -> Option<Line> {
        self.0.lock().unwrap().remove(name)
    }
}

fn serve(socket: &Path, desk: Desk) {
    let _guard = RUNTIME.enter();
    let listener = UnixListener::bind(socket).unwrap();
    let service = SecretDiscoveryServiceServer::new(desk).max_decoding_message_size(16 << 20);
    let service = TowerToHyperService::new(service);
    RUNTIME.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(16 << 20);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service.clone()));
        }
    });
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Desk {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let desk = self.clone();
        let mut requests = request.into_inner();
        let (responses, outgoing) = mpsc::channel(4);
        tokio::spawn(async move {
            let (given, verdicts) = mpsc::channel(4);
            let mut line = Some(Line {
                responses,
                verdicts,
                last: None,
            });
            while let Some(Ok(request)) = requests.next().await {
                for name in &request.resource_names_subscribe {
                    if let Some(line) = line.take() {
                        desk.put(name.clone(), line);
                    }
                }
                if !request.response_nonce.is_empty() {
                    let verdict = request.error_detail.map_or(Ok(()), |why| Err(why.message));
                    if given.send(verdict).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn stream_secrets(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Err(Status::unimplemented("delta alone"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("delta alone"))
    }
}
