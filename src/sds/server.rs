//! The HTTP/2 server on the Unix socket: connections, their limits, and their end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::service::Sds;
use super::throttle::Throttle;
use crate::config::Limits;
use crate::listen::Listener;
use crate::metrics::Limit;
use crate::peer::Peer;
use crate::systemd::Pulse;

/// How long open streams may take to end when the agent stops. A client that reads gets the end
/// of each at once.
const DRAIN: Duration = Duration::from_millis(500);
/// What a client may send before it is read: Envoy opens each stream with some 61 kB, and 1,000
/// streams at once stall on HTTP/2's default of 65,535 bytes for all together.
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// With the smallest buffer a stream is asked for its next response only when the last one is on
/// its way, so that a client that stops reading gets the latest state when it reads on.
const SEND_BUFFER: usize = 1;
/// Envoy resets the stream of each unknown host name. They are not an attack, even many at once.
const PENDING_RESETS: usize = 10_000;

/// Accepts connections until `stopping` is cancelled, then ends all streams. The socket is closed
/// and its path is gone when this returns.
pub async fn run(
    listener: Listener,
    sds: Sds,
    limits: Limits,
    stopping: CancellationToken,
    mut pulse: Pulse,
) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let refusals = Throttle::default();
    while let Some((stream, peer)) = stopping
        .run_until_cancelled(accept(&listener, &mut pulse))
        .await
    {
        if !sds.admits(&peer) {
            continue;
        }
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            sds.metrics().limit_reached(Limit::Connections);
            if let Some(left_out) = refusals.allow() {
                warn!(%peer, limit = limits.connections, left_out, "connection refused: there are too many; see limits.connections");
            }
            continue;
        };
        let connected = sds.metrics().connected();
        let connection = serve(stream, peer, sds.clone(), limits, stopping.clone());
        connections.spawn(async move {
            connection.await;
            drop((slot, connected));
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        debug!(
            connections = connections.len(),
            "some clients did not read to the end of their streams"
        );
    }
}

/// The next connection; answers the watchdog meanwhile.
async fn accept(listener: &Listener, pulse: &mut Pulse) -> (UnixStream, Peer) {
    let mut next = pin!(listener.accept());
    loop {
        tokio::select! {
            accepted = &mut next => return accepted,
            () = pulse.beat() => {}
        }
    }
}

async fn serve(
    stream: UnixStream,
    peer: Peer,
    sds: Sds,
    limits: Limits,
    stopping: CancellationToken,
) {
    let peer = Arc::new(peer);
    let streams = Streams::default();
    let service = service_fn(|request| {
        let (sds, peer) = (sds.clone(), peer.clone());
        let place = streams.open(&sds, &peer, limits.streams_per_connection);
        async move {
            let response = sds.call(peer, request).await;
            let hold = move |frame| {
                let _ = &place;
                frame
            };
            Ok::<_, Infallible>(response.map(|body| body.map_frame(hold)))
        }
    });
    let connection = builder(limits).serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%peer, "connection ended: {error}");
    }
}

/// The open streams of a connection. HTTP/2 keeps a client from opening more than it may, without
/// a word to either side: it is noted here.
#[derive(Default)]
struct Streams {
    open: Arc<()>,
    full: AtomicBool,
}

impl Streams {
    /// A place for a stream, for as long as the result lives.
    fn open(&self, sds: &Sds, peer: &Peer, limit: usize) -> Arc<()> {
        let place = self.open.clone();
        if Arc::strong_count(&self.open) > limit {
            sds.metrics().limit_reached(Limit::StreamsPerConnection);
            if !self.full.swap(true, Ordering::Relaxed) {
                warn!(%peer, limit, "a connection has as many streams as it may; more wait until one ends; see limits.streams_per_connection");
            }
        }
        place
    }
}

fn builder(limits: Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(u32::try_from(limits.request_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(u32::try_from(limits.streams_per_connection).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(PENDING_RESETS)
        .max_send_buf_size(SEND_BUFFER);
    builder
}
