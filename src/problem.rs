//! What can be wrong with the files of a credential: where, why, and what to do about it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::text;

/// A problem or warning, for an operator to read. Cheap to clone: a problem that lasts is stored in several places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    path: Arc<Path>,
    description: Arc<Description>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Description {
    reason: Reason,
    what: Box<str>,
    remedy: Cow<'static, str>,
    /// Whether FILE in the remedy stands for the path.
    names_file: bool,
}

/// Declares [`Reason`] with its names, so that no list of its variants can forget one.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $word:literal,)+) => {
        /// The kind of a problem, from a fixed set: a metric label and JSON value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The reason in snake case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// A file or folder could not be read: rights, an I/O error, or it vanished.
    Unreadable = "unreadable",
    /// Something other than a regular file is where one is expected.
    NotAFile = "not_a_file",
    /// A symbolic link that leads nowhere, or in a circle.
    BrokenLink = "broken_link",
    /// A limit on sizes or numbers of files was reached.
    TooLarge = "too_large",
    /// A part lacks one of its files.
    Incomplete = "incomplete",
    /// Two files could be the same part.
    Ambiguous = "ambiguous",
    /// A file is not the PEM it should be, or its content can't be parsed.
    BadPem = "bad_pem",
    /// The private key does not belong to the certificate.
    KeyMismatch = "key_mismatch",
    /// The private key or keystore is encrypted, and can't be decrypted.
    EncryptedKey = "encrypted_key",
    /// The password does not decrypt the private key or keystore.
    WrongPassword = "wrong_password",
    /// The certificate has no name that Envoy could select it by.
    NoName = "no_name",
    /// The type, size or curve of a key is not supported by Envoy.
    UnsupportedKey = "unsupported_key",
    /// The trust bundle would reject every client.
    BadTrustBundle = "bad_trust_bundle",
    /// The revocation list would reject every client, or admit a revoked one.
    BadCrl = "bad_crl",
    /// The OCSP staple can't be used with the certificate.
    BadStaple = "bad_staple",
    /// The OCSP staple reports that the certificate is revoked.
    Revoked = "revoked",
    /// A session ticket key that Envoy does not accept.
    BadTicketKey = "bad_ticket_key",
    /// A generic secret that can't be used.
    BadSecret = "bad_secret",
    /// A certificate has expired.
    Expired = "expired",
    /// A certificate is not valid yet.
    NotYetValid = "not_yet_valid",
    /// A certificate, revocation list or OCSP staple expires soon.
    Expiring = "expiring",
    /// The chain is out of order or lacks an issuer.
    ChainOrder = "chain_order",
    /// There is a better chain, but it does not belong to the key.
    LesserChain = "lesser_chain",
    /// A certificate in a trust bundle that is not a CA certificate: it admits one peer.
    PinnedPeer = "pinned_peer",
    /// A certificate's signature algorithm is no longer accepted by clients.
    WeakSignature = "weak_signature",
    /// Envoy accepts it, but the agent can't parse all of it.
    Unparsed = "unparsed",
    /// A private key that other users can read.
    LooseMode = "loose_mode",
    /// Bytes that were removed or moved before use, such as a byte-order mark.
    Tidied = "tidied",
    /// The name can't be served.
    Name = "name",
    /// The files are not where the layout of their root expects them.
    Layout = "layout",
}

impl Problem {
    /// A problem with the file or folder at `path`: `what` is wrong, as a clause, and the `remedy`, as an
    /// imperative. Neither may contain any part of a private key.
    pub fn new(
        reason: Reason,
        path: impl Into<PathBuf>,
        what: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            path: path.into().into(),
            description: Arc::new(Description {
                reason,
                what: what.into().into(),
                remedy: remedy.into(),
                names_file: false,
            }),
        }
    }

    /// The same problem, with FILE in the remedy standing for the path, quoted for a shell.
    pub(crate) fn for_file(mut self) -> Self {
        Arc::make_mut(&mut self.description).names_file = true;
        self
    }

    /// The same problem, in less memory if it differs from the last one of this thread only in the path: thousands
    /// of credentials may have the same warning.
    pub(crate) fn shared(mut self) -> Self {
        thread_local!(static LAST: RefCell<Option<Arc<Description>>> = const { RefCell::new(None) });
        LAST.with_borrow_mut(|last| match last {
            Some(last) if *last == self.description => self.description = last.clone(),
            _ => *last = Some(self.description.clone()),
        });
        self
    }

    /// The same problem with what is at `path`.
    pub fn at(&self, path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into().into(),
            description: self.description.clone(),
        }
    }

    /// Its kind.
    pub fn reason(&self) -> Reason {
        self.description.reason
    }

    /// The file or folder that it is about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.description.what
    }

    /// What to do about it.
    pub fn remedy(&self) -> Cow<'_, str> {
        match self.description.names_file {
            true => Cow::Owned(
                self.description
                    .remedy
                    .replace("FILE", &text::shell(self.path())),
            ),
            false => Cow::Borrowed(&self.description.remedy),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = text::path(self.path());
        write!(f, "{path}: {}; {}", self.what(), self.remedy())
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
