//! Queries the running agent over one of its Unix sockets.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::builder::{PathBufValueParser, TypedValueParser};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use sds_agent::admin::status::Status;
use sds_agent::config::{Config, ConfigError, Options};
use tokio::net::UnixStream;

/// How long the agent may take to answer. It takes milliseconds, unless the process is suspended.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The option that names the admin socket.
const ADMIN_SOCKET: &str = "--admin-socket";

/// Maximum bytes of an answer. 20,000 credentials, the default limit, take about 40 MB.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// The option for the configuration file, of commands that use it.
#[derive(clap::Args)]
pub(crate) struct ConfigFile {
    // Absolute, so that the paths in it are shown as absolute paths in logs and reports.
    /// The configuration file [default: /etc/sds-agent/sds-agent.toml, if it exists]
    #[arg(
        long,
        value_name = "FILE",
        value_parser = PathBufValueParser::new().try_map(std::path::absolute),
        env = "SDS_AGENT_CONFIG",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,
}

/// Where the socket for Envoy is.
#[derive(clap::Args)]
pub(crate) struct SdsSocket {
    #[command(flatten)]
    file: ConfigFile,

    /// The agent's socket for Envoy [default: the one in the configuration]
    #[arg(
        long,
        value_name = "PATH",
        env = "SDS_AGENT_SOCKET",
        hide_env_values = true
    )]
    socket: Option<PathBuf>,
}

/// Where the admin socket is.
#[derive(clap::Args)]
pub(crate) struct AdminSocket {
    #[command(flatten)]
    file: ConfigFile,

    /// The agent's admin socket [default: the one in the configuration]
    #[arg(
        long,
        value_name = "PATH",
        env = "SDS_AGENT_ADMIN_SOCKET",
        hide_env_values = true
    )]
    admin_socket: Option<PathBuf>,
}

impl ConfigFile {
    /// The settings of the file, or the defaults if there is none. The defaults also apply if this user is not
    /// allowed to read the file at its default path.
    ///
    /// # Errors
    /// The file is not valid, or a file that was given can't be read.
    pub(crate) fn of_agent(&self) -> Result<Config, ConfigError> {
        match Config::load(self.config.as_deref(), &Options::default()) {
            Err(error)
                if self.config.is_none()
                    && error.is_unreadable(io::ErrorKind::PermissionDenied) =>
            {
                Ok(Config::default())
            }
            config => config,
        }
    }
}

impl SdsSocket {
    /// Why the default configuration file, which may set another socket, could not be used.
    pub(crate) fn doubt(&self) -> Option<ConfigError> {
        let is_named = self.socket.is_some() || self.file.config.is_some();
        let usual = || Config::load(None, &Options::default()).err();
        (!is_named).then(usual).flatten()
    }

    /// Its path.
    ///
    /// # Errors
    /// The configuration file is not valid.
    pub(crate) fn path(&self) -> Result<PathBuf, String> {
        match &self.socket {
            Some(path) => Ok(path.clone()),
            None => Ok(self
                .file
                .of_agent()
                .map_err(|e| e.to_string())?
                .listen
                .socket),
        }
    }
}

impl AdminSocket {
    /// Its path.
    ///
    /// # Errors
    /// The configuration file is not valid, or turns the admin socket off.
    pub(crate) fn path(&self) -> Result<PathBuf, String> {
        if let Some(path) = &self.admin_socket {
            return Ok(path.clone());
        }
        let config = self.file.of_agent().map_err(|error| error.to_string())?;
        let path = config.admin.socket;
        path.ok_or_else(|| {
            "the configuration has no admin socket; remove `admin_socket = \"off\"` there and restart \
             the agent"
                .to_owned()
        })
    }
}

/// Connects to the socket at `path`; `option` is the command-line option that sets the path.
///
/// # Errors
/// Why it can't connect, and what to do about it.
pub(crate) async fn connect(path: &Path, option: &str) -> Result<UnixStream, String> {
    let section = match option {
        "--admin-socket" => "[admin]",
        _ => "[listen]",
    };
    UnixStream::connect(path).await.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "`systemctl status sds-agent` shows whether the agent is running; if its socket is \
                 elsewhere, name it with {option}"
            ),
            io::ErrorKind::ConnectionRefused => {
                "the agent is not running; start it with `systemctl start sds-agent`".to_owned()
            }
            io::ErrorKind::PermissionDenied => format!(
                "run this with sudo, or as a user who may open it; `{section}` in the configuration sets who \
                 may"
            ),
            _ => format!("name the agent's socket with {option}"),
        };
        format!("can't connect to {}: {error}; {remedy}", path.display())
    })
}

/// The page at `page` of the admin socket.
///
/// # Errors
/// Why there is no answer, and what to do about it.
pub(crate) async fn ask(socket: &Path, page: &str) -> Result<Bytes, String> {
    request(socket, Method::GET, page, Bytes::new()).await
}

/// Sends `body` to `page` of the admin socket.
///
/// # Errors
/// Why the agent did not accept it.
pub(crate) async fn send(socket: &Path, page: &str, body: Vec<u8>) -> Result<(), String> {
    let taken = request(socket, Method::POST, page, body.into()).await;
    taken.map(drop)
}

async fn request(socket: &Path, method: Method, page: &str, body: Bytes) -> Result<Bytes, String> {
    let asked = async {
        let stream = connect(socket, ADMIN_SOCKET).await?;
        exchange(stream, method, page, body).await.map_err(|error| {
            format!(
                "{} does not answer like the admin socket: {error}; give the admin socket with \
                 {ADMIN_SOCKET}",
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

/// The state of the agent at the admin socket.
///
/// # Errors
/// Why there is no answer, and what to do about it.
pub(crate) async fn status(socket: &Path) -> Result<Status, String> {
    let json = ask(socket, "/status").await?;
    serde_json::from_slice(&json).map_err(|error| {
        format!(
            "can't parse the answer on {}: {error}; is the agent of the same version as this \
             program? `curl --unix-socket {0} http://localhost/status` shows it",
            socket.display()
        )
    })
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    stream: UnixStream,
    method: Method,
    page: &str,
    body: Bytes,
) -> Result<Bytes, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(page)
        .header(HOST, "localhost")
        .body(Full::new(body))?;
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
        // If the connection ends first, the answer is already complete.
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// Runs a command that waits for the agent.
///
/// # Errors
/// The runtime can't be created.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(future);
    // Don't wait for a host name that is still being resolved.
    runtime.shutdown_background();
    Ok(result)
}
