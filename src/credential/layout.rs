//! File names → the parts of a credential.
//!
//! Rows are tried from the top; the first one whose certificate and key are both there gives the
//! pair. Trust bundle and revocation list are the first name found in their column, whatever row the
//! pair is of.

use std::path::Path;

use super::pem::{self, Glance};
use crate::files::read::File;
use crate::problem::{Problem, Reason};

/// Certificate chain and private key, most important first, with the tools that write them so. `*` is
/// a NAME of one's own, the same in both.
const PAIRS: [(&str, &str); 8] = [
    ("tls.crt", "tls.key"),           // Kubernetes TLS Secrets, cert-manager
    ("cert", "key"),                  // Istio's generic Secrets
    ("fullchain.pem", "privkey.pem"), // certbot
    ("fullchain.cer", "*.key"),       // acme.sh
    ("cert-chain.pem", "key.pem"),    // Istio on VMs
    ("svid.pem", "svid_key.pem"),     // spiffe-helper
    ("cert.pem", "key.pem"),          // Vault agent, Docker, by hand
    ("*.crt", "*.key"),               // step, lego, openssl
];

const TRUST: [&str; 5] = [
    "ca.crt",
    "cacert",
    "root-cert.pem",
    "svid_bundle.pem",
    "ca.pem",
];

const CRL: [&str; 2] = ["ca.crl", "crl.pem"];

/// No certificate and key are looked for under these names in the place of `*`: a CA's key beside its
/// `ca.crt` is no server's key.
const RESERVED: [&str; 2] = ["tls", "ca"];

/// Certificates alone, beside a pair, by the tools that write them.
const COMPANIONS: [&str; 1] = ["chain.pem"];

/// Which file is what, by its place in the list of files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The certificate chain and the private key: the same file twice when it holds both.
    pub pair: Option<[usize; 2]>,
    /// The trust bundle.
    pub trust: Option<usize>,
    /// The revocation list.
    pub crl: Option<usize>,
}

impl Layout {
    /// Whether the file at `index` is a part.
    pub fn uses(&self, index: usize) -> bool {
        self.pair.is_some_and(|pair| pair.contains(&index))
            || self.trust == Some(index)
            || self.crl == Some(index)
    }

    /// Makes out which of the files of `folder` is what.
    ///
    /// # Errors
    /// Two files claim to be one part, a part lacks one of its files, or there is no part at all.
    pub fn of(folder: &Path, files: &[File]) -> Result<Self, Problem> {
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let looks: Vec<Glance> = files
            .iter()
            .map(|file| {
                if may_hold_both(&file.name) {
                    pem::glance(&file.bytes)
                } else {
                    Glance::default()
                }
            })
            .collect();
        let layout = Self {
            pair: pair(folder, &names, &looks)?,
            trust: first(&TRUST, &names),
            crl: first(&CRL, &names),
        };
        if layout.pair.is_none() {
            if let Some(problem) = half(folder, &names, &looks) {
                return Err(problem);
            }
            if layout.trust.is_none() {
                return Err(nothing(folder));
            }
        }
        Ok(layout)
    }
}

/// Whether a file of this name could be a part of some credential: trouble with any other file is
/// nobody's concern.
pub fn takes(name: &str) -> bool {
    TRUST.contains(&name)
        || CRL.contains(&name)
        || may_hold_both(name)
        || PAIRS
            .iter()
            .any(|(cert, key)| star(cert, name).is_some() || star(key, name).is_some())
}

/// Whether the credential made of the files `names` would have the file `name`, which could not be
/// read, as one of its parts if it were there too.
pub fn needs(name: &str, names: &[&str]) -> bool {
    let all: Vec<&str> = names.iter().copied().chain([name]).collect();
    let last = all.len() - 1;
    if first(&TRUST, &all) == Some(last) || first(&CRL, &all) == Some(last) {
        return true;
    }
    match PAIRS
        .iter()
        .map(|row| complete(*row, &all))
        .find(|found| !found.is_empty())
    {
        Some(found) => found.iter().any(|pair| pair.contains(&last)),
        None => takes(name) && !TRUST.contains(&name) && !CRL.contains(&name),
    }
}

/// The places of those of `names` that could be a part of the credential that they make: what is left
/// behind beside a complete pair could not.
pub(super) fn parts_among(names: &[&str]) -> Vec<usize> {
    let mut rows = PAIRS.iter().map(|row| complete(*row, names));
    match rows.find(|found| !found.is_empty()) {
        Some(found) => {
            let pairs = found.into_iter().flatten();
            pairs
                .chain(first(&TRUST, names))
                .chain(first(&CRL, names))
                .collect()
        }
        None => (0..names.len()).filter(|at| takes(names[*at])).collect(),
    }
}

/// The pair of the first row that is complete.
fn pair(folder: &Path, names: &[&str], looks: &[Glance]) -> Result<Option<[usize; 2]>, Problem> {
    for row in PAIRS {
        let found = complete(row, names);
        if let Some(pair) = only(folder, names, &found)? {
            return Ok(Some(pair));
        }
    }
    let both: Vec<[usize; 2]> = (0..names.len())
        .filter(|&at| looks[at].certificate && looks[at].key)
        .map(|at| [at, at])
        .collect();
    only(folder, names, &both)
}

/// Every pair that a row's two patterns find.
fn complete((cert, key): (&str, &str), names: &[&str]) -> Vec<[usize; 2]> {
    let place = |wanted: &str| names.iter().position(|name| *name == wanted);
    names
        .iter()
        .enumerate()
        .filter_map(|(at, name)| {
            let stem = star(key, name)?;
            Some([place(&cert.replace('*', stem))?, at])
        })
        .collect()
}

/// What stands for `*` in `pattern` when `name` matches it: the empty string for one without `*`.
fn star<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    let Some(ending) = pattern.strip_prefix('*') else {
        return (name == pattern).then_some("");
    };
    let stem = name.strip_suffix(ending)?;
    (!stem.is_empty() && !stem.starts_with('.') && !RESERVED.contains(&stem)).then_some(stem)
}

fn first(column: &[&str], names: &[&str]) -> Option<usize> {
    column
        .iter()
        .find_map(|wanted| names.iter().position(|name| name == wanted))
}

/// Whether a file of this name may be the one that holds chain and key, as HAProxy has it.
fn may_hold_both(name: &str) -> bool {
    star("*.pem", name).is_some() && !TRUST.contains(&name) && !CRL.contains(&name)
}

/// The one candidate, if there is one.
fn only(
    folder: &Path,
    names: &[&str],
    found: &[[usize; 2]],
) -> Result<Option<[usize; 2]>, Problem> {
    let [one, rest @ ..] = found else {
        return Ok(None);
    };
    if rest.is_empty() {
        return Ok(Some(*one));
    }
    let mut claims: Vec<String> = found
        .iter()
        .map(|[cert, key]| match cert == key {
            true => names[*cert].to_owned(),
            false => format!("{} with {}", names[*cert], names[*key]),
        })
        .collect();
    claims.sort_unstable();
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    Err(Problem::new(
        Reason::Ambiguous,
        folder,
        format!(
            "{} each claim to be its certificate and key",
            list(&claims, "and")
        ),
        "leave one certificate and key, and give the others folders of their own",
    ))
}

/// A certificate without its key, or a key without its certificate.
fn half(folder: &Path, names: &[&str], looks: &[Glance]) -> Option<Problem> {
    for (cert, key) in PAIRS {
        for (pattern, is_cert) in [(cert, true), (key, false)] {
            let lone = names
                .iter()
                .find(|name| star(pattern, name).is_some() && !is_issuer(name, names));
            if let Some(name) = lone {
                return Some(lacks(folder, name, &partners(name, is_cert), is_cert));
            }
        }
    }
    let (at, look) = looks.iter().enumerate().find(|(at, look)| {
        may_hold_both(names[*at])
            && !COMPANIONS.contains(&names[*at])
            && (look.certificate || look.key || !look.any)
    })?;
    Some(Problem::new(
        Reason::Incomplete,
        folder.join(names[at]),
        match (look.certificate, look.key) {
            (true, _) => "it holds a certificate, and no file holds its private key",
            (_, true) => "it holds a private key, and no file holds its certificate",
            _ => "it holds neither a certificate nor a private key",
        },
        "put certificate chain and private key into this one file, or into tls.crt and tls.key",
    ))
}

/// Whether `name` is the issuer's certificate that lego writes beside `NAME.crt`.
fn is_issuer(name: &str, names: &[&str]) -> bool {
    name.strip_suffix(".issuer.crt").is_some_and(|stem| {
        names
            .iter()
            .any(|name| name.strip_suffix(".crt") == Some(stem))
    })
}

/// The names that would make a pair with `name`.
fn partners(name: &str, is_cert: bool) -> Vec<String> {
    PAIRS
        .iter()
        .filter_map(|&(cert, key)| {
            let (mine, other) = if is_cert { (cert, key) } else { (key, cert) };
            let stem = star(mine, name)?;
            Some(other.replace('*', if mine.starts_with('*') { stem } else { "NAME" }))
        })
        .collect()
}

fn lacks(folder: &Path, name: &str, partners: &[String], is_cert: bool) -> Problem {
    let partners: Vec<&str> = partners.iter().map(String::as_str).collect();
    let missing = if is_cert {
        "private key"
    } else {
        "certificate chain"
    };
    Problem::new(
        Reason::Incomplete,
        folder.join(name),
        format!("its {missing}, {}, is missing", list(&partners, "or")),
        format!("put {} there too", list(&partners, "or")),
    )
}

fn nothing(folder: &Path) -> Problem {
    let pairs: Vec<String> = PAIRS
        .iter()
        .map(|(cert, key)| format!("{cert} and {key}").replace('*', "NAME"))
        .collect();
    Problem::new(
        Reason::Incomplete,
        folder,
        "none of its files is a part of a credential",
        format!(
            "put a pair there ({}, or one .pem file with both) or a trust bundle ({})",
            pairs.join("; "),
            list(&TRUST, "or")
        ),
    )
}

/// `a, b and c`.
fn list(names: &[&str], last: &str) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., end] => format!("{} {last} {end}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests;
