//! The current problems, by subject: each is logged when it appears and when it is resolved, and shown in
//! between.

use std::collections::BTreeMap;
use std::fmt;

use crate::select::{Id, Scope};

/// What a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Object(Id),
    Folder(String),
    Scope(Scope),
    Other(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(id) => id.fmt(f),
            Self::Folder(name) => write!(f, "folder {name}"),
            Self::Scope(scope) => scope.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// The kind of a problem: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An object, or one of its keys, can't be mirrored.
    Refused,
    /// sds-agent would reject the content, so it replaces nothing.
    Content,
    /// Several objects would have the same folder.
    Clash,
    /// The folder was not made by the mirror.
    Foreign,
    /// The folder can't be read.
    Unreadable,
    /// A removal was held back.
    HeldBack,
    /// A folder is kept although no object is mirrored to it.
    Kept,
    /// The system refused to write or remove.
    Write,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Refused,
        Self::Content,
        Self::Clash,
        Self::Foreign,
        Self::Unreadable,
        Self::HeldBack,
        Self::Kept,
        Self::Write,
    ];

    /// The kind as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Clash => "clash",
            Self::Foreign => "foreign_folder",
            Self::Unreadable => "unreadable_folder",
            Self::HeldBack => "removal_held_back",
            Self::Kept => "folder_kept",
            Self::Write => "write",
            Self::Content => "content",
        }
    }

    /// Whether the disk differs from what it should be.
    fn is_error(self) -> bool {
        self != Self::Kept
    }

    /// Whether it prevents the mirror from working.
    fn is_fault(self) -> bool {
        matches!(self, Self::Write | Self::Unreadable)
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// All current problems.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems(BTreeMap<Subject, Problem>);

impl Problems {
    /// Adds a problem, unless the subject already has one.
    pub(crate) fn add(&mut self, subject: Subject, kind: Kind, text: impl Into<String>) {
        let text = text.into();
        self.0.entry(subject).or_insert(Problem { kind, text });
    }

    /// The problem of an object.
    pub(crate) fn of(&self, id: &Id) -> Option<&Problem> {
        self.0.get(&Subject::Object(id.clone()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Subject, &Problem)> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are of a kind.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.0.values().filter(|one| one.kind == kind).count()
    }

    /// Whether the disk is not what it should be.
    pub(crate) fn has_errors(&self) -> bool {
        self.0.values().any(|one| one.kind.is_error())
    }

    /// Whether the mirror can't do its work.
    pub(crate) fn has_faults(&self) -> bool {
        self.0.values().any(|one| one.kind.is_fault())
    }

    /// The problems of objects that are new since `before`.
    pub(crate) fn new_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (&'a Id, &'a Problem)> {
        self.0
            .iter()
            .filter_map(|(subject, problem)| match subject {
                Subject::Object(id) if before.0.get(subject) != Some(problem) => {
                    Some((id, problem))
                }
                _ => None,
            })
    }

    /// Logs what is new since `before`, and what is over.
    pub(crate) fn log_changes(&self, before: &Self) {
        for (subject, problem) in &self.0 {
            if before.0.get(subject) == Some(problem) {
                continue;
            }
            let Problem { kind, text } = problem;
            if kind.is_error() {
                tracing::error!(problem = kind.as_str(), "{subject}: {text}");
            } else {
                tracing::warn!(problem = kind.as_str(), "{subject}: {text}");
            }
        }
        for (subject, problem) in &before.0 {
            if !self.0.contains_key(subject) {
                tracing::info!(
                    problem = problem.kind.as_str(),
                    "{subject}: no longer a problem"
                );
            }
        }
    }
}
