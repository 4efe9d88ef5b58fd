//! `grpc.health.v1` and server reflection, for health checks and for tools such as grpcurl. Neither reveals
//! anything about secrets.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::grpc::{Reply, Segments, refused};
use crate::proto::DESCRIPTORS;
use crate::proto::secret::secret_discovery_service_server::SERVICE_NAME;

/// Bytes of all requests on one stream: names of services and symbols.
const REQUESTS: usize = 64 * 1024;

type Service =
    BoxCloneSyncService<Request<tonic::body::Body>, Response<tonic::body::Body>, Infallible>;

/// The services.
pub(crate) struct Introspection {
    /// The path that each begins with, and the service.
    services: Vec<(String, Service)>,
    stopping: CancellationToken,
}

impl Introspection {
    /// Services whose streams end when `stopping` is cancelled. They report that the agent is serving: the
    /// socket accepts no client before it is.
    pub(crate) async fn new(stopping: CancellationToken) -> Self {
        let reporter = HealthReporter::new();
        reporter
            .set_service_status(SERVICE_NAME, ServingStatus::Serving)
            .await;
        let health = HealthServer::new(HealthService::from_health_reporter(reporter));
        let mut services = vec![named(health)];
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // The descriptors are part of the program: tests would detect invalid ones.
        services.extend(reflection().build_v1().ok().map(named));
        services.extend(reflection().build_v1alpha().ok().map(named));
        Self { services, stopping }
    }

    /// Answers a request, if it is for one of these services.
    pub(crate) async fn call<B>(&self, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path();
        let service = self
            .services
            .iter()
            .find(|(prefix, _)| path.starts_with(prefix));
        let Some((_, service)) = service else {
            return refused(Status::unimplemented(
                "this server speaks SDS v3, health and reflection",
            ));
        };
        let request = request.map(|body| tonic::body::Body::new(Limited::new(body, REQUESTS)));
        let Ok(response) = service.clone().oneshot(request).await;
        response.map(|body| {
            Ending {
                body,
                stopping: Box::pin(self.stopping.clone().cancelled_owned()),
                ended: false,
            }
            .boxed_unsync()
        })
    }
}

fn named<S>(service: S) -> (String, Service)
where
    S: NamedService
        + tower::Service<
            Request<tonic::body::Body>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    (format!("/{}/", S::NAME), BoxCloneSyncService::new(service))
}

/// A body that ends when the agent stops: a health watch never ends by itself.
struct Ending {
    body: tonic::body::Body,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl Body for Ending {
    type Data = Segments;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Segments>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() || self.stopping.as_mut().poll(cx).is_pending() {
            let segments = |frame: Frame<Bytes>| frame.map_data(Segments::from);
            return frame.map(|frame| frame.map(|frame| frame.map(segments)));
        }
        self.ended = true;
        let mut trailers = HeaderMap::new();
        // Its message is plain text, which can be a header.
        let _ = Status::unavailable("the agent is stopping").add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}
