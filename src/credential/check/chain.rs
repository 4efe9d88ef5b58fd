//! A certificate chain and its private key.

use rustls_pki_types::PrivateKeyDer;
use x509_parser::der_parser::{Oid, oid};
use x509_parser::prelude::X509Certificate;
use zeroize::Zeroizing;

use super::certificate::{Certificate, certificates, check_dates, check_signature};
use super::findings::Findings;
use super::order::check_order;
use crate::credential::facts::called;
use crate::credential::key::{KeyType, Loaded};
use crate::credential::pem::{self, Block, Content};
use crate::credential::strict;
use crate::credential::{Bundle, CertificateFacts, Pair, PairFacts};
use crate::files::read::{File, LISTED};
use crate::problem::Reason;

/// RFC 7633: what the server promises to do in each handshake.
const TLS_FEATURE: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);
/// `status_request` as one of the TLS features, an INTEGER: to send an OCSP staple ("must-staple").
const STATUS_REQUEST: [u8; 3] = [0x02, 0x01, 0x05];

const TAKEN: &str = "use RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519";

/// The pair in the files `chain` and `key`, which may be one; `None` when there are errors. `bundle` is
/// the trust bundle beside them.
pub(crate) fn pair(
    chain: &File,
    key: &File,
    bundle: Option<&Bundle>,
    findings: &mut Findings<'_>,
) -> Option<Pair> {
    let chain_blocks = findings.blocks(Reason::BadPem, chain);
    let own_blocks = (chain.name != key.name).then(|| findings.blocks(Reason::BadPem, key));
    let key_blocks = own_blocks.as_ref().unwrap_or(&chain_blocks).as_deref();

    let certificates = chain_blocks
        .as_deref()
        .and_then(|blocks| certificates(chain, blocks, findings));
    let private = key_blocks.and_then(|blocks| private(key, blocks, findings));
    let (mut certificates, (key_text, der)) = (certificates?, private?);
    let loaded = load(der, key, findings)?;
    let place = place(&certificates, &loaded, [chain, key], findings)?;
    certificates[..=place].rotate_right(1);

    let leaf = &certificates[0].x509;
    check_usage(leaf, &chain.name, findings)?;
    check_staple(leaf, &chain.name, findings)?;
    check_order(&certificates, place, bundle, &chain.name, findings);
    for Certificate { x509, .. } in &certificates {
        check_dates(&chain.name, x509, findings);
        check_signature(&chain.name, x509, findings);
    }
    check_mode(key, findings);
    let mut files = vec![chain.name.clone(), key.name.clone()];
    files.dedup();
    let alone = place == 0 && chain_blocks.as_ref()?.len() == certificates.len();
    Some(Pair {
        chain: served_chain(chain, key, alone, &certificates, findings),
        key: served_key(key, key_blocks?, key_text),
        facts: PairFacts {
            leaf: CertificateFacts::of(leaf),
            key_type: KeyType::of_public(leaf.public_key()).to_string(),
            must_staple: false,
            files,
        },
    })
}

/// The private key that Envoy would take: the first one. Its block, and its DER.
fn private<'a>(
    file: &File,
    blocks: &'a [Block<'a>],
    findings: &mut Findings<'_>,
) -> Option<(&'a [u8], &'a PrivateKeyDer<'static>)> {
    let Some(block) = blocks.iter().find(|block| block.content.is_secret()) else {
        findings.nothing(Reason::BadPem, file, blocks, "private key", "pkey");
        return None;
    };
    match &block.content {
        Content::Key(der) => return Some((block.text, der)),
        Content::EncryptedKey => findings.error(
            Reason::EncryptedKey,
            &file.name,
            "the private key is encrypted, and there is no password",
            pem::rewrite("openssl pkey"),
        ),
        _ => findings.error(
            Reason::UnsupportedKey,
            &file.name,
            "the private key is in a format that Envoy does not read",
            format!(
                "{}; or, if it is one of OpenSSH: ssh-keygen -p -m PKCS8 -f FILE",
                pem::rewrite("openssl pkey")
            ),
        ),
    }
    None
}

/// Loads the key, which proves that it is consistent and of a type that Envoy takes.
fn load(der: &PrivateKeyDer<'_>, file: &File, findings: &mut Findings<'_>) -> Option<Loaded> {
    let loaded = Loaded::new(der);
    if loaded.is_none() {
        match KeyType::of_private(der) {
            // Tools written in Rust tend to make them so, for Ed25519.
            _ if is_of_version_2(der) => findings.error(
                Reason::UnsupportedKey,
                &file.name,
                "the private key is PKCS #8 of version 2, with the public key in it, which Envoy does not read",
                "write it as PKCS #8 of version 1, which OpenSSL makes",
            ),
            Some(kind) if !kind.is_taken() => findings.error(
                Reason::UnsupportedKey,
                &file.name,
                format!("the private key is {kind}, which Envoy does not take"),
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
    loaded
}

fn is_of_version_2(der: &PrivateKeyDer<'_>) -> bool {
    matches!(der, PrivateKeyDer::Pkcs8(key) if strict::is_pkcs8_of_version_2(key.secret_pkcs8_der()))
}

/// Which of the certificates is the key's.
fn place(
    certificates: &[Certificate<'_>],
    loaded: &Loaded,
    [chain, key]: [&File; 2],
    findings: &mut Findings<'_>,
) -> Option<usize> {
    let answer = |certificate: &Certificate<'_>| loaded.belongs_to(certificate.x509.public_key());
    if let Some(place) = certificates
        .iter()
        .position(|one| answer(one) == Some(true))
    {
        return Some(place);
    }
    let first = &certificates[0];
    let name = called(&first.x509);
    let kind = KeyType::of_public(first.x509.public_key());
    if !kind.is_taken() {
        let what =
            format!("the key of the certificate {name} is {kind}, which Envoy does not take");
        findings.error(Reason::UnsupportedKey, &chain.name, what, TAKEN);
        return None;
    }
    if answer(first).is_none() {
        let what = format!("it could not be told whether it is the key of {name}");
        let remedy = "compare the two: openssl pkey -pubout, openssl x509 -pubkey";
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

/// BoringSSL takes no certificate with a key on a curve whose key usage rules signatures out.
fn check_usage(leaf: &X509Certificate<'_>, file: &str, findings: &mut Findings<'_>) -> Option<()> {
    let on_a_curve = !matches!(
        KeyType::of_public(leaf.public_key()),
        KeyType::Rsa(_) | KeyType::Ed25519
    );
    let signs = match leaf.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.digital_signature()),
        Err(_) => false,
    };
    if on_a_curve && !signs {
        let what = format!(
            "the key usage of {} lacks digitalSignature, so Envoy does not take it",
            called(leaf)
        );
        let remedy = "have it issued with keyUsage = digitalSignature";
        findings.error(Reason::UnsupportedKey, file, what, remedy);
        return None;
    }
    Some(())
}

/// A certificate that must come with an OCSP staple can't be served without.
fn check_staple(leaf: &X509Certificate<'_>, file: &str, findings: &mut Findings<'_>) -> Option<()> {
    let must = leaf.iter_extensions().any(|extension| {
        let mut values = extension.value.windows(STATUS_REQUEST.len());
        extension.oid == TLS_FEATURE && values.any(|value| value == STATUS_REQUEST)
    });
    if must {
        let what = format!(
            "{} must be served with an OCSP staple (must-staple), and there is none",
            called(leaf)
        );
        let remedy = "have it issued without the TLS feature status_request";
        findings.error(Reason::Incomplete, file, what, remedy);
        return None;
    }
    Some(())
}

/// Warns of a key that users other than the file's owner and group can read or replace.
fn check_mode(key: &File, findings: &mut Findings<'_>) {
    if key.mode & LISTED != 0 {
        findings.warn(
            Reason::LooseMode,
            &key.name,
            "an access control list gives other users or groups a right to the private key",
            "look at it with `getfacl FILE`, and remove it with `setfacl -b FILE`",
        );
    }
    if key.mode & 0o007 != 0 {
        let mode = key.mode & 0o7777;
        findings.warn(
            Reason::LooseMode,
            &key.name,
            format!("the private key's mode is {mode:04o}: others have a right to it"),
            "take it away: chmod o= FILE",
        );
    }
}

/// The chain as it is served: the file as it is, or its certificates alone, the leaf first, when it
/// holds them in another order or holds anything else.
fn served_chain(
    file: &File,
    key: &File,
    alone: bool,
    certificates: &[Certificate<'_>],
    findings: &mut Findings<'_>,
) -> Vec<u8> {
    let secret = pem::mentions_key(&file.bytes);
    if alone && !secret {
        return file.bytes.to_vec();
    }
    if secret && file.name != key.name {
        findings.warn(
            Reason::Tidied,
            &file.name,
            "there is a private key in the certificate's file: it is not sent with the chain",
            "remove it from this file",
        );
    }
    pem::join(certificates.iter().map(|certificate| certificate.text)).to_vec()
}

/// The key as it is served: the file as it is when it holds nothing else but parameters.
fn served_key(file: &File, blocks: &[Block<'_>], text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut others = blocks.iter().filter(|block| block.text != text);
    if others.all(|block| matches!(block.content, Content::Other)) {
        file.bytes.clone()
    } else {
        pem::join([text].into_iter())
    }
}
