//! How blocks are cut, and that no content of a file breaks this.

use proptest::prelude::*;

use super::foreign::beginnings;
use super::tidy::{is_comment, trimmed};
use super::{Block, Content, blocks, foreign, join, tidy};

/// 48 bytes that are not a certificate: the content of a block does not matter here.
const BODY: &str = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2";

fn block(label: &str) -> String {
    format!("-----BEGIN {label}-----\n{BODY}\n-----END {label}-----\n")
}

fn kinds(text: &str) -> Vec<&'static str> {
    let kind = |block: &Block| match block.content {
        Content::Certificate(_) => "certificate",
        Content::Key(_) => "key",
        Content::EncryptedKey(_) => "encrypted key",
        Content::ForeignKey => "foreign key",
        Content::Crl(_) => "list",
        Content::Other => "other",
    };
    blocks(text.as_bytes()).unwrap().iter().map(kind).collect()
}

#[test]
fn labels_determine_the_content_of_a_block() {
    let cases = [
        ("CERTIFICATE", "certificate"),
        ("X509 CERTIFICATE", "certificate"),
        ("TRUSTED CERTIFICATE", "certificate"),
        ("PRIVATE KEY", "key"),
        ("RSA PRIVATE KEY", "key"),
        ("EC PRIVATE KEY", "key"),
        ("ENCRYPTED PRIVATE KEY", "encrypted key"),
        ("DSA PRIVATE KEY", "foreign key"),
        ("OPENSSH PRIVATE KEY", "foreign key"),
        ("X509 CRL", "list"),
        ("EC PARAMETERS", "other"),
        ("", "other"),
    ];
    for (label, kind) in cases {
        assert_eq!(kinds(&block(label)), [kind], "{label}");
    }
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: A,00\n\nQUJD\n-----END RSA PRIVATE KEY-----\n";
    assert_eq!(kinds(old), ["encrypted key"]);
}

#[test]
fn a_flaw_names_its_line_and_shows_nothing_of_it() {
    let good = block("PRIVATE KEY");
    let secret = &BODY[..20];
    for bad in [
        format!("{good}-----BEGIN PRIVATE KEY-----\n{BODY}\n"),
        format!("{good}-----BEGIN PRIVATE KEY-----\n{BODY}*\n-----END PRIVATE KEY-----\n"),
        format!("{good}-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END {secret}-----\n"),
        format!("{good}-----BEGIN PRIVATE KEY-----\n{BODY}\n{good}"),
        format!("{good}-----BEGIN PRIVATE KEY-----\n{BODY}\n\n-----END PRIVATE KEY-----\n"),
    ] {
        let Err(flaw) = blocks(bad.as_bytes()) else {
            panic!("{bad}")
        };
        assert!(flaw.what.contains("line 4"), "{}", flaw.what);
        assert!(!flaw.what.contains(secret) && !flaw.remedy.contains(secret));
    }
}

/// The file as it is used, if it is changed.
fn tidied(text: &str) -> Option<String> {
    let tidied = tidy(text.as_bytes()).unwrap();
    tidied.map(|tidied| String::from_utf8(tidied.bytes.to_vec()).unwrap())
}

#[test]
fn a_block_that_boringssl_would_skip_is_made_visible() {
    let (one, two) = (block("CERTIFICATE"), block("PRIVATE KEY"));
    let plain = format!("{one}{two}");
    for hidden in [
        format!("\u{feff}{one}\u{feff}{two}a \u{feff} b\n"),
        format!(" {one}{two}"),
        format!("{one}\u{a0}{two}"),
        format!("{one}\t\u{200b}{two}"),
        format!("{one}\"{}\"\n", two.trim_end()),
        format!("'{}'\n{two}", one.trim_end()),
        plain.replace('\n', "\r"),
        format!("{}\r{two}", one.trim_end()),
        format!("{one}{}", two.replace('\n', "\r")),
        plain
            .replace('\n', "\n    ")
            .replacen("-----", "    -----", 1),
    ] {
        assert_eq!(tidied(&hidden).as_deref(), Some(&*plain), "{hidden}");
        assert_eq!(tidied(&plain), None);
    }
    // Blocks that are visible stay as they are, and so do blocks that someone has commented out.
    for visible in [
        format!("a \u{feff} note\r\n{}", plain.replace('\n', "\r\n")),
        format!("{}{one}", "x".repeat(253)),
        format!("{one}#{}", two.replace('\n', "\n#")),
    ] {
        assert_eq!(tidied(&visible), None, "{visible}");
    }
}

#[test]
fn a_block_within_a_line_is_a_flaw_that_names_the_line() {
    let (one, two) = (block("CERTIFICATE"), block("PRIVATE KEY"));
    let cases = [
        (
            format!("{one}{}", two.trim_end().replace('\n', " ")),
            4,
            "line breaks are missing",
        ),
        (
            format!("{one}{}", two.replace('\n', "\\n")),
            4,
            "written out as",
        ),
        (
            format!("{}{two}", one.trim_end()),
            3,
            "line breaks are missing",
        ),
        (format!("{one}see {two}"), 4, "in the middle"),
        (one.replacen("-----\n", "----\n", 1), 1, "five dashes"),
    ];
    for (text, line, word) in cases {
        let Err(flaw) = tidy(text.as_bytes()) else {
            panic!("{text}")
        };
        assert!(
            flaw.what.contains(&format!("in line {line},")),
            "{}",
            flaw.what
        );
        assert!(flaw.what.contains(word), "{}", flaw.what);
        assert!(!flaw.what.contains(BODY) && !flaw.remedy.contains(BODY));
    }
}

#[test]
fn a_file_without_blocks_is_recognized() {
    let utf16: Vec<u8> = "\u{feff}a"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let cases: [(&[u8], &str); 6] = [
        (b"", "empty"),
        (&utf16, "UTF-16"),
        (&[0x30, 0x82, 1, 2], "DER"),
        (&[0x30, 0x80 | 5, 2, 1, 3, 0x30, 0], "DER"),
        (b"hello\n", "no PEM block"),
        (b"\xfe\xed\xfe\xed\0", "Java"),
    ];
    for (bytes, word) in cases {
        assert!(foreign(bytes, "CONVERT").what.contains(word), "{word}");
    }
    let keystore = foreign(&[0x30, 7, 2, 1, 3, 0x30, 2, 5, 0], "CONVERT");
    assert!(keystore.what.contains("PKCS#12"), "{}", keystore.what);
    assert!(foreign(&[0x30, 0x82], "CONVERT").remedy.contains("CONVERT"));
}

fn some_label() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "CERTIFICATE",
        "X509 CERTIFICATE",
        "PRIVATE KEY",
        "EC PRIVATE KEY",
        "X509 CRL",
        "A B",
    ])
}

/// A line that does not begin a block.
fn some_text() -> impl Strategy<Value = String> {
    proptest::string::string_regex("([ -,.-~]{0,300}(\n|\r\n))?").unwrap()
}

#[test]
fn a_begin_line_that_is_too_long_to_be_seen_is_an_error() {
    for (label, is_seen) in [("A".repeat(237), true), ("A".repeat(238), false)] {
        let text = format!("-----BEGIN {label}-----\n{BODY}\n-----END {label}-----\n");
        let tidied = tidy(text.as_bytes());
        assert_eq!(tidied.is_ok(), is_seen, "{}", label.len());
        assert_eq!(
            blocks(text.as_bytes()).map_or(0, |blocks| blocks.len()),
            usize::from(is_seen)
        );
    }
}

proptest! {
    #[test]
    fn every_block_is_cut_out_of_the_text_around_it(
        parts in proptest::collection::vec((some_text(), some_label(), proptest::bool::ANY), 0..6),
    ) {
        let mut all = String::new();
        let mut expected = Vec::new();
        for (text, label, windows) in &parts {
            let block = if *windows { block(label).replace('\n', "\r\n") } else { block(label) };
            all.push_str(text);
            all.push_str(&block);
            expected.push(block);
        }
        let got = blocks(all.as_bytes()).unwrap();
        let texts: Vec<&[u8]> = got.iter().map(|block| &block.text[..]).collect();
        prop_assert_eq!(&texts, &expected.iter().map(String::as_bytes).collect::<Vec<_>>());
        for block in &got {
            let start = all.lines().nth(block.line - 1).unwrap();
            prop_assert!(start.starts_with("-----BEGIN "));
        }
        let joined = join(texts.iter().copied());
        prop_assert_eq!(blocks(&joined).unwrap().len(), parts.len());
    }

    #[test]
    fn no_content_causes_a_panic(
        pieces in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::sample::select(vec![
                "-----BEGIN ", "-----END ", "CERTIFICATE", "PRIVATE KEY", "-----", "\n", "\r\n", BODY,
                "=", "\u{feff}", "Proc-Type: 4,ENCRYPTED", "\0", " ",
            ]).prop_map(|text| text.as_bytes().to_vec()),
        ], 0..20),
    ) {
        let bytes = pieces.concat();
        let Ok(tidied) = tidy(&bytes) else { return Ok(()) };
        let bytes = tidied.map_or(bytes, |tidied| tidied.bytes.to_vec());
        if let Ok(blocks) = blocks(&bytes) {
            // No block is lost silently.
            let lines = bytes.split(|byte| *byte == b'\n');
            let text = lines.filter(|line| !is_comment(trimmed(line)));
            let begins = text.map(beginnings).sum::<usize>();
            let is_utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
            prop_assert!(blocks.len() >= begins || is_utf16);
        }
    }
}
