//! What can be wrong with the files of a credential: where, why, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One thing that is wrong, or worth a warning, in the words an operator reads. Cheap to clone: a problem
/// that lasts is kept in several places, and thousands of credentials may have the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(Arc<Description>);

#[derive(Debug, PartialEq, Eq)]
struct Description {
    reason: Reason,
    path: Box<Path>,
    what: Box<str>,
    remedy: Box<str>,
}

/// The kind of a problem: a short word that labels metrics and JSON, from a fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// A file or folder could not be read: rights, an I/O error, or it vanished.
    Unreadable,
    /// Something that is no regular file stands where one is expected.
    NotAFile,
    /// A symbolic link that leads nowhere, or in a circle.
    BrokenLink,
    /// A limit on sizes or numbers of files was reached.
    TooLarge,
    /// A part lacks one of its files.
    Incomplete,
    /// Two files claim to be the same part.
    Ambiguous,
    /// A file is not the PEM it should be, or its content can't be parsed.
    BadPem,
    /// The private key is not the certificate's.
    KeyMismatch,
    /// The private key or keystore is encrypted, and can't be opened.
    EncryptedKey,
    /// The password does not open the private key or keystore.
    WrongPassword,
    /// The certificate has no name that Envoy could choose it by.
    NoName,
    /// A key's type, size or curve that Envoy does not take.
    UnsupportedKey,
    /// The trust bundle would refuse every client.
    BadTrustBundle,
    /// The revocation list would refuse every client, or let a revoked one in.
    BadCrl,
    /// The OCSP staple can't be used with the certificate.
    BadStaple,
    /// The OCSP staple says that the certificate is revoked.
    Revoked,
    /// A session ticket key that Envoy does not take.
    BadTicketKey,
    /// A generic secret that can't be used.
    BadSecret,
    /// A certificate is past its end.
    Expired,
    /// A certificate's time has not come.
    NotYetValid,
    /// A certificate ends soon.
    ExpiresSoon,
    /// The chain is out of order or lacks an issuer.
    ChainOrder,
    /// A better chain is there, and does not belong to the key.
    LesserChain,
    /// A certificate in a trust bundle that is no CA's: it stands for one peer.
    PinnedPeer,
    /// A certificate's signature is of a kind that clients no longer trust.
    WeakSignature,
    /// Envoy takes it, and the agent can't read all of it.
    Unparsed,
    /// A private key that others can read.
    LooseMode,
    /// Bytes that were tidied away before use, such as a byte-order mark.
    Tidied,
    /// The name can't be served.
    Name,
    /// The files are not where the layout of their root has them.
    Layout,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 29] = [
        Self::Unreadable,
        Self::NotAFile,
        Self::BrokenLink,
        Self::TooLarge,
        Self::Incomplete,
        Self::Ambiguous,
        Self::BadPem,
        Self::KeyMismatch,
        Self::EncryptedKey,
        Self::WrongPassword,
        Self::NoName,
        Self::UnsupportedKey,
        Self::BadTrustBundle,
        Self::BadCrl,
        Self::BadStaple,
        Self::Revoked,
        Self::BadTicketKey,
        Self::BadSecret,
        Self::Expired,
        Self::NotYetValid,
        Self::ExpiresSoon,
        Self::ChainOrder,
        Self::LesserChain,
        Self::PinnedPeer,
        Self::WeakSignature,
        Self::Unparsed,
        Self::LooseMode,
        Self::Tidied,
        Self::Name,
    ];

    /// The reason as a metric label and JSON value, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NotAFile => "not_a_file",
            Self::BrokenLink => "broken_link",
            Self::TooLarge => "too_large",
            Self::Incomplete => "incomplete",
            Self::Ambiguous => "ambiguous",
            Self::BadPem => "bad_pem",
            Self::KeyMismatch => "key_mismatch",
            Self::EncryptedKey => "encrypted_key",
            Self::WrongPassword => "wrong_password",
            Self::NoName => "no_name",
            Self::UnsupportedKey => "unsupported_key",
            Self::BadTrustBundle => "bad_trust_bundle",
            Self::BadCrl => "bad_crl",
            Self::BadStaple => "bad_staple",
            Self::Revoked => "revoked",
            Self::BadTicketKey => "bad_ticket_key",
            Self::BadSecret => "bad_secret",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::ExpiresSoon => "expires_soon",
            Self::ChainOrder => "chain_order",
            Self::LesserChain => "lesser_chain",
            Self::PinnedPeer => "pinned_peer",
            Self::WeakSignature => "weak_signature",
            Self::Unparsed => "unparsed",
            Self::LooseMode => "loose_mode",
            Self::Tidied => "tidied",
            Self::Name => "name",
            Self::Layout => "layout",
        }
    }
}

impl Problem {
    /// A problem with the file or folder at `path`: `what` is wrong, as a clause, and the `remedy`,
    /// as an imperative. Neither may hold anything of a private key.
    pub fn new(
        reason: Reason,
        path: impl Into<PathBuf>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self(Arc::new(Description {
            reason,
            path: path.into().into(),
            what: what.into().into(),
            remedy: remedy.into().into(),
        }))
    }

    /// The same problem with what is at `path`.
    pub fn at(&self, path: impl Into<PathBuf>) -> Self {
        let Description { what, remedy, .. } = &*self.0;
        Self::new(self.reason(), path, &**what, &**remedy)
    }

    /// Its kind.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The file or folder that it is about.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        &self.0.remedy
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Paths come from outside: control characters must not forge a log line.
        write!(
            f,
            "{}: {}; {}",
            self.path().display().to_string().escape_debug(),
            self.what(),
            self.remedy()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_one_line_whatever_the_path() {
        let problem = Problem::new(
            Reason::NotAFile,
            "/c/a\nb/tls.key",
            "it is a pipe",
            "put a regular file there",
        );
        assert_eq!(
            problem.to_string(),
            "/c/a\\nb/tls.key: it is a pipe; put a regular file there"
        );
    }
}
