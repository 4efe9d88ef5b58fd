//! The files of a folder → a credential that Envoy accepts, or the reasons why it would not.

mod check;
mod contents;
mod der;
mod encrypted;
mod facts;
mod fingerprint;
mod folder;
pub mod key;
pub mod layout;
mod ocsp;
mod part;
pub mod pem;
mod x509;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use self::check::{Findings, Judged, Stapled};
use self::contents::Item;
pub use self::facts::CertificateFacts;
pub(crate) use self::facts::hex_digits;
pub use self::fingerprint::Fingerprint;
pub use self::folder::{from_reading, parts_among};
use self::layout::{Layout, PairFiles};
pub use self::part::{
    Bundle, BundleFacts, Generic, Pair, PairFacts, Staple, StapleFacts, TicketKeys, Verdict,
};
use crate::config::TrustOptions;
use crate::files::read::File;
use crate::problem::{Problem, Reason};
use crate::text::Texts;
#[cfg(doc)]
use crate::validity::Validity;

/// The parts that the files of a credential folder make up. Each part is checked separately.
#[derive(Debug, Default)]
pub struct Credential {
    /// The certificate chain with its key.
    pub pair: Verdict<Pair>,
    /// The CAs that clients or upstreams are verified with.
    pub bundle: Verdict<Bundle>,
    /// The OCSP response that goes with the pair.
    pub staple: Verdict<Staple>,
    /// TLS session ticket keys.
    pub ticket_keys: Verdict<TicketKeys>,
    /// A generic secret.
    pub generic: Verdict<Generic>,
    /// The names of the files that do not belong to it.
    pub skipped: Texts,
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

/// What a credential is checked by, besides its files.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The time that decides what has expired.
    now: SystemTime,
    /// A certificate causes a warning at most this many days before its end.
    warn_days: u32,
    /// The options of its trust bundle.
    trust: Arc<TrustOptions>,
}

/// Makes a credential from the files of the folder at `folder`. `now` decides what has expired, and `warn_days`
/// what is [expiring](Validity::is_expiring).
pub fn from_files(folder: &Path, files: Vec<File>, now: SystemTime, warn_days: u32) -> Credential {
    let rules = Rules {
        now,
        warn_days,
        trust: Arc::default(),
    };
    judge(folder, contents::items(folder, files, Vec::new()), &rules)
}

/// Makes a credential from the files of a folder.
fn judge(folder: &Path, mut items: Vec<Item>, rules: &Rules) -> Credential {
    let layout = opened(folder, &mut items);
    let findings = || Findings::new(folder, rules.now, rules.warn_days);

    let mut of_bundle = findings();
    let bundle = layout.trust.and_then(|trust| {
        let crl = layout.crl.map(|crl| &items[crl]);
        let options = Arc::clone(&rules.trust);
        check::bundle(&items[trust], crl, options, &mut of_bundle)
    });
    if let (None, Some(crl)) = (layout.trust, layout.crl) {
        of_bundle.warn(
            Reason::Incomplete,
            &items[crl].name,
            "there is no trust bundle for this revocation list, which is skipped",
            "put the CA's certificate there too, as ca.crt",
        );
    }

    let mut of_pair = findings();
    let judged = match &layout.pair {
        None => None,
        Some(Err(problem)) => {
            of_pair.errors.push(problem.clone());
            None
        }
        Some(Ok(files)) => pair(files, &layout, &items, bundle.as_ref(), &mut of_pair),
    };

    let mut of_staple = findings();
    let staple = layout.staple.and_then(|staple| {
        let stapled = judged
            .as_ref()
            .map(|judged| stapled(judged, &layout, &items));
        check::staple(&items[staple], stapled.as_ref(), &mut of_staple)
    });
    if let Some(judged) = &judged {
        require_staple(&judged.pair, staple.is_some(), &of_staple, &mut of_pair);
    }

    let mut of_tickets = findings();
    let ticket_keys: Vec<&Item> = layout.ticket_keys.iter().map(|at| &items[*at]).collect();
    let ticket_keys = match &ticket_keys[..] {
        [] => None,
        files => check::ticket_keys(files, &mut of_tickets),
    };
    let mut of_generic = findings();
    let generic = layout
        .generic
        .and_then(|generic| check::generic(&items[generic], &mut of_generic));

    let skipped = items.iter().enumerate().filter(|(at, _)| !layout.uses(*at));
    Credential {
        skipped: skipped.map(|(_, item)| &item.name).collect(),
        pair: of_pair.verdict(judged.map(|judged| judged.pair)),
        bundle: of_bundle.verdict(bundle),
        staple: of_staple.verdict(staple),
        ticket_keys: of_tickets.verdict(ticket_keys),
        generic: of_generic.verdict(generic),
    }
}

/// Decrypts what is encrypted, as far as it matters, and determines which file is what.
fn opened(folder: &Path, items: &mut [Item]) -> Layout {
    let password = Layout::password(items).map(|at| items[at].bytes.clone());
    let password = password
        .as_ref()
        .map(|bytes| contents::without_line_end(bytes));
    if let Some(password) = password {
        items.iter_mut().for_each(|item| item.decrypt(password));
    }
    let layout = Layout::of(folder, items);
    let is_keystore = |item: &&mut Item| layout::is_keystore(&item.name);
    if matches!(layout.pair, Some(Ok(_))) || !items.iter_mut().any(|item| is_keystore(&item)) {
        return layout;
    }
    for keystore in items.iter_mut().filter(is_keystore) {
        keystore.open(password);
    }
    Layout::of(folder, items)
}

fn pair(
    files: &PairFiles,
    layout: &Layout,
    items: &[Item],
    bundle: Option<&Bundle>,
    findings: &mut Findings<'_>,
) -> Option<Judged> {
    let chain: Vec<&Item> = files.chain.iter().map(|at| &items[*at]).collect();
    let key = &items[files.key];
    let mut judged = check::pair(&chain, key, bundle, layout.staple.is_some(), findings)?;
    let is_cut = chain.iter().any(|file| pem::ends_in_a_marker(&file.bytes));
    judged.pair.lesser_chain = files.better.is_some() || files.by_content || is_cut;
    if let Some(better) = files.better {
        findings.warn(
            Reason::LesserChain,
            &items[better].name,
            format!(
                "it does not belong to {}: {} is used instead",
                key.name, chain[0].name
            ),
            "write the chain that belongs to the key, or remove it",
        );
    }
    if let Some(password) = layout.password.filter(|_| key.rewritten) {
        findings.check_mode(&items[password], "password");
    }
    Some(judged)
}

/// What a staple next to the pair must be for.
fn stapled<'a>(judged: &'a Judged, layout: &Layout, items: &'a [Item]) -> Stapled<'a> {
    let of_bundle = || {
        let certificates = items[layout.trust?].certificates();
        let issuer = certificates
            .into_iter()
            .find(|ca| ca.subject == judged.issuer_name)?;
        Some(issuer.key_der)
    };
    Stapled {
        leaf: &judged.pair.facts.leaf,
        issuer_name: &judged.issuer_name,
        issuer_key: judged.issuer_key.as_deref().or_else(of_bundle),
    }
}

/// A certificate that must come with an OCSP staple can't be served without a valid one.
fn require_staple(pair: &Pair, is_good: bool, staple: &Findings<'_>, findings: &mut Findings<'_>) {
    if !pair.facts.must_staple || is_good {
        return;
    }
    let leaf = pair.facts.leaf.subject();
    let (what, remedy) = match staple.errors.first() {
        Some(problem) => (
            format!(
                "{leaf} must be served with an OCSP staple (must-staple), and the one beside it can't be used: {}",
                problem.what()
            ),
            problem.remedy().into_owned(),
        ),
        None => (
            format!("{leaf} must be served with an OCSP staple (must-staple), and there is none"),
            "put the OCSP response there, in DER, as tls.ocsp-staple; or have the certificate issued \
             without the TLS feature status_request"
                .to_owned(),
        ),
    };
    let chain = pair.facts.files.iter().next().unwrap_or_default();
    findings.error(Reason::Incomplete, chain, what, remedy);
}

#[cfg(test)]
pub(crate) mod tests;
