//! Address and credentials of the cluster: kubeconfig, service account, or server and token file. They may
//! change while the mirror runs, so they are read again when they stop working or one of their files changes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use hyper_util::client::proxy::matcher::Matcher;
use kube::client::AuthError;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use zeroize::Zeroizing;

use crate::cluster::Cluster;
use crate::exec::{Credentials, Plugins};

/// Seconds after which the API server ends a watch, which is then resumed where it ended. So the API server
/// answers at least this often, and a dead connection is detected soon after.
pub(crate) const WATCH_TIMEOUT: u32 = 60;
/// How long after the end of a watch a silent connection counts as dead.
const READ_MARGIN: Duration = Duration::from_secs(30);
/// The maximum size of a token file in bytes, far more than any token has.
const MAX_TOKEN: usize = 64 * 1024;
/// The folder of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The environment variables for proxies; the first that is set applies.
const HTTPS_PROXY: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The same for an API server without TLS.
const HTTP_PROXY: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The sources of the cluster's address and credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A kubeconfig, and which of its contexts.
    Kubeconfig {
        path: PathBuf,
        context: Option<String>,
        token_file: Option<PathBuf>,
    },
    /// A server's URL, with the CA that its certificate is checked against and the token to send.
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

/// The address and credentials as they were read.
pub(crate) struct Loaded {
    pub(crate) config: kube::Config,
    pub(crate) token: Option<TokenFile>,
    pub(crate) cluster: Cluster,
    /// The proxy and the source of its URL, for messages; without credentials.
    pub(crate) proxy: Option<String>,
    /// When the credentials must be renewed.
    pub(crate) renew_at: Option<SystemTime>,
    /// All files that this was read from.
    pub(crate) files: Vec<PathBuf>,
}

/// A configuration as it was read, before plugins and proxies.
struct Read {
    config: kube::Config,
    proxy_url: Option<String>,
    files: Vec<PathBuf>,
}

impl Access {
    /// Reads the files, and runs a credential plugin if there is one.
    ///
    /// # Errors
    /// A file is missing or invalid, or the plugin failed.
    pub(crate) async fn load(&self, plugins: &Plugins) -> Result<Loaded, String> {
        let Read {
            mut config,
            proxy_url,
            mut files,
        } = self.read().await?;
        config.read_timeout = Some(Duration::from_secs(WATCH_TIMEOUT.into()) + READ_MARGIN);
        // The time that a connection is idle in the pool must not count.
        config.reset_reader_on_write = true;
        // The mirror does its own pauses, so that it can log them and be stopped during them.
        config.default_retry = false;
        let proxy = proxy(&mut config, proxy_url)?;
        let auth = &mut config.auth_info;
        let token_file = match self.token_file() {
            Some(path) => {
                auth.token = None;
                auth.token_file = None;
                Some(path.clone())
            }
            None if auth.token.is_none() => auth.token_file.take().map(PathBuf::from),
            None => None,
        };
        let mut renew_at = None;
        if let Some(exec) = auth.exec.take()
            && token_file.is_none()
            && auth.token.is_none()
        {
            let credentials = plugins.credentials(&exec).await?;
            renew_at = credentials.renew_at;
            apply(&credentials, auth);
        }
        files.extend(token_file.clone());
        let cas = config.root_cert.as_deref().unwrap_or_default();
        Ok(Loaded {
            token: token_file.map(TokenFile),
            cluster: Cluster::new(config.cluster_url.to_string(), cas),
            proxy,
            renew_at,
            files,
            config,
        })
    }

    async fn read(&self) -> Result<Read, String> {
        match self {
            Self::Kubeconfig { path, context, .. } => {
                from_kubeconfigs(std::slice::from_ref(path), context).await
            }
            Self::Server { url, ca_file, .. } => {
                let mut config = kube::Config::new(url.clone());
                config.root_cert = ca_file.as_deref().map(read_cas).transpose()?;
                Ok(Read {
                    config,
                    proxy_url: None,
                    files: ca_file.iter().cloned().collect(),
                })
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

/// Does the same as kubectl: missing files of `$KUBECONFIG` are skipped.
async fn infer(context: &Option<String>) -> Result<Read, String> {
    let named: Vec<PathBuf> = match std::env::var_os("KUBECONFIG") {
        Some(paths) if !paths.is_empty() => std::env::split_paths(&paths)
            .filter(|path| !path.as_os_str().is_empty())
            .collect(),
        _ => std::env::var_os("HOME")
            .map(|home| Path::new(&home).join(".kube/config"))
            .into_iter()
            .collect(),
    };
    let there: Vec<PathBuf> = named.iter().filter(|path| path.exists()).cloned().collect();
    if !there.is_empty() {
        return from_kubeconfigs(&there, context).await;
    }
    let config = kube::Config::incluster().map_err(|error| {
        let named: Vec<String> = named
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        format!(
            "no cluster is configured: no kubeconfig was found ({}), and no service account of a pod \
             ({}); give --kubeconfig, or --server with --ca-file and --token-file",
            match named.is_empty() {
                true => "neither $KUBECONFIG nor $HOME is set".to_owned(),
                false => format!("none of these exists: {}", named.join(", ")),
            },
            chain(&error)
        )
    })?;
    let account = Path::new(SERVICE_ACCOUNT);
    Ok(Read {
        config,
        proxy_url: None,
        files: ["ca.crt", "token"].map(|name| account.join(name)).into(),
    })
}

/// The configuration of these kubeconfigs, merged; the first one that sets a value wins.
async fn from_kubeconfigs(paths: &[PathBuf], context: &Option<String>) -> Result<Read, String> {
    let failed = |path: &Path, error: &KubeconfigError| {
        format!(
            "the kubeconfig {}: {}",
            path.display(),
            kubeconfig_error(error)
        )
    };
    let mut merged = Kubeconfig::default();
    for path in paths {
        let one = Kubeconfig::read_from(path).map_err(|error| failed(path, &error))?;
        merged = merged.merge(one).map_err(|error| failed(path, &error))?;
    }
    let last = paths.last().map_or(Path::new(""), PathBuf::as_path);
    let mut files = paths.to_vec();
    files.extend(files_of(&merged));
    let proxy_url = take_proxy_url(&mut merged, context);
    let options = KubeConfigOptions {
        context: context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = kube::Config::from_custom_kubeconfig(merged, &options).await;
    Ok(Read {
        config: config.map_err(|error| failed(last, &error))?,
        proxy_url,
        files,
    })
}

/// The files that a kubeconfig refers to.
fn files_of(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let clusters = kubeconfig
        .clusters
        .iter()
        .filter_map(|named| named.cluster.as_ref());
    let users = kubeconfig
        .auth_infos
        .iter()
        .filter_map(|named| named.auth_info.as_ref());
    clusters
        .filter_map(|cluster| cluster.certificate_authority.clone())
        .chain(users.flat_map(|user| {
            [
                user.client_certificate.clone(),
                user.client_key.clone(),
                user.token_file.clone(),
            ]
            .into_iter()
            .flatten()
        }))
        .map(PathBuf::from)
        .collect()
}

/// Removes the `proxy-url` of the context's cluster and returns it: kube would apply `NO_PROXY` to it, which
/// kubectl does not.
fn take_proxy_url(kubeconfig: &mut Kubeconfig, context: &Option<String>) -> Option<String> {
    let name = context.as_ref().or(kubeconfig.current_context.as_ref())?;
    let contexts = &mut kubeconfig.contexts.iter();
    let context = contexts
        .find(|named| named.name == *name)?
        .context
        .as_ref()?;
    let mut clusters = kubeconfig.clusters.iter_mut();
    let cluster = clusters.find(|named| named.name == context.cluster)?;
    let url = cluster.cluster.as_mut()?.proxy_url.take()?;
    (!url.is_empty()).then_some(url)
}

/// Sets the proxy of the kubeconfig, or else that of the environment. Returns its description.
fn proxy(
    config: &mut kube::Config,
    from_kubeconfig: Option<String>,
) -> Result<Option<String>, String> {
    let found = match from_kubeconfig {
        Some(url) => Some(("proxy-url of the kubeconfig", url)),
        None => proxy_of_environment(&config.cluster_url),
    };
    config.proxy_url = None;
    let Some((source, url)) = found else {
        return Ok(None);
    };
    let url = match url.contains("://") {
        true => url,
        false => format!("http://{url}"),
    };
    let url: http::Uri = url
        .parse()
        .map_err(|_| format!("{source} is not a URL; write one as http://proxy:3128"))?;
    let (Some("http" | "https"), Some(host)) = (url.scheme_str(), url.host()) else {
        return Err(format!(
            "{source} is not the URL of an HTTP proxy; write one as http://proxy:3128"
        ));
    };
    let port = url
        .port()
        .map_or_else(String::new, |port| format!(":{port}"));
    let text = format!("{host}{port} from {source}");
    config.proxy_url = Some(url);
    Ok(Some(text))
}

fn proxy_of_environment(server: &http::Uri) -> Option<(&'static str, String)> {
    let set = |names: &[&'static str]| {
        let mut values = names
            .iter()
            .filter_map(|name| Some((*name, std::env::var(name).ok()?)));
        values.find(|(_, value)| !value.is_empty())
    };
    let (source, url) = match server.scheme_str() {
        Some("https") => set(&HTTPS_PROXY),
        _ => set(&HTTP_PROXY),
    }?;
    // The library evaluates NO_PROXY; the proxy's address does not matter for that.
    let mut rules = Matcher::builder().all("http://proxy.invalid");
    if let Some((_, hosts)) = set(&NO_PROXY) {
        // The library applies `*` only to host names, not to addresses.
        if hosts.split(',').any(|host| host.trim() == "*") {
            return None;
        }
        rules = rules.no(hosts);
    }
    rules.build().intercept(server).map(|_| (source, url))
}

/// Sets the credentials from a plugin. kube would run the plugin for each client.
fn apply(credentials: &Credentials, auth: &mut kube::config::AuthInfo) {
    if let Some(token) = &credentials.token {
        auth.token = Some(token.as_str().to_owned().into());
    }
    if let Some((certificate, key)) = &credentials.identity {
        auth.client_certificate_data = Some(BASE64.encode(certificate));
        auth.client_key_data = Some(BASE64.encode(key.as_bytes()).into());
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

/// A file with a bearer token, which another program replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenFile(PathBuf);

impl TokenFile {
    /// Adds the current token to a request. It is read for each request: a watch is one request a minute,
    /// and a replaced token is never used again.
    ///
    /// # Errors
    /// The file can't be read, or does not contain a token.
    pub(crate) async fn authorize<B>(&self, request: &mut http::Request<B>) -> Result<(), String> {
        let failed = |why: String| format!("the token file {}: {why}", self.0.display());
        let text = tokio::fs::read(&self.0)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let text = Zeroizing::new(text);
        let token = text.trim_ascii();
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(failed("it does not contain a token".into()));
        }
        let header = Zeroizing::new([b"Bearer ", token].concat());
        let mut header = HeaderValue::from_bytes(&header)
            .map_err(|_| failed("it contains more than a token".into()))?;
        header.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, header);
        Ok(())
    }
}

/// The text of an error, without any line of the kubeconfig, which may contain keys and tokens.
fn kubeconfig_error(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => {
            let at = error.location().map_or_else(String::new, |at| {
                format!(" (line {}, column {})", at.line(), at.column())
            });
            format!("it is not the YAML of a kubeconfig{at}")
        }
        KubeconfigError::ParseProxyUrl(_) => {
            "the proxy in the environment (HTTPS_PROXY or https_proxy) is not a URL".to_owned()
        }
        KubeconfigError::ParseNoProxy(_) => {
            "NO_PROXY in the environment is not a list of hosts and networks".to_owned()
        }
        error => chain(error),
    }
}

/// The text of a failed request's error, without any part of a response or of a plugin's output, which may
/// contain keys.
pub(crate) fn client_error(error: &kube::Error) -> String {
    match error {
        kube::Error::SerdeError(error) => parse_error(error),
        kube::Error::Service(error) => chain(error.as_ref()),
        kube::Error::Auth(
            AuthError::AuthExecRun { .. }
            | AuthError::AuthExecParse(_)
            | AuthError::ParseTokenKey(_)
            | AuthError::AuthExec(_),
        ) => "the kubeconfig's auth-provider failed; use a credential plugin (exec)".to_owned(),
        error => chain(error),
    }
}

/// The message of serde_json itself quotes the text that could not be parsed.
fn parse_error(error: &serde_json::Error) -> String {
    let what = match error.is_eof() {
        true => "ends too early",
        false => "is not what Kubernetes sends",
    };
    let (line, column) = (error.line(), error.column());
    format!("the response {what} (line {line}, column {column}); is there a proxy in between?")
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors include the text of their cause.
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
    async fn a_trailing_newline_of_a_token_is_ignored() {
        assert_eq!(header_for(b"abc\n").await.unwrap(), "Bearer abc");
        assert!(header_for(b" \n").await.is_err());
        assert!(header_for(b"a\nb").await.is_err());
    }

    #[tokio::test]
    async fn a_token_file_replaces_the_kubeconfigs_token() {
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
        let plugins = Plugins::default();
        let loaded = access(None).load(&plugins).await.unwrap();
        assert!(loaded.token.is_none() && loaded.config.auth_info.token.is_some());
        let loaded = access(Some("/t")).load(&plugins).await.unwrap();
        assert_eq!(loaded.token, Some(TokenFile("/t".into())));
        assert!(loaded.config.auth_info.token.is_none());
    }

    #[tokio::test]
    async fn an_error_shows_nothing_of_a_broken_kubeconfig() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        for text in [
            "users: [{name: u, user: {token: secret}, user: secret}",
            "clusters: secret",
            "users: [{name: u, user: {token: [secret]}}]",
        ] {
            std::fs::write(&path, text).unwrap();
            let access = Access::Kubeconfig {
                path: path.clone(),
                context: None,
                token_file: None,
            };
            let error = access.load(&Plugins::default()).await.err().unwrap();
            assert!(error.contains("is not the YAML"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_parse_error_shows_nothing_of_the_response() {
        let error = serde_json::from_str::<Vec<u8>>(r#""secret""#).unwrap_err();
        let text = client_error(&kube::Error::SerdeError(error));
        assert!(
            text.contains("line 1") && !text.contains("secret"),
            "{text}"
        );
    }

    #[test]
    fn a_proxy_is_described_with_its_source_and_without_credentials() {
        let config = || kube::Config::new("https://10.0.0.1:6443".parse().unwrap());
        let mut good = config();
        let text = proxy(&mut good, Some("user:secret@proxy:3128".into())).unwrap();
        assert_eq!(text.unwrap(), "proxy:3128 from proxy-url of the kubeconfig");
        assert!(good.proxy_url.is_some());
        for bad in ["socks5://user:secret@proxy", "http://user:secret@pro xy"] {
            let error = proxy(&mut config(), Some(bad.into())).unwrap_err();
            assert!(
                error.contains("proxy-url") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
