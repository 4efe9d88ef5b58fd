//! The process's own figures, under the names that every Prometheus client library gives them.

use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};

/// Registers all figures that the system provides.
pub fn register(registry: &mut Registry, started: SystemTime) {
    if let Some((cpu, virtual_bytes, resident_bytes)) = stat() {
        registry.register(
            "process_cpu_seconds",
            "Processor time used, user and system",
            ConstCounter::new(cpu.as_secs_f64()),
        );
        registry.register(
            "process_virtual_memory_bytes",
            "Virtual memory",
            gauge(virtual_bytes),
        );
        registry.register(
            "process_resident_memory_bytes",
            "Resident memory",
            gauge(resident_bytes),
        );
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the folder itself.
        let open = open.count().saturating_sub(1) as u64;
        registry.register("process_open_fds", "Open file descriptors", gauge(open));
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        registry.register(
            "process_max_fds",
            "The limit on open file descriptors",
            gauge(limit),
        );
    }
    let since = started.duration_since(SystemTime::UNIX_EPOCH);
    registry.register(
        "process_start_time_seconds",
        "When the process was started, in seconds since 1970",
        ConstGauge::new(since.unwrap_or_default().as_secs_f64()),
    );
}

#[allow(
    clippy::cast_precision_loss,
    reason = "all figures are small enough to be exact as floats"
)]
fn gauge(value: u64) -> ConstGauge<f64> {
    ConstGauge::new(value as f64)
}

/// Processor time, bytes of virtual and of resident memory, by `/proc/self/stat` (proc(5)).
fn stat() -> Option<(Duration, u64, u64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name in parentheses, may contain anything; the third field comes after the
    // last closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    let cpu = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
    let resident = field(24)? * rustix::param::page_size() as u64;
    Some((cpu, field(23)?, resident))
}
