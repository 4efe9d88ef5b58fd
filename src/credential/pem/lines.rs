//! The lines of a file, cut and trimmed as BoringSSL does.

/// BoringSSL reads lines in pieces of at most this many bytes: a longer one counts as several.
pub(super) const LINE_MAX: usize = 253;

pub(super) const BEGIN: &[u8] = b"-----BEGIN ";
pub(super) const END: &[u8] = b"-----END ";
pub(super) const DASHES: &[u8] = b"-----";

/// A line as BoringSSL sees it.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    /// Without what BoringSSL trims from its end: control characters, spaces, bytes above ASCII.
    pub(super) text: &'a [u8],
    /// Where it starts in the file.
    pub(super) start: usize,
    /// Where the next one starts.
    pub(super) end: usize,
    /// From 1.
    pub(super) number: usize,
    /// Whether a line feed ends it.
    ends_in_feed: bool,
}

impl<'a> Line<'a> {
    /// Whether nothing but a line feed is trimmed from its end.
    pub(super) fn is_plain(&self) -> bool {
        self.ends_in_feed && self.end - self.start == self.text.len() + 1
    }

    /// The label, if the line begins a block.
    pub(super) fn label(&self) -> Option<&'a [u8]> {
        self.text.strip_prefix(BEGIN)?.strip_suffix(DASHES)
    }
}

/// The lines of a file.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            number: 1,
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return None;
        }
        let piece = &rest[..rest.len().min(LINE_MAX)];
        let newline = piece.iter().position(|&byte| byte == b'\n');
        let raw = newline.map_or(piece, |at| &piece[..=at]);
        let kept = raw
            .iter()
            .rposition(|byte| (0x21..0x80).contains(byte))
            .map_or(0, |last| last + 1);
        let line = Line {
            text: &raw[..kept],
            start: self.at,
            end: self.at + raw.len(),
            number: self.number,
            ends_in_feed: newline.is_some(),
        };
        self.at = line.end;
        self.number += usize::from(line.ends_in_feed);
        Some(line)
    }
}
