//! What the inventory publishes: every root and credential, and the lookup of secrets by name.
//!
//! A snapshot never changes, and a clone of one shares all of it.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::Key;
use super::expiry::Expiry;
use super::history::{History, Replaced};
use super::hosts::{self, Hosts};
use super::sorted::{Entry, Sorted};
use crate::config::Absent;
use crate::credential::Fingerprint;
use crate::name::{self, Coverage, Host};
use crate::problem::Problem;
use crate::secret::{Facts, Kind, Name, Part, Secret};
use crate::text::Texts;
use crate::validity::Validity;

/// The state of all credentials at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The roots, in the order of precedence.
    pub(super) roots: Vec<Root>,
    pub(super) hosts: Hosts,
    pub(super) history: History,
    /// The answer to names that were removed, if their root has its own `absent`.
    pub(super) departed: Sorted<Departed>,
    pub(super) rules: Arc<Rules>,
    /// The folders that may have had a certificate before the start that can't be read now.
    pub(super) unread: Sorted<Name>,
}

/// A name that was removed, and the answer to it.
#[derive(Clone)]
pub(super) struct Departed {
    pub(super) name: Name,
    pub(super) absent: Absent,
}

/// The configured rules of lookup.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rules {
    /// Whether a host name selects the credential that covers it.
    pub(super) hosts: bool,
    /// The credential for hosts that no certificate covers.
    pub(super) default_credential: Option<Name>,
    /// The answer to a name without a secret.
    pub(super) absent: Absent,
    /// The `warn_days` of roots and credentials without their own.
    pub(super) warn_days: u32,
}

/// A root.
#[derive(Clone)]
pub struct Root {
    /// Its path.
    pub path: Arc<Path>,
    /// Whether the files of its credentials are directly in it.
    pub(super) is_flat: bool,
    /// Whether it existed when it was last listed; none before the first time.
    pub present: Option<bool>,
    /// Whether it was listed completely at least once since the start. Until then, its content before the start is
    /// unknown.
    pub listed: bool,
    /// Whether it was listed completely when it was last listed.
    pub(super) complete: bool,
    /// What is not served in it, and why, besides rejected credentials.
    pub problems: Arc<[Problem]>,
    /// By name.
    pub(super) credentials: Sorted<Arc<Credential>>,
    /// How many credential folders have not been read since the start.
    pub(super) unobserved: usize,
}

/// A credential folder: what it serves, and what is wrong with its files.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The root that it is in.
    pub root: Arc<Path>,
    /// Its name: that of the folder.
    pub name: Name,
    /// Whether its files are directly in the root.
    pub(super) is_flat: bool,
    /// Its `warn_days`.
    pub warn_days: u32,
    /// Warnings about what is served.
    pub warnings: Arc<[Problem]>,
    /// What is not served of it. Boxed, because most folders have no such files.
    pub(super) unserved: Option<Box<Unserved>>,
    /// By kind.
    pub(super) secrets: [Option<Arc<Secret>>; Kind::ALL.len()],
    /// Whether the bundle has the folder's own name, as there is no pair.
    pub(super) alone: bool,
    /// Whether it has files of a pair that has never been valid: clients that request a certificate must
    /// not get ticket keys.
    pub(super) awaits_pair: bool,
    /// Whether it may have had a certificate before the start that can't be read now.
    pub(super) unread: bool,
    /// Whether it may have had a bundle before the start that can't be read now.
    pub(super) bundle_unknown: bool,
    /// Whether it may have been there before the start.
    pub(super) since_start: bool,
    /// Whether it was read since the start.
    pub(super) observed: bool,
    /// Whether its files were checked since the start.
    pub(super) judged: bool,
    /// Whether no file there can be part of a pair.
    pub(super) without_pair: bool,
    /// Whether `without_pair` was true at least once.
    pub(super) was_without_pair: bool,
    /// The part that all warnings are about, if it is one.
    pub(super) warns: Option<Kind>,
    /// What of it expires.
    pub(super) expiry: Expiry,
    /// When it has something to do without a change of its files, by the clock that dates certificates.
    pub(super) next_date: Option<SystemTime>,
}

/// The files of a folder that are not served.
#[derive(Clone, Debug, Default)]
pub(super) struct Unserved {
    pub(super) rejections: Box<[Rejection]>,
    pub(super) skipped: Texts,
}

/// Why files are not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The part that the files belong to; `None` if it is the whole folder.
    pub kind: Option<Kind>,
    /// What is wrong.
    pub problem: Problem,
}

/// The result of looking up a name.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A secret.
    Found(Found),
    /// Nothing, with this answer.
    Absent(Absent),
    /// Possibly something that was served before the start and can't be read now. Clients that hold a
    /// version of it keep it; others get this.
    Unknown(Box<Lookup>, Doubt),
}

/// Why the result of a lookup is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Its folder, or a whole root, could not be read since the start.
    Name,
    /// A folder whose certificate could not be read since the start may cover the host.
    Host,
}

/// A secret and its credential.
#[derive(Clone, Debug)]
pub struct Found {
    /// The name of the credential.
    pub credential: Name,
    /// The secret.
    pub secret: Arc<Secret>,
}

impl Lookup {
    /// The secret, for a client that holds no version of it.
    pub fn found(self) -> Option<Found> {
        match self {
            Self::Found(found) => Some(found),
            Self::Unknown(otherwise, _) => otherwise.found(),
            Self::Absent(_) => None,
        }
    }
}

impl Snapshot {
    /// Looks up `requested` at `now`, for a client that is allowed to read the credentials that `may`
    /// accepts. Other credentials don't exist for it.
    pub fn lookup(&self, requested: &str, now: SystemTime, may: &dyn Fn(&str) -> bool) -> Lookup {
        if !name::is_requestable(requested) {
            return Lookup::Absent(Absent::SaySo);
        }
        let name = name::plain(requested);
        let host = Host::parse(name).filter(|_| self.rules.hosts);
        let found = self
            .by_folder(name, may)
            .or_else(|| self.by_bundle(name, may))
            .or_else(|| self.by_host(host.as_ref()?, now, may));
        if let Some(found) = found {
            return Lookup::Found(found);
        }
        let otherwise = match self.default_for(name, may) {
            Some(found) => Lookup::Found(found),
            None => Lookup::Absent(self.absent(name, may)),
        };
        match self.doubt(name, host.is_some(), may) {
            Some(doubt) => Lookup::Unknown(Box::new(otherwise), doubt),
            None => otherwise,
        }
    }

    /// The roots, in the order of precedence.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// All credential folders: those of the first root by name, then those of the next one.
    pub fn credentials(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.roots.iter().flat_map(|root| root.credentials.iter())
    }

    /// The credential in that folder.
    pub fn credential(&self, key: &Key) -> Option<&Arc<Credential>> {
        let root = self.roots.iter().find(|root| root.path == key.root)?;
        root.credential(&key.name)
    }

    /// The number of secrets that can be requested, not counting hosts.
    pub fn secret_count(&self) -> usize {
        self.winners().map(|one| one.secret_count()).sum()
    }

    /// The credential that is served under that name: if several roots have one, the one in the first root where
    /// something is served.
    pub fn winner(&self, name: &str) -> Option<&Arc<Credential>> {
        self.named(name).find(|credential| credential.serves())
    }

    /// The hosts that the served certificates cover, sorted.
    pub fn covered(&self) -> Vec<Coverage> {
        let pairs = self.winners().filter_map(|one| one.pair());
        let mut covered: Vec<_> = pairs.flat_map(hosts::coverages).collect();
        covered.sort_unstable();
        covered.dedup();
        covered
    }

    /// The credentials whose certificate covers `host`, in the order of lookup.
    pub fn covering(&self, host: &Host, now: SystemTime) -> impl Iterator<Item = &Arc<Credential>> {
        self.hosts.covering(host, now)
    }

    /// The credentials that currently serve the certificate with that fingerprint.
    pub fn serving(&self, leaf: &Fingerprint) -> Vec<&Arc<Credential>> {
        let serves = |one: &&Arc<Credential>| {
            let pair = one.pair();
            pair.is_some_and(|pair| pair.chain.first() == Some(leaf))
        };
        self.winners().filter(serves).collect()
    }

    /// When a certificate that is no longer served was replaced.
    pub fn replaced(&self, leaf: &Fingerprint) -> Option<&Replaced> {
        self.history.get(leaf)
    }

    /// The path of the folder with the files of a credential, which may not exist.
    pub fn folder_of(&self, key: &Key) -> PathBuf {
        let root = self.roots.iter().find(|root| root.path == key.root);
        match root.is_some_and(|root| root.is_flat) {
            true => key.root.to_path_buf(),
            false => key.path(),
        }
    }

    /// Whether that credential is the one that is served under its name.
    pub fn wins(&self, credential: &Arc<Credential>) -> bool {
        let winner = self.winner(&credential.name);
        winner.is_some_and(|winner| Arc::ptr_eq(winner, credential))
    }

    /// The `warn_days` of roots and credentials without their own.
    pub fn warn_days(&self) -> u32 {
        self.rules.warn_days
    }

    /// The credential for hosts that no certificate covers.
    pub fn default_credential(&self) -> Option<&Name> {
        self.rules.default_credential.as_ref()
    }

    fn by_folder(&self, name: &str, may: &dyn Fn(&str) -> bool) -> Option<Found> {
        let credential = self.winner(name).filter(|_| may(name))?;
        credential
            .own_secret()
            .map(|secret| credential.found(secret))
    }

    fn by_bundle(&self, name: &str, may: &dyn Fn(&str) -> bool) -> Option<Found> {
        let owner = name::bundle_owner(name)?;
        // Access to the pair includes the bundle, which can also be given separately.
        let credential = self.winner(owner).filter(|_| may(owner) || may(name))?;
        let secret = credential.secret(Kind::TrustBundle)?;
        Some(credential.found(secret))
    }

    fn by_host(&self, host: &Host, now: SystemTime, may: &dyn Fn(&str) -> bool) -> Option<Found> {
        let mut covering = self.hosts.covering(host, now);
        let credential = covering.find(|credential| may(&credential.name))?;
        Some(credential.found(credential.secret(Kind::Certificate)?))
    }

    fn default_for(&self, name: &str, may: &dyn Fn(&str) -> bool) -> Option<Found> {
        let default = self.rules.default_credential.as_ref()?;
        let is_folder = self.named(name).next().is_some();
        let is_host = Host::parse(name).is_some() && name::bundle_owner(name).is_none();
        if !is_host || !may(default) || (is_folder && may(name)) {
            return None;
        }
        let credential = self.winner(default)?;
        Some(credential.found(credential.secret(Kind::Certificate)?))
    }

    /// Whether a folder of that name may have had a certificate before the start that can't be read now.
    pub(crate) fn is_unread(&self, name: &str) -> bool {
        self.named(name).any(|credential| credential.unread)
    }

    fn doubt(&self, name: &str, is_host: bool, may: &dyn Fn(&str) -> bool) -> Option<Doubt> {
        let own = |one: &Arc<Credential>| one.own_secret().is_none();
        let bundle = |one: &Arc<Credential>| one.bundle_unknown;
        let of_bundle = |owner: &str| (may(owner) || may(name)) && self.named(owner).any(bundle);
        if self.roots.iter().any(|root| !root.listed)
            || may(name) && self.named(name).any(own)
            || name::bundle_owner(name).is_some_and(of_bundle)
        {
            return Some(Doubt::Name);
        }
        (is_host && self.unread.iter().any(|unread| may(unread))).then_some(Doubt::Host)
    }

    /// The credentials that are served under their names, by root and name.
    pub(super) fn winners(&self) -> impl Iterator<Item = &Arc<Credential>> {
        // No lookup is necessary for those in the first root, which usually are most.
        self.roots.iter().enumerate().flat_map(move |(at, root)| {
            let is_taken = move |name: &str| {
                let earlier = self.roots[..at].iter();
                let mut same = earlier.filter_map(|root| root.credential(name));
                same.any(|one| one.serves())
            };
            let credentials = root.credentials.iter();
            credentials.filter(move |one| one.serves() && !is_taken(&one.name))
        })
    }

    /// The credentials of that name, in the order of precedence.
    fn named(&self, name: &str) -> impl Iterator<Item = &Arc<Credential>> {
        let roots = self.roots.iter();
        roots.filter_map(move |root| root.credential(name))
    }

    fn absent(&self, name: &str, may: &dyn Fn(&str) -> bool) -> Absent {
        let names = name::bundle_owner(name).into_iter().chain([name]);
        let mut departed = names.filter_map(|name| {
            let departed = self.departed.get(|one| (*one.name).cmp(name));
            departed.filter(|_| may(name))
        });
        let departed = departed.next();
        departed.map_or(self.rules.absent, |departed| departed.absent)
    }
}

impl Unserved {
    pub(super) fn is_empty(&self) -> bool {
        self.rejections.is_empty() && self.skipped.iter().next().is_none()
    }
}

impl Root {
    /// Whether it, and every credential folder in it, has been read since the start.
    pub fn is_read(&self) -> bool {
        self.present.is_some() && self.unobserved == 0
    }

    /// Whether it exists and can be read; none before it was first listed.
    pub fn is_readable(&self) -> Option<bool> {
        self.present.map(|present| present && self.complete)
    }

    /// Its credential folders.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let names = self.credentials.iter().map(|credential| &credential.name);
        names.map(|name| Key::new(&self.path, name.clone()))
    }

    /// The number of its credential folders.
    pub fn folders(&self) -> usize {
        self.credentials.len()
    }

    /// The one of that name.
    pub(super) fn credential(&self, name: &str) -> Option<&Arc<Credential>> {
        self.credentials.get(|one| (*one.name).cmp(name))
    }
}

impl Credential {
    /// The credential of that name in a root, before it is read.
    pub(super) fn new(root: Arc<Path>, name: Name, is_flat: bool) -> Self {
        Self {
            root,
            name,
            is_flat,
            warn_days: 0,
            warnings: Arc::default(),
            unserved: None,
            secrets: Default::default(),
            alone: false,
            awaits_pair: false,
            unread: false,
            bundle_unknown: false,
            since_start: false,
            observed: false,
            judged: false,
            without_pair: false,
            was_without_pair: false,
            warns: None,
            expiry: Expiry::default(),
            next_date: None,
        }
    }

    /// The same credential without its content: only the fact that it was read is kept.
    pub(super) fn emptied(&self) -> Self {
        Self {
            observed: true,
            ..Self::new(self.root.clone(), self.name.clone(), self.is_flat)
        }
    }

    /// The path of the folder with its files: its own, or a flat root. For a `[[secret]]` of the configuration
    /// there is no such folder: its files can be anywhere.
    pub fn path(&self) -> PathBuf {
        match self.is_flat {
            true => self.root.to_path_buf(),
            false => self.root.join(&*self.name),
        }
    }

    /// The file of the private key that it serves.
    pub fn key_file(&self) -> Option<PathBuf> {
        let files = self.secret(Kind::Certificate)?.facts().files();
        Some(self.path().join(files.iter().last()?))
    }

    /// Why files are not served. The same part may still serve its previous version.
    pub fn rejections(&self) -> &[Rejection] {
        let unserved = self.unserved.as_ref();
        unserved.map_or(&[], |unserved| &unserved.rejections)
    }

    /// The names of the files that belong to no part.
    pub fn skipped(&self) -> impl Iterator<Item = &str> {
        let unserved = self.unserved.iter();
        unserved.flat_map(|unserved| unserved.skipped.iter())
    }

    /// The secret of that kind.
    pub fn secret(&self, kind: Kind) -> Option<&Arc<Secret>> {
        self.secrets[kind as usize].as_ref()
    }

    /// The part that it serves of that kind.
    pub(super) fn part(&self, kind: Kind) -> Option<&Arc<Part>> {
        match kind {
            Kind::OcspStaple => self.secret(Kind::Certificate)?.staple(),
            kind => self.secret(kind).map(|secret| secret.part()),
        }
    }

    /// The times of the certificates, or of the staple, that it serves as that kind.
    pub(super) fn validities(&self, kind: Kind) -> Vec<Validity> {
        self.part(kind)
            .map(|part| part.facts().validities())
            .unwrap_or_default()
    }

    /// The kinds of parts that it serves, the staple of a certificate included.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let secrets = self.secrets.iter().flatten();
        secrets.flat_map(|secret| {
            let staple = secret.staple().map(|staple| staple.kind());
            [secret.kind()].into_iter().chain(staple)
        })
    }

    /// What it serves: the names, without hosts, and the secrets.
    pub fn secrets(&self) -> impl Iterator<Item = (Name, &Arc<Secret>)> {
        let own = self.own_secret().map(|secret| (self.name.clone(), secret));
        let bundle_name = || format!("{}{}", self.name, name::CACERT).into();
        let bundle = self.separate_bundle();
        let bundle = bundle.map(|secret| (bundle_name(), secret));
        own.into_iter().chain(bundle)
    }

    /// The number of [`Self::secrets`].
    fn secret_count(&self) -> usize {
        self.own_secret().iter().count() + self.separate_bundle().iter().count()
    }

    /// The bundle, where it does not have the folder's own name.
    fn separate_bundle(&self) -> Option<&Arc<Secret>> {
        let own = self.own_secret();
        let bundle = self.secret(Kind::TrustBundle);
        bundle.filter(|bundle| own.is_none_or(|own| !Arc::ptr_eq(own, bundle)))
    }

    /// Whether it serves anything.
    pub fn serves(&self) -> bool {
        self.secrets.iter().any(Option::is_some)
    }

    /// Whether it is empty or irrelevant, and that is not an error.
    pub fn is_empty(&self) -> bool {
        !self.serves() && self.rejections().is_empty()
    }

    /// Everything that lookups of its names depend on.
    pub(super) fn answers(&self) -> impl PartialEq + use<> {
        let versions = self.secrets.each_ref().map(|secret| {
            let secret = secret.as_ref()?;
            Some(secret.version())
        });
        (
            versions,
            self.alone,
            self.awaits_pair,
            self.unread,
            self.bundle_unknown,
        )
    }

    /// The certificate pair's facts.
    pub fn pair(&self) -> Option<&crate::credential::PairFacts> {
        match self.secret(Kind::Certificate)?.facts() {
            Facts::Certificate(facts) => Some(facts),
            _ => None,
        }
    }

    /// What is served under the folder's own name. A folder with the name of a bundle serves its bundle
    /// first.
    fn own_secret(&self) -> Option<&Arc<Secret>> {
        let bundle = self.secret(Kind::TrustBundle);
        if name::bundle_owner(&self.name).is_some() && bundle.is_some() {
            return bundle;
        }
        let other = |kind| self.secret(kind).filter(|_| !self.awaits_pair);
        self.secret(Kind::Certificate)
            .or_else(|| other(Kind::TicketKeys))
            .or_else(|| other(Kind::Generic))
            .or_else(|| bundle.filter(|_| self.alone))
    }

    fn found(&self, secret: &Arc<Secret>) -> Found {
        Found {
            credential: self.name.clone(),
            secret: secret.clone(),
        }
    }
}

impl Entry for Arc<Credential> {
    fn order(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl Entry for Departed {
    fn order(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}
