//! What can be told of a file without reading its blocks.

use zeroize::Zeroizing;

use super::lines::BEGIN;

/// The byte-order mark that Windows editors put at the start of a file.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

/// `bytes` without the byte-order marks at its start and before blocks, or `None` when there is none:
/// BoringSSL does not see the block behind one.
pub fn without_marks(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let is_mark = |at: usize| {
        let rest = &bytes[at..];
        rest.starts_with(MARK) && (at == 0 || rest[MARK.len()..].starts_with(BEGIN))
    };
    let mut at = (0..bytes.len()).find(|&at| is_mark(at))?;
    let mut clean = Zeroizing::new(Vec::with_capacity(bytes.len()));
    clean.extend_from_slice(&bytes[..at]);
    while at < bytes.len() {
        if is_mark(at) {
            at += MARK.len();
        } else {
            clean.push(bytes[at]);
            at += 1;
        }
    }
    Some(clean)
}

/// What a file in which no block was found is instead, and what to do about it: `openssl` is the
/// command of OpenSSL's that reads what should be there. FILE stands for the file.
pub fn instead(bytes: &[u8], openssl: &str) -> (&'static str, String) {
    let begin = find(bytes, BEGIN);
    match bytes {
        [] => ("it is empty", "write it again".into()),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => (
            "it is UTF-16 text, as some Windows programs write, not PEM",
            rewrite("iconv -f UTF-16 -t ASCII"),
        ),
        [0x30, 0x80..=0xff, ..] => (
            "it is binary DER, not PEM",
            rewrite(&format!("openssl {openssl} -inform DER")),
        ),
        _ if begin && !bytes.contains(&b'\n') => (
            "its lines do not end in line feeds, so that no PEM block is found in it",
            rewrite(r"tr '\r' '\n'"),
        ),
        _ if begin => (
            "its -----BEGIN does not stand alone on a line, so that no PEM block is found in it",
            "start the line with -----BEGIN and end it after the five dashes".into(),
        ),
        _ => (
            "there is no PEM block in it",
            "write PEM there, from -----BEGIN to -----END".into(),
        ),
    }
}

/// The advice to put a file through `command`. The file keeps its owner and mode, and nobody else can
/// read what is made on the way, which may be a key.
pub fn rewrite(command: &str) -> String {
    format!(
        "convert it: (umask 077; {command} < FILE > FILE.new) && cp FILE.new FILE && rm FILE.new"
    )
}

/// Blocks one after the other, each on lines of its own.
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

/// Whether `bytes` holds the words that a private key's label ends with, in a block or not.
pub fn mentions_key(bytes: &[u8]) -> bool {
    find(bytes, b"PRIVATE KEY-----")
}

fn find(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
