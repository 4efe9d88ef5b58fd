//! What a listener presents, compared with what the agent serves.

use std::net::SocketAddr;

use sds_agent::admin::live::{Known, Served, Was};
use sds_agent::admin::probes::Seen;
use sds_agent::credential::{CertificateFacts, Fingerprint};
use sds_agent::name::Host;
use sds_agent::report::{Time, Verdict};
use sds_agent::times::date;
use serde::Serialize;

use super::handshake::{ClientAuth, Failure, KeyKind, Presented};
use super::target::Target;

/// The certificate that a listener presents.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Shown {
    /// The fingerprints of the certificates, leaf first.
    pub(super) chain: Vec<Fingerprint>,
    /// The fingerprint of the OCSP staple.
    pub(super) staple: Option<Fingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) leaf: Option<Leaf>,
    pub(super) tls: Option<&'static str>,
    pub(super) client_certificate: ClientAuth,
}

/// The facts of the leaf.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Leaf {
    pub(super) serial: String,
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) names: Vec<String>,
    pub(super) not_before: Time,
    pub(super) not_after: Time,
}

/// The outcome of one handshake.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    /// As given on the command line.
    pub(super) target: String,
    /// The address that was connected to.
    pub(super) address: Option<SocketAddr>,
    /// The host that was sent as SNI.
    pub(super) name: Option<String>,
    /// The kind of key, if only certificates with one kind were accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_kind: Option<KeyKind>,
    pub(super) verdict: Verdict,
    pub(super) presented: Option<Shown>,
    /// The credential that the presented certificate is, or was, served as.
    pub(super) credential: Option<String>,
    /// The version of the secret in which it is, or was, served.
    pub(super) version: Option<String>,
    /// When it was replaced.
    pub(super) replaced: Option<Time>,
    /// What the agent serves for the name.
    pub(super) served: Option<Served>,
    /// Why it is not live, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// The parameters of a handshake.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) target: &'a Target,
    pub(super) name: Option<&'a Host>,
    pub(super) kind: Option<KeyKind>,
}

const SEE_STATUS: &str = "check with `sds-agent status NAME` whether this Envoy was sent the current version and accepted \
                          it; if it is not listed there, it does not get this secret from this agent";

impl Outcome {
    /// The outcome of a handshake that failed.
    pub(super) fn failed(question: Question<'_>, failure: Failure, served: Option<Served>) -> Self {
        Self {
            target: question.target.to_string(),
            address: None,
            name: question.name.map(ToString::to_string),
            key_kind: question.kind,
            verdict: Verdict::Failed,
            presented: None,
            credential: None,
            version: None,
            replaced: None,
            served,
            why: Some(failure.what),
            remedy: Some(failure.remedy),
        }
    }

    /// Compares what was presented with what is served for the name, best match first, and with what is known about
    /// the leaf.
    pub(super) fn judge(
        question: Question<'_>,
        presented: &Presented,
        served: &[Served],
        known: &Known,
    ) -> Self {
        let shown = Shown::of(presented);
        let leaf = shown.chain.first();
        // Without a name, every certificate of the agent is correct.
        let candidates = match question.name {
            None => &known.served,
            Some(_) => served,
        };
        let expected = candidates.iter().find(|one| one.chain.first() == leaf);
        let mut outcome = Self {
            target: question.target.to_string(),
            address: Some(presented.address),
            name: question.name.map(ToString::to_string),
            key_kind: question.kind,
            verdict: Verdict::Live,
            presented: None,
            credential: None,
            version: None,
            replaced: None,
            served: expected.or(served.first()).cloned(),
            why: None,
            remedy: None,
        };
        let current = expected.or(known.served.first());
        outcome.credential = current.map(|one| one.credential.clone());
        outcome.version = current.map(|one| one.version.clone());
        if let Some(Was {
            credential,
            version,
            until,
        }) = &known.replaced
        {
            outcome.credential = Some(credential.clone());
            outcome.version = Some(version.clone());
            outcome.replaced = Some(*until);
        }
        let (verdict, why, remedy) = verdict(&shown, expected, known);
        outcome.verdict = verdict;
        if verdict != Verdict::Live {
            outcome.why = Some(why);
            outcome.remedy = Some(remedy.to_owned());
        }
        outcome.presented = Some(shown);
        outcome
    }

    /// The outcome as the agent stores it; `None` if it belongs to no credential.
    pub(super) fn seen(&self) -> Option<Seen> {
        let served = self.served.as_ref();
        let credential = served.map(|served| &served.credential);
        Some(Seen {
            credential: credential.or(self.credential.as_ref())?.clone(),
            version: served.map_or_else(|| self.version.clone(), |one| Some(one.version.clone())),
            target: self.target.clone(),
            name: self.name.clone(),
            verdict: self.verdict,
        })
    }

    /// Whether the listener presents what the agent serves.
    pub(super) fn is_live(&self) -> bool {
        self.verdict == Verdict::Live
    }
}

fn verdict(
    shown: &Shown,
    expected: Option<&Served>,
    known: &Known,
) -> (Verdict, String, &'static str) {
    if let Some(expected) = expected {
        return of_expected(shown, expected);
    }
    if let Some(current) = known.served.first() {
        let why = format!(
            "it presents the certificate of `{}`, which is not for this name",
            current.credential
        );
        let remedy = "name the right secret in the listener's configuration, or probe with the name that the \
                      certificate is for";
        return (Verdict::OtherCredential, why, remedy);
    }
    match &known.replaced {
        Some(was) => (
            Verdict::Replaced,
            format!(
                "it presents a certificate of `{}` that was replaced",
                was.credential
            ),
            SEE_STATUS,
        ),
        None => (
            Verdict::UnknownCertificate,
            format!(
                "it presents a certificate that this agent has not served since its start on {}",
                date(known.known_since.get())
            ),
            "find out where the listener has its certificate from: its configuration names another source or another \
             agent, or it still has one from before the agent's start",
        ),
    }
}

fn of_expected(shown: &Shown, expected: &Served) -> (Verdict, String, &'static str) {
    let remedy = SEE_STATUS;
    if shown.client_certificate == ClientAuth::Refused {
        let why = "it presents what is served, and refuses the client certificate".to_owned();
        let remedy =
            "give it one that its trust bundle accepts; `sds-agent get NAME-cacert` shows the CAs";
        return (Verdict::ClientRefused, why, remedy);
    }
    if shown.chain != expected.chain {
        let why = format!(
            "the leaf is the one that is served; the rest of the chain differs ({} certificates in place of {})",
            shown.chain.len(),
            expected.chain.len()
        );
        return (Verdict::ChainDiffers, why, remedy);
    }
    match (shown.staple, expected.staple) {
        (shown, expected) if shown == expected => (Verdict::Live, String::new(), remedy),
        (None, _) => (
            Verdict::StapleDiffers,
            "the OCSP staple that is served is not presented".to_owned(),
            remedy,
        ),
        (Some(_), None) => (
            Verdict::StapleDiffers,
            "it presents an OCSP staple, and none is served".to_owned(),
            remedy,
        ),
        (Some(_), Some(_)) => (
            Verdict::StapleDiffers,
            "it presents another OCSP staple than the one that is served".to_owned(),
            remedy,
        ),
    }
}

impl Shown {
    fn of(presented: &Presented) -> Self {
        let leaf = presented.chain.first();
        let facts = leaf.and_then(|leaf| CertificateFacts::from_der(leaf));
        let staple = (!presented.staple.is_empty()).then(|| Fingerprint::of(&presented.staple));
        Self {
            chain: presented
                .chain
                .iter()
                .map(|one| Fingerprint::of(one))
                .collect(),
            staple,
            leaf: facts.map(|facts| Leaf {
                serial: facts.serial().to_owned(),
                subject: facts.subject().to_owned(),
                issuer: facts.issuer().to_owned(),
                names: facts.names().map(str::to_owned).collect(),
                not_before: facts.not_before.into(),
                not_after: facts.not_after.into(),
            }),
            tls: presented.tls,
            client_certificate: presented.client,
        }
    }
}
