//! Certificates that are expiring, or have expired: log lines, states and metrics.

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::util::admin::{get, metric, metric_becomes, status};
use crate::util::agent::PROGRAM;
use crate::util::tools::LIBFAKETIME;
use crate::util::{Agent, Bed, Identity, Root, eventually_true, require};

const DAY: Duration = Duration::days(1);

/// A certificate of 400 days.
fn ending(bed: &Bed, name: &str, end: OffsetDateTime) -> Identity {
    lasting(bed, name, DAY * 400, end)
}

fn lasting(bed: &Bed, name: &str, lifetime: Duration, end: OffsetDateTime) -> Identity {
    let identity = bed.ca.server_with(&[&format!("{name}.test")], |params| {
        params.not_before = end - lifetime;
        params.not_after = end;
    });
    bed.root.write_pair(name, &identity);
    identity
}

#[test]
fn each_threshold_is_logged_once_when_it_is_reached() {
    let bed = Bed::new();
    let now = OffsetDateTime::now_utc();
    let soon = Duration::seconds(10);
    for (name, end) in [
        ("thirty", now + DAY * 30 + soon),
        ("ten", now + DAY * 10 + soon),
        ("zero", now + soon),
        ("after", now - DAY + soon),
        ("far", now + DAY * 90),
    ] {
        ending(&bed, name, end);
    }
    let hours = Duration::hours(24);
    lasting(&bed, "quarter", hours, now + Duration::hours(6) + soon);
    lasting(&bed, "third", hours, now + Duration::hours(2) + soon);
    lasting(&bed, "renewed", hours, now + Duration::hours(8));
    lasting(&bed, "certbot", DAY * 90, now + DAY * 30);
    let agent = bed.ready_agent();
    for (name, words) in [
        ("thirty", "expires in 30 days"),
        ("ten", "expires in 10 days"),
        ("quarter", "expires in 6 h"),
        ("third", "expires in 2 h"),
        ("zero", "has expired"),
        ("after", "expired 24 h ago"),
    ] {
        let credential = format!("credential=\"{name}\"");
        agent.wait_for_line(&["WARN", words, &credential, "not_after"]);
        let lines = agent.lines_with(&[
            "renew it",
            "the certificate",
            &credential,
            "subject=",
            "not_after",
        ]);
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
    for name in ["far", "renewed", "certbot"] {
        let credential = format!("credential=\"{name}\"");
        let lines = agent.lines_with(&["expire", &credential]);
        assert!(lines.is_empty(), "{lines:#?}");
    }
}

#[test]
fn a_renewed_certificate_is_no_longer_logged() {
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
fn each_root_and_secret_can_have_its_own_warn_days() {
    let bed = Bed::new();
    let now = OffsetDateTime::now_utc();
    ending(&bed, "late", now + DAY * 40);
    ending(&bed, "near", now + DAY * 20);
    let second = Root::new();
    for name in ["early", "short"] {
        let identity = ending(&bed, "early", now + DAY * 40);
        second.write_pair(name, &identity);
    }
    bed.root.remove("early");
    let near = bed.root.credential("near");
    let file = bed.scratch("sds-agent.toml");
    let text = format!(
        "socket = {:?}\n[[root]]\npath = {:?}\n[[root]]\npath = {:?}\nwarn_days = 60\n\
         [[secret]]\nname = \"own\"\nwarn_days = 5\ncertificate = {:?}\nprivate_key = {:?}\n",
        bed.socket(),
        bed.root.path(),
        second.path(),
        near.join("cert"),
        near.join("key"),
    );
    std::fs::write(&file, text).unwrap();
    let agent = Agent::builder(&bed.socket()).arg("--config").arg(&file);
    let agent = bed.ready(agent);
    let expected = [
        ("late", 30, false),
        ("near", 30, true),
        ("early", 60, true),
        ("short", 60, true),
        ("own", 5, false),
    ];
    let state = status(&bed.admin());
    let secrets: Vec<_> = crate::util::admin::secrets(&state).collect();
    let check = std::process::Command::new(PROGRAM)
        .args(["check", "--output", "json", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let check: Value = serde_json::from_slice(&check.stdout).unwrap();
    for (name, days, is_expiring) in expected {
        let secret = secrets.iter().find(|one| one["name"] == name).unwrap();
        let is_shown = secret["state"].as_str().unwrap().starts_with("expir");
        assert_eq!(is_shown, is_expiring, "{secret:#}");
        assert_eq!(secret["warn_days"], days, "{secret:#}");
        let series = format!(
            "sds_agent_certificate_warn_seconds{{credential=\"{name}\",kind=\"certificate\"}}"
        );
        assert_eq!(
            metric(&bed.admin(), &series),
            Some(f64::from(days) * 86_400.0)
        );
        let all = check["credentials"].as_array().unwrap();
        let checked = all.iter().find(|one| one["name"] == name).unwrap();
        assert_eq!(checked["state"] == "expiring", is_expiring, "{checked:#}");
        let credential = format!("credential=\"{name}\"");
        let lines = agent.lines_with(&["expires", &credential]);
        assert_eq!(!lines.is_empty(), is_expiring, "{lines:#?}");
    }
}

#[test]
fn an_unreadable_root_is_an_error_and_not_skipped() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.ready_agent();
    let series = |name: &str| {
        let root = bed.root.path();
        format!("sds_agent_root_{name}{{root=\"{}\"}}", root.display())
    };
    assert_eq!(metric(&bed.admin(), &series("readable")), Some(1.0));
    let moved = bed.root.path().with_extension("moved");
    std::fs::rename(bed.root.path(), &moved).unwrap();
    metric_becomes(&bed.admin(), &series("readable"), |value| value == 0.0);
    assert_eq!(metric(&bed.admin(), &series("present")), Some(0.0));
    let state = status(&bed.admin());
    assert_eq!(state["roots"][0]["readable"], false, "{state:#}");
    let gone = format!(
        "the root {} does not exist any more",
        bed.root.path().display()
    );
    assert_eq!(state["agent"]["degraded"][0], *gone, "{state:#}");
    assert!(get(&bed.admin(), "/readyz").body.contains(&gone));
    let table = std::process::Command::new(PROGRAM)
        .args(["status", "--admin-socket"])
        .arg(bed.admin())
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let error = format!(
        "error: {}: the root does not exist",
        bed.root.path().display()
    );
    assert!(table.contains(&error), "{table}");

    // If something other than a folder is in its place, it can't be read either.
    std::fs::write(bed.root.path(), "no folder").unwrap();
    eventually_true("the other problem", || {
        let problems = &status(&bed.admin())["roots"][0]["problems"];
        !problems.to_string().contains("does not exist")
    });
    assert_eq!(metric(&bed.admin(), &series("readable")), Some(0.0));
    std::fs::remove_file(bed.root.path()).unwrap();
    std::fs::rename(&moved, bed.root.path()).unwrap();
    metric_becomes(&bed.admin(), &series("readable"), |value| value == 1.0);
    assert_eq!(
        status(&bed.admin())["agent"]["degraded"],
        serde_json::json!([])
    );
}

#[test]
fn each_threshold_is_logged_once_when_the_clock_is_set() {
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
        ("+970h", "expired 10 h ago"),
        ("+42d", "expired 2 days ago"),
        ("+45d", "expired 5 days ago"),
    ] {
        assert_eq!(lines(words), 0);
        set(offset);
        // This makes the agent check the clock, which it otherwise does each minute.
        bed.pair("other");
        agent.wait_for_line(&["WARN", words, "credential=\"site\""]);
    }
    // The clock is corrected by a little, and then by weeks: what lies ahead again is logged again, once.
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
