//! How the cluster is reached, and as whom: kubeconfig, service account, or server and token file.
//! All of it may be replaced while the mirror runs, so it is read again whenever it stops working.

use std::path::{Path, PathBuf};

use http::HeaderValue;
use http::header::AUTHORIZATION;
use kube::config::{KubeConfigOptions, Kubeconfig};
use zeroize::Zeroizing;

use crate::cluster::Cluster;
use crate::source::WATCH_TIMEOUT;

/// Seconds beyond a watch's own end after which a silent connection is taken for dead.
const READ_MARGIN: u64 = 30;
/// Bytes of a token file: far more than any token has.
const MAX_TOKEN: usize = 64 * 1024;

/// Where to learn how the cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A kubeconfig, and which of its contexts.
    Kubeconfig {
        path: PathBuf,
        context: Option<String>,
        token_file: Option<PathBuf>,
    },
    /// A server's URL, with the CA that vouches for it and the token to show to it.
    Server {
        url: http::Uri,
        ca_file: Option<PathBuf>,
        token_file: Option<PathBuf>,
    },
    /// `$KUBECONFIG`, `~/.kube/config`, or the service account of the pod that this runs in.
    Infer {
        context: Option<String>,
        token_file: Option<PathBuf>,
    },
}

/// How the cluster is reached at this moment.
pub(crate) struct Loaded {
    pub(crate) config: kube::Config,
    pub(crate) token: Option<TokenFile>,
    pub(crate) cluster: Cluster,
}

impl Access {
    /// Reads the files that there are.
    ///
    /// # Errors
    /// Files that are missing or that are not what they should be.
    pub(crate) async fn load(&self) -> Result<Loaded, String> {
        let mut config = self.config().await?;
        config.read_timeout = Some(std::time::Duration::from_secs(
            u64::from(WATCH_TIMEOUT) + READ_MARGIN,
        ));
        // The time that a connection was idle in the pool must not count.
        config.reset_reader_on_write = true;
        // The mirror waits by itself, so that it can say so, and be ended meanwhile.
        config.default_retry = false;
        let auth = &mut config.auth_info;
        let token_file = match self.token_file() {
            Some(path) => Some(path.clone()),
            None if auth.token.is_none() => auth.token_file.take().map(PathBuf::from),
            None => None,
        };
        if self.token_file().is_some() {
            auth.token = None;
            auth.token_file = None;
        }
        let cas = config.root_cert.as_deref().unwrap_or_default();
        let cluster = Cluster::new(config.cluster_url.to_string(), cas);
        Ok(Loaded {
            token: token_file.map(TokenFile),
            cluster,
            config,
        })
    }

    async fn config(&self) -> Result<kube::Config, String> {
        match self {
            Self::Kubeconfig { path, context, .. } => {
                let failed = |error: kube::config::KubeconfigError| {
                    format!("the kubeconfig {}: {}", path.display(), chain(&error))
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &options(context))
                    .await
                    .map_err(failed)
            }
            Self::Server { url, ca_file, .. } => {
                let mut config = kube::Config::new(url.clone());
                config.root_cert = ca_file.as_deref().map(read_cas).transpose()?;
                Ok(config)
            }
            Self::Infer { context, .. } => infer(context).await,
        }
    }

    fn token_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Kubeconfig { token_file, .. }
            | Self::Server { token_file, .. }
            | Self::Infer { token_file, .. } => token_file.as_ref(),
        }
    }
}

async fn infer(context: &Option<String>) -> Result<kube::Config, String> {
    let from_kubeconfig = kube::Config::from_kubeconfig(&options(context)).await;
    from_kubeconfig.or_else(|kubeconfig| {
        kube::Config::incluster().map_err(|in_cluster| {
            format!(
                "there is no way to the cluster: no kubeconfig ({}), and no service account ({}); \
                 give --kubeconfig, or --server with --ca-file and --token-file",
                chain(&kubeconfig),
                chain(&in_cluster)
            )
        })
    })
}

fn options(context: &Option<String>) -> KubeConfigOptions {
    KubeConfigOptions {
        context: context.clone(),
        ..KubeConfigOptions::default()
    }
}

fn read_cas(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let failed =
        |error: rustls_pki_types::pem::Error| format!("the CA file {}: {error}", path.display());
    let cas: Vec<Vec<u8>> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .map(|ca| ca.map(|der| der.to_vec()).map_err(failed))
        .collect::<Result<_, _>>()?;
    if cas.is_empty() {
        return Err(format!(
            "the CA file {} has no certificate in PEM",
            path.display()
        ));
    }
    Ok(cas)
}

/// A file with a bearer token, which somebody keeps fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenFile(PathBuf);

impl TokenFile {
    /// Adds the token, as it is now, to a request. It is read for each one: a watch is one request
    /// a minute, and a token that was replaced is never used a minute longer.
    ///
    /// # Errors
    /// A file that can't be read, or that holds no token.
    pub(crate) async fn authorize<B>(&self, request: &mut http::Request<B>) -> Result<(), String> {
        let failed = |why: String| format!("the token file {}: {why}", self.0.display());
        let text = tokio::fs::read(&self.0)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let text = Zeroizing::new(text);
        let token = text.trim_ascii();
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(failed("it holds no token".into()));
        }
        let header = Zeroizing::new([b"Bearer ", token].concat());
        let mut header = HeaderValue::from_bytes(&header)
            .map_err(|_| failed("it holds more than a token".into()))?;
        header.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, header);
        Ok(())
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own words.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn header_for(content: &[u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, content).unwrap();
        let mut request = http::Request::new(());
        TokenFile(path).authorize(&mut request).await?;
        let value = &request.headers()[AUTHORIZATION];
        assert!(value.is_sensitive());
        Ok(value.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_token_is_taken_without_the_newline_that_editors_leave() {
        assert_eq!(header_for(b"abc\n").await.unwrap(), "Bearer abc");
        assert!(header_for(b" \n").await.is_err());
        assert!(header_for(b"a\nb").await.is_err());
    }

    #[tokio::test]
    async fn a_token_file_takes_the_place_of_the_kubeconfigs_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let kubeconfig = "\
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]
users: [{name: u, user: {token: in-the-file}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
";
        std::fs::write(&path, kubeconfig).unwrap();
        let access = |token_file: Option<&str>| Access::Kubeconfig {
            path: path.clone(),
            context: None,
            token_file: token_file.map(PathBuf::from),
        };
        let loaded = access(None).load().await.unwrap();
        assert!(loaded.token.is_none() && loaded.config.auth_info.token.is_some());
        let loaded = access(Some("/t")).load().await.unwrap();
        assert_eq!(loaded.token, Some(TokenFile("/t".into())));
        assert!(loaded.config.auth_info.token.is_none());
    }
}
