//! PEM files → their blocks, cut where Envoy's BoringSSL cuts them.
//!
//! The only module that uses `rustls-pemfile`, which decodes the blocks. It gives no spans and takes
//! more than BoringSSL does (a block cut short by the next one, empty lines, missing padding), so the
//! lines are walked here. Nothing of a block's content is ever part of an error.

mod lines;
mod raw;

use rustls_pemfile::Item;
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use self::lines::{BEGIN, DASHES, END, Line, Lines};
use self::raw::MARK;
pub use self::raw::{instead, join, mentions_key, rewrite, without_marks};

/// One PEM block.
pub struct Block<'a> {
    /// All of it, from its BEGIN line to its END line, the line's end included if it has one.
    pub text: &'a [u8],
    /// What it holds.
    pub content: Content,
    /// The number of its BEGIN line, from 1.
    pub line: usize,
}

/// What a block holds, as far as a credential is concerned.
pub enum Content {
    /// A certificate, in DER.
    Certificate(Vec<u8>),
    /// A private key that is not encrypted.
    Key(Zeroizing<PrivateKeyDer<'static>>),
    /// A private key that only a password opens.
    EncryptedKey,
    /// A private key in a format that Envoy does not read, such as OpenSSH's.
    ForeignKey,
    /// A revocation list, in DER.
    Crl(Vec<u8>),
    /// A certificate with OpenSSL's trust settings behind it.
    TrustedCertificate,
    /// Anything else, such as EC parameters.
    Other,
}

impl Content {
    /// Whether nobody but Envoy may see it: a private key of any kind.
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Key(_) | Self::EncryptedKey | Self::ForeignKey)
    }
}

/// What is wrong with a part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// What is wrong with which part of it, as a clause.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Flaw {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// What kinds of blocks a file seems to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// A certificate.
    pub certificate: bool,
    /// A private key.
    pub key: bool,
    /// A block of any kind.
    pub any: bool,
}

/// The blocks of `bytes`, each one whole and decodable. One bad block spoils the whole file.
///
/// # Errors
/// The first block that BoringSSL would not read.
pub fn blocks(bytes: &[u8]) -> Result<Vec<Block<'_>>, Flaw> {
    let mut blocks = Vec::new();
    let mut lines = Lines::new(bytes);
    while let Some(line) = lines.next() {
        if let Some(label) = line.label() {
            blocks.push(block(bytes, line, label, &mut lines)?);
        }
    }
    Ok(blocks)
}

/// Looks at the BEGIN lines of `bytes` alone, those behind a byte-order mark included.
pub fn glance(bytes: &[u8]) -> Glance {
    let mut seen = Glance::default();
    for line in Lines::new(bytes) {
        let text = line.text.strip_prefix(MARK).unwrap_or(line.text);
        let Some(label) = (Line { text, ..line }).label() else {
            continue;
        };
        seen.any = true;
        seen.certificate |= label.ends_with(b"CERTIFICATE");
        seen.key |= label.ends_with(b"PRIVATE KEY");
    }
    seen
}

/// Reads the rest of the block whose BEGIN line is `begin`.
fn block<'a>(
    bytes: &'a [u8],
    begin: Line<'a>,
    label: &'a [u8],
    lines: &mut Lines<'a>,
) -> Result<Block<'a>, Flaw> {
    let flaw = |(what, remedy): (&str, _)| {
        let number = begin.number;
        Flaw::new(
            format!("the PEM block that begins in line {number} {what}"),
            remedy,
        )
    };
    let (body, end) = Body::read(label, lines).map_err(flaw)?;
    let text = &bytes[begin.start..end.end];
    Ok(Block {
        text,
        content: body.content(label, text).map_err(flaw)?,
        line: begin.number,
    })
}

const WRITE_WHOLE: &str =
    "write the whole file again, under another name first, and rename it then";

const END_LINE: &str =
    "repeat the BEGIN line's label in the END line, and end the line after its five dashes";

/// What was seen between the BEGIN and the END line of a block.
#[derive(Default)]
struct Body {
    /// Something stands before the first empty line: BoringSSL takes it for headers.
    headers: bool,
    /// `Proc-Type: 4,ENCRYPTED` is the first of them.
    encrypted: bool,
    /// The first empty line was seen.
    split: bool,
    digits: usize,
    padding: usize,
    /// It is not base64.
    stray: bool,
}

impl Body {
    /// Reads up to the END line, which is given too.
    fn read<'a>(
        label: &[u8],
        lines: &mut Lines<'a>,
    ) -> Result<(Self, Line<'a>), (&'static str, &'static str)> {
        let mut body = Self::default();
        for line in lines {
            if let Some(end) = line.text.strip_prefix(END) {
                return match end.strip_suffix(DASHES) == Some(label) {
                    true => Ok((body, line)),
                    false => Err((
                        "has an END line that is not its own, or not alone",
                        END_LINE,
                    )),
                };
            }
            if line.text.starts_with(DASHES) {
                return Err((
                    "is cut short: another begins before its END line",
                    WRITE_WHOLE,
                ));
            }
            body.add(line.text);
        }
        Err(("has no END line, so the file is cut short", WRITE_WHOLE))
    }

    fn add(&mut self, line: &[u8]) {
        if line.is_empty() && !self.split {
            self.split = true;
            self.headers = self.digits > 0 || self.stray;
        }
        if line.starts_with(b"Proc-Type: 4,ENCRYPTED") {
            self.encrypted = true;
        }
        for byte in line {
            match byte {
                b' ' | b'\t' | b'\r' => {}
                b'=' => self.padding += 1,
                _ if self.padding > 0 => self.stray = true,
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => self.digits += 1,
                _ => self.stray = true,
            }
        }
    }

    fn content(&self, label: &[u8], text: &[u8]) -> Result<Content, (&'static str, &'static str)> {
        let is_key = label.ends_with(b"PRIVATE KEY");
        if label == b"ENCRYPTED PRIVATE KEY" || (is_key && self.encrypted) {
            return Ok(Content::EncryptedKey);
        }
        if self.headers {
            return Err((
                "has an empty line in it: Envoy takes what is before it for headers",
                "remove the empty line",
            ));
        }
        let whole = (self.digits + self.padding).is_multiple_of(4) && self.padding <= 2;
        if self.stray || self.digits == 0 || !whole {
            return Err(("is not valid base64", WRITE_WHOLE));
        }
        match label {
            b"TRUSTED CERTIFICATE" => Ok(Content::TrustedCertificate),
            // The label of old, which BoringSSL takes and the library does not.
            b"X509 CERTIFICATE" => decode(b"CERTIFICATE", text),
            b"CERTIFICATE" | b"X509 CRL" | b"PRIVATE KEY" | b"RSA PRIVATE KEY"
            | b"EC PRIVATE KEY" => decode(label, text),
            _ if is_key => Ok(Content::ForeignKey),
            _ => Ok(Content::Other),
        }
    }
}

/// Decodes the block `text` as one of the label `label`.
fn decode(label: &[u8], text: &[u8]) -> Result<Content, (&'static str, &'static str)> {
    let key = |der: PrivateKeyDer<'static>| Content::Key(Zeroizing::new(der));
    match rustls_pemfile::read_one_from_slice(&plain(label, text)) {
        Ok(Some((item, _))) => Ok(match item {
            Item::X509Certificate(der) => Content::Certificate(der.to_vec()),
            Item::Crl(der) => Content::Crl(der.to_vec()),
            Item::Pkcs1Key(der) => key(der.into()),
            Item::Pkcs8Key(der) => key(der.into()),
            Item::Sec1Key(der) => key(der.into()),
            _ => Content::Other,
        }),
        _ => Err(("is not valid base64", WRITE_WHOLE)),
    }
}

/// The block as every reader takes it: without what BoringSSL trims from the ends of lines.
fn plain(label: &[u8], text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(2 * text.len() + 2 * label.len()));
    for line in Lines::new(text) {
        let edge = [BEGIN, END]
            .into_iter()
            .find(|edge| line.text.starts_with(edge));
        match edge {
            Some(edge) => plain.extend([edge, label, DASHES].iter().copied().flatten()),
            None => plain.extend_from_slice(line.text),
        }
        plain.push(b'\n');
    }
    plain
}

#[cfg(test)]
mod tests;
