//! A small HTTP server for operators and monitoring: only `GET` and `HEAD`, every cost bounded, on
//! a Unix socket or a TCP port.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::net::unix::UCred;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::Listener;

/// Concurrent connections. Monitoring needs one or two. The limit can be higher, because clients that ask at the
/// same time share one answer.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to send a request and to read the answer.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long a new connection has at least to send its request, before it can be closed to make room for another.
const TIME_TO_ASK: Duration = Duration::from_millis(500);
/// How long it has at least to receive the answer, which takes a second or two, and to read it.
const TIME_TO_READ: Duration = Duration::from_secs(4);
/// Pause before it is checked again whether there is room for a connection.
const ROOM_PAUSE: Duration = Duration::from_millis(5);
/// Maximum size of a request's head in bytes; no client needs more.
const MAX_HEAD: usize = 16 * 1024;
/// Maximum size of a request's body in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// Pause after an `accept` that failed because no file descriptor was left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// JSON.
pub const JSON: &str = "application/json";

/// A future that can be sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The status.
    pub status: StatusCode,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// All of it.
    pub body: Bytes,
    /// The value of `Content-Security-Policy`. Without one, a policy is sent that forbids everything.
    pub policy: Option<HeaderValue>,
}

impl Page {
    /// A page with status 200.
    pub fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            body: body.into(),
            policy: None,
        }
    }

    /// A page of plain text.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: TEXT,
            body: body.into(),
            policy: None,
        }
    }
}

/// The pages that a server has.
pub trait Pages: Send + Sync + 'static {
    /// The page at `path`, which begins with `/` and is exactly as the client sent it; `None` means "not found".
    /// The future is dropped when the client disconnects, and must not block.
    fn page<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Option<Page>>;

    /// Handles a `POST` to `path`; `None` means "not allowed". Only a Unix socket accepts `POST`, because no
    /// browser can connect to one.
    fn action<'a>(&'a self, path: &'a str, body: &'a [u8]) -> BoxFuture<'a, Option<Page>> {
        let _ = (path, body);
        Box::pin(std::future::ready(None))
    }
}

/// Decides who may connect.
pub type Gate = Box<dyn Fn(UCred) -> BoxFuture<'static, bool> + Send + Sync>;

/// Serves `pages` on a Unix socket until `shutdown`, then closes the open connections. Only root and this process's
/// user may `POST`.
pub async fn serve_unix(listener: Listener, pages: Arc<dyn Pages>, shutdown: CancellationToken) {
    let own = rustix::process::geteuid().as_raw();
    let mut server = Server::new(pages, Hosts::Any, shutdown);
    while let Some((stream, credentials)) = server.next(listener.accept()).await {
        let may_act = [0, own].contains(&credentials.uid());
        server.spawn(stream, may_act, std::future::ready(true));
    }
    server.end().await;
}

/// Like [`serve_unix`], for the peers that `gate` admits. All of them may `POST`.
pub async fn serve_unix_to(
    listener: Listener,
    pages: Arc<dyn Pages>,
    gate: Gate,
    shutdown: CancellationToken,
) {
    let gate = Arc::new(gate);
    let mut server = Server::new(pages, Hosts::Any, shutdown);
    while let Some((stream, credentials)) = server.next(listener.accept()).await {
        let gate = gate.clone();
        server.spawn(stream, true, async move { gate(credentials).await });
    }
    server.end().await;
}

/// Like [`serve_unix`], on a TCP port, for every client.
pub async fn serve_tcp(listener: TcpListener, pages: Arc<dyn Pages>, shutdown: CancellationToken) {
    let mut server = Server::new(pages, Hosts::Loopback, shutdown);
    while let Some(accepted) = server.next(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => server.spawn(stream, false, std::future::ready(true)),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    server.end().await;
}

/// Binds a TCP port of the loopback interface. Nothing else protects what is shown there.
///
/// # Errors
/// The address is not on the loopback interface, or can't be bound.
pub async fn bind_loopback(address: SocketAddr) -> Result<TcpListener, String> {
    if !address.ip().is_loopback() {
        return Err(format!(
            "{address} is not a loopback address; use 127.0.0.1 or [::1], and a proxy for access \
             from other machines"
        ));
    }
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("can't listen on {address}: {error}; choose another port"))
}

/// The hosts that a request may name.
#[derive(Clone, Copy)]
enum Hosts {
    Any,
    /// Only this machine. Otherwise a web page whose host name was changed to this address after a browser had
    /// loaded it ("DNS rebinding") could read what is shown here.
    Loopback,
}

struct Server {
    pages: Arc<dyn Pages>,
    hosts: Hosts,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    /// The open connections, the oldest first.
    open: VecDeque<Arc<Connection>>,
}

/// An open connection.
struct Connection {
    since: Instant,
    /// Its request has arrived.
    asked: AtomicBool,
    /// It has ended, or must end.
    ended: CancellationToken,
}

impl Server {
    fn new(pages: Arc<dyn Pages>, hosts: Hosts, shutdown: CancellationToken) -> Self {
        Self {
            pages,
            hosts,
            shutdown,
            tasks: TaskTracker::new(),
            open: VecDeque::new(),
        }
    }

    /// Serves a connection once it is admitted.
    fn spawn<S>(
        &mut self,
        stream: S,
        may_act: bool,
        admitted: impl Future<Output = bool> + Send + 'static,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let open = Arc::new(Connection {
            since: Instant::now(),
            asked: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        self.open.push_back(open.clone());
        let pages = Arc::clone(&self.pages);
        let (shutdown, hosts) = (self.shutdown.clone(), self.hosts);
        self.tasks.spawn(async move {
            let ended = open.ended.clone();
            let _guard = ended.clone().drop_guard();
            let served = async {
                if admitted.await {
                    // A client that is too slow or disconnects affects nobody else.
                    let _ = serve_connection(stream, pages, hosts, may_act, open).await;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = ended.cancelled() => {}
                _ = tokio::time::timeout(TIME_LIMIT, served) => {}
            }
        });
    }

    /// The result of `accept`, once there is room for one more connection; `None` when the server must stop.
    async fn next<T>(&mut self, accept: impl Future<Output = T>) -> Option<T> {
        let shutdown = self.shutdown.clone();
        let next = async {
            while !self.has_room() {
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            accept.await
        };
        shutdown.run_until_cancelled(next).await
    }

    /// Whether there is room for one more connection. If there is none, the oldest connection that exceeded
    /// the time for its request is closed, or else one that exceeded the time for its answer: a client can't
    /// lock others out by holding connections.
    fn has_room(&mut self) -> bool {
        self.open.retain(|open| !open.ended.is_cancelled());
        if self.open.len() < MAX_CONNECTIONS {
            return true;
        }
        let late = self.open.iter().find(|open| {
            let asked = open.asked.load(Ordering::Relaxed);
            let time = if asked { TIME_TO_READ } else { TIME_TO_ASK };
            open.since.elapsed() >= time
        });
        late.inspect(|open| open.ended.cancel()).is_some()
    }

    async fn end(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn serve_connection<S>(
    stream: S,
    pages: Arc<dyn Pages>,
    hosts: Hosts,
    may_act: bool,
    open: Arc<Connection>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        open.asked.store(true, Ordering::Relaxed);
        let pages = pages.clone();
        async move {
            let page = match may_act && *request.method() == Method::POST {
                true => action(request, pages).await,
                false => answer(&request, pages, hosts).await,
            };
            Ok::<_, Infallible>(response(page))
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIME_LIMIT)
        .max_buf_size(MAX_HEAD)
        // One request per connection, so that none stays open unused.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(request: &Request<Incoming>, pages: Arc<dyn Pages>, hosts: Hosts) -> Page {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_allowed();
    }
    if matches!(hosts, Hosts::Loopback) && !names_loopback(request) {
        let message = "use localhost, 127.0.0.1 or [::1] as the host: other names are refused \
                       here\n";
        return Page::text(StatusCode::MISDIRECTED_REQUEST, message);
    }
    let page = pages.page(request.uri().path()).await;
    page.unwrap_or_else(|| Page::text(StatusCode::NOT_FOUND, "no such page\n"))
}

async fn action(request: Request<Incoming>, pages: Arc<dyn Pages>) -> Page {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        let message = "the request's body is too long or incomplete\n";
        return Page::text(StatusCode::PAYLOAD_TOO_LARGE, message);
    };
    let page = pages.action(head.uri.path(), &body.to_bytes()).await;
    page.unwrap_or_else(not_allowed)
}

fn not_allowed() -> Page {
    Page::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is supported\n")
}

/// Whether a request names this machine as its host, or no host at all. A browser always names a host.
fn names_loopback(request: &Request<Incoming>) -> bool {
    let mut named = request.headers().get_all(HOST).iter();
    named.all(|host| host.to_str().is_ok_and(is_loopback))
        && request
            .uri()
            .authority()
            .is_none_or(|host| is_loopback(host.as_str()))
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

fn response(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(page.body));
    *response.status_mut() = page.status;
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    let fixed = HeaderValue::from_static;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, fixed(page.content_type));
    headers.insert(CACHE_CONTROL, fixed("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, page.policy.unwrap_or(nothing));
    headers.insert(X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert(X_FRAME_OPTIONS, fixed("DENY"));
    headers.insert(REFERRER_POLICY, fixed("no-referrer"));
    if page.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, fixed("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    struct Echo;

    impl Pages for Echo {
        fn page<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Option<Page>> {
            Box::pin(async move {
                if path == "/never" {
                    std::future::pending::<()>().await;
                }
                (path != "/none").then(|| Page::ok(TEXT, path.to_owned()))
            })
        }
    }

    async fn start() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = bind_loopback(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve_tcp(listener, Arc::new(Echo), shutdown.clone()));
        (address, shutdown, server)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_get_and_head_are_answered() {
        let (address, _shutdown, _server) = start().await;
        let got = ask(address, "GET /a?b HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
        assert!(got.ends_with("\r\n\r\n/a"), "{got}");
        let got = ask(address, "HEAD /a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
        assert!(got.ends_with("\r\n\r\n"), "a HEAD has no body: {got}");
        let got = ask(address, "GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 404 "), "{got}");
        let got = ask(
            address,
            "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        assert!(got.starts_with("HTTP/1.1 405 "), "{got}");
    }

    #[tokio::test]
    async fn the_host_must_be_this_machine() {
        let (address, _shutdown, _server) = start().await;
        for (host, good) in [
            ("Host: localhost:9902\r\n", true),
            ("Host: LOCALHOST\r\n", true),
            ("Host: 127.0.0.1:1\r\n", true),
            ("Host: [::1]:9902\r\n", true),
            ("", true),
            ("Host: \r\n", false),
            ("Host: evil.example\r\n", false),
            ("Host: evil.example:80\r\n", false),
            ("Host: localhost.evil.example\r\n", false),
            ("Host: localhost\r\nHost: evil.example\r\n", false),
            ("Host: user@evil.example\r\n", false),
            ("Host: 192.0.2.1\r\n", false),
        ] {
            let got = ask(address, &format!("GET /a HTTP/1.1\r\n{host}\r\n")).await;
            let expected = if good {
                "HTTP/1.1 200 "
            } else {
                "HTTP/1.1 421 "
            };
            assert!(got.starts_with(expected), "{host:?}: {got}");
        }
        let got = ask(address, "GET http://evil.example/a HTTP/1.1\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 421 "), "{got}");
    }

    #[tokio::test]
    async fn a_browser_may_load_nothing_for_an_answer() {
        let (address, _shutdown, _server) = start().await;
        let got = ask(address, "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        for header in [
            "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n",
            "x-content-type-options: nosniff\r\n",
            "cache-control: no-store\r\n",
        ] {
            assert!(got.contains(header), "{got}");
        }
    }

    #[tokio::test]
    async fn an_endless_head_is_refused() {
        let (address, _shutdown, _server) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /{} HTTP/1.1\r\n", "a".repeat(4 * MAX_HEAD));
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn shutdown_closes_idle_connections() {
        let (address, shutdown, server) = start().await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        ask(address, "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        shutdown.cancel();
        server.await.unwrap();
        assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn connections_without_requests_do_not_lock_others_out() {
        let (address, _shutdown, _server) = start().await;
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 50 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asks = TcpStream::connect(address).await.unwrap();
        let request = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n";
        asks.write_all(request).await.unwrap();
        let mut got = String::new();
        asks.read_to_string(&mut got).await.unwrap();
        assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
        // The oldest connections were closed to make room.
        assert_eq!(idle[0].read(&mut [0]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_connection_with_a_request_is_not_closed_for_idle_ones() {
        let (address, _shutdown, _server) = start().await;
        let mut waits = TcpStream::connect(address).await.unwrap();
        let request = b"GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n";
        waits.write_all(request).await.unwrap();
        // An answer to another request shows that the first request has arrived.
        ask(address, "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut idle = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        ask(address, "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let ended = tokio::time::timeout(Duration::from_millis(50), waits.read_u8()).await;
        assert!(ended.is_err(), "it waits still");
    }

    #[tokio::test]
    async fn other_interfaces_are_refused() {
        let error = bind_loopback(([0, 0, 0, 0], 0).into()).await.unwrap_err();
        assert!(error.contains("not a loopback address"), "{error}");
    }
}
