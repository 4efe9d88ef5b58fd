//! Metrics in Prometheus' text format, version 0.0.4, which every collector reads.

use std::fmt::Write;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;

/// The `Content-Type` of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of `registry`.
///
/// The library writes OpenMetrics, where `HELP` and `TYPE` name a counter without `_total` and an info without
/// `_info`. Here they have the full name, and OpenMetrics' `UNIT` and `EOF` lines are left out.
pub fn text(registry: &Registry) -> String {
    let mut open_metrics = String::new();
    // Writing to a String does not fail.
    let _ = encode_registry(&mut open_metrics, registry);
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, help)) = help.take() {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::Unit;

    use super::*;

    #[test]
    fn every_kind_has_its_full_name() {
        let mut registry = Registry::with_prefix("x");
        let hostile = Family::<[(&str, String); 1], Counter>::default();
        let label = "# TYPE a counter\n\"\\".to_owned();
        hostile.get_or_create(&[("name", label)]).inc();
        registry.register("things", "Things", hostile);
        registry.register_with_unit("age", "Age", Unit::Seconds, Gauge::<i64>::default());
        registry.register("build", "Program", Info::new([("version", "1")]));
        let expected = "\
# HELP x_things_total Things.
# TYPE x_things_total counter
x_things_total{name=\"# TYPE a counter\\n\\\"\\\\\"} 1
# HELP x_age_seconds Age.
# TYPE x_age_seconds gauge
x_age_seconds 0
# HELP x_build_info Program.
# TYPE x_build_info gauge
x_build_info{version=\"1\"} 1
";
        assert_eq!(text(&registry), expected);
    }
}
