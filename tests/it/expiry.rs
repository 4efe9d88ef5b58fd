//! Lines that tell of certificates that are about to end, or have ended.

use time::{Duration, OffsetDateTime};

use crate::util::tools::LIBFAKETIME;
use crate::util::{Bed, Identity, eventually_true, require};

const DAY: Duration = Duration::days(1);

fn ending(bed: &Bed, name: &str, end: OffsetDateTime) -> Identity {
    let identity = bed.ca.server_with(&[&format!("{name}.test")], |params| {
        params.not_before = end - DAY * 400;
        params.not_after = end;
    });
    bed.root.write_pair(name, &identity);
    identity
}

#[test]
fn each_threshold_is_told_once_when_it_comes() {
    let bed = Bed::new();
    let now = OffsetDateTime::now_utc();
    let soon = Duration::seconds(10);
    for (name, end) in [
        ("thirty", now + DAY * 30 + soon),
        ("seven", now + DAY * 7 + soon),
        ("one", now + DAY + soon),
        ("zero", now + soon),
        ("after", now - DAY + soon),
        ("far", now + DAY * 90),
    ] {
        ending(&bed, name, end);
    }
    let agent = bed.ready_agent();
    let line = |name: &str, words: &str| {
        let credential = format!("credential=\"{name}\"");
        agent.wait_for_line(&["WARN", words, &credential, "not_after"])
    };
    line("thirty", "expires in 30 days");
    line("seven", "expires in 7 days");
    line("one", "expires in 1 day");
    line("zero", "has expired");
    line("after", "expired 1 day ago");
    for name in ["thirty", "seven", "one", "zero", "after"] {
        let credential = format!("credential=\"{name}\"");
        let lines = agent.lines_with(&["renew it", "the certificate expire", &credential]);
        let told = agent.lines_with(&["the certificate has expired", &credential]);
        assert_eq!(lines.len() + told.len(), 1, "{lines:#?} {told:#?}");
    }
    assert!(agent.lines_with(&["expire", "\"far\""]).is_empty());
}

#[test]
fn one_that_is_renewed_is_told_of_no_more() {
    let bed = Bed::new();
    let now = OffsetDateTime::now_utc();
    ending(&bed, "site", now + Duration::seconds(6));
    ending(&bed, "other", now + Duration::seconds(7));
    let agent = bed.ready_agent();
    bed.pair("site");
    agent.wait_for_line(&["rotated", "site"]);
    agent.wait_for_line(&["has expired", "credential=\"other\""]);
    let lines = agent.lines_with(&["has expired", "credential=\"site\""]);
    assert!(lines.is_empty(), "{lines:#?}");
}

#[test]
fn one_that_is_not_warned_of_when_it_is_loaded_is_told_of_all_the_same() {
    let bed = Bed::new();
    ending(
        &bed,
        "site",
        OffsetDateTime::now_utc() + DAY * 5 + Duration::hours(1),
    );
    let agent = bed.ready(bed.builder().arg("--warn-days=0"));
    agent.wait_for_line(&["WARN", "the certificate expires in 5 days", "site"]);
}

#[test]
fn across_clocks_that_are_set_each_day_is_told_once() {
    let Some(library) = require(&LIBFAKETIME) else {
        return;
    };
    let bed = Bed::new();
    let clock = bed.scratch("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).unwrap();
    set("+0");
    let now = OffsetDateTime::now_utc();
    ending(&bed, "site", now + DAY * 40);
    bed.pair("other");
    let builder = bed.builder();
    let agent = bed.ready(
        builder
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    );
    let lines = |words: &str| {
        agent
            .lines_with(&["WARN", words, "credential=\"site\""])
            .len()
    };
    for (offset, words) in [
        ("+11d", "expires in 29 days"),
        ("+34d", "expires in 6 days"),
        ("+944h", "expires in 1 day"),
        ("+961h", "has expired"),
        ("+41d", "expired 1 day ago"),
        ("+45d", "expired 5 days ago"),
    ] {
        assert_eq!(lines(words), 0);
        set(offset);
        // Whatever happens, the agent looks at the clock; by itself it does each minute.
        bed.pair("other");
        agent.wait_for_line(&["WARN", words, "credential=\"site\""]);
    }
    // Set right by a little, and then by weeks: what lies ahead again is told again, once.
    let before = agent.lines_with(&["expire", "credential=\"site\""]).len();
    for offset in ["+1079h", "+45d", "+20d", "+20d"] {
        set(offset);
        let seen = agent.lines_with(&["rotated", "other"]).len();
        bed.pair("other");
        eventually_true("a look at the clock", || {
            agent.lines_with(&["rotated", "other"]).len() > seen
        });
    }
    let after = agent.lines_with(&["expire", "credential=\"site\""]).len();
    assert_eq!(after, before, "{:#?}", agent.lines());
    set("+34d");
    bed.pair("other");
    eventually_true("the reminder", || lines("expires in 6 days") == 2);
}
