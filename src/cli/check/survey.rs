//! Folders → what the agent would make of each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use sds_agent::agent::read_once;
use sds_agent::config::{Account, Config, Layout, Root};
use sds_agent::credential::layout;
use sds_agent::exposure::Clients;
use sds_agent::files::roots;
use sds_agent::inventory::{self, Credential, Snapshot};
use sds_agent::peer;
use sds_agent::problem::{Problem, Reason};
use sds_agent::secret::Kind;

use crate::cli::output::COULD_NOT;

/// The user that the packaging makes for the agent.
const AGENT_USER: &str = "sds-agent";

/// What was found in all folders.
pub(super) struct Survey {
    /// When.
    pub(super) now: SystemTime,
    /// The credentials, in the order of the folders, by name.
    pub(super) entries: Vec<Entry>,
    /// What could not be read at all.
    pub(super) failures: Vec<Problem>,
    /// What is wrong with roots as a whole, and how bad that is.
    pub(super) roots: Vec<(State, Problem)>,
}

/// A credential folder.
pub(super) struct Entry {
    /// The name of the folder, which is the credential's.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// What it serves; none where it is not read for its name.
    pub(super) credential: Option<Arc<Credential>>,
    pub(super) state: State,
    /// What keeps files from being served.
    pub(super) problems: Vec<Problem>,
    /// What does not.
    pub(super) warnings: Vec<Problem>,
}

/// How a credential is, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// It is served.
    Good,
    /// It is not served, on purpose.
    PassedOver,
    /// It is served, and something is worth a warning.
    Warning,
    /// It is served, and out of date, or will be soon.
    Expiring,
    /// Not all of it is served, or no longer as the files have it.
    Broken,
}

impl State {
    pub(super) const ALL: [Self; 5] = [
        Self::Good,
        Self::PassedOver,
        Self::Warning,
        Self::Expiring,
        Self::Broken,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::PassedOver => "passed over",
            Self::Warning => "warning",
            Self::Expiring => "expiring",
            Self::Broken => "broken",
        }
    }
}

impl Survey {
    /// Reads `folders`, or the configured roots when there is none.
    pub(super) fn of(folders: &[PathBuf], mut config: Config, now: SystemTime) -> Self {
        let mut only = BTreeMap::new();
        let configured = config.roots.clone();
        if !folders.is_empty() {
            let roots = folders
                .iter()
                .map(|folder| root_of(folder, &config, &mut only));
            config.roots = roots.collect();
        }
        let snapshot = read_once(&config, &only);
        let mut survey = Self {
            now,
            entries: Vec::new(),
            failures: Vec::new(),
            roots: Vec::new(),
        };
        for root in snapshot.roots() {
            for problem in root.problems.iter() {
                survey.listed(root, problem);
            }
        }
        let credentials = snapshot.credentials().into_iter();
        let credentials = credentials.filter(|credential| !credential.is_empty());
        let entries = credentials.map(|credential| Entry::of(credential, &snapshot, now));
        survey.entries.extend(entries);
        survey.warn_of_exposures(&configured, &config);
        survey
    }

    /// What the process is to end with.
    pub(super) fn exit_code(&self) -> ExitCode {
        let worst = self.worst();
        if !self.failures.is_empty() {
            ExitCode::from(COULD_NOT)
        } else if worst >= Some(State::Expiring) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    /// How the worst of all is.
    pub(super) fn worst(&self) -> Option<State> {
        let entries = self.entries.iter().map(|entry| entry.state);
        entries.chain(self.roots.iter().map(|root| root.0)).max()
    }

    /// Takes in a problem of a listing: a folder that has one, or the root itself.
    fn listed(&mut self, root: &inventory::Root, problem: &Problem) {
        let path = problem.path();
        if path == &*root.path {
            let state = match problem.reason() {
                Reason::Layout if root.folders() == 0 => State::Broken,
                Reason::Layout | Reason::Incomplete => State::Warning,
                _ => return self.failures.push(problem.clone()),
            };
            self.roots.push((state, problem.clone()));
            return;
        }
        let name = path.file_name().unwrap_or_default();
        let problems = vec![problem.clone()];
        self.entries.push(Entry {
            name: name.to_string_lossy().into_owned(),
            path: path.to_owned(),
            credential: None,
            state: rejected(&problems),
            problems,
            warnings: Vec::new(),
        });
    }

    /// Warns of keys of the agent that users of its socket can read without it.
    fn warn_of_exposures(&mut self, roots: &[Root], config: &Config) {
        // Under its own name, where this is run by an administrator.
        let agent = peer::user_id(&Account::Name(AGENT_USER.to_owned()));
        let own = rustix::process::geteuid().as_raw();
        let clients = Clients::of(config, agent.ok().flatten().unwrap_or(own));
        let is_configured = |path: &Path| roots.iter().any(|root| path.starts_with(&root.path));
        for entry in &mut self.entries {
            let credential = entry.credential.as_deref();
            let Some(key) = credential.and_then(Credential::key_file) else {
                continue;
            };
            if !is_configured(&entry.path) {
                continue;
            }
            for exposure in clients.exposures([&*key]) {
                let what = format!(
                    "the user {} may open the agent's socket, and can also read this private key \
                     directly, whatever the rules are",
                    exposure.user
                );
                let remedy = "let only the group of the agent read it, and let that user be in \
                              another group, which may open the socket";
                let warning = Problem::new(Reason::LooseMode, &key, what, remedy);
                entry.warnings.push(warning);
                entry.state = entry.state.max(State::Warning);
            }
        }
    }
}

impl Entry {
    fn of(credential: &Arc<Credential>, snapshot: &Snapshot, now: SystemTime) -> Self {
        let rejections = credential.rejections.iter();
        let problems: Vec<_> = rejections.map(|one| one.problem.clone()).collect();
        let mut warnings = credential.warnings.clone();
        let winner = snapshot.winner(&credential.name);
        if let Some(winner) = winner.filter(|winner| winner.root != credential.root)
            && credential.serves()
        {
            warnings.push(Problem::new(
                Reason::Name,
                credential.path(),
                format!(
                    "{} has the same name and comes first",
                    winner.path().display()
                ),
                "rename one of them, or leave the other folder out",
            ));
        }
        let state = match () {
            () if !problems.is_empty() => rejected(&problems),
            () if is_due(credential, now) => State::Expiring,
            () if !warnings.is_empty() => State::Warning,
            () => State::Good,
        };
        Self {
            name: credential.name.to_string(),
            path: credential.path(),
            credential: Some(credential.clone()),
            state,
            problems,
            warnings,
        }
    }
}

fn rejected(problems: &[Problem]) -> State {
    let on_purpose = |problem: &Problem| problem.reason() == Reason::Name;
    match problems.iter().all(on_purpose) {
        true => State::PassedOver,
        false => State::Broken,
    }
}

/// Whether a certificate of the chain is out of date, or anything soon will be. A CA that has expired
/// beside good ones is no reason to hurry.
fn is_due(credential: &Credential, now: SystemTime) -> bool {
    let pair = credential
        .secret(Kind::Certificate)
        .map(|pair| pair.facts());
    let chain = pair.and_then(|facts| Some(credential.path().join(facts.files().first()?)));
    pair.is_some_and(|facts| facts.not_before() > Some(now))
        || credential
            .warnings
            .iter()
            .any(|warning| match warning.reason() {
                Reason::ExpiresSoon => true,
                Reason::Expired => chain.as_deref() == Some(warning.path()),
                _ => false,
            })
}

/// The root that `folder` is, or the one that it is in where it is a credential folder, of which nothing
/// else is to be read then.
fn root_of(folder: &Path, config: &Config, only: &mut BTreeMap<Arc<Path>, Arc<str>>) -> Root {
    let is_root = config.roots.iter().any(|root| root.path == *folder);
    if is_root || !is_credential(folder) {
        return settings(folder, config);
    }
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.or(absolute.parent()).unwrap_or(&absolute);
    let name = absolute.file_name().unwrap_or(absolute.as_os_str());
    only.insert(parent.into(), name.to_string_lossy().into());
    Root {
        layout: Layout::Folders,
        ..settings(parent, config)
    }
}

/// Whether `folder` is a credential folder rather than a root: it holds files that may be the parts of
/// one credential, or files alone.
fn is_credential(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    let (mut files, mut folders, mut parts) = (false, false, Vec::new());
    for entry in entries.flatten() {
        let is_folder = fs::metadata(entry.path()).is_ok_and(|found| found.is_dir());
        files |= !is_folder;
        folders |= is_folder;
        let name = entry.file_name().into_string();
        parts.extend(name.ok().filter(|name| !is_folder && layout::takes(name)));
    }
    match parts.is_empty() {
        true => files && !folders,
        false => !roots::is_flat(&parts),
    }
}

/// The settings of the root at `path`.
fn settings(path: &Path, config: &Config) -> Root {
    let same = |root: &&Root| root.path == path;
    match config.roots.iter().find(same) {
        Some(root) => root.clone(),
        None => Root {
            warn_days: config.warn_days,
            ..Root::new(path)
        },
    }
}
