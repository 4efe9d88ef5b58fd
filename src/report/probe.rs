//! What `sds-agent probe` saw last at a TLS listener.

use serde::{Deserialize, Serialize};

use super::Time;

/// The result of the last handshake with a listener for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The listener, as `HOST:PORT`.
    pub target: String,
    /// The host that was sent as SNI, if any.
    pub name: Option<String>,
    /// The time of the handshake.
    pub at: Time,
    /// Whether it presented what was served at that time.
    pub verdict: Verdict,
    /// Whether another version has been served since.
    pub rotated_since: bool,
    /// A description of the result.
    pub what: String,
}

/// Whether a listener presents what the agent serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It does.
    Live,
    /// The leaf is the one that is served, but another certificate of the chain differs.
    ChainDiffers,
    /// The certificates are those that are served, but the OCSP staple differs.
    StapleDiffers,
    /// It presents a certificate that the agent served earlier.
    Replaced,
    /// It presents the certificate of a credential that is not for this name.
    OtherCredential,
    /// It presents a certificate that the agent has not served since it was started.
    UnknownCertificate,
    /// It refuses the client certificate.
    ClientRefused,
    /// The handshake failed.
    Failed,
}

impl Verdict {
    /// A description of the result. `rotated_since`: another version has been served since.
    pub fn what(self, rotated_since: bool) -> &'static str {
        match (self, rotated_since) {
            (Self::Live, false) => "presents the current certificate",
            (Self::Live, true) => "presented the certificate that was current then",
            (Self::ChainDiffers, _) => "presented the certificate with a different chain",
            (Self::StapleDiffers, _) => "presented the certificate with a different OCSP staple",
            (Self::Replaced, _) => "presented a certificate that had been replaced",
            (Self::OtherCredential, _) => "presented the certificate of another credential",
            (Self::UnknownCertificate, _) => {
                "presented a certificate that the agent had not served since its start"
            }
            (Self::ClientRefused, _) => {
                "presented the certificate, and refused the client certificate"
            }
            (Self::Failed, _) => "the handshake failed",
        }
    }
}
