//! The Envoy configuration that goes with the agent, as YAML that Envoy accepts as it is: delta, with the settings
//! that let Envoy reconnect within a second or two after a restart of the agent.

mod write;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// What to write a configuration for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The credentials.
    pub names: Names,
    /// What Envoy does with them.
    pub role: Role,
    /// Whether clients must present a certificate that is signed by a CA of `NAME-cacert`.
    pub mutual: bool,
    /// Whether the configuration runs as it is, rather than leaving filters and routes to the user.
    pub full: bool,
    /// The agent's socket.
    pub socket: PathBuf,
    /// The address that Envoy listens on.
    pub listen: SocketAddr,
    /// The address of Envoy's admin interface, in a full configuration.
    pub admin: SocketAddr,
    /// The address of the upstream.
    pub upstream: Endpoint,
    /// Whether a client certificate is presented to upstreams.
    pub client_certificate: bool,
    /// The generic secret that requests to upstreams have in their header `Authorization`.
    pub injected: Option<Name>,
    /// Envoy's node id, which the agent logs and which access rules can match.
    pub node: String,
}

/// What Envoy does with the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves each under its own name.
    Serve,
    /// It requests the certificate of any host that a client names, and fetches these in advance.
    OnDemand,
    /// It connects to an upstream with each, and verifies the upstream with the CAs of the same credential.
    Upstream,
}

/// The address of a server: a host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An IP address, or a host name that Envoy resolves.
    pub host: EndpointHost,
    /// The port.
    pub port: u16,
}

/// The host of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointHost {
    /// An IP address.
    Ip(IpAddr),
    /// A host name.
    Name(String),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let parts = text.rsplit_once(':');
        let parts = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match parts {
            Some((host, port)) if is_host_name(host) => Ok(Self {
                host: EndpointHost::Name(host.to_owned()),
                port,
            }),
            _ => Err("expected a host name or an IP address, and a port, as in `backend.internal:8443`, \
                      `10.0.0.7:8443` or `[fd00::7]:8443`"
                .to_owned()),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: EndpointHost::Ip(address.ip()),
            port: address.port(),
        }
    }
}

/// Whether `text` is a host name that resolvers accept. Only digits and dots are a mistyped address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_taken = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(is_taken)
    };
    let labels = text.strip_suffix('.').unwrap_or(text);
    labels.len() <= 253
        && labels.split('.').all(is_label)
        && labels.contains(|char: char| char.is_ascii_alphabetic())
}

impl Request {
    /// The configuration.
    pub fn to_yaml(&self) -> String {
        write::configuration(self)
    }
}

/// The suffixes of the names of further certificates for a host.
const FURTHER: [&str; 2] = ["-ecdsa", "-rsa"];

/// A name that a credential can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = match text {
            "" => "it is empty",
            _ if text.len() > 253 => "it has more than 253 bytes",
            _ if text.starts_with('.') => "it begins with a dot",
            _ if text.contains('/') => "a folder's name has no `/`",
            _ if text.contains(char::is_control) => "it has control characters",
            _ => return Ok(Self(text.to_owned())),
        };
        Err(format!("no credential can have this name: {wrong}"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names of one configuration: at least one, and such that Envoy can distinguish them by host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    first: Name,
    others: Vec<Name>,
}

impl Names {
    /// The names as given, without duplicates.
    ///
    /// # Errors
    /// There is no name, two names are the same host for Envoy, or one of several names is not a host.
    pub fn new(names: Vec<Name>) -> Result<Self, String> {
        let mut unique: Vec<Name> = Vec::new();
        for name in names {
            if unique.contains(&name) {
                continue;
            }
            if let Some(other) = unique.iter().find(|other| other.host() == name.host()) {
                return Err(format!(
                    "`{other}` and `{name}` are the same host for Envoy; give only one of them"
                ));
            }
            unique.push(name);
        }
        let hosts = unique
            .iter()
            .filter(|name| !unique.iter().any(|host| name.is_further_of(host)));
        let several = hosts.count() > 1;
        if let Some(name) = unique.iter().find(|name| several && !name.is_host()) {
            return Err(format!(
                "Envoy can't select `{name}` by the host of a connection: `*` may only stand for \
                 the first label, as in `*.example.com`; write a separate configuration for it"
            ));
        }
        let mut unique = unique.into_iter();
        let first = unique.next().ok_or("name at least one credential")?;
        Ok(Self {
            first,
            others: unique.collect(),
        })
    }

    fn iter(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The names that stand for a host, each with the names of further certificates for it: `site` with
    /// `site-ecdsa` and `site-rsa`. Envoy chooses one of them by the capabilities of the client.
    fn hosts(&self) -> Vec<(&Name, Vec<&Name>)> {
        let is_further = |name: &Name| self.iter().any(|host| name.is_further_of(host));
        let hosts = self.iter().filter(|name| !is_further(name));
        hosts
            .map(|host| {
                (
                    host,
                    self.iter()
                        .filter(|name| name.is_further_of(host))
                        .collect(),
                )
            })
            .collect()
    }
}

impl Name {
    /// The host that it stands for: Envoy compares server names in lower case.
    fn host(&self) -> String {
        self.0.to_lowercase()
    }

    /// Whether it is the name of `host` with a kind of key as its suffix.
    fn is_further_of(&self, host: &Self) -> bool {
        FURTHER
            .iter()
            .any(|kind| self.0.strip_suffix(kind) == Some(&host.0))
    }

    fn is_host(&self) -> bool {
        let rest = self.0.strip_prefix("*.").unwrap_or(&self.0);
        !rest.is_empty() && !rest.contains('*')
    }

    /// The secret with the CAs that belong to it.
    fn bundle(&self) -> String {
        format!("{self}-cacert")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Result<Names, String> {
        Names::new(names.iter().map(|name| name.parse().unwrap()).collect())
    }

    #[test]
    fn names_are_hosts_that_can_be_distinguished() {
        assert!(names(&["a", "b", "a", "*.b"]).is_ok());
        assert!(names(&["a*b"]).is_ok());
        assert!(names(&["a*b", "c"]).is_err());
        assert!(names(&["a", "A"]).is_err());
        assert!(names(&[]).is_err());
    }

    #[test]
    fn a_name_with_the_kind_of_a_key_is_a_further_certificate_of_its_host() {
        let names = names(&["site", "site-ecdsa", "b-rsa"]).unwrap();
        let hosts = names.hosts();
        let shown: Vec<_> = hosts
            .iter()
            .map(|(host, further)| (&*host.0, further.len()))
            .collect();
        assert_eq!(shown, [("site", 1), ("b-rsa", 0)]);
    }

    #[test]
    fn a_name_is_one_that_the_agent_serves() {
        for name in ["", ".a", "a/b", "a\nb", &"a".repeat(254)] {
            assert!(name.parse::<Name>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn no_name_breaks_out_of_its_quotes() {
        let request = Request {
            names: names(&["\"}, x: {\\ # \u{2028}é"]).unwrap(),
            role: Role::Serve,
            mutual: true,
            full: true,
            socket: "/run/a b\"c".into(),
            listen: ([127, 0, 0, 1], 1).into(),
            admin: ([127, 0, 0, 1], 2).into(),
            upstream: SocketAddr::from(([127, 0, 0, 1], 3)).into(),
            client_certificate: true,
            injected: None,
            node: "n\"".to_owned(),
        };
        let yaml = request.to_yaml();
        assert!(
            yaml.contains(r#"name: "\"}, x: {\\ # \u2028\u00E9""#),
            "{yaml}"
        );
        assert!(yaml.contains(r#"path: "/run/a b\"c""#), "{yaml}");
        assert!(yaml.is_ascii());
    }
}
