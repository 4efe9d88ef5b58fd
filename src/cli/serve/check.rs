//! `sds-agent serve --check-config`: what would make `serve` fail on this machine, and what is dangerous.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Access, access};
use sds_agent::config::{Account, Config, DEFAULT_CONFIG, Layout, Root};
use sds_agent::listen::ListenError;
use sds_agent::peer;
use sds_agent::text::escape;

use super::source::Source;
use crate::cli::output;

/// Reports all errors, or that the configuration is valid, with warnings and with notes about possible surprises.
pub(super) fn run(source: &Source, config: &Config) -> ExitCode {
    let file = match source.file() {
        Some(file) => file.display().to_string(),
        None => format!("{DEFAULT_CONFIG} does not exist, the defaults apply"),
    };
    let errors = errors(config);
    if !errors.is_empty() {
        let place = |error: &String| format!("{file}: {error}");
        errors.iter().map(place).for_each(output::say);
        return ExitCode::FAILURE;
    }
    let warnings = config.warnings.iter().cloned().chain(dangers(config));
    let warnings = warnings.map(|warning| format!("warning: {warning}"));
    let roots = config.roots.iter().filter_map(unusable);
    let notes = roots.chain(sockets(config).filter_map(unwritable));
    let notes = notes.map(|note| format!("note: {note}"));
    let lines = warnings.chain(notes).chain([format!("OK: {file}")]);
    let text: String = lines.map(|line| format!("{}\n", escape(&line))).collect();
    output::print(text.as_bytes())
}

/// Why a root can't be read at the moment. It is served as soon as it can be read.
fn unusable(root: &Root) -> Option<String> {
    if matches!(root.layout, Layout::Named(_)) {
        return None;
    }
    let path = root.path.display();
    match fs::read_dir(&root.path).err()? {
        error if error.kind() == io::ErrorKind::NotADirectory => {
            Some(format!("{path} is not a folder"))
        }
        error if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("{path} does not exist yet"))
        }
        error => Some(format!(
            "this user can't read {path}: {error}; the agent's user must be able to"
        )),
    }
}

/// Why this user can't create a socket there. The agent may run as another user.
fn unwritable(socket: &Path) -> Option<String> {
    let folder = socket.parent()?;
    let made = match folder.exists() {
        true => folder,
        // `serve` creates the folder then.
        false => folder.parent()?,
    };
    let error = access(made, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!(
        "this user can't create {} in {}: {}; the agent's user must be able to",
        match made == folder {
            true => "a socket",
            false => "the folder of the socket",
        },
        made.display(),
        io::Error::from(error)
    ))
}

fn sockets(config: &Config) -> impl Iterator<Item = &Path> {
    let admin = config.admin.socket.as_deref();
    let all = [Some(&*config.listen.socket), admin];
    // Usually they are in one folder.
    let same = admin.is_some_and(|path| path.parent() == config.listen.socket.parent());
    all.into_iter().take(if same { 1 } else { 2 }).flatten()
}

/// What would make `serve` fail: users and groups that don't exist on this machine, and paths where no socket can
/// be created.
fn errors(config: &Config) -> Vec<String> {
    let (listen, admin) = (&config.listen, &config.admin);
    let rules = config.access.iter();
    let users = [
        ("allow_users in [listen]", &listen.allow_users),
        ("allow_users in [admin]", &admin.allow_users),
    ];
    let groups = [
        ("allow_groups in [listen]", &listen.allow_groups),
        ("allow_groups in [admin]", &admin.allow_groups),
    ];
    let users = users
        .into_iter()
        .chain(
            rules
                .clone()
                .map(|rule| ("users in [[access]]", &rule.users)),
        )
        .flat_map(|(place, users)| users.iter().map(move |user| (place, user)));
    let of_sockets = [
        ("group in [listen]", listen.group.as_ref()),
        ("group in [admin]", admin.group.as_ref()),
    ];
    let of_sockets = of_sockets.into_iter();
    let of_sockets = of_sockets.filter_map(|(place, group)| Some((place, group?)));
    let groups = groups
        .into_iter()
        .chain(rules.map(|rule| ("groups in [[access]]", &rule.groups)))
        .flat_map(|(place, groups)| groups.iter().map(move |group| (place, group)))
        .chain(of_sockets);
    let sockets = [Some(&listen.socket), admin.socket.as_ref()];
    let users = users.filter_map(|(place, user)| unknown(place, "user", user));
    let groups = groups.filter_map(|(place, group)| unknown(place, "group", group));
    let sockets = sockets
        .into_iter()
        .flatten()
        .filter_map(|path| no_socket(path));
    let proc = no_proc().into_iter();
    proc.chain(users).chain(groups).chain(sockets).collect()
}

/// Why the agent can't work here: it watches folders, and sets the modes of its sockets, through /proc.
pub(super) fn no_proc() -> Option<String> {
    let is_mounted = Path::new("/proc/self/fd").is_dir();
    (!is_mounted).then(|| {
        "/proc is not mounted here, and the agent needs it; mount it with `mount -t proc proc /proc`, in \
         the root folder that the agent is started in"
            .to_owned()
    })
}

fn unknown(place: &str, kind: &str, account: &Account) -> Option<String> {
    let found = match kind {
        "user" => peer::user_id(account),
        _ => peer::group_id(account),
    };
    match found {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!(
            "{place}: this machine has no {kind} `{account}`; create it with `{kind}add -r {account}`, or \
             name another one"
        )),
        Err(error) => Some(format!(
            "{place}: the {kind} `{account}` can't be looked up: {error}; see /etc/nsswitch.conf"
        )),
    }
}

fn no_socket(path: &Path) -> Option<String> {
    let error = match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => ListenError::NotASocket(path.to_owned()),
        Ok(_) => return None,
        Err(_) => {
            // The folder itself is created if its parent exists.
            let folder = path.parent()?;
            if folder.exists() || folder.parent().is_none_or(Path::exists) {
                return None;
            }
            ListenError::NoFolder {
                path: path.to_owned(),
                folder: folder.to_owned(),
            }
        }
    };
    Some(error.to_string())
}

/// Settings that permit more than was probably intended.
fn dangers(config: &Config) -> Vec<String> {
    let (listen, admin) = (&config.listen, &config.admin);
    let names_nobody =
        |users: &[Account], groups: &[Account]| users.is_empty() && groups.is_empty();
    let mut dangers = Vec::new();
    let gives_to_all = config.access.is_empty()
        || config
            .access
            .iter()
            .any(|rule| names_nobody(&rule.users, &rule.groups));
    if listen.mode & 0o002 != 0
        && names_nobody(&listen.allow_users, &listen.allow_groups)
        && gives_to_all
    {
        dangers.push(format!(
            "mode {:04o} in [listen] lets every user of this machine fetch private keys; use 0660, or name \
             who may connect in allow_users and allow_groups",
            listen.mode
        ));
    }
    if admin.socket.is_some()
        && admin.mode & 0o002 != 0
        && names_nobody(&admin.allow_users, &admin.allow_groups)
    {
        dangers.push(format!(
            "mode {:04o} in [admin] lets every user of this machine see the names of all secrets, their \
             files and their clients; use 0600, or name who may connect in allow_users and allow_groups",
            admin.mode
        ));
    }
    dangers
}
