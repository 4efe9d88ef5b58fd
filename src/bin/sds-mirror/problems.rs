//! What is wrong at present, by subject: each problem is logged when it comes and when it goes, and
//! shown for as long as it lasts.

use std::collections::BTreeMap;

/// The kind of a problem: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A Secret, or a key of one, that can't be mirrored.
    Refused,
    /// Several Secrets want one folder.
    Clash,
    /// The folder was made by somebody else.
    Foreign,
    /// A removal was held back.
    HeldBack,
    /// A folder is kept though no Secret is mirrored to it.
    Kept,
    /// The system refused to write or remove.
    Write,
    /// The content is not what sds-agent serves.
    Content,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Refused,
        Self::Clash,
        Self::Foreign,
        Self::HeldBack,
        Self::Kept,
        Self::Write,
        Self::Content,
    ];

    /// The kind as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Clash => "clash",
            Self::Foreign => "foreign_folder",
            Self::HeldBack => "removal_held_back",
            Self::Kept => "folder_kept",
            Self::Write => "write",
            Self::Content => "content",
        }
    }

    /// Whether something that should be on disk is not, or the other way round.
    fn is_error(self) -> bool {
        !matches!(self, Self::Content | Self::Kept)
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// All that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems(BTreeMap<String, Problem>);

impl Problems {
    /// Adds a problem of `subject`; of two, the first one stays.
    pub(crate) fn add(&mut self, subject: impl ToString, kind: Kind, text: impl Into<String>) {
        let text = text.into();
        self.0
            .entry(subject.to_string())
            .or_insert(Problem { kind, text });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Problem)> {
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
