//! What a file without PEM blocks is, and how blocks are joined again.

use zeroize::Zeroizing;

use super::Flaw;
use super::lines::BEGIN;
use crate::credential::der::{Der, tag};

/// The start of a Java keystore, of both kinds.
const JAVA: [[u8; 4]; 2] = [[0xfe, 0xed, 0xfe, 0xed], [0xce, 0xce, 0xce, 0xce]];

/// What a file without a PEM block is, and what to do about it. `openssl` is the command that reads the content
/// that is expected there. FILE stands for the file.
pub fn foreign(bytes: &[u8], openssl: &str) -> Flaw {
    let der = |command: String| Flaw::new("it is binary DER, not PEM", rewrite(&command));
    match bytes {
        [] => Flaw::new("it is empty", "write it again"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Flaw::new(
            "it is UTF-16 text, as some Windows programs write, not PEM",
            rewrite("iconv -f UTF-16 -t ASCII"),
        ),
        _ => keystore(bytes).unwrap_or_else(|| match bytes {
            [0x30, 0x80..=0xff, ..] => der(format!("openssl {openssl} -inform DER")),
            _ => Flaw::new(
                "there is no PEM block in it",
                "write PEM there, from -----BEGIN to -----END",
            ),
        }),
    }
}

/// What to do about a keystore that has the name of a PEM file, if `bytes` is one.
pub fn keystore(bytes: &[u8]) -> Option<Flaw> {
    if is_pkcs12(bytes) {
        return Some(Flaw::new(
            "it is a PKCS#12 keystore, not PEM",
            "rename it, so that its name ends in .p12: mv FILE FILE.p12; and put its password beside \
             it, in a file called password",
        ));
    }
    let is_java = JAVA.iter().any(|magic| bytes.starts_with(magic));
    is_java.then(|| {
        Flaw::new(
            "it is a Java keystore, not PEM",
            "convert it to PKCS#12: keytool -importkeystore -srckeystore FILE -destkeystore FILE.p12 \
             -deststoretype PKCS12; and put its password beside it, in a file called password",
        )
    })
}

/// Whether it looks like PKCS#12: a sequence with version 3, and another sequence.
fn is_pkcs12(bytes: &[u8]) -> bool {
    let looks = || {
        let mut keystore = Der(bytes).sequence()?;
        let version = keystore.integer()?;
        (version == [3] && keystore.next_is(tag::SEQUENCE)).then_some(())
    };
    looks().is_some()
}

/// The remedy that passes a file through `command`, which reads standard input. The file keeps its owner and mode,
/// and no other user can read the temporary file, which may contain a key.
pub fn rewrite(command: &str) -> String {
    replace(&format!("{command} < FILE"))
}

/// The remedy that replaces a file with the output of `command`, as [`rewrite`] does.
pub fn replace(command: &str) -> String {
    format!("convert it: (umask 077; {command} > FILE.new) && cp FILE.new FILE && rm FILE.new")
}

/// Joins blocks, each on its own lines.
pub fn join<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Zeroizing<Vec<u8>> {
    let texts: Vec<&[u8]> = texts.collect();
    let room = texts.iter().map(|text| text.len() + 1).sum();
    let mut joined = Zeroizing::new(Vec::with_capacity(room));
    for text in texts {
        joined.extend_from_slice(text);
        if !text.ends_with(b"\n") {
            joined.push(b'\n');
        }
    }
    joined
}

/// Whether `bytes` contains the words that a private key's label ends with, inside a block or not.
pub fn mentions_key(bytes: &[u8]) -> bool {
    find(bytes, b"PRIVATE KEY-----")
}

/// How many blocks seem to begin in `bytes`.
pub(super) fn beginnings(bytes: &[u8]) -> usize {
    places(bytes, BEGIN).count()
}

pub(super) fn find(bytes: &[u8], needle: &[u8]) -> bool {
    places(bytes, needle).next().is_some()
}

/// Every occurrence of `needle` in `bytes`. Few positions need more than the comparison of the first byte.
fn places<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let windows = bytes.windows(needle.len());
    windows.filter(move |window| window[0] == needle[0] && *window == needle)
}
