//! The address of a TLS listener, as given on the command line.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use sds_agent::name::Host;
use tokio::net::TcpStream;

use super::handshake::Failure;

/// A host or an IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    host: String,
    port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            "write HOST:PORT, such as www.example.com:443, 192.0.2.1:443 or [2001:db8::1]:443";
        if text.contains("://") {
            return Err(format!("it is a URL; {expected}"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("there is no port; {expected}"));
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return Err(format!("an IPv6 address has to be in brackets; {expected}"));
        }
        let host = bare.unwrap_or(host);
        if host.is_empty() {
            return Err(format!("there is no host; {expected}"));
        }
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            _ => Err(format!("`{port}` is not a port; {expected}")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Target {
    /// The host, as it is compared with the names of certificates; `None` if no certificate can have it as a name,
    /// as for an address with a zone.
    pub(super) fn host(&self) -> Option<Host> {
        Host::parse(&self.host)
    }

    /// Connects to the first of its addresses that accepts a connection.
    pub(super) async fn connect(&self) -> Result<(TcpStream, SocketAddr), Failure> {
        let resolved = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses = resolved.map_err(|error| Failure {
            what: format!("`{}` has no address: {error}", self.host),
            remedy: "check the name, or give an address, and the host with --name".into(),
        })?;
        let mut last = io::Error::other("it resolves to no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok((stream, address)),
                Err(error) => last = error,
            }
        }
        let remedy = match last.kind() {
            io::ErrorKind::ConnectionRefused => {
                "nothing listens there: check the port, and whether Envoy is running; Envoy opens \
                 a listener only once it has its secrets"
            }
            _ => "check the address, the route and the firewall",
        };
        Err(Failure {
            what: format!("no connection: {last}"),
            remedy: remedy.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_addresses_are_separated_from_their_ports() {
        for (text, host, port) in [
            ("www.example.com:443", "www.example.com", 443),
            ("localhost:18443", "localhost", 18443),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
            ("[fe80::1%eth0]:443", "fe80::1%eth0", 443),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port));
            assert_eq!(target.to_string(), text);
        }
        for (text, why) in [
            ("www.example.com", "no port"),
            ("", "no port"),
            (":443", "no host"),
            ("[]:443", "no host"),
            ("2001:db8::1", "brackets"),
            ("[2001:db8::1]", "brackets"),
            ("a:0", "not a port"),
            ("a:65536", "not a port"),
            ("a:https", "not a port"),
            ("a:", "not a port"),
            ("https://a:443", "URL"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(
                error.contains(why) && error.contains("HOST:PORT"),
                "{text}: {error}"
            );
        }
    }
}
