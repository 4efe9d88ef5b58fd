//! Escapes text from outside before it is shown: file names, subjects, node ids, and whatever else a client or the
//! owner of a folder chooses.

use std::fmt::{self, Write};
use std::path::Path;

/// The text with everything escaped that could end a line, control a terminal or reorder what is
/// displayed. Escaped text stays as it is when it is escaped again.
///
/// For log lines, tables and errors. JSON has escapes of its own.
pub fn escape<T: AsRef<str> + ?Sized>(text: &T) -> Escaped<'_> {
    Escaped {
        text: text.as_ref(),
        quoted: false,
    }
}

/// Like [`escape`], in double quotes, with quotes and backslashes escaped: nothing in the text can be mistaken for
/// what follows it.
pub fn quote<T: AsRef<str> + ?Sized>(text: &T) -> Escaped<'_> {
    Escaped {
        text: text.as_ref(),
        quoted: true,
    }
}

/// The same JSON, with everything escaped in its strings that [`escape`] escapes: JSON itself only requires that
/// for C0 controls, and JSON is shown on terminals too.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for char in json.chars() {
        // Outside of strings, JSON is ASCII, and its white space does no harm.
        if is_hostile(char) && !char.is_ascii_whitespace() {
            let mut units = [0; 2];
            for unit in char.encode_utf16(&mut units) {
                // Writing to a String does not fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// A path, escaped. Bytes that are not UTF-8 are shown as U+FFFD.
pub fn path(path: &Path) -> String {
    escape(&*path.to_string_lossy()).to_string()
}

/// A path, escaped, as a shell takes it.
pub fn shell(path: &Path) -> String {
    let path = self::path(path);
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-+:@%".contains(char);
    if path.chars().all(plain) {
        return path;
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// The beginning of a text, of at most `bytes` bytes and whole characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    let most = bytes.min(text.len());
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// Several texts without NUL, such as file names, in one allocation: there are thousands of such lists.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts(Box<str>);

impl Texts {
    /// The texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator('\0')
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut all = String::new();
        for text in texts {
            all.push_str(text.as_ref());
            all.push('\0');
        }
        // A copy of the exact size: what is left over when an allocation shrinks is too small to be used again.
        Self((*all).into())
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Displays a text with escapes.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a> {
    text: &'a str,
    quoted: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nearly all text is of this kind, and this check is the fastest.
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~');
        if !self.quoted && self.text.as_bytes().iter().all(is_plain) {
            return f.write_str(self.text);
        }
        if self.quoted {
            f.write_char('"')?;
        }
        let is_special = |char| is_hostile(char) || self.quoted && matches!(char, '"' | '\\');
        let mut rest = self.text;
        while let Some(at) = rest.find(is_special) {
            let (plain, special) = rest.split_at(at);
            f.write_str(plain)?;
            let mut chars = special.chars();
            match chars.next() {
                Some(char @ ('"' | '\\')) => write!(f, "\\{char}")?,
                Some('\t') => f.write_str("\\t")?,
                Some('\r') => f.write_str("\\r")?,
                Some('\n') => f.write_str("\\n")?,
                Some(char) => write!(f, "{}", char.escape_unicode())?,
                None => {}
            }
            rest = chars.as_str();
        }
        f.write_str(rest)?;
        if self.quoted {
            f.write_char('"')?;
        }
        Ok(())
    }
}

/// Whether a character has an effect instead of being displayed: controls (C0, DEL, C1), line and paragraph
/// separators, what changes the direction of text, and what is invisible.
fn is_hostile(char: char) -> bool {
    if char.is_ascii() {
        return char.is_ascii_control();
    }
    char.is_control()
        || matches!(
            char,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "site.example.com", "C:\\a 'b' \"c\"", "日本語 ü €"] {
            assert_eq!(escape(text).to_string(), text);
        }
    }

    #[test]
    fn what_forges_lines_or_controls_a_terminal_is_escaped() {
        for (text, expected) in [
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{7f}\0", "\\u{7f}\\u{0}"),
            ("gpj\u{202e}.exe", "gpj\\u{202e}.exe"),
            ("a\u{2028}b\u{feff}", "a\\u{2028}b\\u{feff}"),
        ] {
            assert_eq!(escape(text).to_string(), expected);
        }
    }

    #[test]
    fn quoted_text_ends_only_at_its_last_quote() {
        assert_eq!(
            quote("a\" uid=0 \\\"\n").to_string(),
            "\"a\\\" uid=0 \\\\\\\"\\n\""
        );
    }

    #[test]
    fn json_has_the_same_meaning_with_escapes() {
        let text = "a\u{9b}b\u{7f}\u{202e}\u{e0001} ü\n\\";
        let json = serde_json::to_string_pretty(&[text]).unwrap();
        let escaped = escape_json(&json);
        assert!(
            !escaped.contains(|c| is_hostile(c) && c != '\n'),
            "{escaped:?}"
        );
        let [read]: [String; 1] = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read, text);
    }

    #[test]
    fn a_cut_keeps_whole_characters() {
        assert_eq!(cut("aü", 2), "a");
        assert_eq!(cut("aü", 3), "aü");
        assert_eq!(cut("a", 100), "a");
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_harmless_line(text in "\\PC*|(?s).*") {
            let escaped = escape(&text).to_string();
            prop_assert!(!escaped.contains(is_hostile), "{escaped:?}");
            prop_assert_eq!(escape(&escaped).to_string(), &escaped[..]);
            prop_assert!(!quote(&text).to_string().contains(is_hostile));
        }
    }
}
