//! What the agent costs: processor time and memory.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::stats::{Durations, line, title};
use crate::util::sds::Delta;
use crate::util::{Agent, Bed, Way};

const ROTATIONS: usize = 500;

/// Whether a rotation costs more where there are more credentials.
pub(crate) fn of_a_rotation() {
    title("Processor time of a rotation, and its delivery, with more and more credentials");
    let credentials = [10, 5_000];
    for way in [Way::Rename, Way::Kubelet] {
        let beds = credentials.map(|credentials| {
            let bed = Bed::new();
            for number in 1..credentials {
                bed.pair(&format!("other-{number}"));
            }
            bed
        });
        let rotating = beds.each_ref().map(|bed| Rotating::start(bed, way));
        tell(rotating, |place| {
            format!("{}, {} credentials", way.name(), credentials[place])
        });
    }
}

/// Whether a rotation costs more where there are streams that did not subscribe to it.
pub(crate) fn of_a_rotation_beside_other_streams() {
    title("Processor time of a rotation, and its delivery, beside streams of another credential");
    let streams = [0, 1_000];
    let beds = streams.map(|_| Bed::new());
    let rotating = beds.each_ref().map(|bed| {
        bed.pair("other");
        Rotating::start(bed, Way::Rename)
    });
    let others = beds.each_ref().map(Bed::client);
    let mut others: Vec<_> = (0..streams[1]).map(|_| others[1].delta()).collect();
    for stream in &mut others {
        stream.subscribe(&["other"]);
        stream.secret();
    }
    tell(rotating, |place| {
        format!("{} other streams", streams[place])
    });
}

/// Measures both, in turns so that whatever else the machine does slows both, and tells.
fn tell(mut rotating: [Rotating<'_>; 2], name: impl Fn(usize) -> String) {
    let before = rotating.each_ref().map(|one| processor_time(&one.agent));
    let mut times = [Vec::new(), Vec::new()];
    for generation in 1..=ROTATIONS {
        for (one, times) in rotating.iter_mut().zip(&mut times) {
            times.push(one.rotate(generation));
        }
    }
    let mut place = 0;
    let costs = times.map(|times| {
        let spent = processor_time(&rotating[place].agent).saturating_sub(before[place]);
        let cost = Cost {
            processor: spent.as_secs_f64() * 1e6 / ROTATIONS as f64,
            delivery: Durations::new(times),
        };
        line(&name(place), &cost);
        place += 1;
        cost
    });
    line("ratio", costs[1].ratio(&costs[0]));
}

/// An agent that serves a pair, and a stream that takes it.
struct Rotating<'a> {
    bed: &'a Bed,
    way: Way,
    agent: Agent,
    stream: Delta,
}

/// What a rotation costs.
struct Cost {
    /// The agent's processor time, in microseconds.
    processor: f64,
    delivery: Durations,
}

impl<'a> Rotating<'a> {
    fn start(bed: &'a Bed, way: Way) -> Self {
        way.write(&bed.root, "site", 0, &bed.ca.server(&["site.test"]));
        let agent = bed.agent();
        let mut stream = bed.client().delta();
        stream.subscribe(&["site"]);
        stream.secret();
        Self {
            bed,
            way,
            agent,
            stream,
        }
    }

    /// Replaces the pair, and returns how long it took to arrive.
    fn rotate(&mut self, generation: usize) -> Duration {
        let identity = self.bed.ca.server(&["site.test"]);
        let start = Instant::now();
        self.way
            .write(&self.bed.root, "site", generation, &identity);
        self.stream.secret();
        start.elapsed()
    }
}

impl Cost {
    fn ratio(&self, to: &Self) -> String {
        let delivery = [self, to].map(|cost| cost.delivery.median().as_secs_f64());
        format!(
            "processor {:.2}   delivery {:.2}",
            self.processor / to.processor,
            delivery[0] / delivery[1]
        )
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} µs   delivery {}", self.processor, self.delivery)
    }
}

/// What a stream costs in memory.
pub(crate) fn of_10_000_streams() {
    const STREAMS: usize = 10_000;
    const CREDENTIALS: usize = 100;

    title("Resident memory of 10,000 streams on one connection");
    let bed = Bed::new();
    for number in 0..CREDENTIALS {
        bed.pair(&format!("site-{number}"));
    }
    let agent = bed.agent();
    let client = bed.client();
    let before = agent.resident_kib();
    for (what, is_delta) in [("delta", true), ("SotW", false)] {
        let (mut deltas, mut sotws) = (Vec::new(), Vec::new());
        for number in 0..STREAMS {
            let name = format!("site-{}", number % CREDENTIALS);
            if is_delta {
                let mut stream = client.delta();
                stream.subscribe(&[&name]);
                stream.secret();
                deltas.push(stream);
            } else {
                let mut stream = client.sotw();
                stream.subscribe(&[&name]);
                stream.secret();
                sotws.push(stream);
            }
        }
        let grown = agent.resident_kib().saturating_sub(before) as f64;
        let each = grown / STREAMS as f64;
        line(&format!("{what}, a stream"), format!("{each:.1} KiB"));
        // The second kind finds the memory of the first; the larger number counts.
        drop((deltas, sotws));
    }
}

/// Whether the agent rests when there is nothing to do.
pub(crate) fn of_doing_nothing() {
    const REST: Duration = Duration::from_secs(20);
    /// After this, threads that were made for reading have ended.
    const SETTLED: Duration = Duration::from_secs(12);

    title("Processor time of an idle agent with 1,000 credentials and 100 streams");
    // The agent watches the parents of a root, and in /tmp others may be busy.
    let bed = Bed::new_in(Path::new("/var/tmp"));
    for number in 0..1_000 {
        bed.pair(&format!("site-{number}"));
    }
    let agent = bed.agent();
    let client = bed.client();
    let mut streams: Vec<_> = (0..100).map(|_| client.delta()).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.subscribe(&[&format!("site-{number}")]);
        stream.secret();
    }
    std::thread::sleep(SETTLED);
    let (ticks, time) = (agent.cpu_ticks(), processor_time(&agent));
    let start = Instant::now();
    std::thread::sleep(REST);
    let spent = processor_time(&agent).saturating_sub(time);
    line("clock ticks of 10 ms, in 20 s", agent.cpu_ticks() - ticks);
    let share = spent.as_secs_f64() / start.elapsed().as_secs_f64();
    line(
        "of one processor",
        format!("{:.4} % ({} µs)", share * 100.0, spent.as_micros()),
    );
}

/// Whether the agent pays for what others do in a folder above a root.
pub(crate) fn of_what_strangers_open() {
    const OPENS: usize = 200_000;

    title("Processor time of the agent while others open files in the folder above its root");
    let bed = Bed::new_in(Path::new("/var/tmp"));
    bed.pair("site");
    let agent = bed.agent();
    let file = bed.root.beside("stranger");
    std::fs::write(&file, "x").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let before = processor_time(&agent);
    for _ in 0..OPENS {
        std::fs::File::open(&file).unwrap();
    }
    let spent = processor_time(&agent).saturating_sub(before);
    line(
        &format!("{OPENS} opens"),
        format!("{} µs", spent.as_micros()),
    );
}

/// The time that all threads of the agent have run, which the kernel counts in nanoseconds.
fn processor_time(agent: &Agent) -> Duration {
    let tasks = format!("/proc/{}/task", agent.pid().as_raw_nonzero());
    let of_task = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    };
    let tasks = std::fs::read_dir(tasks).unwrap().map(Result::unwrap);
    Duration::from_nanos(tasks.filter_map(of_task).sum())
}
