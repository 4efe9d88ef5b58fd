//! A real Envoy that gets its secrets from the agent.
//!
//! Its listener is configured by LDS from a file, so that hosts can be added and changed while it runs. The kernel
//! chooses every port, so tests can run concurrently.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::https::Https;
use super::process::Process;
use super::wait::{BOUND, eventually, eventually_true};

/// The status that every host responds with. No other part of Envoy uses it.
pub(crate) const TEAPOT: u16 = 418;

/// Which of the two protocols Envoy speaks with the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Sotw,
    Delta,
}

impl Protocol {
    pub(crate) const BOTH: [Self; 2] = [Self::Sotw, Self::Delta];
}

/// A host of the listener.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    server_name: String,
    secret: String,
    client_ca: Option<String>,
    /// Options of a `CertificateValidationContext` of Envoy's own configuration.
    validation: Value,
}

impl Host {
    /// Connections for `server_name` are served the pair that is secret `secret`.
    pub(crate) fn new(server_name: &str, secret: &str) -> Self {
        Self {
            server_name: server_name.into(),
            secret: secret.into(),
            client_ca: None,
            validation: Value::Null,
        }
    }

    /// Also requires client certificates that the bundle in the secret `secret` verifies.
    pub(crate) fn client_ca(mut self, secret: &str) -> Self {
        self.client_ca = Some(secret.into());
        self
    }

    /// Also sets these options for that bundle in Envoy's own configuration.
    pub(crate) fn validation(mut self, options: Value) -> Self {
        self.validation = options;
        self
    }
}

/// A running Envoy. It derefs to [`Process`], and is killed when dropped.
pub(crate) struct Envoy {
    process: Process,
    folder: TempDir,
    /// Where its listener's secrets come from.
    source: Value,
}

impl Envoy {
    /// Starts `program` with `hosts` on its listener, which opens when they have their secrets.
    pub(crate) fn start(program: &Path, socket: &Path, protocol: Protocol, hosts: &[Host]) -> Self {
        Self::start_with(program, &bootstrap(socket), protocol, hosts)
    }

    /// Does the same as [`start`](Self::start), with another source of secrets.
    pub(crate) fn start_from(program: &Path, source: Value, hosts: &[Host]) -> Self {
        Self::launch(program, &json!({}), source, hosts)
    }

    /// Does the same as [`start`](Self::start), with another bootstrap configuration, which has the cluster
    /// `sds_agent`. Node, admin address and LDS are added here.
    pub(crate) fn start_with(
        program: &Path,
        bootstrap: &Value,
        protocol: Protocol,
        hosts: &[Host],
    ) -> Self {
        Self::launch(program, bootstrap, sds_config(protocol), hosts)
    }

    fn launch(program: &Path, bootstrap: &Value, source: Value, hosts: &[Host]) -> Self {
        let folder = tempfile::Builder::new().prefix("envoy").tempdir().unwrap();
        let config = folder.path().join("envoy.json");
        let mut bootstrap = bootstrap.clone();
        bootstrap["node"] = json!({"id": "test-envoy", "cluster": "test"});
        bootstrap["admin"] = json!({"address": loopback()});
        bootstrap["dynamic_resources"] = json!({
            "lds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": folder.path().join("lds.json")},
            }
        });
        write_listener(folder.path(), &source, hosts);
        Self::run(program, folder, &config, &bootstrap.to_string(), source)
    }

    /// Starts `program` with a listener that fetches the certificate of each host when a client first
    /// names it. A client that names none gets the secret `default`. With `client_ca`, clients must have
    /// a certificate of the bundle that is the secret of that name.
    pub(crate) fn on_demand(
        program: &Path,
        socket: &Path,
        default: &str,
        client_ca: Option<&str>,
    ) -> Self {
        let mut config = bootstrap(socket);
        config["admin"] = json!({"address": loopback()});
        config["node"] = json!({"id": "test-envoy", "cluster": "test"});
        let chain = on_demand_chain(default, client_ca);
        config["static_resources"]["listeners"] = json!([listener(&[chain])]);
        let envoy = Self::start_as_it_is(program, &config.to_string());
        eventually_true("the listener", || {
            envoy.stat("listener_manager.listener_create_success") > 0
        });
        envoy
    }

    /// Starts `program` with a complete, unchanged configuration. The kernel should choose its ports.
    pub(crate) fn start_as_it_is(program: &Path, yaml: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("envoy").tempdir().unwrap();
        let config = folder.path().join("envoy.yaml");
        Self::run(program, folder, &config, yaml, Value::Null)
    }

    fn run(program: &Path, folder: TempDir, config: &Path, text: &str, source: Value) -> Self {
        fs::write(config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(config);
        command
            .arg("--admin-address-path")
            .arg(folder.path().join("admin"));
        command.args(["--disable-hot-restart", "--concurrency", "1"]);
        command.args(["--log-level", "warning", "--drain-time-s", "1"]);
        let mut envoy = Self {
            process: Process::spawn("envoy", &mut command),
            folder,
            source,
        };
        eventually_true("Envoy's admin address", || {
            assert!(envoy.is_running(), "Envoy has ended: {:#?}", envoy.lines());
            envoy.admin_address().is_some()
        });
        envoy
    }

    /// Replaces the hosts of the listener while it runs, and waits until Envoy uses them.
    #[track_caller]
    pub(crate) fn set_hosts(&self, hosts: &[Host]) {
        let updates = || self.stat("listener_manager.lds.update_success");
        let before = updates();
        write_listener(self.folder.path(), &self.source, hosts);
        eventually_true("the listener's update", || updates() > before);
    }

    /// The listener's port, which is known before the listener is open.
    #[track_caller]
    pub(crate) fn port(&self) -> u16 {
        eventually("the listener's port", || {
            let listeners = self.admin("GET", "/listeners?format=json");
            let listeners: Value = serde_json::from_str(&listeners).ok()?;
            let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
            u16::try_from(address["port_value"].as_u64()?).ok()
        })
    }

    /// A client of `server_name` on the listener.
    #[track_caller]
    pub(crate) fn https(&self, server_name: &str) -> Https {
        Https::new(self.port(), server_name)
    }

    /// The value of a statistic; 0 if Envoy has none with that name.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        self.stats_where(|stat| stat == name)
            .first()
            .map_or(0, |(_, value)| *value)
    }

    /// The statistics whose names match `which`.
    pub(crate) fn stats_where(&self, which: impl Fn(&str) -> bool) -> Vec<(String, u64)> {
        let stats = self.admin("GET", "/stats");
        let pairs = stats.lines().filter_map(|line| line.split_once(": "));
        pairs
            .filter(|(name, _)| which(name))
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect()
    }

    /// Asserts that Envoy has not rejected a secret, and has not failed to load one.
    #[track_caller]
    pub(crate) fn assert_no_rejection(&self) {
        let of_interest = [".update_rejected", ".key_rotation_failed"];
        let stats = self.stats_where(|name| of_interest.iter().any(|end| name.ends_with(end)));
        assert!(
            stats.iter().any(|(name, _)| name.starts_with("sds.")),
            "Envoy has no statistics of secrets: {stats:?}"
        );
        let failed: Vec<_> = stats.iter().filter(|(_, value)| *value > 0).collect();
        assert!(failed.is_empty(), "Envoy rejected updates: {failed:?}");
    }

    /// A request to the admin interface; empty if that fails.
    pub(crate) fn admin(&self, method: &str, path: &str) -> String {
        self.try_admin(method, path).unwrap_or_default()
    }

    fn try_admin(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin_address()?).ok()?;
        stream.set_read_timeout(Some(BOUND)).ok()?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        body(&String::from_utf8_lossy(&answer))
    }

    fn admin_address(&self) -> Option<String> {
        let address = fs::read_to_string(self.folder.path().join("admin")).ok()?;
        (!address.is_empty()).then_some(address)
    }
}

impl Deref for Envoy {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Envoy {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The body of an HTTP response, which Envoy sends in chunks.
fn body(answer: &str) -> Option<String> {
    let (head, mut rest) = answer.split_once("\r\n\r\n")?;
    if !head.contains("transfer-encoding: chunked") {
        return Some(rest.to_owned());
    }
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

/// The bootstrap configuration with the agent as its one cluster.
pub(crate) fn bootstrap(socket: &Path) -> Value {
    json!({
        "static_resources": {"clusters": [{
            "name": "sds_agent",
            "type": "STATIC",
            "connect_timeout": "1s",
            "circuit_breakers": {"thresholds": [
                {"max_requests": 1_000_000, "max_pending_requests": 1_000_000, "max_connections": 1000}
            ]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {
                        "connection_keepalive": {"interval": "5s", "timeout": "5s"}
                    }},
                }
            },
            "load_assignment": {
                "cluster_name": "sds_agent",
                "endpoints": [{"lb_endpoints": [{"endpoint": {
                    "address": {"pipe": {"path": socket}}
                }}]}],
            },
        }]}
    })
}

/// The source of secrets for this agent.
pub(crate) fn sds_config(protocol: Protocol) -> Value {
    json!({
        "resource_api_version": "V3",
        "initial_fetch_timeout": "15s",
        "api_config_source": {
            "api_type": match protocol {
                Protocol::Sotw => "GRPC",
                Protocol::Delta => "DELTA_GRPC",
            },
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{"envoy_grpc": {
                "cluster_name": "sds_agent",
                "retry_policy": {"retry_back_off": {"base_interval": "0.2s", "max_interval": "1s"}},
            }}],
        },
    })
}

/// Renames the listener's file to its name, which is the event that Envoy watches for.
fn write_listener(folder: &Path, source: &Value, hosts: &[Host]) {
    let chains: Vec<_> = hosts
        .iter()
        .map(|host| filter_chain(source, host))
        .collect();
    let mut listener = listener(&chains);
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    let path: PathBuf = folder.join("lds.json");
    let temporary = folder.join("lds.json.new");
    fs::write(&temporary, json!({"resources": [listener]}).to_string()).unwrap();
    fs::rename(temporary, path).unwrap();
}

fn listener(filter_chains: &[Value]) -> Value {
    json!({
        "name": "https",
        "address": loopback(),
        "listener_filters": [{
            "name": "tls_inspector",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
        }],
        "filter_chains": filter_chains,
    })
}

fn on_demand_chain(default: &str, client_ca: Option<&str>) -> Value {
    let source = sds_config(Protocol::Delta);
    let mut context = json!({"custom_tls_certificate_selector": {
        "name": "on_demand",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config",
            "config_source": source,
            "certificate_mapper": {
                "name": "sni",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.cert_mappers.sni.v3.SNI",
                    "default_value": default,
                },
            },
        },
    }});
    if let Some(name) = client_ca {
        context["validation_context_sds_secret_config"] =
            json!({"name": name, "sds_config": source});
    }
    json!({
        "filters": [http_connection_manager()],
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": context,
                "require_client_certificate": client_ca.is_some(),
                // Envoy rejects certificates on demand if sessions can be resumed.
                "disable_stateless_session_resumption": true,
                "disable_stateful_session_resumption": true,
            },
        },
    })
}

fn filter_chain(source: &Value, host: &Host) -> Value {
    let secret = |name: &String| json!({"name": name, "sds_config": source});
    let mut context = json!({"tls_certificate_sds_secret_configs": [secret(&host.secret)]});
    match &host.client_ca {
        Some(ca) if host.validation.is_null() => {
            context["validation_context_sds_secret_config"] = secret(ca);
        }
        Some(ca) => {
            context["combined_validation_context"] = json!({
                "default_validation_context": host.validation,
                "validation_context_sds_secret_config": secret(ca),
            });
        }
        None => {}
    }
    json!({
        "name": host.server_name,
        "filter_chain_match": {"server_names": [host.server_name]},
        "filters": [http_connection_manager()],
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": context,
                "require_client_certificate": host.client_ca.is_some(),
            },
        },
    })
}

/// Answers every request with [`TEAPOT`].
pub(crate) fn http_connection_manager() -> Value {
    json!({
        "name": "http",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "https",
            "http_filters": [{
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": {"prefix": "/"},
                    "direct_response": {"status": TEAPOT, "body": {"inline_string": "I'm a teapot\n"}},
                }],
            }]},
        },
    })
}

pub(crate) fn loopback() -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}})
}
