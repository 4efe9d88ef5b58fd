//! The HTTP/2 server on the Unix socket: connections, their limits, and their end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http_body::Frame;
use http_body_util::BodyExt;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::budget::{Budget, Grant, Holder};
use super::grpc::Segments;
use super::outgoing::Outgoing;
use super::service::Sds;
use super::threads::Threads;
use crate::config::Limits;
use crate::listen::Listener;
use crate::metrics::Limit;
use crate::peer::{Accounts, Peer};
use crate::systemd::Heartbeat;

/// How long open streams may take to end when the agent stops. A client that reads gets the end
/// of each immediately.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a client may take from connecting to its first request. Envoy connects when it has one.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Bytes that a client may send on a connection before they are read. They are read immediately, unless the
/// client does not read the responses: then it can only fill these buffers and those of the kernel.
///
/// h2 ends a connection on which small frames wait that amount to more than half of this, each one at
/// 256 bytes less its length. An Envoy that accepts a change on 1,024 streams at once stays below that.
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// The same on one stream, of which Envoy's first request has some 61 kB.
const STREAM_WINDOW: u32 = 128 * 1024;
/// With the smallest buffer, a stream is only polled for its next response when the last one is being sent, so
/// that a client that stops reading gets the latest state when it continues.
const SEND_BUFFER: usize = 1;
/// Envoy resets the stream of each unknown host name. They are not an attack, even many at once.
const PENDING_RESETS: usize = 10_000;

/// Accepts connections until `stopping` is cancelled, and runs them on `threads`, then ends all streams. The
/// socket is closed and its path is gone when this returns.
pub async fn run(
    listener: Listener,
    threads: Arc<Threads>,
    accounts: Arc<Accounts>,
    sds: Sds,
    limits: Limits,
    stopping: CancellationToken,
    mut heartbeat: Heartbeat,
) {
    let budget = Budget::new(limits.connections);
    let audited = sds.clone();
    let _log = AbortOnDropHandle::new(tokio::spawn(async move {
        audited.audit().log_suppressed().await;
    }));
    while let Some((stream, credentials)) = stopping
        .run_until_cancelled(accept(&listener, &mut heartbeat))
        .await
    {
        // A user whose groups are not known yet may use the reserve until they are.
        let known = accounts.remembered_peer(credentials);
        let holder = Holder {
            uid: credentials.uid(),
            reserve: known.as_ref().is_none_or(|peer| sds.has_reserve(peer)),
        };
        let Some(place) = budget.grant(holder, 1) else {
            let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
            no_place(&sds, credentials.uid(), pid);
            continue;
        };
        let accounts = accounts.clone();
        let peer = async move {
            match known {
                Some(peer) => peer,
                None => accounts.peer(credentials).await,
            }
        };
        let connection = admit(stream, peer, place, sds.clone(), limits, stopping.clone());
        threads.spawn(connection);
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, threads.connections_ended())
        .await
        .is_err()
    {
        debug!(
            connections = threads.connections(),
            "some clients did not read to the end of their streams"
        );
    }
}

/// The next connection. Meanwhile answers the watchdog.
async fn accept(listener: &Listener, heartbeat: &mut Heartbeat) -> (UnixStream, UCred) {
    let mut next = pin!(listener.accept());
    loop {
        tokio::select! {
            accepted = &mut next => return accepted,
            () = heartbeat.beat() => {}
        }
    }
}

fn no_place(sds: &Sds, uid: u32, pid: Option<u32>) {
    sds.metrics().limit_reached(Limit::Connections);
    let message = "connection refused: too many connections in total, or by this user";
    sds.audit().limited(uid, pid, Limit::Connections, message);
}

/// Identifies the peer of a connection, and serves it if it is allowed to connect.
async fn admit(
    stream: UnixStream,
    peer: impl Future<Output = Peer>,
    mut place: Grant,
    sds: Sds,
    limits: Limits,
    stopping: CancellationToken,
) {
    let Some(peer) = stopping.run_until_cancelled(peer).await else {
        return;
    };
    // It was accepted on another runtime, whose thread would be woken for it.
    let stream = match stream.into_std().and_then(UnixStream::from_std) {
        Ok(stream) => stream,
        Err(error) => return debug!(%peer, "connection closed: it can't be waited for: {error}"),
    };
    if !sds.admits(&peer) {
        return;
    }
    if !sds.has_reserve(&peer) && !place.lose_reserve() {
        no_place(&sds, peer.uid, peer.pid);
        return;
    }
    let _connected = sds.metrics().connected();
    serve(stream, peer, sds, limits, stopping).await;
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
    let (incoming, outgoing) = stream.into_split();
    let outgoing = Outgoing::new(outgoing);
    let service = service_fn(|request| {
        let (sds, peer, outgoing) = (sds.clone(), peer.clone(), outgoing.clone());
        let place = streams.open(&sds, &peer, limits.streams_per_connection);
        async move {
            let response = sds.call(peer, request).await;
            let hold = move |frame: Frame<Segments>| {
                let _ = &place;
                frame.map_data(|message| message.on(&outgoing))
            };
            Ok::<_, Infallible>(response.map(|body| body.map_frame(hold)))
        }
    });
    let socket = TokioIo::new(tokio::io::join(incoming, outgoing.clone()));
    let connection = builder(limits).serve_connection(socket, service);
    let mut connection = pin!(connection);
    let mut asked = pin!(tokio::time::sleep(FIRST_REQUEST));
    let result = loop {
        tokio::select! {
            result = drive(connection.as_mut(), &outgoing) => break result,
            () = &mut asked, if !streams.asked.load(Ordering::Relaxed) => {
                if !streams.asked.load(Ordering::Relaxed) {
                    debug!(%peer, "connection closed: it had no request");
                    return;
                }
            }
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                break drive(connection, &outgoing).await;
            }
        }
    };
    if let Err(error) = result {
        debug!(%peer, "connection ended: {error}");
    }
}

/// Runs a connection, and writes what it sends.
async fn drive<C, E>(mut connection: Pin<&mut C>, outgoing: &Outgoing) -> anyhow::Result<()>
where
    C: Future<Output = Result<(), E>>,
    E: Into<anyhow::Error>,
{
    loop {
        let mut was_polled = false;
        let ended = poll_fn(|cx| {
            if std::mem::replace(&mut was_polled, true) {
                return Poll::Ready(None);
            }
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(ended.map_err(E::into)));
            }
            match outgoing.poll_write_out(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error.into()))),
                _ => Poll::Pending,
            }
        });
        if let Some(ended) = ended.await {
            return ended;
        }
        // Other streams that were woken at the same time come first, and all is written together.
        tokio::task::yield_now().await;
    }
}

/// The streams of a connection. HTTP/2 silently keeps a client from opening more than the limit; this detects
/// it.
#[derive(Default)]
struct Streams {
    open: Arc<()>,
    asked: AtomicBool,
    full: AtomicBool,
}

impl Streams {
    /// A slot for a stream, for as long as the result lives.
    fn open(&self, sds: &Sds, peer: &Peer, limit: usize) -> Arc<()> {
        self.asked.store(true, Ordering::Relaxed);
        let place = self.open.clone();
        if Arc::strong_count(&self.open) > limit {
            sds.metrics().limit_reached(Limit::StreamsPerConnection);
            if !self.full.swap(true, Ordering::Relaxed) {
                let message = "a connection has reached its limit of streams; further ones wait until one ends";
                let audit = sds.audit();
                audit.limited(peer.uid, peer.pid, Limit::StreamsPerConnection, message);
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
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_streams(u32::try_from(limits.streams_per_connection).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(PENDING_RESETS)
        .max_send_buf_size(SEND_BUFFER);
    builder
}
