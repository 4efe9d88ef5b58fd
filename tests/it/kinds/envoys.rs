//! Envoys that use secrets of each kind.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::util::envoy::{bootstrap, http_connection_manager, loopback, sds_config};
use crate::util::{BOUND, Bed, Envoy, Protocol};

const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// A host of the TLS listener: its certificate, and its session ticket keys.
pub(super) struct TlsHost {
    pub(super) name: &'static str,
    pub(super) pair: &'static str,
    pub(super) ticket_keys: Option<&'static str>,
}

/// A secret from the agent.
pub(super) fn secret(name: &str) -> Value {
    json!({ "name": name, "sds_config": sds_config(Protocol::Delta) })
}

/// The filter that adds a generic secret to each request as its header `Authorization`.
pub(super) fn injector(name: &str) -> Value {
    json!({
        "name": "credential_injector",
        "typed_config": {
            "@type": format!("{TYPE}.filters.http.credential_injector.v3.CredentialInjector"),
            "overwrite": true,
            "credential": {
                "name": "generic",
                "typed_config": {
                    "@type": format!("{TYPE}.http.injected_credentials.generic.v3.Generic"),
                    "credential": secret(name),
                },
            },
        },
    })
}

/// A route that answers with the header `Authorization` that the request had when it was routed.
pub(super) fn mirror() -> Value {
    let seen = json!({ "key": "x-seen", "value": "%REQ(authorization)%" });
    json!({
        "match": { "prefix": "/" },
        "direct_response": { "status": 200 },
        "response_headers_to_add": [{ "header": seen }],
    })
}

/// A listener without TLS on a Unix socket, with a filter before its routes.
pub(super) fn plain(socket: &Path, filter: Value, routes: Value) -> Value {
    let mut manager = http_connection_manager();
    let config = &mut manager["typed_config"];
    let router = config["http_filters"][0].take();
    config["http_filters"] = json!([filter, router]);
    config["route_config"]["virtual_hosts"][0]["routes"] = routes;
    json!({
        "name": socket,
        "address": { "pipe": { "path": socket } },
        "filter_chains": [{ "filters": [manager] }],
    })
}

/// Starts an Envoy with a TLS listener for `hosts`, if there are any, and with other listeners.
pub(super) fn start(
    program: &Path,
    bed: &Bed,
    hosts: &[TlsHost],
    others: Vec<Value>,
    clusters: Vec<Value>,
) -> Envoy {
    let mut config = bootstrap(&bed.socket());
    config["node"] = json!({ "id": "kinds", "cluster": "test" });
    config["admin"] = json!({ "address": loopback() });
    let mut listeners = others;
    if !hosts.is_empty() {
        let chains: Vec<Value> = hosts.iter().map(TlsHost::chain).collect();
        listeners.insert(
            0,
            json!({
                "name": "tls",
                "address": loopback(),
                "listener_filters": [{
                    "name": "tls_inspector",
                    "typed_config": { "@type": format!("{TYPE}.filters.listener.tls_inspector.v3.TlsInspector") },
                }],
                "filter_chains": chains,
            }),
        );
    }
    config["static_resources"]["listeners"] = json!(listeners);
    let known = config["static_resources"]["clusters"].as_array_mut();
    known.unwrap().extend(clusters);
    Envoy::start_as_it_is(program, &config.to_string())
}

impl TlsHost {
    fn chain(&self) -> Value {
        let mut context = json!({
            "@type": format!("{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": { "tls_certificate_sds_secret_configs": [secret(self.pair)] },
        });
        if let Some(keys) = self.ticket_keys {
            context["session_ticket_keys_sds_secret_config"] = secret(keys);
        }
        json!({
            "filter_chain_match": { "server_names": [self.name] },
            "filters": [http_connection_manager()],
            "transport_socket": { "name": "tls", "typed_config": context },
        })
    }
}

/// The response to a request without a body on a Unix socket; `None` while there is none.
pub(super) fn ask(socket: &Path, path: &str, headers: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(BOUND)).ok()?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: site.test\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// The values of a header of a response.
pub(super) fn header<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields
        .filter(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}
