//! Formats points in time and durations, the same way in every output.

use std::time::{Duration, SystemTime};

/// The distance of `time` from `now`, such as `in 12 days` or `3 h ago`.
pub fn when(time: SystemTime, now: SystemTime) -> String {
    match time.duration_since(now) {
        Ok(left) => format!("in {}", span(left)),
        Err(past) => format!("{} ago", span(past.duration())),
    }
}

/// A duration in the largest unit that gives at least two, rounded to the nearest.
pub fn span(span: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "days"), (3_600, "h"), (60, "min")];
    let seconds = span.as_secs() + u64::from(span.subsec_millis() >= 500);
    let unit = UNITS.iter().find(|(unit, _)| seconds >= 2 * unit);
    unit.map_or_else(
        || format!("{seconds} s"),
        |(unit, name)| format!("{} {name}", (seconds + unit / 2) / unit),
    )
}

/// A date and time for people, such as `2026-01-31 08:15 UTC`.
pub fn date(time: SystemTime) -> String {
    let text = rfc3339(time);
    let minutes = text.get(..16).unwrap_or(&text);
    format!("{} UTC", minutes.replace('T', " "))
}

/// A date and time for programs and log lines, such as `2026-01-31T08:15:42Z`.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_written_in_the_unit_that_fits() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (119 * 60 + 29, "119 min"),
            (7200, "2 h"),
            (47 * 3_600, "47 h"),
            (7 * 86_400 - 60, "7 days"),
            (6 * 86_400 + 60, "6 days"),
            (90 * 86_400, "90 days"),
        ] {
            let time = Duration::from_secs(seconds);
            assert_eq!(span(time), text);
            assert_eq!(when(now + time, now), format!("in {text}"));
            if seconds > 0 {
                assert_eq!(when(now - time, now), format!("{text} ago"));
            }
        }
        assert_eq!(span(Duration::from_millis(1_499)), "1 s");
        assert_eq!(span(Duration::from_millis(1_500)), "2 s");
    }
}
