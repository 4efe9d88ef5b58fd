//! Numbers, and how they are printed.

use std::time::Duration;

/// A title over the lines that follow.
pub(crate) fn title(text: &str) {
    println!("\n{text}");
}

/// One line of a table.
pub(crate) fn line(what: &str, value: impl std::fmt::Display) {
    println!("  {what:<52} {value}");
}

/// A short duration.
pub(crate) fn micros(duration: Duration) -> String {
    format!("{:.1} µs", duration.as_secs_f64() * 1e6)
}

/// The shortest of them: what anything else on the machine slowed the least.
pub(crate) fn shortest(durations: impl Iterator<Item = Duration>) -> Duration {
    durations.min().unwrap_or_default()
}

/// Durations of the same thing, many times.
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    pub(crate) fn new(mut all: Vec<Duration>) -> Self {
        all.sort();
        Self(all)
    }

    /// The duration that `percent` of all don't exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let last = self.0.len() - 1;
        self.0[(self.0.len() * percent / 100).min(last)]
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }
}

impl std::fmt::Display for Durations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        write!(
            f,
            "median {:.2} ms   p99 {:.2} ms   ({} times)",
            ms(self.median()),
            ms(self.percentile(99)),
            self.0.len()
        )
    }
}
