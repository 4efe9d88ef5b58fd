//! What has been found wrong so far.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::credential::Verdict;
use crate::credential::pem::{self, Block, Flaw};
use crate::files::read::File;
use crate::problem::{Problem, Reason};

/// What has been found wrong so far with the files of one folder, and what it is measured by.
pub(crate) struct Findings<'a> {
    folder: &'a Path,
    /// What decides what has expired.
    pub(super) now: SystemTime,
    /// How long before its end a certificate is warned of.
    pub(super) soon: Duration,
    /// What keeps the credential from being served.
    pub(crate) errors: Vec<Problem>,
    /// What does not.
    pub(crate) warnings: Vec<Problem>,
}

impl<'a> Findings<'a> {
    /// Nothing yet about the files in `folder`.
    pub(crate) fn new(folder: &'a Path, now: SystemTime, warn_days: u32) -> Self {
        Self {
            folder,
            now,
            soon: Duration::from_secs(u64::from(warn_days) * 86_400),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The verdict on `part`, which is served when nothing keeps it from being served.
    pub(crate) fn verdict<T>(self, part: Option<T>) -> Verdict<T> {
        Verdict {
            part: part.filter(|_| self.errors.is_empty()),
            problems: self.errors,
            warnings: self.warnings,
        }
    }

    /// Takes in what keeps the credential from being served. In the remedy, FILE stands for the
    /// file's path.
    pub(super) fn error(
        &mut self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.errors.push(self.problem(reason, file, what, remedy));
    }

    /// Takes in what is worth a warning. In the remedy, FILE stands for the file's path.
    pub(crate) fn warn(
        &mut self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings.push(self.problem(reason, file, what, remedy));
    }

    fn problem(
        &self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let path = self.folder.join(file);
        let remedy = remedy.into().replace("FILE", &quoted(&path));
        Problem::new(reason, path, what, remedy)
    }

    /// Takes in a flaw that keeps the credential from being served.
    pub(super) fn flaw(&mut self, reason: Reason, file: &str, flaw: Flaw) {
        self.error(reason, file, flaw.what, flaw.remedy);
    }

    /// The PEM blocks of a file; `None`, and an error, when Envoy would not read them all.
    pub(super) fn blocks<'f>(&mut self, reason: Reason, file: &'f File) -> Option<Vec<Block<'f>>> {
        pem::blocks(&file.bytes)
            .map_err(|flaw| self.flaw(reason, &file.name, flaw))
            .ok()
    }

    /// An error for a file that lacks what it is there for. `openssl` is the command for such things.
    pub(super) fn nothing(
        &mut self,
        reason: Reason,
        file: &File,
        blocks: &[Block<'_>],
        wanted: &str,
        openssl: &str,
    ) {
        if blocks.is_empty() {
            let (what, remedy) = pem::instead(&file.bytes, openssl);
            self.error(reason, &file.name, what, remedy);
        } else {
            let what = format!("there is no {wanted} among the PEM blocks in it");
            self.error(reason, &file.name, what, format!("put the {wanted} there"));
        }
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string().escape_debug().to_string();
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-+:@%".contains(char);
    if path.chars().all(plain) {
        return path;
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}
