//! Metrics, and the rules and the dashboard that use them.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::util::admin::{get, metric, metric_becomes};
use crate::util::bed::assert_no_key_in;
use crate::util::ocsp::{self, Status};
use crate::util::tools::{self, Tool};
use crate::util::{Bed, require};

const PROMTOOL: Tool = tools::program("promtool", "Debian: apt-get install prometheus");

fn examples(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(path)
}

#[test]
fn the_lifecycle_of_a_credential_is_counted() {
    let bed = Bed::new();
    let first = bed.pair("site");
    let _agent = bed.ready_agent();
    let admin = bed.admin();
    let value = |series: &str| metric(&admin, series).unwrap_or_else(|| panic!("no {series}"));
    assert_eq!(value("sds_agent_credential_loads_total"), 1.0);
    let end = value(
        "sds_agent_certificate_not_after_timestamp_seconds{credential=\"site\",kind=\"certificate\"}",
    );
    assert!(end > 1.8e9, "{end}");
    let start = value(
        "sds_agent_certificate_not_before_timestamp_seconds{credential=\"site\",kind=\"certificate\"}",
    );
    assert!(0.0 < start && start < end, "{start}");
    let warn =
        value("sds_agent_certificate_warn_seconds{credential=\"site\",kind=\"certificate\"}");
    assert_eq!(warn, 30.0 * 86_400.0);

    let client = bed.client();
    let (mut sotw, mut delta) = (client.sotw(), client.delta());
    sotw.subscribe(&["site"]);
    delta.subscribe(&["site"]);
    sotw.secret();
    delta.secret();
    for protocol in ["sotw", "delta"] {
        let series = |name: &str| format!("sds_agent_{name}{{protocol=\"{protocol}\"}}");
        metric_becomes(&admin, &series("acks_total"), |acks| acks == 1.0);
        assert_eq!(value(&series("streams")), 1.0);
        assert_eq!(value(&series("streams_opened_total")), 1.0);
        let delivered =
            format!("sds_agent_deliveries_total{{protocol=\"{protocol}\",kind=\"certificate\"}}");
        assert_eq!(value(&delivered), 1.0);
    }
    // A name that existed when it was requested did not wait.
    assert_eq!(value("sds_agent_delivery_delay_seconds_count"), 0.0);
    assert_eq!(value("sds_agent_connections"), 1.0);

    let second = bed.pair("site");
    sotw.secret();
    let response = delta.recv();
    delta.nack(&response, "no, thank you");
    metric_becomes(
        &admin,
        "sds_agent_nacks_total{protocol=\"delta\"}",
        |nacks| nacks == 1.0,
    );
    let nacked = "sds_agent_nacked_streams{credential=\"site\",kind=\"certificate\"}";
    assert_eq!(value(nacked), 1.0);
    assert_eq!(value("sds_agent_delivery_delay_seconds_count"), 2.0);

    let valid = format!(
        "sds_agent_credential_valid{{credential=\"site\",root=\"{}\"}}",
        bed.root.path().display()
    );
    assert_eq!(value(&valid), 1.0);
    bed.root.write("site", &[("key", "not a key")]);
    metric_becomes(&admin, &valid, |valid| valid == 0.0);
    let rejected = "sds_agent_credential_rejections_total{reason=\"bad_pem\"}";
    metric_becomes(&admin, rejected, |count| count == 1.0);
    bed.root.remove("site");
    metric_becomes(&admin, "sds_agent_credential_removals_total", |count| {
        count == 1.0
    });
    assert_eq!(
        metric(&admin, &valid),
        None,
        "a series stays of what is gone"
    );
    assert_no_key_in(&get(&admin, "/metrics").body, &[&first, &second]);
}

#[test]
fn names_and_node_ids_chosen_by_clients_create_no_series() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.ready_agent();
    for number in 0..20 {
        let mut stream = bed.client().node(&format!("node-{number}")).delta();
        stream.subscribe(&[&format!("ghost-{number}")]);
        stream.removed();
    }
    metric_becomes(
        &bed.admin(),
        "sds_agent_streams_opened_total{protocol=\"delta\"}",
        |n| n == 20.0,
    );
    let text = get(&bed.admin(), "/metrics").body;
    assert!(
        !text.contains("ghost-") && !text.contains("node-"),
        "{text}"
    );
}

#[test]
fn a_limit_that_is_reached_is_counted() {
    let bed = Bed::new();
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    let names: Vec<_> = (0..17_000).map(|number| format!("n{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    stream.subscribe(&names);
    stream.0.end();
    let series = "sds_agent_limit_reached_total{limit=\"names_per_stream\"}";
    metric_becomes(&bed.admin(), series, |count| count == 1.0);
    bed.root
        .write("large", &[("tls.crt", vec![b'x'; 2 * 1024 * 1024])]);
    bed.root.write("large", &[("tls.key", "x")]);
    let series = "sds_agent_limit_reached_total{limit=\"file_bytes\"}";
    metric_becomes(&bed.admin(), series, |count| count >= 1.0);
}

#[test]
fn process_metrics_are_exported() {
    let bed = Bed::new();
    let agent = bed.ready_agent();
    let value = |series: &str| metric(&bed.admin(), series).unwrap();
    let kib = agent.resident_kib() as f64;
    let resident = value("process_resident_memory_bytes") / 1024.0;
    assert!((resident - kib).abs() < 0.5 * kib, "{resident} and {kib}");
    assert!(value("process_open_fds") > 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert!(value("process_start_time_seconds") > 1.6e9);
    assert!(value("process_cpu_seconds_total") >= 0.0);
}

#[test]
fn promtool_finds_no_problem() {
    let Some(promtool) = require(&PROMTOOL) else {
        return;
    };
    let bed = Bed::new();
    bed.pair("site");
    bed.pair_without_host("hostile \"name\\ of ünicode");
    let _agent = bed.ready_agent();
    let answer = get(&bed.admin(), "/metrics");
    assert!(
        answer.head.contains("text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = check.stdin.take().unwrap();
    input.write_all(answer.body.as_bytes()).unwrap();
    drop(input);
    let output = check.wait_with_output().unwrap();
    let found = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && found.is_empty(),
        "{}",
        String::from_utf8_lossy(&found)
    );
}

#[test]
fn the_alert_rules_pass_their_tests() {
    let Some(promtool) = require(&PROMTOOL) else {
        return;
    };
    for (command, file) in [
        (["check", "rules"], "prometheus/sds-agent.rules.yaml"),
        (["test", "rules"], "prometheus/sds-agent.rules.test.yaml"),
    ] {
        let output = Command::new(&promtool)
            .args(command)
            .arg(examples(file))
            .output()
            .unwrap();
        assert!(output.status.success(), "{file}: {output:#?}");
    }
}

#[test]
fn rules_and_dashboard_use_existing_metrics() {
    let bed = Bed::new();
    write_stapled(&bed);
    bed.root
        .write("broken", &[("cert", "nothing"), ("key", "nothing")]);
    let _agent = bed.ready_agent();
    // This metric only has a series after a rejection.
    metric_becomes(
        &bed.admin(),
        "sds_agent_credential_rejections_total{reason=\"bad_pem\"}",
        |count| count > 0.0,
    );
    let text = get(&bed.admin(), "/metrics").body;
    let there: BTreeSet<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let rules = std::fs::read_to_string(examples("prometheus/sds-agent.rules.yaml")).unwrap();
    let dashboard = std::fs::read_to_string(examples("grafana/sds-agent.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = names(&rules);
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = 0;
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        asked.extend(names(target["expr"].as_str().unwrap()));
        queries += 1;
    }
    assert!(queries >= 10 && asked.len() >= 12, "{queries} {asked:?}");
    for name in &asked {
        assert!(there.contains(name.as_str()), "{name} is not a metric");
    }
}

/// A pair that has all metrics of a pair.
fn write_stapled(bed: &Bed) {
    let identity = bed.pair("site");
    let staple = ocsp::staple(&bed.ca, &identity, Status::Good, 7);
    bed.root.write("site", &[("tls.ocsp-staple", staple)]);
}

#[test]
fn every_metric_is_documented() {
    let bed = Bed::new();
    write_stapled(&bed);
    let _agent = bed.ready_agent();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring.md");
    let documented = names(&std::fs::read_to_string(docs).unwrap());
    let text = get(&bed.admin(), "/metrics").body;
    let there = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let there: BTreeSet<_> = there
        .map(|rest| rest.split(' ').next().unwrap().to_owned())
        .collect();
    let own: BTreeSet<_> = there
        .into_iter()
        .filter(|name| name.starts_with("sds_agent_"))
        .collect();
    // Its series only exists after a rejection.
    let unseen = BTreeSet::from(["sds_agent_credential_rejections_total".to_owned()]);
    let expected: BTreeSet<_> = own.union(&unseen).cloned().collect();
    let documented: BTreeSet<_> = documented
        .into_iter()
        .filter(|name| name.starts_with("sds_agent_"))
        .collect();
    assert_eq!(documented, expected);
}

/// The agent's metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'))
        .filter(|word| word.starts_with("sds_agent_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}
