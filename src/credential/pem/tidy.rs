//! Makes blocks visible that BoringSSL would skip silently because something comes before their BEGIN line, if the
//! intention is clear.

use zeroize::Zeroizing;

use super::foreign::{beginnings, find, rewrite};
use super::lines::{BEGIN, DASHES, END, LINE_MAX};
use super::{Flaw, base64_text, decoded, labels};
use crate::credential::der::Der;

/// The byte-order mark that Windows editors put at the start of a file.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// What is trimmed from the ends of lines, apart from control characters and spaces: marks, spaces and
/// quotation marks in UTF-8, and the no-break space of Latin-1.
const TRIMMED: [&[u8]; 15] = [
    MARK,
    b"\xc2\xa0",
    b"\xe2\x80\x8b",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xaf",
    b"\xe3\x80\x80",
    b"\xe2\x80\x98",
    b"\xe2\x80\x99",
    b"\xe2\x80\x9c",
    b"\xe2\x80\x9d",
    b"\xa0",
    b"\"",
    b"'",
    b"`",
    b",",
];

const LONE_RETURN: &str = "a lone carriage return";
const TRUST_SETTINGS: &str = "OpenSSL's trust settings";
const TRUSTED: &[u8] = b"TRUSTED CERTIFICATE";

/// A file as it is used, and what was changed.
pub struct Tidied {
    /// All of its blocks, and nothing else.
    pub bytes: Zeroizing<Vec<u8>>,
    /// What was changed, as a clause.
    pub what: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// `bytes` with every block moved to where BoringSSL finds it, or `None` if that is already the case.
///
/// # Errors
/// A block begins in the middle of a line.
pub fn tidy(bytes: &[u8]) -> Result<Option<Tidied>, Flaw> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Ok(None);
    }
    let plain = labels(bytes).filter(|label| !find(label, DASHES)).count();
    let is_visible = plain == beginnings(bytes);
    if is_visible && !labels(bytes).any(|label| label == TRUSTED) {
        return Ok(None);
    }
    let mut tidy = Tidy {
        // Never reallocated, which would leave copies of keys behind.
        bytes: Zeroizing::new(Vec::with_capacity(2 * bytes.len() + 2)),
        ..Tidy::default()
    };
    for (at, (line, returned)) in lines(bytes).enumerate() {
        if returned {
            tidy.changes.push((LONE_RETURN, at + 1));
        }
        tidy.line(line, at + 1)?;
    }
    Ok(tidy.finish())
}

#[derive(Default)]
struct Tidy {
    bytes: Zeroizing<Vec<u8>>,
    inside: bool,
    /// Where a block with trust settings begins in `bytes`.
    trusted: Option<usize>,
    changes: Vec<(&'static str, usize)>,
}

impl Tidy {
    fn line(&mut self, raw: &[u8], number: usize) -> Result<(), Flaw> {
        let line = trimmed(raw);
        let begins = line.starts_with(BEGIN)
            && line.ends_with(DASHES)
            && line.len() <= LINE_MAX
            && beginnings(line) == 1;
        let label = line
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(DASHES));
        match label {
            Some(label) if begins && !find(label, DASHES) => self.begin(raw, label, number),
            _ if is_comment(line) && !self.inside => {}
            _ if beginnings(raw) > 0 => return Err(within_a_line(line, number)),
            _ if self.inside => self.push(line),
            _ => {}
        }
        if self.inside && line.starts_with(END) {
            self.end(number);
        }
        Ok(())
    }

    fn begin(&mut self, raw: &[u8], label: &[u8], number: usize) {
        let why = match raw {
            _ if raw.starts_with(BEGIN) => None,
            _ if raw.starts_with(MARK) => Some("a byte-order mark"),
            _ => Some("a space, a quotation mark or the like"),
        };
        self.changes.extend(why.map(|why| (why, number)));
        self.trusted = (label == TRUSTED).then_some(self.bytes.len());
        self.inside = true;
        self.push(&[BEGIN, label, DASHES].concat());
    }

    fn end(&mut self, number: usize) {
        self.inside = false;
        let Some(start) = self.trusted.take() else {
            return;
        };
        // The certificate comes first, then the trust settings.
        let certificate = decoded(&self.bytes[start..])
            .and_then(|der| Some(base64_text(b"CERTIFICATE", Der(&der).any()?.all)));
        if let Some(certificate) = certificate {
            self.bytes.truncate(start);
            self.bytes.extend_from_slice(&certificate);
            self.changes.push((TRUST_SETTINGS, number));
        }
    }

    fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }

    fn finish(self) -> Option<Tidied> {
        let (what, remedy) = match self.changes.first()? {
            (TRUST_SETTINGS, line) => (
                format!("{TRUST_SETTINGS} follow the certificate that ends in line {line}: they \
                         are left out"),
                "leave it as it is, or export the certificates again without trust settings",
            ),
            (LONE_RETURN, _) => (
                "its lines end in carriage returns, so that Envoy would not see all of its PEM blocks: they are replaced by line feeds".to_owned(),
                "save the file with line feeds at the ends of its lines",
            ),
            (why, line) => (
                format!("{why} comes before the PEM block in line {line}: it is left out, because \
                         Envoy would skip the block otherwise"),
                "save the file as plain ASCII text with each -----BEGIN at the start of its line",
            ),
        };
        Some(Tidied {
            bytes: self.bytes,
            what,
            remedy,
        })
    }
}

/// The lines of a file, ended by line feeds or by lone carriage returns, each with whether a lone carriage return
/// ended the line before it.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    bytes.split(|byte| *byte == b'\n').flat_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let pieces = line.split(|byte| *byte == b'\r').enumerate();
        pieces.map(|(at, piece)| (piece, at > 0))
    })
}

pub(super) fn trimmed(mut line: &[u8]) -> &[u8] {
    let plain = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    loop {
        let before = line.len();
        while let [first, rest @ ..] = line
            && plain(first)
        {
            line = rest;
        }
        while let [rest @ .., last] = line
            && plain(last)
        {
            line = rest;
        }
        for one in TRIMMED {
            line = line.strip_prefix(one).unwrap_or(line);
            line = line.strip_suffix(one).unwrap_or(line);
        }
        if line.len() == before {
            return line;
        }
    }
}

/// Whether someone has commented out the line.
pub(super) fn is_comment(line: &[u8]) -> bool {
    [&b"#"[..], b";", b"//"]
        .iter()
        .any(|mark| line.starts_with(mark))
}

/// Why a line in which a block begins is not a BEGIN line, and what to do about it.
fn within_a_line(line: &[u8], number: usize) -> Flaw {
    let begins = line.starts_with(BEGIN);
    let edges = line.windows(DASHES.len()).filter(|five| *five == DASHES);
    let (what, sed) = match () {
        () if find(line, br"-----\n") || find(line, br"\n-----") => (
            r"the line breaks are missing: they are written out as \n",
            r"sed 's/\\r//g; s/\\n/\n/g'",
        ),
        () if find(line, END) || (begins && edges.count() > 1) => (
            "the line breaks are missing",
            r"sed -E 's/ *(-----(BEGIN|END) [A-Z0-9 ]+-----) */\n\1\n/g'",
        ),
        () if begins => (
            "the BEGIN line does not end in five dashes",
            r"sed -E 's/(-----BEGIN [A-Z0-9 ]*[A-Z0-9])-* *$/\1-----/'",
        ),
        () => (
            "a PEM block begins in the middle of the line, where Envoy would not see it",
            r"sed 's/-----BEGIN /\n&/g'",
        ),
    };
    Flaw::new(format!("in line {number}, {what}"), rewrite(sed))
}
