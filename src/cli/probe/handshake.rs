//! A TLS handshake that accepts every certificate and records what the listener presents.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error,
    ProtocolVersion, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sds_agent::name::Host;
use serde::Serialize;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::target::Target;

/// How long to wait for the listener to refuse the client certificate: TLS 1.3 does that after the handshake.
const OBJECTION: Duration = Duration::from_secs(1);

/// The kind of a certificate's key. A listener with certificates of several kinds chooses one by what the client
/// accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyKind {
    Rsa,
    Ecdsa,
    Ed25519,
}

impl KeyKind {
    /// The kind of a key type as it is shown, such as `RSA 2048`.
    pub(super) fn of(key_type: &str) -> Option<Self> {
        match key_type {
            "Ed25519" => Some(Self::Ed25519),
            rsa if rsa.starts_with("RSA") => Some(Self::Rsa),
            curve if curve.starts_with("P-") => Some(Self::Ecdsa),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rsa => "RSA",
            Self::Ecdsa => "ECDSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    fn makes(self, scheme: SignatureScheme) -> bool {
        let name = scheme.as_str().unwrap_or_default();
        match self {
            Self::Rsa => name.starts_with("RSA"),
            Self::Ecdsa => name.starts_with("ECDSA"),
            Self::Ed25519 => scheme == SignatureScheme::ED25519,
        }
    }
}

/// What happened with the client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientAuth {
    /// The listener did not request one.
    NotRequested,
    /// The listener requested one, and none was configured.
    NotGiven,
    /// It was presented, and the listener accepted it.
    Given,
    /// It was presented, and the listener refused it.
    Refused,
}

/// Why a handshake failed, and what to do about it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) remedy: String,
}

/// What a listener presented.
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) address: SocketAddr,
    /// Leaf first, DER.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The OCSP staple, DER; empty where there is none.
    pub(super) staple: Vec<u8>,
    pub(super) tls: Option<&'static str>,
    pub(super) client: ClientAuth,
}

/// Makes handshakes.
pub(super) struct Prober {
    pub(super) provider: Arc<CryptoProvider>,
    /// The client certificate, if any.
    pub(super) identity: Option<Arc<CertifiedKey>>,
    /// How long a connection and its handshake may take.
    pub(super) limit: Duration,
}

impl Prober {
    /// Makes a handshake with `target`. `name` is sent as SNI if it can be; with `kind`, only certificates with
    /// that kind of key are accepted.
    pub(super) async fn handshake(
        &self,
        target: &Target,
        name: Option<&Host>,
        kind: Option<KeyKind>,
    ) -> Result<Presented, Failure> {
        let late = |what: &str, remedy: &str| Failure {
            what: format!("{what} within {} s", self.limit.as_secs()),
            remedy: remedy.to_owned(),
        };
        let connected = tokio::time::timeout(self.limit, target.connect()).await;
        let (stream, address) = connected.unwrap_or_else(|_| {
            let remedy = "check the address, the route and the firewall";
            Err(late("no connection", remedy))
        })?;
        let recorder = Arc::new(Recorder {
            provider: self.provider.clone(),
            kind,
            seen: Mutex::default(),
        });
        let client = Arc::new(Client {
            identity: self.identity.clone(),
            asked: AtomicBool::new(false),
        });
        let config = self.config(recorder.clone(), client.clone())?;
        let exchange = exchange(config, server_name(name, address)?, stream, &client);
        let ended = tokio::time::timeout(self.limit, exchange).await;
        let seen = recorder
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let asked = client.asked.load(Ordering::Relaxed);
        let outcome = match (ended, &seen) {
            (Err(_), _) => {
                let remedy = "is it a TLS listener? Envoy holds a handshake back while it waits for a \
                              certificate on demand: `sds-agent status` lists the names that are requested and do not exist";
                return Err(late("the handshake was not completed", remedy));
            }
            (Ok(Err(error)), None) => return Err(failure(&error, name)),
            // The listener had presented its certificate, so what failed is the client certificate.
            (Ok(Err(error)), Some(_)) if !asked || is_forged(&error) => {
                return Err(failure(&error, name));
            }
            (Ok(outcome), _) => outcome,
        };
        let Some((chain, staple)) = seen else {
            return Err(failure(
                &io::Error::other("no certificate was presented"),
                name,
            ));
        };
        let (tls, accepted) = outcome.unwrap_or((None, false));
        Ok(Presented {
            address,
            chain,
            staple,
            tls,
            client: match (asked, &self.identity, accepted) {
                (false, ..) => ClientAuth::NotRequested,
                (true, None, _) => ClientAuth::NotGiven,
                (true, Some(_), true) => ClientAuth::Given,
                (true, Some(_), false) => ClientAuth::Refused,
            },
        })
    }

    fn config(
        &self,
        recorder: Arc<Recorder>,
        client: Arc<Client>,
    ) -> Result<ClientConfig, Failure> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone());
        let builder = builder.with_safe_default_protocol_versions();
        let mut config = builder
            .map_err(|error| failure(&io::Error::other(error), None))?
            .dangerous()
            .with_custom_certificate_verifier(recorder)
            .with_client_cert_resolver(client);
        config.resumption = Resumption::disabled();
        // As a browser does; a listener may select its filter chain by ALPN.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Without a name, no SNI is sent: the TLS library never sends an IP address.
fn server_name(name: Option<&Host>, address: SocketAddr) -> Result<ServerName<'static>, Failure> {
    let Some(name) = name else {
        return Ok(ServerName::IpAddress(address.ip().into()));
    };
    ServerName::try_from(name.to_string()).map_err(|error| Failure {
        what: format!("`{name}` can't be sent as the server name: {error}"),
        remedy: "name a host with --name".to_owned(),
    })
}

/// Makes the handshake. Returns the version of TLS, and whether the client certificate was accepted.
async fn exchange(
    config: ClientConfig,
    name: ServerName<'static>,
    stream: TcpStream,
    client: &Client,
) -> io::Result<(Option<&'static str>, bool)> {
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let version = stream.get_ref().1.protocol_version();
    let late = version == Some(ProtocolVersion::TLSv1_3) && client.asked.load(Ordering::Relaxed);
    let accepted = !late || is_accepted(&mut stream).await;
    let tls = version.and_then(|version| match version {
        ProtocolVersion::TLSv1_2 => Some("TLS 1.2"),
        ProtocolVersion::TLSv1_3 => Some("TLS 1.3"),
        _ => None,
    });
    Ok((tls, accepted))
}

/// Whether the listener continues after it has received the client certificate, or none.
async fn is_accepted(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut bytes = [0; 64];
    let answer = poll_fn(|context| {
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(!buffer.filled().is_empty()),
            Poll::Ready(Err(_)) => Poll::Ready(false),
            // A session ticket is sent after the client certificate was checked.
            Poll::Pending if stream.get_ref().1.tls13_tickets_received() > 0 => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    });
    tokio::time::timeout(OBJECTION, answer)
        .await
        .unwrap_or(true)
}

/// What was presented: the chain, and the OCSP staple.
type Seen = (Vec<CertificateDer<'static>>, Vec<u8>);

/// Accepts every certificate whose key the listener proves to have, and records it.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    kind: Option<KeyKind>,
    seen: Mutex<Option<Seen>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        staple: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(leaf).chain(others);
        let chain = chain.map(|one| one.clone().into_owned()).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some((chain, staple.to_vec()));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        unless_forged(verify_tls12_signature(message, leaf, signature, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        unless_forged(verify_tls13_signature(message, leaf, signature, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self
            .provider
            .signature_verification_algorithms
            .supported_schemes();
        schemes.retain(|scheme| self.kind.is_none_or(|kind| kind.makes(*scheme)));
        schemes
    }
}

/// Only an invalid signature is an error. A certificate that the library can't parse is accepted.
fn unless_forged(
    verdict: Result<HandshakeSignatureValid, Error>,
) -> Result<HandshakeSignatureValid, Error> {
    match verdict {
        Err(error @ Error::InvalidCertificate(CertificateError::BadSignature)) => Err(error),
        _ => Ok(HandshakeSignatureValid::assertion()),
    }
}

/// Presents the client certificate, and records that it was requested.
#[derive(Debug)]
struct Client {
    identity: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Client {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn is_forged(error: &io::Error) -> bool {
    let forged = Error::InvalidCertificate(CertificateError::BadSignature);
    tls_error(error) == Some(&forged)
}

fn failure(error: &io::Error, name: Option<&Host>) -> Failure {
    let (what, remedy) = match (tls_error(error), error.kind()) {
        (Some(Error::AlertReceived(alert)), _) => (
            format!("the listener refused the handshake: {alert:?}"),
            of_alert(*alert),
        ),
        (Some(Error::InvalidMessage(_)), _) => (
            "the port does not speak TLS".to_owned(),
            "choose the port of a TLS listener",
        ),
        (Some(_), _) if is_forged(error) => (
            "the listener does not have the private key of the certificate that it presents"
                .to_owned(),
            "find out what listens there",
        ),
        (
            _,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe,
        ) => (
            "the connection was closed during the handshake".to_owned(),
            match name {
                None => {
                    "name a host with --name, or use --all: Envoy closes a connection without a \
                     server name if no filter chain matches it"
                }
                Some(_) => {
                    "Envoy does that if no filter chain matches this name (its statistic \
                     no_filter_chain_match), or while the certificate is missing (see `sds-agent \
                     status`); --name sends another name"
                }
            },
        ),
        _ => (
            format!("the handshake failed: {error}"),
            "see the log of that server",
        ),
    };
    Failure {
        what,
        remedy: remedy.to_owned(),
    }
}

fn of_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnrecognisedName => {
            "it has no certificate for this name: name another with --name"
        }
        AlertDescription::HandshakeFailure => {
            "it has no certificate for this name yet, or none of a kind that this client accepts: see `sds-agent status`"
        }
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::UnknownCA => {
            "give it a client certificate that it accepts with --cert and --key"
        }
        AlertDescription::ProtocolVersion => {
            "it speaks neither TLS 1.2 nor TLS 1.3: enable one of them"
        }
        _ => "see the log of that server",
    }
}
