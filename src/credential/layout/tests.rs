//! Which file is what: the table row by row, and random folders against a plain reading of it.

use std::path::Path;

use proptest::prelude::*;

use super::{CRL, Layout, PAIRS, RESERVED, TRUST, needs, takes};
use crate::credential::tests::file;
use crate::files::read::File;
use crate::problem::{Problem, Reason};

const CERT: &str = "-----BEGIN CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n";

fn folder(names: &[&str]) -> Vec<File> {
    names.iter().map(|name| file(name, b"")).collect()
}

fn layout(files: &[File]) -> Result<Layout, Problem> {
    Layout::of(Path::new("/c/a"), files)
}

/// The names of certificate chain and private key.
fn pair<'a>(names: &[&'a str]) -> [&'a str; 2] {
    let found = layout(&folder(names)).unwrap().pair.unwrap();
    found.map(|at| names[at])
}

fn refused(files: &[File]) -> (Reason, String) {
    let problem = layout(files).unwrap_err();
    (problem.reason(), problem.to_string())
}

#[test]
fn every_row_is_found_with_what_the_tools_write_beside_it() {
    let cases: [(&[&str], [&str; 2]); 12] = [
        (&["tls.crt", "tls.key", "ca.crt"], ["tls.crt", "tls.key"]),
        (&["cert", "key", "cacert"], ["cert", "key"]),
        (
            &[
                "README",
                "cert.pem",
                "chain.pem",
                "fullchain.pem",
                "privkey.pem",
            ],
            ["fullchain.pem", "privkey.pem"],
        ),
        (
            &[
                "a.example.cer",
                "a.example.conf",
                "a.example.csr",
                "a.example.csr.conf",
                "a.example.key",
                "ca.cer",
                "fullchain.cer",
            ],
            ["fullchain.cer", "a.example.key"],
        ),
        (
            &["cert-chain.pem", "key.pem", "root-cert.pem"],
            ["cert-chain.pem", "key.pem"],
        ),
        (
            &["svid.pem", "svid_key.pem", "svid_bundle.pem"],
            ["svid.pem", "svid_key.pem"],
        ),
        (
            &["ca.pem", "cert.pem", "key.pem", "server.pem1234"],
            ["cert.pem", "key.pem"],
        ),
        (
            &[
                "a.example.crt",
                "a.example.issuer.crt",
                "a.example.json",
                "a.example.key",
            ],
            ["a.example.crt", "a.example.key"],
        ),
        (
            &["_.a.example.crt", "_.a.example.key"],
            ["_.a.example.crt", "_.a.example.key"],
        ),
        // A CA and its key beside a server's.
        (
            &["ca.crt", "ca.key", "server.crt", "server.key"],
            ["server.crt", "server.key"],
        ),
        // The first row wins, whatever is in the lower ones.
        (
            &["cert", "key", "tls.crt", "tls.key", "a.crt", "a.key"],
            ["tls.crt", "tls.key"],
        ),
        (&["a.crt", "a.key", "tls.crt"], ["a.crt", "a.key"]),
    ];
    for (names, expected) in cases {
        assert_eq!(pair(names), expected, "{names:?}");
    }
}

#[test]
fn trust_and_revocation_are_the_first_of_their_columns() {
    let names = [
        "ca.pem",
        "ca.crt",
        "crl.pem",
        "ca.crl",
        "fullchain.pem",
        "privkey.pem",
    ];
    let found = layout(&folder(&names)).unwrap();
    assert_eq!(found.trust.map(|at| names[at]), Some("ca.crt"));
    assert_eq!(found.crl.map(|at| names[at]), Some("ca.crl"));
    for name in TRUST {
        let found = layout(&folder(&[name])).unwrap();
        assert_eq!((found.pair, found.trust), (None, Some(0)), "{name}");
    }
}

#[test]
fn two_candidates_are_a_problem_that_names_both() {
    let cases: [(&[&str], [&str; 2]); 2] = [
        (&["a.crt", "a.key", "b.crt", "b.key"], ["a.crt", "b.crt"]),
        (&["fullchain.cer", "a.key", "b.key"], ["a.key", "b.key"]),
    ];
    for (names, both) in cases {
        let (reason, text) = refused(&folder(names));
        assert_eq!(reason, Reason::Ambiguous);
        assert!(both.iter().all(|name| text.contains(name)), "{text}");
    }
    let both = format!("{CERT}{KEY}");
    let (reason, text) = refused(&[
        file("a.pem", both.as_bytes()),
        file("b.pem", both.as_bytes()),
    ]);
    assert_eq!(reason, Reason::Ambiguous);
    assert!(text.contains("a.pem") && text.contains("b.pem"), "{text}");
}

#[test]
fn a_half_names_what_is_missing() {
    let cases: [(&[&str], &str, &[&str]); 9] = [
        (&["tls.crt"], "tls.crt", &["tls.key"]),
        (&["tls.key", "ca.crt"], "tls.key", &["tls.crt"]),
        (&["cert"], "cert", &["key"]),
        (
            &["cert.pem", "chain.pem", "fullchain.pem"],
            "fullchain.pem",
            &["privkey.pem"],
        ),
        (
            &["cert.pem", "chain.pem", "privkey.pem"],
            "privkey.pem",
            &["fullchain.pem"],
        ),
        (&["key.pem"], "key.pem", &["cert-chain.pem", "cert.pem"]),
        (&["a.crt"], "a.crt", &["a.key"]),
        (
            &["a.example.crt", "a.example.issuer.crt"],
            "a.example.crt",
            &["a.example.key"],
        ),
        (&["a.key"], "a.key", &["fullchain.cer", "a.crt"]),
    ];
    for (names, lone, missing) in cases {
        let (reason, text) = refused(&folder(names));
        assert_eq!(reason, Reason::Incomplete, "{names:?}");
        let path = format!("/c/a/{lone}: ");
        assert!(text.starts_with(&path), "{text}");
        assert!(missing.iter().all(|name| text.contains(name)), "{text}");
    }
}

#[test]
fn one_pem_counts_by_its_content() {
    let both = format!("{CERT}{KEY}");
    let alone = |name: &str, text: &str| layout(&[file(name, text.as_bytes())]);
    for name in [
        "a.pem",
        "haproxy.pem",
        "cert.pem",
        "key.pem",
        "fullchain.pem",
    ] {
        assert_eq!(alone(name, &both).unwrap().pair, Some([0, 0]), "{name}");
    }
    // A bundle stays one, whatever is in it.
    assert_eq!(alone("ca.pem", &both).unwrap().pair, None);
    for text in ["", "hello", CERT, KEY] {
        assert_eq!(
            alone("a.pem", text).unwrap_err().reason(),
            Reason::Incomplete
        );
        // Nor is a bundle beside it served as if nothing were missing.
        let files = [file("a.pem", text.as_bytes()), file("ca.pem", b"")];
        assert_eq!(refused(&files).0, Reason::Incomplete, "{text}");
    }
    let files = [
        file("ca.pem", b""),
        file("dh.pem", b"-----BEGIN DH PARAMETERS-----\n"),
    ];
    assert_eq!(layout(&files).unwrap().trust, Some(0));
}

#[test]
fn nothing_to_serve_says_what_is_looked_for() {
    for names in [
        &[][..],
        &[
            "README",
            "token",
            ".a.crt",
            ".crt",
            "crl.pem",
            "tls.ocsp-staple",
        ],
    ] {
        let (reason, text) = refused(&folder(names));
        assert_eq!(reason, Reason::Incomplete);
        let (cert, key) = PAIRS[0];
        assert!(
            text.contains(cert) && text.contains(key) && text.contains(TRUST[0]),
            "{text}"
        );
    }
}

#[test]
fn only_files_that_could_be_parts_matter() {
    for name in [
        "tls.crt",
        "privkey.pem",
        "a.crt",
        "a.key",
        "a.pem",
        "fullchain.cer",
        "ca.crl",
    ] {
        assert!(takes(name), "{name}");
    }
    for name in [
        "README",
        "..data",
        "token",
        "a.cer",
        "a.crt~",
        ".a.key.swp",
        "ca.key",
        ".pem",
    ] {
        assert!(!takes(name), "{name}");
        assert!(!needs(name, &["tls.crt"]), "{name}");
    }
    let certbot = ["cert.pem", "chain.pem", "fullchain.pem"];
    assert!(needs("privkey.pem", &certbot));
    assert!(!needs("key.pem", &["tls.crt", "tls.key"]));
    assert!(needs("tls.key", &["tls.crt", "cert", "key"]));
    assert!(!needs("cert", &["tls.crt", "tls.key", "key"]));
    assert!(needs("b.key", &["a.crt", "a.key", "b.crt"]));
}

/// The table, read as plainly as can be: `Err` for two candidates.
fn model(names: &[&str]) -> Result<Option<(String, String)>, ()> {
    let has = |name: &str| names.contains(&name);
    let stems = |ending: &str| -> Vec<String> {
        let stems = names.iter().filter_map(|name| name.strip_suffix(ending));
        stems
            .filter(|stem| !stem.is_empty() && !stem.starts_with('.') && !RESERVED.contains(stem))
            .map(str::to_owned)
            .collect()
    };
    for (cert, key) in PAIRS {
        let candidates: Vec<(String, String)> = match (cert, key) {
            ("*.crt", "*.key") => stems(".key")
                .into_iter()
                .map(|stem| (format!("{stem}.crt"), format!("{stem}.key")))
                .filter(|(cert, _)| has(cert))
                .collect(),
            (cert, "*.key") if has(cert) => stems(".key")
                .into_iter()
                .map(|stem| (cert.to_owned(), format!("{stem}.key")))
                .collect(),
            (cert, key) if has(cert) && has(key) => vec![(cert.to_owned(), key.to_owned())],
            _ => Vec::new(),
        };
        match candidates.len() {
            0 => {}
            1 => return Ok(candidates.into_iter().next()),
            _ => return Err(()),
        }
    }
    Ok(None)
}

fn some_names() -> impl Strategy<Value = Vec<&'static str>> {
    let known = [
        "tls.crt",
        "tls.key",
        "cert",
        "key",
        "fullchain.pem",
        "privkey.pem",
        "fullchain.cer",
        "cert-chain.pem",
        "key.pem",
        "svid.pem",
        "svid_key.pem",
        "cert.pem",
        "a.crt",
        "a.key",
        "b.crt",
        "b.key",
        "a.issuer.crt",
        "ca.crt",
        "ca.key",
        "ca.pem",
        "ca.crl",
        "crl.pem",
        "chain.pem",
        "README",
        ".a.key",
        "a.cer",
    ];
    proptest::sample::subsequence(known.to_vec(), 0..=known.len()).prop_shuffle()
}

proptest! {
    #[test]
    fn random_folders_are_laid_out_as_the_table_says(names in some_names()) {
        let got = layout(&folder(&names));
        match model(&names) {
            Err(()) => prop_assert_eq!(got.unwrap_err().reason(), Reason::Ambiguous),
            Ok(Some((cert, key))) => {
                let pair = got.unwrap().pair.unwrap();
                prop_assert_eq!(pair.map(|at| names[at].to_owned()), [cert, key]);
            }
            Ok(None) => match got {
                Ok(layout) => {
                    prop_assert_eq!(layout.pair, None);
                    prop_assert!(layout.trust.is_some());
                }
                Err(problem) => prop_assert_eq!(problem.reason(), Reason::Incomplete),
            },
        }
    }

    #[test]
    fn what_is_used_would_be_missed(names in some_names()) {
        let Ok(layout) = layout(&folder(&names)) else { return Ok(()) };
        for (at, name) in names.iter().enumerate().filter(|(at, _)| layout.uses(*at)) {
            let mut others = names.clone();
            others.remove(at);
            prop_assert!(takes(name) && needs(name, &others), "{}", name);
        }
    }

    #[test]
    fn what_is_missed_is_of_a_name_that_is_taken(name in "[a-z.*_]{1,12}", names in some_names()) {
        prop_assert!(takes(&name) || !needs(&name, &names));
    }
}

#[test]
fn no_name_is_in_two_columns() {
    let pairs = PAIRS.iter().flat_map(|(cert, key)| [*cert, *key]);
    for name in pairs.filter(|name| !name.contains('*')) {
        assert!(!TRUST.contains(&name) && !CRL.contains(&name), "{name}");
    }
}
