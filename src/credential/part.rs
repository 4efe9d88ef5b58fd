//! The parts that a credential can have, and the verdict on the files of each.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::key::KeyType;
use super::{CertificateFacts, Fingerprint};
use crate::config::TrustOptions;
use crate::problem::Problem;
use crate::text::Texts;
use crate::validity::Validity;

/// The result of checking the files of one part. If it has neither a part nor a problem, there is no file for it.
#[derive(Debug)]
pub struct Verdict<T> {
    /// The part, if Envoy accepts it.
    pub part: Option<T>,
    /// Why the files for this part are rejected; there is no part then.
    pub problems: Vec<Problem>,
    /// Conditions that cause a warning, although the part is served.
    pub warnings: Vec<Problem>,
}

impl<T> Verdict<T> {
    /// Whether there is no file for this part.
    pub fn is_absent(&self) -> bool {
        self.part.is_none() && self.problems.is_empty()
    }
}

impl<T> Default for Verdict<T> {
    /// Absent.
    fn default() -> Self {
        Self {
            part: None,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// A certificate chain, leaf first, and the leaf's private key, both PEM, as the files have them.
pub struct Pair {
    /// The chain: certificates only, the leaf first.
    pub chain: Vec<u8>,
    /// The private key, not encrypted.
    pub key: Zeroizing<Vec<u8>>,
    /// Whether a better chain may follow soon, because a tool may be in the middle of writing: there is a better
    /// one that does not belong to the key, or no chain has the name that goes with the key.
    pub lesser_chain: bool,
    /// The facts that are shown about it.
    pub facts: PairFacts,
}

/// The facts that are shown about a certificate pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFacts {
    /// The leaf certificate.
    pub leaf: CertificateFacts,
    /// The certificates that follow the leaf in the chain.
    pub intermediates: Box<[CertificateFacts]>,
    /// The type of the key.
    pub key_type: KeyType,
    /// Whether the leaf requires an OCSP staple ("must-staple", RFC 7633).
    pub must_staple: bool,
    /// The names of the files that it came from, each once: chain, then key.
    pub files: Texts,
    /// The certificates of the chain as it is served, leaf first.
    pub chain: Box<[Fingerprint]>,
}

/// A trust bundle: PEM, as the files have it.
pub struct Bundle {
    /// The CA certificates.
    pub trusted_ca: Vec<u8>,
    /// The revocation lists, one per issuer.
    pub crl: Option<Vec<u8>>,
    /// Further requirements for clients, as configured.
    pub options: Arc<TrustOptions>,
    /// The facts that are shown about it.
    pub facts: BundleFacts,
}

/// The facts that are shown about a trust bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFacts {
    /// The CA certificates, in their order.
    pub certificates: Box<[CertificateFacts]>,
    /// The names of the files that it came from: the bundle, and the revocation list if any.
    pub files: Texts,
}

/// An OCSP response for the leaf of the pair in the same folder.
pub struct Staple {
    /// The response, DER.
    pub response: Vec<u8>,
    /// The facts that are shown about it.
    pub facts: StapleFacts,
}

/// The facts that are shown about an OCSP staple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StapleFacts {
    /// The issuer of the certificate that it is for, as in [`CertificateFacts::issuer`].
    pub issuer: String,
    /// The serial number of the certificate that it is for, as in [`CertificateFacts::serial`].
    pub serial: String,
    /// When the responder knew the status to be correct.
    pub this_update: SystemTime,
    /// When newer information will be available: clients refuse the staple from then on.
    pub next_update: Option<SystemTime>,
    /// The name of the file.
    pub files: Texts,
    /// The response itself.
    pub fingerprint: Fingerprint,
}

impl StapleFacts {
    /// The period in which it is valid; `None` if it has no end.
    pub fn validity(&self) -> Option<Validity> {
        Some(Validity {
            not_before: self.this_update,
            not_after: self.next_update?,
        })
    }

    /// Whether it is for that certificate.
    pub fn is_about(&self, leaf: &CertificateFacts) -> bool {
        self.serial == leaf.serial() && self.issuer == leaf.issuer()
    }
}

/// TLS session ticket keys of 80 bytes each. The first one encrypts, all of them decrypt.
pub struct TicketKeys {
    /// The keys, in the order in which Envoy gets them.
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    /// The names of the files that they came from, in that order.
    pub files: Texts,
}

/// A generic secret: bytes that Envoy uses as they are, such as a token.
pub struct Generic {
    /// The bytes.
    pub secret: Zeroizing<Vec<u8>>,
    /// The name of the file.
    pub files: Texts,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key_type = &self.facts.key_type;
        let key = format_args!("<private key, {key_type}, {} bytes>", self.key.len());
        f.debug_struct("Pair")
            .field("facts", &self.facts)
            .field("key", &key)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Staple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staple")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Generic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generic")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
