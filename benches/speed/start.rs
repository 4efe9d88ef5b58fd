//! A start with many credentials: how long it takes, and what it leaves in memory.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::beds::{Beds, MANY, processor_time, spent};
use crate::client::Client;
use crate::reference;
use crate::stats::{line, shortest, title};
use crate::util::Bed;

/// The number of starts of each kind, in turns; the shortest counts.
const STARTS: usize = 3;
/// What an agent may need for itself.
const BASE: u64 = 20 * 1024 * 1024;
/// How often the socket is looked for.
const PERIOD: Duration = Duration::from_millis(2);

struct Start {
    time: Duration,
    processor: Duration,
    resident: u64,
}

/// From the start of the process until the last name is served, against the reference.
pub(crate) fn with_many(beds: &Beds) {
    title("Start with 20,000 credentials until the last one is served, and its memory");
    let bed = beds.many();
    let (mut agents, mut references) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        references.push(of_the_reference(bed));
        agents.push(of_the_agent(bed));
    }
    let [agent, reference] = [&agents, &references].map(|starts| {
        let wall = shortest(starts.iter().map(|start| start.time));
        let processor = shortest(starts.iter().map(|start| start.processor));
        (wall, processor)
    });
    for (what, (wall, processor)) in [("the reference", reference), ("the agent", agent)] {
        line(what, format!("{wall:.2?}   processor {processor:.2?}"));
    }
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    line(
        "ratio",
        format!(
            "{:.2}   processor {:.2}   processors used {:.2}",
            ratio(agent.0, reference.0),
            ratio(agent.1, reference.1),
            ratio(agent.1, agent.0),
        ),
    );
    let resident = agents.iter().map(|start| start.resident).max().unwrap();
    let on_disk = bytes_on_disk(bed);
    line(
        "resident memory",
        format!(
            "{:.1} MiB: {:.1} bytes beyond 20 MiB a byte on disk ({} each)",
            resident as f64 / 1024.0 / 1024.0,
            resident.saturating_sub(BASE) as f64 / on_disk as f64,
            on_disk / MANY as u64,
        ),
    );
}

fn of_the_agent(bed: &Bed) -> Start {
    let begin = Instant::now();
    let agent = bed.builder().start_without_waiting();
    let mut client = loop {
        match Client::try_connect(&bed.socket()) {
            Ok(client) => break client,
            Err(_) => std::thread::sleep(PERIOD),
        }
    };
    let names: Vec<String> = std::fs::read_dir(bed.root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    client.subscribe(&names[MANY - 1..]);
    client.next();
    Start {
        time: begin.elapsed(),
        processor: spent(&agent),
        resident: agent.resident_kib() * 1024,
    }
}

fn of_the_reference(bed: &Bed) -> Start {
    let begin = Instant::now();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(reference::ARGUMENT).arg(bed.root.path());
    let mut child: Child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut done = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut done).unwrap();
    assert_eq!(done, format!("{MANY} pairs\n"));
    let time = begin.elapsed();
    let processor = processor_time(child.id());
    drop(child.stdin.take());
    child.wait().unwrap();
    Start {
        time,
        processor,
        resident: 0,
    }
}

/// The bytes of all files, not counting what the file system adds.
fn bytes_on_disk(bed: &Bed) -> u64 {
    let of = |folder: std::fs::DirEntry| {
        let files = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        files
            .map(|file| std::fs::metadata(file).unwrap().len())
            .iter()
            .sum::<u64>()
    };
    let folders = std::fs::read_dir(bed.root.path()).unwrap();
    folders.map(Result::unwrap).map(of).sum()
}
