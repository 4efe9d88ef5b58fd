//! The rules for names: which folders are served, what a requested name may mean, and which hosts a certificate
//! covers. No other module has its own rules for names.

use std::ffi::OsStr;
use std::fmt;
use std::net::IpAddr;

/// The longest name in bytes: that of a DNS name (RFC 1035), and of a Secret in Kubernetes.
pub const MAX_NAME: usize = 253;
/// The suffix under which the bundle of a credential is served, as with Istio's gateway.
pub const CACERT: &str = "-cacert";
/// How Istio spells a reference to a Secret.
const KUBERNETES: &str = "kubernetes://";
/// Prefixes of names that Istio's gateways reserve for themselves.
const RESERVED: [&str; 2] = ["istio", "prometheus"];
/// Folders that file systems and appliances create in every volume.
const FOREIGN: [&str; 2] = ["lost+found", "@eaDir"];
/// The longest label of a DNS name in bytes (RFC 1035).
const MAX_LABEL: usize = 63;

/// Whether a folder of this name does not belong to the agent: it is hidden, or was created by the file system.
pub fn is_foreign(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || FOREIGN.iter().any(|foreign| name == *foreign)
}

/// The name under which a folder is served. With `reserve`, the names that Istio reserves are not served.
///
/// # Errors
/// Why the folder is not served.
pub fn servable(name: &OsStr, reserve: bool) -> Result<&str, String> {
    let Some(name) = name.to_str() else {
        return Err("it is not served: its name is not UTF-8".to_owned());
    };
    if name.len() > MAX_NAME {
        return Err(format!(
            "it is not served: its name is longer than {MAX_NAME} bytes"
        ));
    }
    if name.chars().any(char::is_control) {
        return Err("it is not served: its name contains control characters".to_owned());
    }
    if reserve && RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(
            "it is not served: names that begin with `istio` or `prometheus` are reserved, as with \
             Istio; `reserved_names = false` serves them"
                .to_owned(),
        );
    }
    Ok(name)
}

/// Whether a requested name can be the name of a secret. A wildcard can't, so that no request is for every secret
/// at once.
pub fn is_requestable(name: &str) -> bool {
    let name = plain(name);
    let credential = bundle_owner(name).unwrap_or(name);
    !name.is_empty() && name != "*" && credential.len() <= MAX_NAME
}

/// A requested name without Istio's spelling.
pub fn plain(requested: &str) -> &str {
    requested.strip_prefix(KUBERNETES).unwrap_or(requested)
}

/// The credential whose bundle is served under that name.
pub fn bundle_owner(name: &str) -> Option<&str> {
    name.strip_suffix(CACERT).filter(|owner| !owner.is_empty())
}

/// The requested names, besides hosts, that a credential can answer.
pub fn answers(credential: &str) -> [String; 4] {
    [
        credential.to_owned(),
        format!("{credential}{CACERT}"),
        format!("{KUBERNETES}{credential}"),
        format!("{KUBERNETES}{credential}{CACERT}"),
    ]
}

/// The host that the name of a credential stands for, if it stands for one. A name that begins with `_.` stands for
/// a wildcard, as with lego.
pub fn host_of(credential: &str) -> Option<Host> {
    let host = Host::parse(credential).filter(|_| !credential.starts_with("_."))?;
    host.as_str().contains(['.', ':']).then_some(host)
}

/// A host as clients name it, in the normalized form in which hosts are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(String);

impl Host {
    /// The host that `name` means: without case and trailing dot, non-ASCII labels as A-labels, an IP
    /// address in its usual form.
    pub fn parse(name: &str) -> Option<Self> {
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(name).parse::<IpAddr>() {
            return Some(Self(address.to_string()));
        }
        domain(name).map(Self)
    }

    /// Its normalized form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an IP address.
    pub fn is_address(&self) -> bool {
        self.0.parse::<IpAddr>().is_ok()
    }

    /// What follows `*.` in a wildcard that covers it; `None` if no wildcard can.
    pub fn parent(&self) -> Option<&str> {
        let (_, parent) = self.0.split_once('.')?;
        (!self.is_address() && is_wildcard_parent(parent)).then_some(parent)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hosts that a name in a certificate covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coverage {
    /// This one.
    Exact(Host),
    /// Hosts with one label more than this domain.
    Wildcard(String),
}

impl Coverage {
    /// What a subject alternative name covers. A wildcard covers only the left-most label, and only below a domain
    /// of at least two labels, as with most clients. Other names with `*` cover nothing.
    pub fn parse(name: &str) -> Option<Self> {
        match name.strip_prefix("*.") {
            Some(parent) => domain(parent)
                .filter(|parent| is_wildcard_parent(parent))
                .map(Self::Wildcard),
            None => Host::parse(name).map(Self::Exact),
        }
    }

    /// Whether it covers that host.
    pub fn covers(&self, host: &Host) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Wildcard(parent) => host.parent() == Some(parent),
        }
    }
}

impl fmt::Display for Coverage {
    /// As in a certificate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

fn is_wildcard_parent(domain: &str) -> bool {
    domain.contains('.')
}

/// A domain name in lower case with A-labels, without its trailing dot.
fn domain(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let ascii = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(name).ok()?
    };
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (ascii.len() <= MAX_NAME && ascii.split('.').all(is_label)).then_some(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Option<String> {
        Host::parse(name).map(|host| host.to_string())
    }

    #[test]
    fn hosts_are_compared_in_normalized_form() {
        for (name, expected) in [
            ("www.example.com", "www.example.com"),
            ("WWW.Example.COM.", "www.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example.", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(host(name).as_deref(), Some(expected), "{name}");
        }
        let long = format!("{}.example", "a".repeat(64));
        let longest = ["a".repeat(63).as_str(); 4].join(".");
        for name in [
            "",
            ".",
            "*",
            "a..b",
            "a/b",
            "../../etc/passwd",
            "a b",
            "a\tb",
            "a.example..",
            &long,
            &longest,
        ] {
            assert_eq!(host(name), None, "{name}");
        }
    }

    #[test]
    fn a_credential_is_named_like_a_host_or_not() {
        let host = |name: &str| host_of(name).map(|host| host.to_string());
        assert_eq!(host("WWW.example.com").as_deref(), Some("www.example.com"));
        assert_eq!(host("2001:db8::1").as_deref(), Some("2001:db8::1"));
        for name in ["site", "_.example.com", "*.example.com", "a b.example"] {
            assert_eq!(host(name), None, "{name}");
        }
    }

    #[test]
    fn a_wildcard_covers_only_the_left_most_label() {
        let covers = |name: &str, host: &str| {
            let (coverage, host) = (Coverage::parse(name), Host::parse(host).unwrap());
            coverage.is_some_and(|coverage| coverage.covers(&host))
        };
        for (name, host, expected) in [
            ("*.example.com", "www.example.com", true),
            ("*.EXAMPLE.com.", "WWW.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "a.b.example.com", false),
            ("*.com", "example.com", false),
            ("*", "example", false),
            ("a.*.b", "a.x.b", false),
            ("w*.example.com", "www.example.com", false),
            ("*.0.2.1", "192.0.2.1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("www.example.com", "www.example.com", true),
            ("www.example.com", "wwww.example.com", false),
            ("*.bücher.example", "www.xn--bcher-kva.example", true),
            ("", "a", false),
        ] {
            assert_eq!(covers(name, host), expected, "{name} {host}");
        }
    }

    #[test]
    fn some_folders_are_not_served_because_of_their_names() {
        let servable = |name: &str, reserve| servable(OsStr::new(name), reserve).is_ok();
        for name in ["site", "www.example.com", "*.example.com", "Site name", "ä"] {
            assert!(servable(name, true), "{name}");
        }
        assert!(servable(&"a".repeat(MAX_NAME), true));
        for name in ["a\nb", &"a".repeat(MAX_NAME + 1)] {
            assert!(!servable(name, false), "{name}");
        }
        for name in ["istio-ca", "istio", "prometheus.example"] {
            assert!(!servable(name, true), "{name}");
            assert!(servable(name, false), "{name}");
        }
        assert!(is_foreign(OsStr::new(".git")) && is_foreign(OsStr::new("lost+found")));
        assert!(!is_foreign(OsStr::new("site")));
    }

    #[test]
    fn wildcards_and_long_names_can_not_be_requested() {
        assert!(is_requestable("site") && is_requestable("kubernetes://site"));
        assert!(is_requestable(&format!(
            "kubernetes://{}",
            "a".repeat(MAX_NAME)
        )));
        for name in ["", "*", "kubernetes://", &"a".repeat(MAX_NAME + 1)] {
            assert!(!is_requestable(name), "{name}");
        }
    }
}
