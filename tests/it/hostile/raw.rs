//! A client that sends arbitrary bytes on HTTP/2 streams.

use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::util::{BOUND, eventually};

/// Attackers drive their connections themselves, so that connections of good clients don't wait for them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(yield_to_others)
        .enable_all()
        .build()
        .unwrap()
});

/// Lowers the priority of the attackers: the tests are about what an attack costs the agent, not the attackers.
pub(super) fn yield_to_others() {
    // On Linux this affects only this thread. If it fails, the test is only harder to pass.
    let _ = rustix::process::nice(10);
}

#[track_caller]
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let bounded = async { tokio::time::timeout(BOUND, future).await };
    RUNTIME.block_on(bounded).expect("no answer in time")
}

type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, std::io::Error>>>;

/// A connection.
pub(super) struct Raw(SendRequest<Body>);

/// A stream: what it sends stays open until this is dropped.
pub(super) struct Stream {
    sender: mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>,
    answer: tokio::task::JoinHandle<Result<hyper::Response<Incoming>, hyper::Error>>,
}

impl Raw {
    pub(super) fn connect(socket: &Path) -> Self {
        // The queue of the socket may be full of other connections.
        Self(eventually("a connection to the agent", || {
            block_on(async {
                let stream = TokioIo::new(UnixStream::connect(socket).await.ok()?);
                let mut client = http2::Builder::new(TokioExecutor::new());
                client.initial_connection_window_size(1 << 20);
                let (sender, connection) = client.handshake(stream).await.ok()?;
                tokio::spawn(connection);
                Some(sender)
            })
        }))
    }

    /// Opens a stream of `call`, such as `StreamSecrets`.
    pub(super) fn open(&mut self, call: &str) -> Stream {
        let (sender, body) = mpsc::channel(4);
        let uri = format!("http://a/envoy.service.secret.v3.SecretDiscoveryService/{call}");
        let request = http::Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(ReceiverStream::new(body)))
            .unwrap();
        // The request fails if the connection was closed.
        let _ = block_on(self.0.ready());
        let answer = RUNTIME.spawn(self.0.send_request(request));
        Stream { sender, answer }
    }
}

impl Stream {
    /// Sends bytes; what the agent no longer accepts is dropped.
    pub(super) fn send(&self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        for piece in bytes.chunks(16_000) {
            let frame = Frame::data(bytes.slice_ref(piece));
            if block_on(self.sender.send(Ok(frame))).is_err() {
                return;
            }
        }
    }

    /// The code that the agent ends the stream with.
    #[track_caller]
    pub(super) fn end(self) -> Code {
        block_on(async {
            let answer = match self.answer.await.unwrap() {
                Ok(answer) => answer,
                Err(error) => return Status::from_error(error.into()).code(),
            };
            let (head, body) = answer.into_parts();
            let trailers = match body.collect().await {
                Ok(body) => body.trailers().cloned(),
                Err(error) => return Status::from_error(error.into()).code(),
            };
            let status = trailers
                .as_ref()
                .and_then(Status::from_header_map)
                .or_else(|| Status::from_header_map(&head.headers));
            status.expect("no status").code()
        })
    }
}

/// A frame of gRPC with this message.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut frame = head(message.len());
    frame.extend_from_slice(message);
    frame.into()
}

/// The head of a frame with a message of `length` bytes.
pub(super) fn head(length: usize) -> Vec<u8> {
    let mut head = vec![0];
    head.extend(u32::try_from(length).unwrap().to_be_bytes());
    head
}
