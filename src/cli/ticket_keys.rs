//! `sds-agent ticket-keys`: creates and rotates TLS session ticket keys.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::output;

const EXAMPLES: &str = "\
Examples:
  Add a new key, and keep the two keys before it, so that their tickets stay valid
      sds-agent ticket-keys rotate /etc/sds-agent/credentials/site --keep 3
  Every twelve hours: see ticket-keys.timer among the examples

A client resumes its session as long as the key of its ticket is in the folder. Envoys on several
machines resume each other's sessions when they have the same keys: rotate on one machine, and copy
the folder to the others.";

/// The ending of the files.
const ENDING: &str = ".ticketkey";
/// The length that Envoy accepts.
const LENGTH: usize = 80;

/// The options of `ticket-keys`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Add a new key, which encrypts from now on, and remove the oldest ones
    Rotate(Rotate),
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
struct Rotate {
    /// The credential folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// How many keys to keep, including the new one
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    keep: u16,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let Action::Rotate(rotate) = args.action;
    match rotate.run() {
        Ok(made) => output::print(format!("{}\n", output::shown(&made)).as_bytes()),
        Err(error) => {
            let folder = rotate.folder.display().to_string();
            output::fail(format_args!("{}: {error}", output::shown(&folder)))
        }
    }
}

impl Rotate {
    /// Adds a key, removes the oldest ones, and returns the path of the new one.
    fn run(&self) -> io::Result<String> {
        let before = keys(&self.folder)?;
        let name = name(SystemTime::now());
        if let Some(newest) = before.last().filter(|newest| **newest >= name) {
            return Err(io::Error::other(format!(
                "the newest key, {newest}, has a name from the future; set the clock, or rename \
                 the key"
            )));
        }
        let path = self.folder.join(&name);
        write(&self.folder, &path, before.last())?;
        // Only after the new one is in place, so that no key is lost if something fails before.
        let keep = usize::from(self.keep);
        let mut all = keys(&self.folder)?;
        all.truncate(all.len().saturating_sub(keep));
        for old in all {
            match fs::remove_file(self.folder.join(old)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(path.display().to_string())
    }
}

/// The names of the keys, oldest first.
fn keys(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().into_string();
        names.extend(
            name.ok()
                .filter(|name| name.ends_with(ENDING) && !name.starts_with('.')),
        );
    }
    names.sort_unstable();
    Ok(names)
}

/// A name that sorts after those of earlier keys, such as `20260131T081500.123456789Z.ticketkey`.
fn name(now: SystemTime) -> String {
    let time = humantime::format_rfc3339_nanos(now).to_string();
    format!("{}{ENDING}", time.replace(['-', ':'], ""))
}

/// Writes a new key to `path` atomically, with the owner and mode of the key `like`.
fn write(folder: &Path, path: &Path, like: Option<&String>) -> io::Result<()> {
    let mut key = Zeroizing::new([0; LENGTH]);
    SystemRandom::new()
        .fill(&mut *key)
        .map_err(|_| io::Error::other("the kernel did not provide random numbers"))?;
    let model = match like {
        Some(name) => Some(fs::metadata(folder.join(name))?),
        None => None,
    };
    let temporary = path.with_extension("new");
    let result = write_as(&temporary, &*key, folder, model.as_ref())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(folder)?.sync_all());
    if result.is_err() {
        // It may not exist.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_as(
    path: &Path,
    key: &[u8],
    folder: &Path,
    model: Option<&fs::Metadata>,
) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(key)?;
    // Usually the agent can read it because of its group.
    let own = file.metadata()?;
    let (user, group, mode) = match model {
        Some(model) => (model.uid(), model.gid(), model.mode() & 0o770),
        None => (own.uid(), fs::metadata(folder)?.gid(), 0o640),
    };
    if (user, group) != (own.uid(), own.gid()) {
        fchown(&file, Some(user), Some(group))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}
