//! The YAML, piece by piece.

use super::{Endpoint, EndpointHost, Name, Request, Role};

const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// How Envoy requests secrets from the agent. Only its first use is written out; the others are `*sds`.
const SOURCE: &str = "\
&sds
  resource_api_version: V3
  api_config_source:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc:
        cluster_name: sds_agent
        # After a restart of the agent, Envoy reconnects within a second instead of 30.
        retry_policy: {retry_back_off: {base_interval: 0.2s, max_interval: 1s}}";

/// The whole configuration.
pub(super) fn configuration(request: &Request) -> String {
    let mut sources = Sources { written: false };
    let mut clusters = agent_cluster(&request.socket.to_string_lossy());
    let mut listeners = String::new();
    if request.role == Role::Upstream {
        for name in request.names.iter() {
            clusters.push_str(&upstream_cluster(request, name, &mut sources));
        }
        if request.full {
            listeners = plain_listener(request);
        }
    } else {
        listeners = tls_listener(request, &mut sources);
    }
    let listeners = match &listeners[..] {
        "" => String::new(),
        _ => format!("  listeners:\n{listeners}"),
    };
    format!(
        "{}node: {{id: {node}, cluster: {node}}}\n{}static_resources:\n  clusters:\n{clusters}{listeners}",
        introduction(request),
        admin(request),
        node = quote(&request.node),
    )
}

fn introduction(request: &Request) -> String {
    let how = if request.full {
        "Run it as it is: envoy -c FILE"
    } else {
        "Copy the parts that you need: the cluster `sds_agent`, and each `transport_socket`.\n\
         # `*sds` stands for what is marked `&sds`, which must come first in the file"
    };
    format!("# Envoy with certificates from sds-agent.\n# {how}.\n")
}

fn admin(request: &Request) -> String {
    if !request.full {
        return String::new();
    }
    format!("admin: {{address: {}}}\n", address(&request.admin.into()))
}

fn agent_cluster(socket: &str) -> String {
    format!(
        r#"  # The agent. Envoy opens a stream for each secret: the usual limit of 1,024 requests would leave
  # all further ones unserved. The pings find an agent that hangs.
  # Envoy's user needs access to the socket: usermod --append --groups sds-agent-clients envoy, and restart Envoy.
  - name: sds_agent
    type: STATIC
    connect_timeout: 1s
    circuit_breakers: {{thresholds: [{{max_requests: 1000000, max_pending_requests: 1000000, max_connections: 1000}}]}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {TYPE}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            connection_keepalive: {{interval: 10s, timeout: 5s}}
    load_assignment:
      cluster_name: sds_agent
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {socket}}}}}}}}}]}}]
"#,
        socket = quote(socket),
    )
}

fn tls_listener(request: &Request, sources: &mut Sources) -> String {
    let mut listener = format!(
        r#"  - name: tls
    address: {address}
    listener_filters:
    - name: tls_inspector
      typed_config: {{"@type": {TYPE}.filters.listener.tls_inspector.v3.TlsInspector}}
    filter_chains:
"#,
        address = address(&request.listen.into()),
    );
    if request.role == Role::OnDemand {
        listener.push_str(&chain("{}", "a certificate on demand", request.full));
        listener.push_str(&on_demand_socket(request, sources));
        return listener;
    }
    let hosts = request.names.hosts();
    for (name, further) in &hosts {
        let matching = match hosts.len() > 1 {
            true => format!("{{server_names: [{}]}}", quote(&name.host())),
            false => "{}".to_owned(),
        };
        listener.push_str(&chain(&matching, &name.0, request.full));
        listener.push_str(&downstream_socket(request, name, further, sources));
    }
    listener
}

/// A filter chain up to its transport socket. In a full configuration, it responds with `body`.
fn chain(matching: &str, body: &str, full: bool) -> String {
    let filters = match full {
        true => http(&answer(body)),
        false => "      filters: []  # yours\n".to_owned(),
    };
    format!(
        "    - filter_chain_match: {matching}\n      # No handshake waits longer than this for its certificate.\n      \
         transport_socket_connect_timeout: 10s\n{filters}"
    )
}

/// The HTTP filters of a full configuration, with these virtual hosts.
fn http(virtual_hosts: &str) -> String {
    format!(
        r#"      filters:
      - name: http
        typed_config:
          "@type": {TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          http_filters: [{{name: router, typed_config: {{"@type": {TYPE}.filters.http.router.v3.Router}}}}]
          route_config:
            ignore_port_in_host_matching: true
            virtual_hosts:
{virtual_hosts}"#
    )
}

fn answer(body: &str) -> String {
    let body = quote(&format!("{body}\n"));
    format!(
        "            - {{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, \
         direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}]}}\n"
    )
}

fn downstream_socket(
    request: &Request,
    name: &Name,
    further: &[&Name],
    sources: &mut Sources,
) -> String {
    let certificate = tls_certificates(&[&[name], further].concat(), 12, sources);
    let context = format!("{certificate}{}", client_validation(request, name, sources));
    downstream("", request.mutual, &context)
}

/// The certificates of a TLS context, indented by `indent` columns.
fn tls_certificates(names: &[&Name], indent: usize, sources: &mut Sources) -> String {
    let space = " ".repeat(indent);
    let mut yaml = format!("{space}tls_certificate_sds_secret_configs:\n");
    for name in names {
        yaml.push_str(&format!(
            "{space}- name: {}\n{space}  sds_config: {}\n",
            quote(&name.0),
            sources.next(indent + 2),
        ));
    }
    yaml
}

fn on_demand_socket(request: &Request, sources: &mut Sources) -> String {
    let prefetch: Vec<_> = request.names.iter().map(|name| quote(&name.0)).collect();
    let selector = format!(
        r#"            # A certificate for any host, fetched when a client first requests that host: Envoy 1.37 or newer.
            custom_tls_certificate_selector:
              name: on_demand
              typed_config:
                "@type": {TYPE}.transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config
                config_source: {source}
                prefetch_secret_names: [{prefetch}]
                # The secret for clients without SNI.
                certificate_mapper:
                  name: sni
                  typed_config: {{"@type": {TYPE}.transport_sockets.tls.cert_mappers.sni.v3.SNI, default_value: {default}}}
"#,
        source = sources.next(16),
        prefetch = prefetch.join(", "),
        default = quote(&request.names.first.0),
    );
    // Envoy rejects certificates on demand if sessions can be resumed.
    let no_resumption = "          disable_stateless_session_resumption: true\n          \
                         disable_stateful_session_resumption: true\n";
    let validation = client_validation(request, &request.names.first, sources);
    downstream(
        no_resumption,
        request.mutual,
        &format!("{selector}{validation}"),
    )
}

fn downstream(settings: &str, mutual: bool, context: &str) -> String {
    let require = match mutual {
        true => "          require_client_certificate: true\n",
        false => "",
    };
    format!(
        r#"      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": {TYPE}.transport_sockets.tls.v3.DownstreamTlsContext
{require}{settings}          common_tls_context:
            alpn_protocols: [h2, http/1.1]
{context}"#
    )
}

fn client_validation(request: &Request, name: &Name, sources: &mut Sources) -> String {
    if !request.mutual {
        return String::new();
    }
    format!(
        r#"            combined_validation_context:
              # Any certificate of this CA is accepted. To restrict that: {{match_typed_subject_alt_names: [...]}}
              default_validation_context: {{}}
              validation_context_sds_secret_config:
                name: {bundle}
                sds_config: {source}
"#,
        bundle = quote(&name.bundle()),
        source = sources.next(16),
    )
}

fn upstream_cluster(request: &Request, name: &Name, sources: &mut Sources) -> String {
    let injector = match &request.injected {
        Some(secret) => injector(secret, sources),
        None => String::new(),
    };
    let certificate = match request.client_certificate {
        true => tls_certificates(&[name], 10, sources),
        false => String::new(),
    };
    format!(
        r#"  - name: {name}
    type: {kind}
    connect_timeout: 1s
{injector}    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {address}}}}}]}}]
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": {TYPE}.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {name}
        common_tls_context:
{certificate}          combined_validation_context:
            # The name that the upstream's certificate must have.
            default_validation_context: {{match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {name}}}}}]}}
            validation_context_sds_secret_config:
              name: {bundle}
              sds_config: {bundle_source}
"#,
        name = quote(&name.0),
        kind = match request.upstream.host {
            EndpointHost::Ip(_) => "STATIC",
            // By default, Envoy uses only IPv6 addresses if there are any, and `localhost` has one even on a
            // machine without IPv6.
            EndpointHost::Name(_) => "STRICT_DNS\n    dns_lookup_family: V4_PREFERRED",
        },
        address = address(&request.upstream),
        bundle = quote(&name.bundle()),
        bundle_source = sources.next(14),
    )
}

/// Adds a generic secret to each request to a cluster.
fn injector(secret: &Name, sources: &mut Sources) -> String {
    format!(
        r#"    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {TYPE}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http_protocol_options: {{}}}}
        http_filters:
        # Without the secret, requests are answered with 401.
        - name: credential_injector
          typed_config:
            "@type": {TYPE}.filters.http.credential_injector.v3.CredentialInjector
            overwrite: true
            credential:
              name: generic
              typed_config:
                "@type": {TYPE}.http.injected_credentials.generic.v3.Generic
                # The secret is the whole value of the header, such as `Bearer abc`.
                header: Authorization
                credential:
                  name: {secret}
                  sds_config: {source}
        - name: upstream_codec
          typed_config: {{"@type": {TYPE}.filters.http.upstream_codec.v3.UpstreamCodec}}
"#,
        secret = quote(&secret.0),
        source = sources.next(20),
    )
}

/// A listener for plain HTTP that forwards to the upstream that the request's host names, or to the first one.
fn plain_listener(request: &Request) -> String {
    let mut hosts = String::new();
    for name in request.names.iter() {
        let domain = match *name == request.names.first {
            true => quote("*"),
            false => quote(&name.host()),
        };
        hosts.push_str(&format!(
            "            - {{name: {name}, domains: [{domain}], routes: [{{match: {{prefix: /}}, \
             route: {{cluster: {name}}}}}]}}\n",
            name = quote(&name.0),
        ));
    }
    format!(
        "  - name: plain\n    address: {}\n    filter_chains:\n    - filter_chain_match: {{}}\n{}",
        address(&request.listen.into()),
        http(&hosts),
    )
}

/// Writes the source of secrets in full at its first use, and as a reference after that.
struct Sources {
    written: bool,
}

impl Sources {
    /// The value of a key that is indented by `indent` columns.
    fn next(&mut self, indent: usize) -> String {
        if std::mem::replace(&mut self.written, true) {
            return "*sds".to_owned();
        }
        SOURCE.replace('\n', &format!("\n{}", " ".repeat(indent)))
    }
}

fn address(endpoint: &Endpoint) -> String {
    let host = match &endpoint.host {
        EndpointHost::Ip(address) => address.to_string(),
        EndpointHost::Name(name) => name.clone(),
    };
    format!(
        "{{socket_address: {{address: {}, port_value: {}}}}}",
        quote(&host),
        endpoint.port
    )
}

/// A double-quoted scalar in ASCII, because YAML treats some other characters as line breaks.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ if u32::from(c) > 0xFFFF => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
            _ => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}
