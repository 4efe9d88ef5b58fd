//! Credential plugins of a kubeconfig (`exec`). A plugin runs again when its credential expires. Its output,
//! which has a token or a key, is never shown.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::config::{ExecAuthCluster, ExecConfig, ExecInteractiveMode};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use zeroize::{Zeroize, Zeroizing};

/// How long a plugin may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// The maximum size of a plugin's output in bytes, far more than any credential has.
const MAX_OUTPUT: u64 = 1024 * 1024;
/// A credential is renewed this long before it expires.
const MARGIN: Duration = Duration::from_secs(10);

/// The credentials from a plugin.
pub(crate) struct Credentials {
    pub(crate) token: Option<Zeroizing<String>>,
    /// A client certificate and its key, PEM.
    pub(crate) identity: Option<(String, Zeroizing<String>)>,
    /// When to run the plugin again; if `None`, when the API server refuses the credentials.
    pub(crate) renew_at: Option<SystemTime>,
}

/// Runs plugins, and caches their credentials.
#[derive(Default)]
pub(crate) struct Plugins(Mutex<Option<(ExecConfig, Arc<Credentials>)>>);

impl Plugins {
    /// The credentials from this plugin, which only runs if there are none that are still valid.
    ///
    /// # Errors
    /// The plugin failed. The error contains nothing of its output.
    pub(crate) async fn credentials(&self, exec: &ExecConfig) -> Result<Arc<Credentials>, String> {
        let mut kept = self.0.lock().await;
        if let Some((of, credentials)) = &*kept
            && is_same(of, exec)
            && credentials.renew_at.is_none_or(|at| at > SystemTime::now())
        {
            return Ok(Arc::clone(credentials));
        }
        let credentials = Arc::new(run(exec).await?);
        *kept = Some((exec.clone(), Arc::clone(&credentials)));
        Ok(credentials)
    }

    /// Forgets credentials that the API server refused, so that the plugin runs again.
    pub(crate) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

fn is_same(a: &ExecConfig, b: &ExecConfig) -> bool {
    serde_json::to_value(a).ok() == serde_json::to_value(b).ok()
}

async fn run(exec: &ExecConfig) -> Result<Credentials, String> {
    let name = exec.command.as_deref().ok_or(
        "the kubeconfig names a credential plugin without a command; add `command` to its `exec`",
    )?;
    let failed = |why: String| format!("the credential plugin {name}: {why}");
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(failed(
            "it needs a terminal (interactiveMode: Always), and sds-mirror has none; use a plugin \
             that needs none"
                .into(),
        ));
    }
    let output = tokio::time::timeout(TIME_LIMIT, output(name, exec))
        .await
        .map_err(|_| failed(format!("it has not ended within {TIME_LIMIT:?}")))?
        .map_err(failed)?;
    parse(&output).map_err(failed)
}

async fn output(name: &str, exec: &ExecConfig) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut command = Command::new(name);
    command
        .args(exec.args.iter().flatten())
        .env("KUBERNETES_EXEC_INFO", info(exec)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    for name in exec.drop_env.iter().flatten() {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|error| match &exec.install_hint {
        Some(hint) => format!("can't be run: {error}; {hint}"),
        None => format!("can't be run: {error}; install it, or give its absolute path"),
    })?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 * 1024));
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = stdout.take(MAX_OUTPUT);
        let read = stdout.read_to_end(&mut bytes).await;
        read.map_err(|error| format!("its output can't be read: {error}"))?;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    match status.success() {
        true => Ok(bytes),
        false => Err(format!(
            "it failed ({status}); run it as this user to see its output, which is not logged"
        )),
    }
}

/// What a plugin receives in its environment.
fn info(exec: &ExecConfig) -> Result<String, String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Info<'a> {
        api_version: Option<&'a str>,
        kind: &'static str,
        spec: Spec<'a>,
    }
    #[derive(Serialize)]
    struct Spec<'a> {
        interactive: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cluster: Option<&'a ExecAuthCluster>,
    }
    let cluster = exec.cluster.as_ref();
    let info = Info {
        api_version: exec.api_version.as_deref(),
        kind: "ExecCredential",
        spec: Spec {
            interactive: false,
            cluster: cluster.filter(|_| exec.provide_cluster_info),
        },
    };
    serde_json::to_string(&info).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Option<ExecStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// An error contains nothing of the output.
fn parse(output: &[u8]) -> Result<Credentials, String> {
    let credential: ExecCredential = serde_json::from_slice(output)
        .map_err(|_| "its output is not an ExecCredential in JSON".to_owned())?;
    let status = credential.status.ok_or("its output has no `status`")?;
    let renew_at = status.expiration_timestamp.as_deref().map(|text| {
        humantime::parse_rfc3339_weak(text)
            .map(|expires| expires.checked_sub(MARGIN).unwrap_or(expires))
            .map_err(|_| "the `expirationTimestamp` in its output is not a time in RFC 3339")
    });
    let identity = match (status.client_certificate_data, status.client_key_data) {
        (Some(certificate), Some(key)) => Some((certificate, Zeroizing::new(key))),
        (_, mut lone) => {
            lone.zeroize();
            None
        }
    };
    let token = status.token.map(Zeroizing::new);
    if token.is_none() && identity.is_none() {
        return Err("its output has neither a token nor a client certificate with its key".into());
    }
    Ok(Credentials {
        token,
        identity,
        renew_at: renew_at.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_contains_nothing_of_the_output() {
        for output in [
            "secret-token",
            r#"{"status": "secret-token"}"#,
            r#"{"status": {"token": ["secret-token"]}}"#,
            r#"{"status": {"token": "secret-token", "expirationTimestamp": "secret-token"}}"#,
            r#"{"status": {"clientKeyData": "secret-token"}}"#,
            r#"{"spec": "secret-token"}"#,
        ] {
            let error = parse(output.as_bytes()).err().unwrap();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_credential_is_renewed_before_it_expires() {
        let output = r#"{"status": {"token": "t", "expirationTimestamp": "2030-01-01T00:00:00Z"}}"#;
        let credentials = parse(output.as_bytes()).unwrap();
        let expires = humantime::parse_rfc3339("2030-01-01T00:00:00Z").unwrap();
        assert_eq!(credentials.renew_at, Some(expires - MARGIN));
        assert_eq!(credentials.token.as_deref().map(String::as_str), Some("t"));
    }
}
