//! Which file is what: the table row by row, and tools that are in the middle of writing.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::{CRL, ROWS, TRUST, parts_among, takes};
use crate::credential::Credential;
use crate::credential::tests::{Ca, ca, files, intermediate, judged, leaf};
use crate::problem::{Problem, Reason};
use crate::text::Texts;

/// One generation of a server's certificate, and other files that may be next to it.
struct Generation {
    leaf: String,
    full: String,
    middle: String,
    key: String,
    both: String,
}

impl Generation {
    fn new(root: &Ca, name: &str) -> Self {
        let issuer = intermediate(root, &format!("issuer of {name}"));
        let (leaf, key) = leaf(&issuer, name);
        Self {
            full: format!("{leaf}{}", issuer.pem),
            both: format!("{leaf}{}{key}", issuer.pem),
            middle: issuer.pem,
            leaf,
            key,
        }
    }
}

static ROOT: LazyLock<Ca> = LazyLock::new(|| ca("root"));
static OLD: LazyLock<Generation> = LazyLock::new(|| Generation::new(&ROOT, "old.example"));
static NEW: LazyLock<Generation> = LazyLock::new(|| Generation::new(&ROOT, "new.example"));
static OWN_CA: LazyLock<(String, String)> = LazyLock::new(|| {
    let ca = ca("own");
    (ca.pem.clone(), ca.key())
});

/// A letter for each content: the leaf, the full chain, the intermediate, the key, all of them; and a
/// CA's certificate and key.
fn content(letter: char, of: &Generation) -> String {
    match letter {
        'l' => of.leaf.clone(),
        'f' => of.full.clone(),
        'm' => of.middle.clone(),
        'k' => of.key.clone(),
        'b' => of.both.clone(),
        'C' => OWN_CA.0.clone(),
        'K' => OWN_CA.1.clone(),
        'D' => "-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n".into(),
        'e' => String::new(),
        'x' => "hello\n".into(),
        // Another server's.
        'L' => OLD.leaf.clone(),
        'S' => OLD.key.clone(),
        'B' => OLD.both.clone(),
        other => panic!("{other}"),
    }
}

/// The credential of files, each written as `l:cert.pem`.
fn of(list: &[&str]) -> Credential {
    let parsed: Vec<(&str, String)> = list
        .iter()
        .map(|file| {
            let (letter, name) = file.split_once(':').unwrap();
            (name, content(letter.chars().next().unwrap(), &NEW))
        })
        .collect();
    let list: Vec<(&str, &str)> = parsed.iter().map(|(name, text)| (*name, &**text)).collect();
    judged(files(&list))
}

/// The names of the files of the pair.
#[track_caller]
fn pair(list: &[&str]) -> Texts {
    let credential = of(list);
    let problems: Vec<&Problem> = credential.problems().collect();
    let pair = credential.pair.part.as_ref();
    let pair = pair.unwrap_or_else(|| panic!("{list:?}: {problems:?}"));
    let mut reasons = credential.pair.warnings.iter().map(Problem::reason);
    assert!(
        !reasons.any(|reason| reason == Reason::LesserChain),
        "{list:?}"
    );
    pair.facts.files.clone()
}

#[test]
fn every_row_is_found_with_the_other_files_of_its_tool() {
    let cases: [(&[&str], &[&str]); 28] = [
        (
            &["f:tls.crt", "k:tls.key", "C:ca.crt"],
            &["tls.crt", "tls.key"],
        ),
        (&["f:cert", "k:key", "C:cacert"], &["cert", "key"]),
        (
            &[
                "x:README",
                "l:cert.pem",
                "m:chain.pem",
                "f:fullchain.pem",
                "k:privkey.pem",
            ],
            &["fullchain.pem", "privkey.pem"],
        ),
        (
            &["l:cert.pem", "m:chain.pem", "k:privkey.pem"],
            &["cert.pem", "chain.pem", "privkey.pem"],
        ),
        (
            &[
                "l:n.cer",
                "x:n.conf",
                "x:n.csr",
                "k:n.key",
                "m:ca.cer",
                "f:fullchain.cer",
            ],
            &["fullchain.cer", "n.key"],
        ),
        (
            &["f:cert-chain.pem", "k:key.pem", "C:root-cert.pem"],
            &["cert-chain.pem", "key.pem"],
        ),
        (
            &["f:svid.pem", "k:svid_key.pem", "C:svid_bundle.pem"],
            &["svid.pem", "svid_key.pem"],
        ),
        (
            &["C:ca.pem", "f:cert.pem", "k:key.pem", "x:server.pem1234"],
            &["cert.pem", "key.pem"],
        ),
        // acme.sh for Apache: the full chain, not only the leaf.
        (
            &["l:cert.pem", "k:key.pem", "f:fullchain.pem"],
            &["fullchain.pem", "key.pem"],
        ),
        (
            &["l:cert.pem", "k:key.pem", "m:chain.pem"],
            &["cert.pem", "chain.pem", "key.pem"],
        ),
        (
            &[
                "f:cert-chain.pem",
                "l:cert.pem",
                "f:fullchain.pem",
                "k:key.pem",
            ],
            &["cert-chain.pem", "key.pem"],
        ),
        // lego
        (
            &["f:n.crt", "m:n.issuer.crt", "x:n.json", "k:n.key"],
            &["n.crt", "n.key"],
        ),
        (&["f:_.n.crt", "k:_.n.key"], &["_.n.crt", "_.n.key"]),
        (&["f:n.cer", "k:n.key"], &["n.cer", "n.key"]),
        (&["f:n.pem", "k:n.key"], &["n.pem", "n.key"]),
        // mkcert, cfssl, Consul
        (
            &["f:n.test+2.pem", "k:n.test+2-key.pem"],
            &["n.test+2.pem", "n.test+2-key.pem"],
        ),
        (
            &[
                "C:ca.pem",
                "K:ca-key.pem",
                "x:ca.csr",
                "f:server.pem",
                "k:server-key.pem",
            ],
            &["server.pem", "server-key.pem"],
        ),
        (
            &[
                "C:consul-agent-ca.pem",
                "K:consul-agent-ca-key.pem",
                "f:dc1.pem",
                "k:dc1-key.pem",
            ],
            &["dc1.pem", "dc1-key.pem"],
        ),
        // A CA and its key next to a server's.
        (
            &["C:ca.crt", "K:ca.key", "f:server.crt", "k:server.key"],
            &["server.crt", "server.key"],
        ),
        (
            &["C:ca.crt", "K:signer.key", "f:tls.pem", "k:x"],
            &["tls.pem", "x"],
        ),
        // HAProxy
        (&["b:haproxy.pem", "D:dh.pem"], &["haproxy.pem"]),
        (&["b:tls.pem", "C:ca.pem"], &["tls.pem"]),
        (&["b:cert.pem"], &["cert.pem"]),
        // By content, where no row fits.
        (
            &["l:cert.pem", "k:privkey.pem"],
            &["cert.pem", "privkey.pem"],
        ),
        (&["f:site", "k:private", "l:leaf"], &["site", "private"]),
        (
            &["f:public.crt", "k:tls.key", "L:tls.cer"],
            &["public.crt", "tls.key"],
        ),
        // The first row takes precedence, whatever is in the others.
        (
            &[
                "f:tls.crt",
                "k:tls.key",
                "L:cert",
                "S:key",
                "L:a.crt",
                "S:a.key",
            ],
            &["tls.crt", "tls.key"],
        ),
        // A key without a chain does not count.
        (&["f:n.crt", "k:n.key", "S:old.key"], &["n.crt", "n.key"]),
    ];
    for (list, expected) in cases {
        assert_eq!(pair(list), Texts::from_iter(expected), "{list:?}");
    }
}

#[test]
fn a_lesser_chain_is_used_if_the_preferred_one_does_not_belong_to_the_key() {
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["L:fullchain.pem", "l:cert.pem", "k:key.pem"],
            &["cert.pem", "key.pem"],
        ),
        (
            &["e:fullchain.pem", "l:cert.pem", "k:privkey.pem"],
            &["cert.pem", "privkey.pem"],
        ),
        (
            &["l:cert.pem", "C:chain.pem", "k:key.pem"],
            &["cert.pem", "key.pem"],
        ),
        (
            &["L:tls.crt", "k:tls.key", "f:cert", "k:key"],
            &["cert", "key"],
        ),
        (
            &["L:fullchain.cer", "k:n.key", "l:n.cer"],
            &["n.cer", "n.key"],
        ),
        (
            &["L:tls.crt", "k:tls.key", "f:other.crt"],
            &["other.crt", "tls.key"],
        ),
    ];
    for (list, expected) in cases {
        let credential = of(list);
        let pair = credential.pair.part.unwrap_or_else(|| panic!("{list:?}"));
        assert_eq!(pair.facts.files, Texts::from_iter(expected), "{list:?}");
        assert!(pair.lesser_chain, "{list:?}");
        let reasons = credential.pair.warnings.iter().map(Problem::reason);
        assert!(
            reasons
                .into_iter()
                .any(|reason| reason == Reason::LesserChain)
        );
    }
}

#[test]
fn trust_and_revocation_are_the_first_of_their_columns() {
    let credential = of(&["f:fullchain.pem", "k:privkey.pem", "L:ca.pem", "C:ca.crt"]);
    let bundle = credential.bundle.part.unwrap();
    assert_eq!(bundle.facts.files, Texts::from_iter(["ca.crt"]));
    for name in TRUST {
        let credential = of(&[&format!("C:{name}")]);
        assert!(credential.pair.is_absent(), "{name}");
        assert_eq!(
            credential.bundle.part.unwrap().facts.files,
            Texts::from_iter([name])
        );
    }
}

/// Why there is no pair.
#[track_caller]
fn rejected(list: &[&str]) -> (Reason, String) {
    let credential = of(list);
    assert!(credential.pair.part.is_none(), "{list:?}");
    let problem = credential.pair.problems.first();
    let problem = problem.unwrap_or_else(|| panic!("{list:?}: absent"));
    (problem.reason(), problem.to_string())
}

#[test]
fn two_candidates_are_a_problem_that_names_both() {
    let cases: [(&[&str], [&str; 2]); 4] = [
        (
            &["f:a.crt", "k:a.key", "L:b.crt", "S:b.key"],
            ["a.crt", "b.crt"],
        ),
        (
            &["f:fullchain.cer", "k:a.key", "k:b.key"],
            ["a.key", "b.key"],
        ),
        (&["b:a.pem", "B:b.pem"], ["a.pem", "b.pem"]),
        (&["f:site", "k:a", "S:b"], ["a", "b"]),
    ];
    for (list, both) in cases {
        let (reason, text) = rejected(list);
        assert_eq!(reason, Reason::Ambiguous, "{list:?}: {text}");
        assert!(both.iter().all(|name| text.contains(name)), "{text}");
    }
}

#[test]
fn half_a_pair_names_what_is_missing_and_its_bundle_is_checked_separately() {
    let cases: [(&[&str], &str, &[&str]); 14] = [
        (&["f:tls.crt"], "tls.crt", &["tls.key"]),
        (&["e:tls.crt"], "tls.crt", &["tls.key"]),
        (&["k:tls.key"], "tls.key", &["tls.crt"]),
        (&["e:tls.key"], "tls.key", &["tls.crt"]),
        (&["f:cert"], "cert", &["key"]),
        (
            &["l:cert.pem", "m:chain.pem", "f:fullchain.pem"],
            "cert.pem",
            &["key.pem"],
        ),
        (
            &["m:chain.pem", "k:privkey.pem"],
            "privkey.pem",
            &["fullchain.pem"],
        ),
        (&["k:key.pem"], "key.pem", &["cert-chain.pem", "cert.pem"]),
        (&["l:a.crt"], "a.crt", &["a.key"]),
        (&["l:n.crt", "m:n.issuer.crt"], "n.crt", &["n.key"]),
        (&["k:a.key"], "a.key", &["fullchain.cer", "a.crt"]),
        (&["k:server-key.pem"], "server-key.pem", &["server.pem"]),
        (&["l:server.pem"], "server.pem", &["server-key.pem"]),
        (&["k:private"], "private", &["tls.crt"]),
    ];
    for (list, lone, missing) in cases {
        let with_bundle = [list, &["C:ca.crt"]].concat();
        for list in [list, &with_bundle] {
            let (reason, text) = rejected(list);
            assert_eq!(reason, Reason::Incomplete, "{list:?}");
            assert!(text.starts_with(&format!("/c/a/{lone}: ")), "{text}");
            assert!(missing.iter().all(|name| text.contains(name)), "{text}");
            let bundle = of(list).bundle;
            assert_eq!(bundle.part.is_some(), list.contains(&"C:ca.crt"));
        }
    }
}

#[test]
fn a_folder_without_a_part_is_absent_in_all_parts() {
    let cases: [&[&str]; 8] = [
        &[],
        &["x:README", "x:.a.crt", "x:.crt"],
        &["C:ca-bundle.crt"],
        &["m:chain.pem"],
        &["m:n.issuer.crt", "C:ca.cer"],
        &["D:dh.pem"],
        &["x:password"],
        &[
            "K:ca.key",
            "K:ca-key.pem",
            "C:rootCA.pem",
            "K:rootCA-key.pem",
        ],
    ];
    for list in cases {
        let credential = of(list);
        assert!(
            credential.pair.is_absent(),
            "{list:?}: {:?}",
            credential.pair
        );
        assert!(credential.bundle.is_absent() && credential.generic.is_absent());
        assert!(credential.staple.is_absent() && credential.ticket_keys.is_absent());
        let names: Vec<&str> = list.iter().map(|file| &file[2..]).collect();
        let skipped = names.iter().filter(|name| **name != "password");
        assert_eq!(credential.skipped.iter().count(), skipped.count());
    }
}

#[test]
fn only_files_that_could_be_parts_count() {
    for name in [
        "tls.crt",
        "privkey.pem",
        "a.crt",
        "a.key",
        "a.pem",
        "fullchain.cer",
        "a.cer",
        "ca.crl",
        "secret",
        "a.ticketkey",
        "tls.ocsp-staple",
        "a.ocsp",
        "keystore.p12",
        "a.pfx",
        "tls.key.password",
    ] {
        assert!(takes(name), "{name}");
        assert_eq!(parts_among(&[name]), [0], "{name}");
    }
    for name in ["README", "..data", "token", "a.crt~", ".a.key.swp", ".pem"] {
        assert!(!takes(name), "{name}");
    }
    let mut dehydrated = vec![
        "cert.pem",
        "chain.pem",
        "fullchain.pem",
        "privkey.pem",
        "ocsp.der",
    ];
    dehydrated.extend([
        "cert-1.pem",
        "chain-1.pem",
        "fullchain-1.pem",
        "privkey-1.pem",
        "cert-1.csr",
    ]);
    assert_eq!(parts_among(&dehydrated), [0, 1, 2, 3, 4]);
}

#[test]
fn no_name_is_in_two_columns() {
    for row in &ROWS {
        let chains = row.chains.iter().copied().flatten();
        for name in chains.chain([&row.key]).filter(|name| !name.contains('*')) {
            assert!(!TRUST.contains(name) && !CRL.contains(name), "{name}");
        }
    }
}

/// How tools write, by letters; the replacements happen in any order.
const TOOLS: [&[&str]; 8] = [
    &[
        "l:cert.pem",
        "m:chain.pem",
        "f:fullchain.pem",
        "k:privkey.pem",
    ],
    &["l:cert.pem", "k:key.pem", "f:fullchain.pem", "m:ca.cer"],
    &["l:cert.pem", "k:key.pem", "m:chain.pem"],
    &["f:tls.crt", "k:tls.key"],
    &["l:n.cer", "k:n.key", "f:fullchain.cer", "m:ca.cer"],
    &["f:n.crt", "m:n.issuer.crt", "k:n.key"],
    &["f:server.pem", "k:server-key.pem"],
    &["f:chain", "k:private"],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// At each moment of a renewal, the pair is complete and of one generation, or it is rejected, or it is marked
    /// as provisional. `done` of the files have been replaced, in any order, and the next one is unchanged, empty,
    /// or cut.
    #[test]
    fn a_renewal_is_never_seen_half_done(
        tool in proptest::sample::select(&TOOLS[..]),
        order in proptest::collection::vec(any::<u32>(), 4),
        done in 0..4_usize,
        cut in proptest::option::of(0.0..1.0_f64),
    ) {
        let mut places: Vec<usize> = (0..tool.len()).collect();
        places.sort_by_key(|place| order[*place]);
        let texts: Vec<(&str, String)> = tool.iter().enumerate().map(|(at, file)| {
            let (letter, name) = file.split_once(':').unwrap();
            let letter = letter.chars().next().unwrap();
            let turn = places.iter().position(|place| *place == at).unwrap();
            let text = content(letter, if turn < done { &NEW } else { &OLD });
            match cut {
                Some(cut) if turn == done => {
                    let text = content(letter, &NEW);
                    let length = (text.len() as f64 * cut) as usize;
                    let mut cut = text[..length].to_owned();
                    // A file that is cut after a block looks complete: only its writer knows that it is not. The
                    // agent does not read it before it is closed.
                    if cut.trim_end().ends_with("-----") {
                        cut.truncate(cut.trim_end().len() - 1);
                    }
                    (name, cut)
                }
                _ => (name, text),
            }
        }).collect();
        let list: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, &**text)).collect();
        let credential = judged(files(&list));
        let Some(pair) = credential.pair.part else {
            prop_assert!(!credential.pair.is_absent());
            return Ok(());
        };
        let of = |generation: &Generation| {
            *pair.key == generation.key.as_bytes() && pair.chain == generation.full.as_bytes()
        };
        prop_assert!(of(&OLD) || of(&NEW) || pair.lesser_chain, "{:?}", pair.facts.files);
    }
}
