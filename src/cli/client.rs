//! Asks the running agent, over one of its Unix sockets.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use sds_agent::config::{Config, Overrides};
use tokio::net::UnixStream;

/// How long the agent may take to answer. It answers within milliseconds, or it is stopped.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The option that names the admin socket.
const ADMIN_SOCKET: &str = "--admin-socket";

/// Bytes of an answer; 20,000 credentials, which is the limit, make some 40 MB.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// The configuration that the agent is started with: that in `file`, or that of the default file where it
/// can be read.
///
/// # Errors
/// What is wrong with `file`.
pub(crate) fn configuration(file: Option<&Path>) -> Result<Config, String> {
    match (Config::load(file, &Overrides::default()), file) {
        (Ok(config), _) => Ok(config),
        (Err(error), Some(_)) => Err(error.to_string()),
        (Err(_), None) => Ok(Config::default()),
    }
}

/// Connects to the socket at `path`, which the option `option` names.
///
/// # Errors
/// Why not, and what to do about it.
pub(crate) async fn connect(path: &Path, option: &str) -> Result<UnixStream, String> {
    UnixStream::connect(path).await.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "is the agent running? `systemctl status sds-agent` tells; if its socket is elsewhere, \
                 name it with {option}"
            ),
            io::ErrorKind::ConnectionRefused => {
                "the agent has ended; start it with `systemctl start sds-agent`".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "run this as root or as a member of the socket's group".to_owned()
            }
            _ => format!("name the agent's socket with {option}"),
        };
        format!("can't connect to {}: {error}; {remedy}", path.display())
    })
}

/// The page at `page` of the admin socket.
///
/// # Errors
/// Why there is none, and what to do about it.
pub(crate) async fn ask(socket: &Path, page: &str) -> Result<Bytes, String> {
    let asked = async {
        let stream = connect(socket, ADMIN_SOCKET).await?;
        exchange(stream, page).await.map_err(|error| {
            format!(
                "{} does not answer as the admin socket does: {error}; name that one with {ADMIN_SOCKET}",
                socket.display()
            )
        })
    };
    let late = || {
        format!(
            "no answer on {} within {} s: is the agent stopped, or the machine overloaded?",
            socket.display(),
            PATIENCE.as_secs()
        )
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(late()))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(stream: UnixStream, page: &str) -> Result<Bytes, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(page)
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await?.to_bytes();
        match status {
            StatusCode::OK => Ok(body),
            other => Err(format!("it answers {other} to {page}").into()),
        }
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection ends when the answer is whole: it is there then.
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// Runs a command that waits for the agent.
///
/// # Errors
/// The system can't.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(future);
    // A host name that is still being resolved is not waited for.
    runtime.shutdown_background();
    Ok(result)
}
