//! The client certificate for listeners that request one.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// The chain in the file `cert`, with its key from the file `key`, or from the same file.
///
/// # Errors
/// Which file is wrong, why, and what to do about it.
pub(super) fn read(
    cert: &Path,
    key: Option<&Path>,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, String> {
    let pem = read_file(cert)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| {
        let path = cert.display();
        format!("{path}: it is not PEM: {error}; write the certificate chain, leaf first, as PEM")
    })?;
    if chain.is_empty() {
        return Err(format!(
            "{}: there is no certificate in it; write the certificate chain, leaf first, as PEM",
            cert.display()
        ));
    }
    let key_file = key.unwrap_or(cert);
    let pem = match key {
        Some(key) => read_file(key)?,
        None => pem,
    };
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| no_key(key_file, &pem))?;
    let identity = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        format!(
            "{}: the key can't be used with the certificate in {}: {error}; name the two that belong together",
            key_file.display(),
            cert.display()
        )
    })?;
    Ok(Arc::new(identity))
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(error) => Err(format!("can't read {}: {error}", path.display())),
    }
}

fn no_key(path: &Path, pem: &[u8]) -> String {
    let text = String::from_utf8_lossy(pem);
    let encrypted = text.contains("ENCRYPTED");
    let path = path.display();
    match encrypted {
        true => format!(
            "{path}: the private key is encrypted; decrypt it: openssl pkey -in {path} -out NEW"
        ),
        false => format!("{path}: there is no private key in it; name its file with --key"),
    }
}
