//! A client that makes a handshake and a request, and returns what it was served.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::pki::Identity;
use super::wait::BOUND;

/// A request to a port of this machine, for a host, which can be sent several times.
#[derive(Clone)]
pub(crate) struct Https {
    port: u16,
    host: String,
    ca: Option<String>,
    identity: Option<Identity>,
}

/// The response.
#[derive(Debug)]
pub(crate) struct Served {
    /// The server's certificates, DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    /// The status of the HTTP response.
    pub(crate) status: u16,
}

impl Https {
    /// Accepts any certificate.
    pub(crate) fn new(port: u16, host: &str) -> Self {
        Self {
            port,
            host: host.to_owned(),
            ca: None,
            identity: None,
        }
    }

    /// The server's certificate must be valid for the host, and issued by this authority (PEM).
    pub(crate) fn ca(mut self, pem: &str) -> Self {
        self.ca = Some(pem.to_owned());
        self
    }

    /// With a client certificate.
    pub(crate) fn identity(mut self, identity: &Identity) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// Makes a new connection, a handshake without resumption, and `GET /`.
    pub(crate) fn get(&self) -> io::Result<Served> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port))?;
        tcp.set_read_timeout(Some(BOUND))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone()).unwrap();
        let connection =
            ClientConnection::new(Arc::new(self.config()), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, tcp);
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.host
        );
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let chain = stream.conn.peer_certificates().unwrap_or_default();
        Ok(Served {
            chain: chain.iter().map(|der| der.to_vec()).collect(),
            status: status
                .ok_or_else(|| io::Error::other(format!("no HTTP status in {line:?}")))?,
        })
    }

    /// The leaf that is served now, DER.
    pub(crate) fn leaf(&self) -> io::Result<Vec<u8>> {
        Ok(self.get()?.chain.swap_remove(0))
    }

    fn config(&self) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(provider));
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                    .unwrap()
            }
        };
        config.resumption = rustls::client::Resumption::disabled();
        config
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
        let Some(ca) = &self.ca else {
            return Arc::new(AnyCertificate(provider));
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap()
    }
}

/// Accepts every certificate, but verifies the signature of the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
