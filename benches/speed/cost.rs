//! What the agent costs: processor time and memory.

use std::time::{Duration, Instant};

use crate::beds::{Beds, MANY, Rotating, SITE, kubelet_bed, other, spent, spent_here};
use crate::client::Client;
use crate::stats::{Durations, line, micros, title};
use crate::util::Bed;

const ROTATIONS: usize = 500;

/// Whether a rotation costs more if there are more credentials.
pub(crate) fn of_a_rotation(beds: &Beds) {
    title("kubelet's swap to its delivery on one stream, including the writing");
    let few = kubelet_bed(10);
    let rotating = [&few, beds.many()].map(Rotating::start);
    tell(rotating, ["10 credentials", "20,000 credentials"]);
}

/// Whether a rotation costs more if there are streams that did not subscribe to it.
pub(crate) fn of_a_rotation_beside_other_streams(_: &Beds) {
    const STREAMS: usize = 1_000;

    title("The same next to streams of another credential");
    let beds = [kubelet_bed(2), kubelet_bed(2)];
    let rotating = beds.each_ref().map(Rotating::start);
    let mut others = Client::connect(&beds[1].socket());
    subscribe(&mut others, STREAMS, |_| other(1));
    tell(rotating, ["no other streams", "1,000 other streams"]);
}

/// Measures both in turns, so that other load on the machine slows both, and prints the results.
fn tell(mut rotating: [Rotating<'_>; 2], names: [&str; 2]) {
    let before = rotating.each_ref().map(|one| spent(&one.agent));
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROTATIONS {
        for (one, times) in rotating.iter_mut().zip(&mut times) {
            times.push(one.rotate());
        }
    }
    let mut costs = Vec::new();
    for (place, times) in times.into_iter().enumerate() {
        let spent = spent(&rotating[place].agent).saturating_sub(before[place]);
        let (delivery, spent) = (Durations::new(times), spent / ROTATIONS as u32);
        line(
            names[place],
            format!("{delivery}   processor {}", micros(spent)),
        );
        costs.push((delivery.median(), spent));
    }
    let ratio = |of: fn(&(Duration, Duration)) -> Duration| {
        of(&costs[1]).as_secs_f64() / of(&costs[0]).as_secs_f64()
    };
    let (delivery, processor) = (ratio(|cost| cost.0), ratio(|cost| cost.1));
    line(
        "ratio",
        format!("delivery {delivery:.2}   processor {processor:.2}"),
    );
}

/// What one more stream costs when something changes for all of them.
pub(crate) fn of_a_delivery(_: &Beds) {
    const STREAMS: usize = 1_000;
    const CONNECTIONS: usize = 10;
    const ROUNDS: u32 = 20;

    title("One rotation to 10,000 streams, 1,000 on a connection: processor time per delivery");
    let bed = kubelet_bed(1);
    let mut rotating = Rotating::start(&bed);
    let mut clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = Client::connect(&bed.socket());
            subscribe(&mut client, STREAMS, |_| SITE.to_owned());
            client
        })
        .collect();
    let (agent, here) = (spent(&rotating.agent), spent_here());
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        rotating.rotate();
        for client in &mut clients {
            (0..STREAMS).for_each(|_| drop(client.next()));
            client.flush();
        }
    }
    let deliveries = ROUNDS * (CONNECTIONS * STREAMS) as u32;
    let of_a_delivery = |all: Duration| micros(all / deliveries);
    line("the agent", of_a_delivery(spent(&rotating.agent) - agent));
    line("the client", of_a_delivery(spent_here() - here));
    line("time that passed", of_a_delivery(begin.elapsed()));
}

/// What a stream costs in memory.
pub(crate) fn of_100_000_streams(_: &Beds) {
    const STREAMS: usize = 10_000;
    const CONNECTIONS: usize = 10;
    const CREDENTIALS: usize = 100;

    title("Resident memory of 100,000 streams on 10 connections");
    let bed = kubelet_bed(CREDENTIALS);
    let config = bed.scratch("config.toml");
    std::fs::write(&config, "[limits]\nstreams = 200000\n").unwrap();
    let agent = bed.builder().arg("--config").arg(&config).start();
    let before = agent.resident_kib();
    let mut clients = Vec::new();
    for count in 1..=CONNECTIONS {
        let mut client = Client::connect(&bed.socket());
        subscribe(&mut client, STREAMS, |number| {
            other(number % (CREDENTIALS - 1) + 1)
        });
        clients.push(client);
        if [1, CONNECTIONS].contains(&count) {
            let grown = agent.resident_kib().saturating_sub(before) as f64;
            let each = grown / (count * STREAMS) as f64;
            let what = format!("a stream, with {} of them", count * STREAMS);
            line(&what, format!("{each:.2} KiB"));
        }
    }
}

/// Whether the agent is idle when there is nothing to do, and what its checks cost.
pub(crate) fn of_doing_nothing(beds: &Beds) {
    const STREAMS: usize = 10_000;
    /// After this, threads that were made for reading have ended.
    const SETTLED: Duration = Duration::from_secs(15);
    /// Every credential is checked once in this time.
    const CHECKED: usize = 60;

    title("An idle agent with 20,000 credentials and 10,000 streams");
    let bed = beds.many();
    let agent = bed.agent();
    let mut client = Client::connect(&bed.socket());
    subscribe(&mut client, STREAMS, |number| {
        other(number % (MANY - 1) + 1)
    });
    std::thread::sleep(SETTLED);
    let (ticks, mut last) = (agent.cpu_ticks(), spent(&agent));
    let mut seconds: Vec<Duration> = (0..CHECKED)
        .map(|_| {
            std::thread::sleep(Duration::from_secs(1));
            let now = spent(&agent);
            now.saturating_sub(std::mem::replace(&mut last, now))
        })
        .collect();
    seconds.sort();
    line(
        "processor time in a second between checks",
        micros(seconds[CHECKED / 2]),
    );
    // The kernel counts the time of threads that have ended only in ticks.
    let ticks = agent.cpu_ticks() - ticks;
    line(
        "in the minute, with one check of everything",
        format!("{} ms", ticks * 10),
    );
}

/// Whether it costs the agent anything when other programs open files in a folder above a root.
pub(crate) fn of_what_strangers_open(_: &Beds) {
    const OPENS: usize = 200_000;

    title("Processor time of the agent while others open files in the folder above its root");
    let bed: Bed = kubelet_bed(1);
    let agent = bed.agent();
    let file = bed.root.beside("stranger");
    std::fs::write(&file, "x").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let before = spent(&agent);
    for _ in 0..OPENS {
        std::fs::File::open(&file).unwrap();
    }
    let spent = spent(&agent).saturating_sub(before);
    line(
        &format!("{OPENS} opens"),
        format!("{} µs", spent.as_micros()),
    );
}

/// Opens streams with one name each, and waits for the first delivery on each of them, some at a time.
fn subscribe(client: &mut Client, streams: usize, name: impl Fn(usize) -> String) {
    const AT_ONCE: usize = 500;

    let names: Vec<String> = (0..streams).map(name).collect();
    for names in names.chunks(AT_ONCE) {
        for name in names {
            client.subscribe(std::slice::from_ref(name));
        }
        names.iter().for_each(|_| drop(client.next()));
        client.flush();
    }
}
