//! Folders → what the agent would make of each.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use sds_agent::config::{Account, Config, Root};
use sds_agent::credential::{Credential, from_reading, layout};
use sds_agent::exposure::Clients;
use sds_agent::files::read::{Unwatched, read, read_confined};
use sds_agent::files::roots::{list, list_confined};
use sds_agent::peer;
use sds_agent::problem::{Problem, Reason};

use crate::cli::output::COULD_NOT;

/// The user that the packaging makes for the agent.
const AGENT_USER: &str = "sds-agent";

/// What was found in all folders.
pub(super) struct Survey {
    /// When.
    pub(super) now: SystemTime,
    /// The credentials, in the order of the folders, by name.
    pub(super) entries: Vec<Entry>,
    /// What could not be looked at.
    pub(super) failures: Vec<Problem>,
}

/// A credential folder.
pub(super) struct Entry {
    /// The name of the folder, which is the credential's.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) verdict: Result<Credential, Vec<Problem>>,
    pub(super) state: State,
    /// It is in a folder of such folders, where names compete.
    in_root: bool,
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
    /// It is not served, or no longer as the files have it.
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
    /// Looks at `folders`, or at the configured roots when there is none.
    pub(super) fn of(folders: &[PathBuf], config: &Config, now: SystemTime) -> Self {
        let mut survey = Self {
            now,
            entries: Vec::new(),
            failures: Vec::new(),
        };
        if folders.is_empty() {
            for root in &config.roots {
                survey.root(root, config);
            }
        }
        for folder in folders {
            let is_root = config.roots.iter().any(|root| root.path == *folder);
            if !is_root && is_credential(folder) {
                let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
                let parent = absolute.parent().unwrap_or(&absolute);
                let name = absolute.file_name().unwrap_or(absolute.as_os_str());
                let name = name.to_string_lossy().into_owned();
                let root = settings(parent, config);
                survey.folder(name, folder.clone(), &root, config, false);
            } else {
                survey.root(&settings(folder, config), config);
            }
        }
        survey.warn_of_namesakes();
        survey.warn_of_exposures(config);
        survey
    }

    /// What the process is to end with.
    pub(super) fn exit_code(&self) -> ExitCode {
        let worst = self.entries.iter().map(|entry| entry.state).max();
        if !self.failures.is_empty() {
            ExitCode::from(COULD_NOT)
        } else if worst >= Some(State::Expiring) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    fn root(&mut self, root: &Root, config: &Config) {
        let list = if root.confine { list_confined } else { list };
        let listing = list(&root.path, config.limits.credentials, &mut Unwatched);
        if !listing.present && listing.problems.is_empty() {
            self.failures.push(Problem::new(
                Reason::Unreadable,
                &root.path,
                "it does not exist",
                "make it, or name the folder that is meant",
            ));
        }
        for problem in listing.problems {
            self.listed(root, problem);
        }
        for (name, path) in listing.folders {
            self.folder(name, path, root, config, true);
        }
    }

    /// Takes in a problem of a listing: a folder that has one, or the root itself.
    fn listed(&mut self, root: &Root, problem: Problem) {
        let path = problem.path().to_owned();
        if path == root.path {
            self.failures.push(problem);
            return;
        }
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        self.entry(name, path, Err(vec![problem]), true);
    }

    fn folder(&mut self, name: String, path: PathBuf, root: &Root, config: &Config, in_root: bool) {
        let reading = if root.confine {
            read_confined(&root.path, &path, &config.limits, &mut Unwatched)
        } else {
            read(&path, &config.limits, &mut Unwatched)
        };
        // It may have gone since its root was listed.
        if reading.present {
            let verdict = from_reading(root, &path, reading, self.now, config.warn_days);
            self.entry(name, path, verdict, in_root);
        }
    }

    fn entry(
        &mut self,
        name: String,
        path: PathBuf,
        verdict: Result<Credential, Vec<Problem>>,
        in_root: bool,
    ) {
        let state = state(&path, &verdict, self.now);
        self.entries.push(Entry {
            name,
            path,
            verdict,
            state,
            in_root,
        });
    }

    /// Warns of keys of the agent that users of its socket can read without it.
    fn warn_of_exposures(&mut self, config: &Config) {
        // Under its own name, where this is run by an administrator.
        let agent = peer::user_id(&Account::Name(AGENT_USER.to_owned()));
        let own = rustix::process::geteuid().as_raw();
        let clients = Clients::of(config, agent.ok().flatten().unwrap_or(own));
        let is_configured = |path: &Path| config.roots.iter().any(|r| path.starts_with(&r.path));
        for entry in &mut self.entries {
            if let Ok(credential) = &mut entry.verdict
                && let Some(pair) = &credential.pair
                && is_configured(&entry.path)
            {
                let key = entry.path.join(&pair.files[1]);
                for exposure in clients.exposures([&*key]) {
                    let what = format!(
                        "the user {} may open the agent's socket, and can also read this private key \
                         directly, whatever the rules are",
                        exposure.user
                    );
                    let remedy = "let only the group of the agent read it, and let that user be in \
                                  another group, which may open the socket";
                    let warning = Problem::new(Reason::LooseMode, &key, what, remedy);
                    credential.warnings.push(warning);
                    entry.state = entry.state.max(State::Warning);
                }
            }
        }
    }

    /// The first root that has a name wins: warns of the others.
    fn warn_of_namesakes(&mut self) {
        let mut served: HashMap<String, PathBuf> = HashMap::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.in_root) {
            let Some(winner) = served.get(&entry.name) else {
                served.insert(entry.name.clone(), entry.path.clone());
                continue;
            };
            if let Ok(credential) = &mut entry.verdict {
                credential.warnings.push(Problem::new(
                    Reason::Name,
                    &entry.path,
                    format!("{} has the same name and comes first", winner.display()),
                    "rename one of them, or leave the other folder out",
                ));
                entry.state = entry.state.max(State::Warning);
            }
        }
    }
}

impl Entry {
    /// What keeps it from being served.
    pub(super) fn problems(&self) -> &[Problem] {
        self.verdict.as_ref().err().map_or(&[], Vec::as_slice)
    }

    /// What does not.
    pub(super) fn warnings(&self) -> &[Problem] {
        self.verdict
            .as_ref()
            .map_or(&[], |credential| &credential.warnings)
    }
}

fn state(path: &Path, verdict: &Result<Credential, Vec<Problem>>, now: SystemTime) -> State {
    match verdict {
        Err(problems)
            if problems
                .iter()
                .all(|problem| problem.reason() == Reason::Name) =>
        {
            State::PassedOver
        }
        Err(_) => State::Broken,
        Ok(credential) if is_due(path, credential, now) => State::Expiring,
        Ok(credential) if credential.warnings.is_empty() => State::Good,
        Ok(_) => State::Warning,
    }
}

/// Whether a certificate of the chain is out of date, or anything soon will be. A CA that has expired
/// beside good ones is no reason to hurry.
fn is_due(path: &Path, credential: &Credential, now: SystemTime) -> bool {
    let chain = credential
        .pair
        .as_ref()
        .map(|pair| path.join(&pair.files[0]));
    let early = |pair: &sds_agent::credential::Pair| pair.leaf.not_before > now;
    credential.pair.as_ref().is_some_and(early)
        || credential
            .warnings
            .iter()
            .any(|warning| match warning.reason() {
                Reason::ExpiresSoon => true,
                Reason::Expired => chain.as_deref() == Some(warning.path()),
                _ => false,
            })
}

/// Whether `folder` is a credential folder rather than a folder of such: it holds a file that may be a
/// part of a credential, or files alone.
fn is_credential(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    let (mut files, mut folders) = (false, false);
    for entry in entries.flatten() {
        let is_folder = fs::metadata(entry.path()).is_ok_and(|found| found.is_dir());
        let name = entry.file_name();
        if !is_folder && name.to_str().is_some_and(layout::takes) {
            return true;
        }
        files |= !is_folder;
        folders |= is_folder;
    }
    files && !folders
}

/// The settings of the root at `path`.
fn settings(path: &Path, config: &Config) -> Root {
    let same = |root: &&Root| root.path == path;
    match config.roots.iter().find(same) {
        Some(root) => root.clone(),
        None => Root::new(path),
    }
}

/// How long something is still valid, or since when it is not.
pub(super) fn remaining(until: SystemTime, now: SystemTime) -> String {
    match until.duration_since(now) {
        Ok(left) => format!("in {}", rounded(left)),
        Err(past) => format!("{} ago", rounded(past.duration())),
    }
}

fn rounded(time: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "days"), (3_600, "hours"), (60, "minutes")];
    let seconds = time.as_secs();
    UNITS
        .iter()
        .find(|(unit, _)| seconds >= 2 * unit)
        .map_or_else(
            || format!("{seconds} seconds"),
            |(unit, name)| format!("{} {name}", seconds / unit),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (seconds, text) in [
            (90 * 86_400, "90 days"),
            (47 * 3_600, "47 hours"),
            (119 * 60, "119 minutes"),
            (119, "119 seconds"),
        ] {
            let time = Duration::from_secs(seconds);
            assert_eq!(remaining(now + time, now), format!("in {text}"));
            assert_eq!(remaining(now - time, now), format!("{text} ago"));
        }
    }
}
