//! A certificate chain and its private key.

use std::iter;

use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::certificate::{Certificate, certificates, check_dates, check_signature};
use super::findings::Findings;
use super::order::check_order;
use crate::credential::contents::Item;
use crate::credential::facts::{called, has_name};
use crate::credential::key::{self, KeyType, Loaded};
use crate::credential::pem::{self, Block, Content};
use crate::credential::x509::{self, X509};
use crate::credential::{Bundle, Fingerprint, Pair, PairFacts};
use crate::problem::Reason;
use crate::text::Texts;

const TAKEN: &str = "use RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519";

/// A valid pair, and the issuer of its leaf.
pub(crate) struct Judged {
    pub(crate) pair: Pair,
    /// The issuer's distinguished name, as it is encoded.
    pub(crate) issuer_name: Vec<u8>,
    /// The issuer's public key with its algorithm, if it is needed and the issuer is in the chain.
    pub(crate) issuer_key: Option<Vec<u8>>,
}

/// The pair in the files `chain` (a second file continues the first one) and `key`, which may be one of them;
/// `None` if there are errors. `bundle` is the trust bundle in the same folder. The issuer's key is only looked up
/// if it is needed to check a staple.
pub(crate) fn pair(
    chain: &[&Item],
    key: &Item,
    bundle: Option<&Bundle>,
    for_staple: bool,
    findings: &mut Findings<'_>,
) -> Option<Judged> {
    let certificates = chain
        .iter()
        .map(|file| certificates(file, findings))
        .collect::<Vec<_>>();
    let is_in_chain = chain.iter().any(|file| file.name == key.name);
    // A problem of one file is reported once.
    let blocks = match (&key.blocks, is_in_chain) {
        (Ok(blocks), true) if key.unreadable.is_none() => Some(&blocks[..]),
        (_, true) => None,
        (_, false) => findings.blocks(Reason::BadPem, key),
    };
    let private = blocks.and_then(|blocks| private(key, blocks, findings));
    let certificates = certificates.into_iter().collect::<Option<Vec<_>>>();
    let mut certificates: Vec<Certificate<'_>> = certificates?.into_iter().flatten().collect();
    let (key_text, der) = private?;
    let loaded = loaded(key, der, findings)?;
    let first = chain.first()?;
    let place = place(&certificates, loaded, [first, key], findings)?;
    certificates[..=place].rotate_right(1);

    let leaf = &certificates[0].x509;
    check_usage(leaf, &first.name, findings)?;
    check_name(leaf, &first.name, findings)?;
    check_order(&certificates, place, bundle, &first.name, findings);
    for Certificate { x509, .. } in &certificates {
        check_dates(&first.name, x509, findings);
        check_signature(&first.name, x509, findings);
    }
    findings.check_mode(key, "private key");
    let issuer_key = for_staple
        .then(|| issuer_key(&certificates, leaf))
        .flatten();
    let issuer_name = leaf.issuer.to_vec();
    let key_type = KeyType::of_public(&leaf.key);
    let must_staple = leaf.must_staple();
    let served = served_chain(chain, key, place == 0, &certificates, findings);
    let fingerprints = certificates.iter().map(|one| Fingerprint::of(one.der));
    let fingerprints = fingerprints.collect();
    let mut facts = certificates.into_iter().map(|one| one.facts);
    let facts = PairFacts {
        leaf: facts.next()?,
        intermediates: facts.collect(),
        key_type,
        must_staple,
        files: names(chain, key),
        chain: fingerprints,
    };
    Some(Judged {
        pair: Pair {
            chain: served,
            key: served_key(key, blocks?, key_text),
            lesser_chain: false,
            facts,
        },
        issuer_name,
        issuer_key,
    })
}

/// The names of the files, each once.
fn names(chain: &[&Item], key: &Item) -> Texts {
    let of_chain = chain.iter().map(|file| &*file.name);
    let of_key = iter::once(&*key.name).filter(|name| of_chain.clone().all(|other| other != *name));
    of_chain.clone().chain(of_key).collect()
}

/// The private key that Envoy would use, which is the first one: its block, and its DER.
fn private<'a>(
    file: &Item,
    blocks: &'a [Block],
    findings: &mut Findings<'_>,
) -> Option<(&'a [u8], &'a PrivateKeyDer<'static>)> {
    // Envoy skips keys in formats that it does not know.
    let known =
        |block: &&Block| block.content.is_secret() && !matches!(block.content, Content::ForeignKey);
    let any = |block: &&Block| block.content.is_secret();
    let first = blocks.iter().find(known);
    let Some(block) = first.or_else(|| blocks.iter().find(any)) else {
        findings.nothing(Reason::BadPem, file, "private key", "pkey");
        return None;
    };
    let holds_more = blocks
        .iter()
        .any(|block| matches!(block.content, Content::Certificate(_)));
    match &block.content {
        Content::Key(der) => return Some((&block.text, der)),
        Content::EncryptedKey(Some(_)) => findings.error(
            Reason::EncryptedKey,
            &file.name,
            "the private key is encrypted, and there is no password",
            "put its password beside it, in a file called password",
        ),
        Content::EncryptedKey(None) => findings.error(
            Reason::EncryptedKey,
            &file.name,
            "the private key is encrypted in OpenSSL's old form, which is not supported",
            convert("openssl pkcs8 -topk8 -in FILE", holds_more)
                + ", with the password beside it in a file called password",
        ),
        _ => findings.error(
            Reason::UnsupportedKey,
            &file.name,
            "the private key is in a format that Envoy does not read",
            format!(
                "{}; or, if it is one of OpenSSH: ssh-keygen -p -N '' -m PKCS8 -f FILE",
                convert("openssl pkey -in FILE", holds_more)
            ),
        ),
    }
    None
}

/// The remedy that replaces the file with the output of `command` for its key, followed by the certificates of the
/// file if there are any.
fn convert(command: &str, holds_more: bool) -> String {
    if !holds_more {
        return pem::replace(command);
    }
    let certificates = "sed -n '/^-----BEGIN CERTIFICATE/,/^-----END CERTIFICATE/p' FILE";
    pem::replace(&format!("{{ {command} && {certificates}; }}"))
}

/// The key of the file with this DER. Loading it proves that it is consistent, and of a type that Envoy accepts.
fn loaded<'a>(
    file: &'a Item,
    der: &PrivateKeyDer<'_>,
    findings: &mut Findings<'_>,
) -> Option<&'a Loaded> {
    if file.key.is_none() {
        match KeyType::of_private(der) {
            // Tools written in Rust often write Ed25519 keys in this form.
            _ if key::is_of_version_2(der) => findings.error(
                Reason::UnsupportedKey,
                &file.name,
                "the private key is PKCS #8 of version 2, with the public key in it, which Envoy does not read",
                "write it as PKCS #8 of version 1, which OpenSSL writes",
            ),
            _ if key::lacks_curve(der) => findings.error(
                Reason::UnsupportedKey,
                &file.name,
                "the private key does not name its curve, and Envoy does not guess it",
                "export it again as PKCS#8, which names the curve, from the program that made it",
            ),
            Some(kind) if !kind.is_taken() => findings.error(
                Reason::UnsupportedKey,
                &file.name,
                format!("the private key is {kind}, which Envoy does not accept"),
                TAKEN,
            ),
            _ => findings.error(
                Reason::BadPem,
                &file.name,
                "the private key can't be loaded: it is damaged, or in a form that Envoy does not read",
                format!("write it again, or {}", pem::rewrite("openssl pkey")),
            ),
        }
    }
    file.key.as_ref()
}

/// The index of the certificate that the key belongs to.
fn place(
    certificates: &[Certificate<'_>],
    loaded: &Loaded,
    [chain, key]: [&Item; 2],
    findings: &mut Findings<'_>,
) -> Option<usize> {
    let answer = |certificate: &Certificate<'_>| loaded.belongs_to(&certificate.x509);
    if let Some(place) = certificates
        .iter()
        .position(|one| answer(one) == Some(true))
    {
        return Some(place);
    }
    let first = &certificates[0];
    let name = called(&first.x509);
    let kind = KeyType::of_public(&first.x509.key);
    if !kind.is_taken() {
        let what =
            format!("the key of the certificate {name} is {kind}, which Envoy does not accept");
        findings.error(Reason::UnsupportedKey, &chain.name, what, TAKEN);
        return None;
    }
    if answer(first).is_none() {
        let what = format!("it could not be determined whether it is the key of {name}");
        let remedy = "check that the two belong together; openssl pkey -in FILE -pubout prints its public key";
        findings.warn(Reason::KeyMismatch, &key.name, what, remedy);
        return Some(0);
    }
    let what = format!(
        "it is not the key of the certificate {name} in {}",
        chain.name
    );
    let remedy = "write the certificate and the key that belong together";
    findings.error(Reason::KeyMismatch, &key.name, what, remedy);
    None
}

/// BoringSSL rejects a certificate for a key on a curve if its key usage does not allow signatures.
fn check_usage(leaf: &X509<'_>, file: &str, findings: &mut Findings<'_>) -> Option<()> {
    let on_a_curve = !matches!(
        KeyType::of_public(&leaf.key),
        KeyType::Rsa(_) | KeyType::Ed25519
    );
    if on_a_curve && !leaf.allows(x509::DIGITAL_SIGNATURE) {
        let what = format!(
            "the key usage of {} lacks digitalSignature, so Envoy does not accept it",
            called(leaf)
        );
        let remedy = "have it issued with keyUsage = digitalSignature";
        findings.error(Reason::UnsupportedKey, file, what, remedy);
        return None;
    }
    Some(())
}

/// Envoy rejects a certificate without a name to select it by.
fn check_name(leaf: &X509<'_>, file: &str, findings: &mut Findings<'_>) -> Option<()> {
    if has_name(leaf) {
        return Some(());
    }
    findings.error(
        Reason::NoName,
        file,
        "the certificate has neither a subject alternative name nor a common name, or an empty common name, \
         so Envoy does not accept it",
        "have it issued with the host names as subject alternative names",
    );
    None
}

/// The public key of the leaf's issuer, if that is in the chain.
fn issuer_key(certificates: &[Certificate<'_>], leaf: &X509<'_>) -> Option<Vec<u8>> {
    let mut others = certificates.iter().map(|certificate| &certificate.x509);
    let issuer = others
        .find(|other| other.is_issuer_of(leaf) && leaf.signed.is_by(&other.key) != Some(false))?;
    Some(issuer.key_der.to_vec())
}

/// The chain as it is served: the file unchanged; or only its certificates, leaf first, if there are several files,
/// or if the file has another order or other content.
fn served_chain(
    files: &[&Item],
    key: &Item,
    in_order: bool,
    certificates: &[Certificate<'_>],
    findings: &mut Findings<'_>,
) -> Vec<u8> {
    let holds_key = |file: &&&Item| pem::mentions_key(&file.bytes);
    if let Some(file) = files.iter().find(holds_key)
        && file.name != key.name
    {
        findings.warn(
            Reason::Tidied,
            &file.name,
            "there is a private key in the certificate's file: it is not sent with the chain",
            "remove it from this file",
        );
    }
    match files {
        [file] if in_order && !file.rewritten && !holds_key(&file) => {
            let blocks = file.blocks.as_ref().map_or(0, Vec::len);
            if blocks == certificates.len() {
                return file.bytes.to_vec();
            }
        }
        _ => {}
    }
    pem::join(certificates.iter().map(|certificate| certificate.text)).to_vec()
}

/// The key as it is served: the file unchanged, if it contains nothing else except parameters.
fn served_key(file: &Item, blocks: &[Block], text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut others = blocks.iter().filter(|block| *block.text != text);
    if !file.rewritten && others.all(|block| matches!(block.content, Content::Other)) {
        file.bytes.clone()
    } else {
        pem::join([text].into_iter())
    }
}
