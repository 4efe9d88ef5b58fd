//! A read of a credential folder → its credential, by the rules of the root that it is in.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Credential, Rules, Verdict, contents, judge, layout};
use crate::config::Root;
use crate::files::read::Reading;
use crate::problem::{Problem, Reason};

/// Istio skips Secrets with this key: they are service account tokens.
const TOKEN: &str = "token";

/// Makes a credential from what a read of `folder` in `root` found, as [`from_files`](super::from_files) does. What
/// could not be read is a problem of the part that needs it.
///
/// # Errors
/// The folder as a whole could not be read. Folders that are not served on purpose have one problem,
/// with [`Reason::Name`].
pub fn from_reading(
    root: &Root,
    folder: &Path,
    reading: Reading,
    now: SystemTime,
) -> Result<Credential, Vec<Problem>> {
    if root.skip_token_folders && reading.files.iter().any(|file| file.name == TOKEN) {
        return Err(vec![token(folder)]);
    }
    let (of_folder, of_files): (Vec<_>, Vec<_>) = reading
        .problems
        .into_iter()
        .partition(|problem| problem.path() == folder);
    if !of_folder.is_empty() {
        return Err(of_folder);
    }
    let name = folder.file_name().and_then(|name| name.to_str());
    let trust = name.and_then(|name| root.trust.get(name));
    let rules = Rules {
        now,
        warn_days: root.warn_days_of(name.unwrap_or_default()),
        trust: trust.map(Arc::clone).unwrap_or_default(),
    };
    let items = contents::items(folder, reading.files, of_files);
    let mut credential = judge(folder, items, &rules);
    if root.strict_permissions {
        credential.pair = strictly(credential.pair);
        credential.ticket_keys = strictly(credential.ticket_keys);
        credential.generic = strictly(credential.generic);
    }
    Ok(credential)
}

/// The indexes of the `names` that matter to [`from_reading`], for a folder with too many files to read all of
/// them.
pub fn parts_among(names: &[&str]) -> Vec<usize> {
    let token = names.iter().position(|name| *name == TOKEN);
    layout::parts_among(names)
        .into_iter()
        .chain(token)
        .collect()
}

/// Rejects a part with a secret that others can read, instead of warning of it.
fn strictly<T>(part: Verdict<T>) -> Verdict<T> {
    let is_loose = |warning: &Problem| warning.reason() == Reason::LooseMode;
    let (loose, warnings): (Vec<_>, Vec<_>) = part.warnings.into_iter().partition(is_loose);
    let problems = [part.problems, loose].concat();
    Verdict {
        part: part.part.filter(|_| problems.is_empty()),
        problems,
        warnings,
    }
}

fn token(folder: &Path) -> Problem {
    Problem::new(
        Reason::Name,
        folder.join(TOKEN),
        "a folder with this file is skipped, as Istio does with such Secrets",
        "remove the file, or set skip_token_folders = false",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::{ca, files, leaf};
    use crate::text::Texts;

    /// The result for a folder with these files, and with something unreadable called `unreadable`.
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
            root: Default::default(),
        };
        from_reading(root, folder, reading, SystemTime::now())
            .map_err(|problems| problems.iter().map(Problem::reason).collect())
    }

    #[test]
    fn a_file_that_cant_be_read_is_a_problem_of_the_part_that_needs_it() {
        let (cert, key) = leaf(&ca("root"), "a.example");
        let pair = [("tls.crt", cert.as_str()), ("tls.key", &key)];
        let root = Root::new("/c");
        for name in ["README", "old", "key.pem", "a.key"] {
            let credential = verdict(&root, &pair, Some(name)).unwrap();
            assert_eq!(credential.problems().count(), 0, "{name}");
            assert_eq!(credential.skipped, Texts::from_iter([name]));
        }
        let reasons = |problems: &[Problem]| -> Vec<Reason> {
            problems.iter().map(Problem::reason).collect()
        };
        let credential = verdict(&root, &pair, Some("ca.crt")).unwrap();
        assert!(credential.pair.part.is_some());
        assert_eq!(reasons(&credential.bundle.problems), [Reason::NotAFile]);
        let credential = verdict(&root, &pair, Some("a.ticketkey")).unwrap();
        assert_eq!(
            reasons(&credential.ticket_keys.problems),
            [Reason::NotAFile]
        );
        for (known, missing) in [
            (&pair[..1], "tls.key"),
            (&pair[1..], "tls.crt"),
            (&[], "a.pem"),
        ] {
            let credential = verdict(&root, known, Some(missing)).unwrap();
            assert_eq!(
                reasons(&credential.pair.problems),
                [Reason::NotAFile],
                "{missing}"
            );
        }
    }

    #[test]
    fn a_service_account_token_is_skipped_unless_the_root_allows_it() {
        let (cert, key) = leaf(&ca("root"), "a.example");
        let names = [
            ("tls.crt", cert.as_str()),
            ("tls.key", &key),
            ("token", "t"),
        ];
        let mut root = Root::new("/c");
        assert_eq!(verdict(&root, &names, None).unwrap_err(), [Reason::Name]);
        root.skip_token_folders = false;
        let judged = verdict(&root, &names, None).unwrap();
        assert_eq!(judged.skipped, Texts::from_iter(["token"]));
    }

    #[test]
    fn strict_permissions_reject_what_otherwise_causes_a_warning() {
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
