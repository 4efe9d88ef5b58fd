//! How blocks are cut, and that nothing that a file may hold breaks it.

use proptest::prelude::*;

use super::{Block, Content, Glance, blocks, glance, instead, join, without_marks};

/// 48 bytes that are no certificate: what a block holds is not looked at here.
const BODY: &str = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2";

fn block(label: &str) -> String {
    format!("-----BEGIN {label}-----\n{BODY}\n-----END {label}-----\n")
}

fn kinds(text: &str) -> Vec<&'static str> {
    let kind = |block: &Block<'_>| match block.content {
        Content::Certificate(_) => "certificate",
        Content::Key(_) => "key",
        Content::EncryptedKey => "encrypted key",
        Content::ForeignKey => "foreign key",
        Content::Crl(_) => "list",
        Content::TrustedCertificate => "trusted certificate",
        Content::Other => "other",
    };
    blocks(text.as_bytes()).unwrap().iter().map(kind).collect()
}

#[test]
fn labels_tell_what_a_block_holds() {
    let cases = [
        ("CERTIFICATE", "certificate"),
        ("X509 CERTIFICATE", "certificate"),
        ("TRUSTED CERTIFICATE", "trusted certificate"),
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

#[test]
fn marks_go_where_they_hide_a_block_alone() {
    let (one, two) = (block("CERTIFICATE"), block("PRIVATE KEY"));
    let marked = format!("\u{feff}{one}\u{feff}{two}a \u{feff} b\n");
    let clean = without_marks(marked.as_bytes()).unwrap();
    assert_eq!(
        std::str::from_utf8(&clean).unwrap(),
        format!("{one}{two}a \u{feff} b\n")
    );
    assert!(without_marks(&clean).is_none());
    assert_eq!(kinds(&format!("\u{feff}{one}")), Vec::<&str>::new());
}

#[test]
fn a_file_without_blocks_is_told_apart() {
    let one = block("CERTIFICATE");
    let utf16: Vec<u8> = "\u{feff}a"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let cases: [(&[u8], &str); 6] = [
        (b"", "empty"),
        (&utf16, "UTF-16"),
        (&[0x30, 0x82, 1, 2], "DER"),
        (b"hello\n", "no PEM block"),
        (&format!(" {one}").into_bytes(), "stand alone"),
        (&one.replace('\n', "\r").into_bytes(), "line feeds"),
    ];
    for (bytes, word) in cases {
        assert!(instead(bytes, "CONVERT").0.contains(word), "{word}");
    }
    assert!(instead(&[0x30, 0x82], "CONVERT").1.contains("CONVERT"));
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

/// A line that begins no block.
fn some_text() -> impl Strategy<Value = String> {
    proptest::string::string_regex("([ -,.-~]{0,300}(\n|\r\n))?").unwrap()
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
        let texts: Vec<&[u8]> = got.iter().map(|block| block.text).collect();
        prop_assert_eq!(&texts, &expected.iter().map(String::as_bytes).collect::<Vec<_>>());
        for block in &got {
            let start = all.lines().nth(block.line - 1).unwrap();
            prop_assert!(start.starts_with("-----BEGIN "));
        }
        let joined = join(texts.iter().copied());
        prop_assert_eq!(blocks(&joined).unwrap().len(), parts.len());
        prop_assert_eq!(glance(&joined), glance(all.as_bytes()));
    }

    #[test]
    fn nothing_breaks_it(
        pieces in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::sample::select(vec![
                "-----BEGIN ", "-----END ", "CERTIFICATE", "PRIVATE KEY", "-----", "\n", "\r\n", BODY,
                "=", "\u{feff}", "Proc-Type: 4,ENCRYPTED", "\0", " ",
            ]).prop_map(|text| text.as_bytes().to_vec()),
        ], 0..20),
    ) {
        let bytes = pieces.concat();
        let marks = without_marks(&bytes);
        let seen = glance(marks.as_deref().map_or(&bytes, |clean| clean));
        let bytes = marks.map_or(bytes, |clean| clean.to_vec());
        if let Ok(blocks) = blocks(&bytes) {
            prop_assert_eq!(seen.any, !blocks.is_empty());
            prop_assert_eq!(seen.key, blocks.iter().any(|block| block.content.is_secret()));
        }
        if seen == Glance::default() {
            prop_assert!(!instead(&bytes, "").1.is_empty());
        }
    }
}
