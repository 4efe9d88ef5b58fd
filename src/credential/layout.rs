//! Which file is what: by its name, and by whether a certificate belongs to a key.

use std::path::Path;

use super::contents::Item;
use super::key::Loaded;
use super::pem;
use crate::problem::{Problem, Reason};

/// A private key, with the files that may contain its chain, best first. `*` stands for any NAME, the same in all
/// of them. If there are two files, the second one continues the chain.
struct Row {
    key: &'static str,
    chains: &'static [&'static [&'static str]],
}

/// The rows in order of precedence, with the tools that write such files.
const ROWS: [Row; 7] = [
    // Kubernetes TLS Secrets, cert-manager, kubelet mounts
    Row {
        key: "tls.key",
        chains: &[&["tls.crt"]],
    },
    // Istio's generic Secrets
    Row {
        key: "key",
        chains: &[&["cert"]],
    },
    // certbot, dehydrated
    Row {
        key: "privkey.pem",
        chains: &[&["fullchain.pem"], &["cert.pem", "chain.pem"]],
    },
    // Istio on VMs, acme.sh for Apache, Vault agent, Docker
    Row {
        key: "key.pem",
        chains: &[
            &["cert-chain.pem"],
            &["fullchain.pem"],
            &["cert.pem", "chain.pem"],
            &["cert.pem"],
        ],
    },
    // spiffe-helper
    Row {
        key: "svid_key.pem",
        chains: &[&["svid.pem"]],
    },
    // acme.sh, step, lego, openssl
    Row {
        key: "*.key",
        chains: &[&["fullchain.cer"], &["*.crt"], &["*.cer"], &["*.pem"]],
    },
    // mkcert, cfssl, Consul
    Row {
        key: "*-key.pem",
        chains: &[&["*.pem"]],
    },
];

const TRUST: [&str; 5] = [
    "ca.crt",
    "cacert",
    "root-cert.pem",
    "svid_bundle.pem",
    "ca.pem",
];
const CRL: [&str; 2] = ["ca.crl", "crl.pem"];
const STAPLE: [&str; 2] = ["tls.ocsp-staple", "ocsp.der"];
const PASSWORD: [&str; 2] = ["tls.key.password", "password"];
const GENERIC: [&str; 2] = ["secret", GENERIC_BINARY];
/// The generic secret that is used as it is.
pub(crate) const GENERIC_BINARY: &str = "secret.bin";

const STAPLE_ENDING: &str = ".ocsp";
const TICKET_KEY_ENDING: &str = ".ticketkey";
const KEYSTORE_ENDINGS: [&str; 2] = [".p12", ".pfx"];
/// Files with these endings may contain a certificate or a private key.
const PEM_ENDINGS: [&str; 4] = [".pem", ".crt", ".cer", ".key"];

/// Names of keys that `*` does not stand for: a CA's key next to its `ca.crt` is not a server's key, and `tls.key`
/// has a row of its own.
const RESERVED: [&str; 3] = ["tls", "ca", "rootCA"];

/// Which file is what, by its index in the list of files.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// The certificate pair; `Err` if there are files of a pair, but they don't make one.
    pub(crate) pair: Option<Result<PairFiles, Problem>>,
    pub(crate) trust: Option<usize>,
    pub(crate) crl: Option<usize>,
    pub(crate) staple: Option<usize>,
    pub(crate) password: Option<usize>,
    /// In the order for Envoy: the last one by name comes first, and encrypts.
    pub(crate) ticket_keys: Vec<usize>,
    pub(crate) generic: Option<usize>,
}

/// The files of a certificate pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PairFiles {
    /// The chain: one file, or two of which the second continues the first.
    pub(crate) chain: Vec<usize>,
    pub(crate) key: usize,
    /// A file with a better chain that does not belong to the key.
    pub(crate) better: Option<usize>,
    /// Whether they were found only by their content.
    pub(crate) by_content: bool,
}

impl Layout {
    /// Which of the files of `folder` is what.
    pub(crate) fn of(folder: &Path, items: &[Item]) -> Self {
        let trust = first(&TRUST, items);
        let pair = Pairs {
            folder,
            items,
            trust,
        }
        .find();
        let found = pair.as_ref().and_then(|pair| pair.as_ref().ok());
        Self {
            staple: staple(items, found),
            trust,
            crl: first(&CRL, items),
            password: Self::password(items),
            ticket_keys: items
                .iter()
                .enumerate()
                .filter(|(_, item)| stem(TICKET_KEY_ENDING, &item.name).is_some())
                .map(|(at, _)| at)
                .rev()
                .collect(),
            generic: first(&GENERIC, items),
            pair,
        }
    }

    /// The file with the password for what is encrypted.
    pub(crate) fn password(items: &[Item]) -> Option<usize> {
        first(&PASSWORD, items)
    }

    /// Whether the file at `index` is a part.
    pub(crate) fn uses(&self, index: usize) -> bool {
        let of_pair = match &self.pair {
            Some(Ok(pair)) => pair.key == index || pair.chain.contains(&index),
            _ => false,
        };
        // Without the CAs, a revocation list has no effect.
        let crl = self.crl.filter(|_| self.trust.is_some());
        let others = [self.trust, crl, self.staple, self.password, self.generic];
        of_pair || others.contains(&Some(index)) || self.ticket_keys.contains(&index)
    }
}

/// Whether a file of this name could be a part of some credential, whatever its content.
pub fn takes(name: &str) -> bool {
    let fixed = TRUST.iter().chain(&CRL).chain(&STAPLE).chain(&PASSWORD);
    let rows = ROWS.iter().any(|row| {
        let chains = row.chains.iter().copied().flatten();
        matches(row.key, name) || chains.into_iter().any(|chain| matches(chain, name))
    });
    rows || fixed.chain(&GENERIC).any(|known| *known == name)
        || PEM_ENDINGS
            .iter()
            .chain(&KEYSTORE_ENDINGS)
            .chain(&[STAPLE_ENDING, TICKET_KEY_ENDING])
            .any(|ending| stem(ending, name).is_some())
}

/// The indexes of the `names` that could be a part of the credential that they make. Files that tools leave next to
/// a complete pair could not.
pub(super) fn parts_among(names: &[&str]) -> Vec<usize> {
    let known = |name: &str| names.iter().position(|known| *known == name);
    let complete = ROWS
        .iter()
        .filter(|row| !row.key.starts_with('*'))
        .find(|row| {
            let has_chain = row
                .chains
                .iter()
                .any(|files| files.iter().all(|file| known(file).is_some()));
            has_chain && known(row.key).is_some()
        });
    let Some(row) = complete else {
        return (0..names.len()).filter(|at| takes(names[*at])).collect();
    };
    let files = row.chains.iter().copied().flatten().chain([&row.key]);
    let columns = TRUST.iter().chain(&CRL).chain(&STAPLE).chain(&PASSWORD);
    let fixed: Vec<&str> = files.chain(columns).chain(&GENERIC).copied().collect();
    let endings = [STAPLE_ENDING, TICKET_KEY_ENDING];
    (0..names.len())
        .filter(|at| {
            let has_ending = endings
                .iter()
                .any(|ending| stem(ending, names[*at]).is_some());
            has_ending || fixed.contains(&names[*at])
        })
        .collect()
}

/// Whether a file of this name is not expected to be PEM.
pub(crate) fn is_binary(name: &str) -> bool {
    let fixed = STAPLE.iter().chain(&PASSWORD).chain(&GENERIC);
    fixed.into_iter().any(|known| *known == name)
        || is_keystore(name)
        || [STAPLE_ENDING, TICKET_KEY_ENDING]
            .iter()
            .any(|ending| stem(ending, name).is_some())
}

/// Whether a file of this name is a PKCS#12 keystore.
pub(crate) fn is_keystore(name: &str) -> bool {
    KEYSTORE_ENDINGS
        .iter()
        .any(|ending| stem(ending, name).is_some())
}

/// The place of the first file of a column.
fn first(column: &[&str], items: &[Item]) -> Option<usize> {
    column.iter().find_map(|name| place(name, items))
}

fn place(name: &str, items: &[Item]) -> Option<usize> {
    items.iter().position(|item| item.name == name)
}

/// The part of `name` before `ending`.
fn stem<'a>(ending: &str, name: &'a str) -> Option<&'a str> {
    let stem = name.strip_suffix(ending)?;
    (!stem.is_empty() && !stem.starts_with('.')).then_some(stem)
}

/// What `*` in `pattern` stands for if `name` matches; the empty string if `pattern` has no `*`.
fn star<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    match pattern.strip_prefix('*') {
        Some(ending) => stem(ending, name).filter(|stem| !RESERVED.contains(stem)),
        None => (name == pattern).then_some(""),
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    star(pattern, name).is_some()
}

/// The staple: under its own name, or under the name of the chain or the key.
fn staple(items: &[Item], pair: Option<&PairFiles>) -> Option<usize> {
    first(&STAPLE, items).or_else(|| {
        let pair = pair?;
        let names = pair
            .chain
            .iter()
            .chain([&pair.key])
            .map(|at| items[*at].name.as_str());
        let mut stems = names.flat_map(|name| {
            let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
            [name, stem]
        });
        let named = |item: &Item, stem| item.name.strip_suffix(STAPLE_ENDING) == Some(stem);
        stems.find_map(|stem| items.iter().position(|item| named(item, stem)))
    })
}

/// A search for the pair among the files of a folder.
struct Pairs<'a> {
    folder: &'a Path,
    items: &'a [Item],
    trust: Option<usize>,
}

/// The result for a row, or for a part of it.
enum Found {
    /// A chain that belongs to its key.
    Belongs(PairFiles),
    /// Files that exist, but don't belong together or can't be read.
    Mismatch(PairFiles),
}

impl Pairs<'_> {
    fn find(&self) -> Option<Result<PairFiles, Problem>> {
        let mut mismatch: Option<PairFiles> = None;
        let others: [fn(&Self) -> Vec<Found>; 3] =
            [Self::in_one_file, Self::keystores, Self::by_content];
        let rows = ROWS.iter().map(|row| self.row(row));
        let candidates = rows.chain(others.iter().map(|find| find(self)));
        for found in candidates {
            let mut belongs = Vec::new();
            let mut others = None;
            for found in found {
                match found {
                    Found::Belongs(pair) => belongs.push(pair),
                    Found::Mismatch(pair) => drop(others.get_or_insert(pair)),
                }
            }
            // A CA's own pair, next to the pair of a server.
            if belongs.len() > 1 && belongs.iter().any(|pair| !self.is_ca(pair)) {
                belongs.retain(|pair| !self.is_ca(pair));
            }
            let Some(mut pair) = belongs.pop() else {
                mismatch = mismatch.or(others);
                continue;
            };
            if !belongs.is_empty() {
                belongs.push(pair);
                return Some(Err(self.ambiguous(&belongs)));
            }
            pair.better = pair.better.or_else(|| better(mismatch.as_ref(), &pair));
            return Some(Ok(pair));
        }
        mismatch.map(Ok).or_else(|| self.half().map(Err))
    }

    /// The pairs of a row, one for each of its keys.
    fn row(&self, row: &Row) -> Vec<Found> {
        let keys = self.items.iter().enumerate();
        keys.filter_map(|(key, item)| {
            let stem = star(row.key, &item.name)?;
            let chains = row.chains.iter().filter_map(|names| {
                let places = names
                    .iter()
                    .map(|name| place(&name.replace('*', stem), self.items));
                places.collect::<Option<Vec<_>>>()
            });
            self.best(key, chains.filter(|chain| !chain.contains(&key)))
        })
        .collect()
    }

    /// The first of `chains` that belongs to the key; otherwise the first one.
    fn best(&self, key: usize, chains: impl Iterator<Item = Vec<usize>>) -> Option<Found> {
        let mut better = None;
        let mut worst = None;
        for chain in chains {
            let belongs = self.belongs(&chain, key);
            let pair = PairFiles {
                chain,
                key,
                better,
                by_content: false,
            };
            if belongs {
                return Some(Found::Belongs(pair));
            }
            better = better.or(pair.chain.first().copied());
            worst.get_or_insert(pair);
        }
        worst.map(Found::Mismatch)
    }

    fn belongs(&self, chain: &[usize], key: usize) -> bool {
        let Some(key) = &self.items[key].key else {
            return false;
        };
        match chain {
            [one] => self.items[*one].place_of(key).is_some(),
            [leaf, rest] => {
                let (leaf, rest) = (
                    self.items[*leaf].certificates(),
                    self.items[*rest].certificates(),
                );
                let belongs = |key: &Loaded| key.belongs_to(leaf.first()?);
                let continues = rest.first().zip(leaf.last()).is_some_and(|(issuer, one)| {
                    issuer.is_issuer_of(one) && one.signed.is_by(&issuer.key) != Some(false)
                });
                belongs(key) == Some(true) && continues
            }
            _ => false,
        }
    }

    /// The `.pem` files that contain both, as HAProxy uses them.
    fn in_one_file(&self) -> Vec<Found> {
        let candidates = self.candidates();
        let both = candidates.filter(|at| {
            let item = &self.items[*at];
            item.has.certificate && item.has.key && stem(".pem", &item.name).is_some()
        });
        both.filter_map(|at| self.best(at, [vec![at]].into_iter()))
            .collect()
    }

    /// The keystores that contain a private key, or could not be opened.
    fn keystores(&self) -> Vec<Found> {
        let candidates = self.candidates();
        let keystores = candidates.filter(|at| is_keystore(&self.items[*at].name));
        keystores
            .filter(|at| self.items[*at].has.key)
            .filter_map(|at| self.best(at, [vec![at]].into_iter()))
            .collect()
    }

    /// The one private key of the folder, with the longest chain that belongs to it.
    fn by_content(&self) -> Vec<Found> {
        let mut keys = self.keys();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Vec::new();
        };
        // A key that can't be read may be the one that belongs to the chain.
        if self.has_unreadable_key() {
            return Vec::new();
        }
        let Some(loaded) = &self.items[key].key else {
            return Vec::new();
        };
        let chains = self.candidates().filter_map(|at| {
            self.items[at].place_of(loaded)?;
            Some((self.items[at].certificates().len(), at))
        });
        // If several are equally long, the first one.
        let longest = chains.max_by_key(|(length, at)| (*length, std::cmp::Reverse(*at)));
        let pair = longest.map(|(_, chain)| PairFiles {
            chain: vec![chain],
            key,
            better: None,
            by_content: true,
        });
        pair.map(Found::Belongs).into_iter().collect()
    }

    /// Whether a file that can't be read has the name of a private key, with its chain next to it.
    fn has_unreadable_key(&self) -> bool {
        let rows = ROWS.iter().flat_map(|row| self.row(row));
        let mut keys = rows.map(|found| match found {
            Found::Belongs(pair) | Found::Mismatch(pair) => pair.key,
        });
        keys.any(|key| self.items[key].unreadable.is_some())
    }

    /// The files that may belong to a pair: all except bundles, revocation lists and files that are not PEM.
    fn candidates(&self) -> impl Iterator<Item = usize> {
        let names = self.items.iter().enumerate();
        let kept = names.filter(|(_, item)| {
            let name = item.name.as_str();
            let others = TRUST.contains(&name) || CRL.contains(&name);
            !others && (!is_binary(name) || is_keystore(name))
        });
        kept.map(|(at, _)| at)
    }

    /// The files with a private key, except for a CA's.
    fn keys(&self) -> impl Iterator<Item = usize> {
        self.candidates().filter(|at| {
            let item = &self.items[*at];
            item.has.key && !is_keystore(&item.name) && !self.is_key_of_ca(item)
        })
    }

    /// Whether it is the private key of a CA of the bundle, or is named like a CA's key.
    fn is_key_of_ca(&self, item: &Item) -> bool {
        let named = RESERVED[1..].iter().any(|ca| {
            item.name.strip_prefix(ca) == Some(".key")
                || item.name.strip_prefix(ca) == Some("-key.pem")
        });
        let of_bundle = || {
            let trust = &self.items[self.trust?];
            trust.place_of(item.key.as_ref()?)
        };
        named || of_bundle().is_some()
    }

    /// Whether the leaf is a CA's certificate.
    fn is_ca(&self, pair: &PairFiles) -> bool {
        let leaf = || {
            let chain = &self.items[*pair.chain.first()?];
            let place = chain.place_of(self.items[pair.key].key.as_ref()?)?;
            Some(chain.certificates().get(place)?.is_ca())
        };
        leaf() == Some(true)
    }

    fn ambiguous(&self, pairs: &[PairFiles]) -> Problem {
        let mut claims: Vec<String> = pairs.iter().map(|pair| self.shown(pair)).collect();
        claims.sort_unstable();
        Problem::new(
            Reason::Ambiguous,
            self.folder,
            format!(
                "{} could each be its certificate and key",
                list(claims.iter().map(String::as_str), "and")
            ),
            "keep one certificate and key, and move the others to folders of their own",
        )
    }

    fn shown(&self, pair: &PairFiles) -> String {
        let key = &self.items[pair.key].name;
        match pair.chain.first().map(|at| &self.items[*at].name) {
            Some(chain) if chain != key => format!("{chain} with {key}"),
            _ => key.clone(),
        }
    }

    /// The problem if there is a part of a pair, but no pair.
    fn half(&self) -> Option<Problem> {
        let unreadable = self.candidates().find_map(|at| {
            let item = &self.items[at];
            item.unreadable.clone().filter(|_| takes(&item.name))
        });
        unreadable
            .or_else(|| self.renamed_keystore())
            .or_else(|| self.several_keys())
            .or_else(|| self.lone_key())
            .or_else(|| self.lone_chain())
    }

    /// A keystore that has the name of a PEM file.
    fn renamed_keystore(&self) -> Option<Problem> {
        let mut named = self.candidates().map(|at| &self.items[at]);
        named.find_map(|item| {
            let is_misnamed = takes(&item.name) && !is_keystore(&item.name);
            let flaw = pem::keystore(&item.bytes).filter(|_| is_misnamed)?;
            let path = self.folder.join(&item.name);
            Some(Problem::new(Reason::BadPem, path, flaw.what, flaw.remedy).for_file())
        })
    }

    fn several_keys(&self) -> Option<Problem> {
        let keys: Vec<&str> = self.keys().map(|at| self.items[at].name.as_str()).collect();
        let has_chain = self.candidates().any(|at| self.items[at].has.certificate);
        (keys.len() > 1 && has_chain).then(|| {
            let keys = list(keys.into_iter(), "and");
            Problem::new(
                Reason::Ambiguous,
                self.folder,
                format!(
                    "there are several private keys, {keys}, and no certificate has a name \
                         that goes with one of them"
                ),
                "keep the key of the certificate, and remove the others",
            )
        })
    }

    fn lone_key(&self) -> Option<Problem> {
        let named = self.candidates().find(|at| {
            let item = &self.items[*at];
            let is_key = ROWS.iter().any(|row| matches(row.key, &item.name));
            is_key && !self.is_key_of_ca(item)
        });
        let at = named.or_else(|| self.keys().next())?;
        let name = &self.items[at].name;
        let chains = ROWS.iter().filter_map(|row| {
            let stem = star(row.key, name)?;
            let chains = row
                .chains
                .iter()
                .map(move |names| names.join(" + ").replace('*', stem));
            Some(chains)
        });
        let chains: Vec<String> = chains.flatten().collect();
        let expected = match &chains[..] {
            [] => "tls.crt".to_owned(),
            chains => list(chains.iter().map(String::as_str), "or"),
        };
        Some(Problem::new(
            Reason::Incomplete,
            self.folder.join(name),
            "it is a private key, and no file contains its certificate",
            format!("put the certificate chain there too, as {expected}"),
        ))
    }

    fn lone_chain(&self) -> Option<Problem> {
        let named = |name: &str| {
            let chains = ROWS
                .iter()
                .flat_map(|row| row.chains.iter().filter_map(|names| names.first()));
            chains
                .into_iter()
                .any(|chain| !chain.starts_with('*') && *chain == name)
        };
        let at = self.candidates().find(|at| {
            let item = &self.items[*at];
            named(&item.name) || self.is_leaf(item)
        })?;
        let name = &self.items[at].name;
        let keys = ROWS.iter().filter_map(|row| {
            let mut stems = row
                .chains
                .iter()
                .filter_map(|names| star(names.first()?, name));
            let stem = stems.next()?;
            Some(
                row.key
                    .replace('*', if stem.is_empty() { "NAME" } else { stem }),
            )
        });
        let keys: Vec<String> = keys.collect();
        let expected = match &keys[..] {
            [] => "tls.key".to_owned(),
            keys => list(keys.iter().map(String::as_str), "or"),
        };
        Some(Problem::new(
            Reason::Incomplete,
            self.folder.join(name),
            "no file contains its private key",
            format!("put the private key there too, as {expected}"),
        ))
    }

    /// Whether it seems to contain a certificate that is not a CA's, or should contain one and does not.
    fn is_leaf(&self, item: &Item) -> bool {
        let certificates = item.certificates();
        match certificates.first() {
            Some(first) => !first.is_ca(),
            None if item.has.certificate => true,
            None => {
                let is_named = PEM_ENDINGS[..3]
                    .iter()
                    .any(|ending| stem(ending, &item.name).is_some());
                let is_empty = item.blocks.as_ref().is_ok_and(Vec::is_empty);
                is_named && is_empty && !item.has.key
            }
        }
    }
}

/// The file that a mismatch would prefer to the chain of `pair`.
fn better(mismatch: Option<&PairFiles>, pair: &PairFiles) -> Option<usize> {
    let mut chain = mismatch?.chain.iter().copied();
    chain.find(|at| !pair.chain.contains(at))
}

/// `a, b and c`.
fn list<'a>(names: impl Iterator<Item = &'a str>, last: &str) -> String {
    let names: Vec<&str> = names.collect();
    match &names[..] {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., end] => format!("{} {last} {end}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests;
