//! A clock for an agent that a test sets, with libfaketime.

use std::path::PathBuf;

use time::{Duration, OffsetDateTime};

use super::tools::LIBFAKETIME;
use super::{Agent, Bed, Identity, require};

const DAY: Duration = Duration::days(1);

/// An agent's clock, which a test sets.
pub(crate) struct Clock {
    pub(crate) bed: Bed,
    library: PathBuf,
}

impl Clock {
    /// A clock with the correct time, and a bed for its agent; `None` without the library for it.
    pub(crate) fn new() -> Option<Self> {
        let clock = Self {
            library: require(&LIBFAKETIME)?,
            bed: Bed::new(),
        };
        clock.set("+0");
        Some(clock)
    }

    /// Sets it to this offset from the real time, such as `+9d`.
    pub(crate) fn set(&self, offset: &str) {
        std::fs::write(self.bed.scratch("clock"), offset).unwrap();
    }

    /// An agent that uses this clock.
    #[track_caller]
    pub(crate) fn agent(&self) -> Agent {
        let builder = self.bed.builder();
        self.bed.ready(
            builder
                .env("LD_PRELOAD", &self.library)
                .env("FAKETIME_TIMESTAMP_FILE", self.bed.scratch("clock"))
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        )
    }

    /// A certificate for `host`, valid from and until these numbers of days from now.
    pub(crate) fn identity(&self, host: &str, from: i64, to: i64) -> Identity {
        let now = OffsetDateTime::now_utc();
        self.bed.ca.server_with(&[host], |params| {
            params.not_before = now + DAY * i32::try_from(from).unwrap();
            params.not_after = now + DAY * i32::try_from(to).unwrap();
        })
    }

    /// Makes the agent check the clock, which it otherwise does each minute.
    pub(crate) fn poke(&self, agent: &Agent) {
        let seen = agent.lines().len();
        self.bed.pair("other");
        agent.wait_for_line_after(seen, &["credential=\"other\""]);
    }
}
