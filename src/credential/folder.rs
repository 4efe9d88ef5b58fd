//! A read of a credential folder → its credential, by the rules of the root that it is in.

use std::path::Path;
use std::time::SystemTime;

use super::{Credential, Pair, Verdict, from_files, layout};
use crate::config::Root;
use crate::files::read::Reading;
use crate::problem::{Problem, Reason};

/// Istio passes over Secrets with this key: they are service account tokens.
const TOKEN: &str = "token";

/// Makes a credential of what a read of `folder` in `root` found, as [`from_files`] does. What could
/// not be read is a problem if it would be a part.
///
/// # Errors
/// All that is wrong with the folder. Folders that are not served on purpose have one problem, with
/// [`Reason::Name`].
pub fn from_reading(
    root: &Root,
    folder: &Path,
    reading: Reading,
    now: SystemTime,
    warn_days: u32,
) -> Result<Credential, Vec<Problem>> {
    if root.skip_token_folders && reading.files.iter().any(|file| file.name == TOKEN) {
        return Err(vec![token(folder)]);
    }
    let names: Vec<&str> = reading.files.iter().map(|file| &*file.name).collect();
    let problems: Vec<Problem> = reading
        .problems
        .into_iter()
        .filter(|problem| matters(folder, problem, &names))
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut credential = from_files(folder, reading.files, now, warn_days)?;
    if root.strict_permissions {
        credential.pair = strictly(credential.pair);
    }
    Ok(credential)
}

/// The places of those of `names` that matter to [`from_reading`], in a folder with too many files to
/// read them all.
pub fn parts_among(names: &[&str]) -> Vec<usize> {
    let token = names.iter().position(|name| *name == TOKEN);
    layout::parts_among(names)
        .into_iter()
        .chain(token)
        .collect()
}

/// Whether a problem of a read is one of the credential that the files `names` make, not one of
/// some other file beside them.
fn matters(folder: &Path, problem: &Problem, names: &[&str]) -> bool {
    let name = problem.path().file_name().and_then(|name| name.to_str());
    problem.path() == folder || name.is_some_and(|name| layout::needs(name, names))
}

/// Rejects a pair whose key others can read, rather than warn of it.
fn strictly(mut pair: Verdict<Pair>) -> Verdict<Pair> {
    let is_loose = |warning: &Problem| warning.reason() == Reason::LooseMode;
    let (loose, others) = pair.warnings.into_iter().partition(is_loose);
    pair.warnings = others;
    pair.problems.append(&mut { loose });
    pair.part = pair.part.filter(|_| pair.problems.is_empty());
    pair
}

fn token(folder: &Path) -> Problem {
    Problem::new(
        Reason::Name,
        folder.join(TOKEN),
        "a folder with this file is passed over, as Istio does with such Secrets",
        "remove the file, or set skip_token_folders = false",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::{ca, files, leaf};

    /// What a folder with these files, and something unreadable called `unreadable`, amounts to.
    fn verdict(
        root: &Root,
        names: &[(&str, &str)],
        unreadable: Option<&str>,
    ) -> Result<Credential, Vec<Reason>> {
        let folder = Path::new("/c/a");
        let problem = |name: &str| Problem::new(Reason::NotAFile, folder.join(name), "", "");
        let reading = Reading {
            present: true,
            files: files(names),
            problems: unreadable.map(problem).into_iter().collect(),
            stamps: Default::default(),
        };
        from_reading(root, folder, reading, SystemTime::now(), 30)
            .map_err(|problems| problems.iter().map(Problem::reason).collect())
    }

    #[test]
    fn what_is_no_part_is_nobodys_concern() {
        let (cert, key) = leaf(&ca("root"), "a.example");
        let pair = [("tls.crt", cert.as_str()), ("tls.key", &key)];
        let root = Root::new("/c");
        for name in ["README", "old", "key.pem", "a.key"] {
            assert!(verdict(&root, &pair, Some(name)).is_ok(), "{name}");
        }
        for name in ["ca.crt", "crl.pem"] {
            let got = verdict(&root, &pair, Some(name));
            assert_eq!(got.unwrap_err(), [Reason::NotAFile], "{name}");
        }
        let got = verdict(&root, &pair[..1], Some("tls.key"));
        assert_eq!(got.unwrap_err(), [Reason::NotAFile]);
    }

    #[test]
    fn a_service_account_token_is_passed_over_unless_it_may_be_there() {
        let (cert, key) = leaf(&ca("root"), "a.example");
        let names = [
            ("tls.crt", cert.as_str()),
            ("tls.key", &key),
            ("token", "t"),
        ];
        let mut root = Root::new("/c");
        assert_eq!(verdict(&root, &names, None).unwrap_err(), [Reason::Name]);
        root.skip_token_folders = false;
        assert_eq!(verdict(&root, &names, None).unwrap().skipped, ["token"]);
    }

    #[test]
    fn strict_permissions_refuse_what_is_otherwise_warned_of() {
        let (cert, key) = leaf(&ca("root"), "a.example");
        let mut list = files(&[("tls.crt", &cert), ("tls.key", &key)]);
        for file in &mut list {
            file.mode = 0o644;
        }
        let credential = crate::credential::tests::read(list).unwrap();
        let pair = strictly(credential.pair);
        assert!(pair.part.is_none());
        assert_eq!(pair.problems[0].reason(), Reason::LooseMode);
    }
}
