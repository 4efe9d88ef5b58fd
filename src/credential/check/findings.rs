//! The problems found so far.

use std::borrow::Cow;
use std::path::Path;
use std::time::SystemTime;

use crate::credential::Verdict;
use crate::credential::contents::Item;
use crate::credential::pem::{self, Block, Flaw};
use crate::files::read::LISTED;
use crate::problem::{Problem, Reason};

/// The problems found so far in the files of one folder, and the rules for the check.
pub(crate) struct Findings<'a> {
    folder: &'a Path,
    /// The time that decides what has expired.
    pub(super) now: SystemTime,
    /// A certificate causes a warning at most this many days before its end.
    pub(super) warn_days: u32,
    /// Problems that prevent the credential from being served.
    pub(crate) errors: Vec<Problem>,
    /// Problems that do not.
    pub(crate) warnings: Vec<Problem>,
}

impl<'a> Findings<'a> {
    /// No problems yet, for files in `folder`.
    pub(crate) fn new(folder: &'a Path, now: SystemTime, warn_days: u32) -> Self {
        Self {
            folder,
            now,
            warn_days,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The verdict on `part`, which is served if there are no errors.
    pub(crate) fn verdict<T>(self, part: Option<T>) -> Verdict<T> {
        Verdict {
            part: part.filter(|_| self.errors.is_empty()),
            problems: self.errors,
            warnings: self.warnings,
        }
    }

    /// Adds a problem that prevents the credential from being served. In the remedy, FILE stands for the file's
    /// path.
    pub(crate) fn error(
        &mut self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) {
        self.errors.push(self.problem(reason, file, what, remedy));
    }

    /// Adds a warning. In the remedy, FILE stands for the file's path.
    pub(crate) fn warn(
        &mut self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) {
        let warning = self.problem(reason, file, what, remedy);
        self.warnings.push(warning.shared());
    }

    fn problem(
        &self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem::new(reason, self.folder.join(file), what, remedy).for_file()
    }

    /// Adds a flaw that prevents the credential from being served.
    pub(super) fn flaw(&mut self, reason: Reason, file: &str, flaw: Flaw) {
        self.error(reason, file, flaw.what, flaw.remedy);
    }

    /// The PEM blocks of a file; `None`, and an error, if it can't be read, or Envoy would not read all of them.
    /// Warns of what was tidied.
    pub(super) fn blocks<'f>(&mut self, reason: Reason, file: &'f Item) -> Option<&'f [Block]> {
        self.readable(file)?;
        match &file.blocks {
            Ok(blocks) => {
                if let Some((what, remedy)) = &file.tidied {
                    self.warn(Reason::Tidied, &file.name, what, *remedy);
                }
                Some(blocks)
            }
            Err((own, flaw)) => {
                let reason = if *own == Reason::BadPem { reason } else { *own };
                self.flaw(reason, &file.name, flaw.clone());
                None
            }
        }
    }

    /// `None`, and an error, if the file could not be read.
    pub(super) fn readable(&mut self, file: &Item) -> Option<()> {
        match &file.unreadable {
            None => Some(()),
            Some(problem) => {
                self.errors.push(problem.clone());
                None
            }
        }
    }

    /// An error for a file without the expected content. `openssl` is the command that reads such content.
    pub(super) fn nothing(&mut self, reason: Reason, file: &Item, wanted: &str, openssl: &str) {
        if file.blocks.as_ref().is_ok_and(Vec::is_empty) {
            self.flaw(reason, &file.name, pem::foreign(&file.bytes, openssl));
        } else {
            let what = format!("there is no {wanted} among the PEM blocks in it");
            self.error(reason, &file.name, what, format!("put the {wanted} there"));
        }
    }

    /// Warns of a secret that users other than the file's owner and group can read or replace.
    pub(crate) fn check_mode(&mut self, file: &Item, what: &str) {
        if file.mode & LISTED != 0 {
            self.warn(
                Reason::LooseMode,
                &file.name,
                format!("an access control list gives other users or groups access to the {what}"),
                "look at it with `getfacl FILE`, and remove it with `setfacl -b FILE`",
            );
        }
        if file.mode & 0o007 != 0 {
            let mode = file.mode & 0o7777;
            self.warn(
                Reason::LooseMode,
                &file.name,
                format!("the mode of the {what} is {mode:04o}: other users have access to it"),
                "remove it: chmod o= FILE",
            );
        }
    }
}
