//! The files of a folder → a credential that Envoy accepts, or the reasons why it would not.

mod check;
mod facts;
mod folder;
pub mod key;
pub mod layout;
mod part;
pub mod pem;
mod strict;

use std::path::Path;
use std::time::SystemTime;

use self::check::Findings;
pub use self::folder::{from_reading, parts_among};
use self::layout::Layout;
pub use self::part::{
    Bundle, BundleFacts, Generic, Pair, PairFacts, Staple, StapleFacts, TicketKeys, Verdict,
};
use crate::files::read::File;
use crate::problem::{Problem, Reason};

/// What the files of a credential folder amount to. Each part is judged by itself.
#[derive(Debug, Default)]
pub struct Credential {
    /// The certificate chain with its key.
    pub pair: Verdict<Pair>,
    /// The CAs that clients, or upstreams, are verified against.
    pub bundle: Verdict<Bundle>,
    /// The OCSP response that goes with the pair.
    pub staple: Verdict<Staple>,
    /// TLS session ticket keys.
    pub ticket_keys: Verdict<TicketKeys>,
    /// A generic secret.
    pub generic: Verdict<Generic>,
    /// The names of the files that are no part of it.
    pub skipped: Vec<String>,
}

impl Credential {
    /// Why parts of it are rejected.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        let of_pair = self.pair.problems.iter().chain(&self.staple.problems);
        let of_others = self.ticket_keys.problems.iter();
        let of_others = of_others.chain(&self.generic.problems);
        of_pair.chain(&self.bundle.problems).chain(of_others)
    }

    /// What is served with a warning.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        let of_pair = self.pair.warnings.iter().chain(&self.staple.warnings);
        let of_others = self.ticket_keys.warnings.iter();
        let of_others = of_others.chain(&self.generic.warnings);
        of_pair.chain(&self.bundle.warnings).chain(of_others)
    }
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
    /// The DNS names and IP addresses among its subject alternative names.
    pub names: Vec<String>,
    /// The subject's common name, where there are no subject alternative names: a name that the
    /// certificate may be meant for then.
    pub common_name: Option<String>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// Makes a credential of the files of the folder at `folder`. `now` decides what has expired, and
/// a certificate that ends within `warn_days` is warned of.
///
/// # Errors
/// The files of the folder can't be told apart: no part can be judged.
pub fn from_files(
    folder: &Path,
    files: Vec<File>,
    now: SystemTime,
    warn_days: u32,
) -> Result<Credential, Vec<Problem>> {
    let findings = || Findings::new(folder, now, warn_days);
    let (mut of_pair, mut of_bundle) = (findings(), findings());
    let mut files = files;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let layout = laid_out(folder, &files, &mut of_bundle).map_err(|problem| vec![problem])?;
    for (at, file) in files.iter_mut().enumerate() {
        if layout.pair.is_some_and(|pair| pair.contains(&at)) {
            tidy(file, &mut of_pair);
        } else if layout.uses(at) {
            tidy(file, &mut of_bundle);
        }
    }
    let bundle = layout.trust.and_then(|trust| {
        let crl = layout.crl.map(|crl| &files[crl]);
        check::bundle(&files[trust], crl, &mut of_bundle)
    });
    let pair = layout.pair.and_then(|[chain, key]| {
        check::pair(&files[chain], &files[key], bundle.as_ref(), &mut of_pair)
    });
    let files = files.into_iter().enumerate();
    Ok(Credential {
        pair: of_pair.verdict(pair),
        bundle: of_bundle.verdict(bundle),
        skipped: files
            .filter(|(at, _)| !layout.uses(*at))
            .map(|(_, file)| file.name)
            .collect(),
        ..Credential::default()
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
pub(crate) mod tests;
