//! The files of a folder → a credential that Envoy accepts, or the reasons why it would not.

mod check;
mod facts;
mod folder;
pub mod key;
pub mod layout;
pub mod pem;
mod strict;

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use zeroize::Zeroizing;

use self::check::Findings;
pub use self::folder::from_reading;
use self::layout::Layout;
use crate::files::read::File;
use crate::problem::{Problem, Reason};

/// What the files of a credential folder amount to: at least one part, each one acceptable to Envoy.
#[derive(Debug)]
pub struct Credential {
    /// The certificate chain with its key.
    pub pair: Option<Pair>,
    /// The CAs that clients, or upstreams, are checked against.
    pub bundle: Option<Bundle>,
    /// What is worth a warning, though it is served.
    pub warnings: Vec<Problem>,
    /// The names of the files that are no part of it.
    pub passed_over: Vec<String>,
}

/// A certificate chain, leaf first, and the leaf's private key, both PEM, as the files have them.
pub struct Pair {
    /// The chain: certificates only, the leaf first.
    pub chain: Vec<u8>,
    /// The private key.
    pub key: Zeroizing<Vec<u8>>,
    /// The type of the key, as `P-256` or `RSA 2048`.
    pub key_type: String,
    /// What the leaf says.
    pub leaf: CertificateFacts,
    /// The names of the files that it came from: chain, then key. The same twice when one file holds both.
    pub files: [String; 2],
}

/// A trust bundle: PEM, as the files have it.
#[derive(Debug)]
pub struct Bundle {
    /// The CA certificates.
    pub trusted_ca: Vec<u8>,
    /// The revocation lists, one an issuer.
    pub crl: Option<Vec<u8>>,
    /// What the CA certificates say, in their order.
    pub certificates: Vec<CertificateFacts>,
    /// The names of the files that it came from: the bundle, and the revocation list if any.
    pub files: Vec<String>,
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The serial number, in lower-case hexadecimal.
    pub serial: String,
    /// The DNS names and IP addresses that it covers.
    pub names: Vec<String>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// Makes a credential of the files of the folder at `folder`. `now` decides what has expired, and
/// a certificate that ends within `warn_days` is warned of.
///
/// # Errors
/// All that Envoy would reject, and all that it would accept to its users' harm.
pub fn from_files(
    folder: &Path,
    files: Vec<File>,
    now: SystemTime,
    warn_days: u32,
) -> Result<Credential, Vec<Problem>> {
    let mut findings = Findings::new(folder, now, warn_days);
    let mut files = files;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let layout = laid_out(folder, &files, &mut findings).map_err(|problem| vec![problem])?;
    for (_, file) in files
        .iter_mut()
        .enumerate()
        .filter(|(at, _)| layout.uses(*at))
    {
        tidy(file, &mut findings);
    }
    let bundle = layout.trust.and_then(|trust| {
        let crl = layout.crl.map(|crl| &files[crl]);
        check::bundle(&files[trust], crl, &mut findings)
    });
    let pair = layout.pair.and_then(|[chain, key]| {
        check::pair(&files[chain], &files[key], bundle.as_ref(), &mut findings)
    });
    if !findings.errors.is_empty() {
        return Err(findings.errors);
    }
    let files = files.into_iter().enumerate();
    Ok(Credential {
        pair,
        bundle,
        warnings: findings.warnings,
        passed_over: files
            .filter(|(at, _)| !layout.uses(*at))
            .map(|(_, file)| file.name)
            .collect(),
    })
}

/// Which file is what; a revocation list without a bundle is passed over.
fn laid_out(folder: &Path, files: &[File], findings: &mut Findings<'_>) -> Result<Layout, Problem> {
    let mut layout = Layout::of(folder, files)?;
    if layout.trust.is_none()
        && let Some(at) = layout.crl.take()
    {
        findings.warn(
            Reason::Incomplete,
            &files[at].name,
            "there is no trust bundle for this revocation list, which is passed over",
            "put the CA's certificate there too, as ca.crt",
        );
    }
    Ok(layout)
}

/// Removes the byte-order marks before a file's blocks, which hide them from Envoy.
fn tidy(file: &mut File, findings: &mut Findings<'_>) {
    if let Some(clean) = pem::without_marks(&file.bytes) {
        file.bytes = clean;
        findings.warn(
            Reason::Tidied,
            &file.name,
            "there is a byte-order mark before a PEM block: it is left out",
            "save the file as UTF-8 without a byte-order mark",
        );
    }
}

#[cfg(test)]
mod tests;

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("leaf", &self.leaf)
            .field(
                "key",
                &format_args!("<private key, {}, {} bytes>", self.key_type, self.key.len()),
            )
            .finish_non_exhaustive()
    }
}
