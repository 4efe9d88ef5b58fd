//! Many rotations a second, for a minute.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prost::Message;
use sds_agent::proto::discovery::DeltaDiscoveryResponse;
use sds_agent::proto::tls::Secret;

use crate::beds::{Beds, kubelet_bed, other, spent};
use crate::client::Client;
use crate::stats::{line, title};
use crate::util::{BOUND, Identity, Way, admin};

const CREDENTIALS: usize = 2_000;
const A_SECOND: u32 = 2_000;
const SECONDS: u32 = 60;
const STREAMS: usize = 20;
/// Different pairs that are written.
const PAIRS: usize = 64;

/// Whether the last version of each credential arrives, and what it costs.
pub(crate) fn of_rotations(_: &Beds) {
    title("2,000 kubelet swaps a second over 2,000 credentials for a minute");
    let bed = kubelet_bed(CREDENTIALS + 1);
    let names: Vec<String> = (1..=CREDENTIALS).map(other).collect();
    let agent = bed.agent();
    let mut client = Client::connect(&bed.socket());
    for names in names.chunks(CREDENTIALS / STREAMS) {
        client.subscribe(names);
    }
    let mut held = HashMap::new();
    while held.len() < CREDENTIALS {
        take(client.next(), &mut held);
    }
    let pairs: Vec<Identity> = (0..PAIRS).map(|_| bed.ca.server(&["site.test"])).collect();
    let of_round = |round: usize, number: usize| &pairs[(round + number) % PAIRS];

    let before = spent(&agent);
    let begin = Instant::now();
    let rotations = (A_SECOND * SECONDS) as usize;
    let (mut delivered, mut late) = (0, Duration::ZERO);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for count in 0..rotations {
                let due = begin + Duration::from_secs(1) * count as u32 / A_SECOND;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let (round, number) = (count / CREDENTIALS, count % CREDENTIALS);
                let identity = of_round(round, number);
                Way::Kubelet.write(&bed.root, &names[number], round + 1, identity);
            }
            begin.elapsed()
        });
        while !writer.is_finished() {
            if let Some(delivery) = client.next_within(Duration::from_millis(100)) {
                delivered += take(delivery, &mut held);
            }
        }
        late = writer.join().unwrap();
    });
    let last = Instant::now();
    let is_last = |held: &HashMap<String, Vec<u8>>| {
        let mut numbers = names.iter().enumerate();
        numbers.all(|(number, name)| {
            let written = of_round(rotations / CREDENTIALS - 1, number);
            holds(&held[name], written)
        })
    };
    while !is_last(&held) {
        let Some(delivery) = client.next_within(BOUND) else {
            line("the last versions", "NOT all delivered");
            return;
        };
        delivered += take(delivery, &mut held);
    }
    line(
        "every last version delivered, after",
        format!("{:.1?}", last.elapsed()),
    );
    let a_second = rotations as f64 / late.as_secs_f64();
    line(
        "rotations a second that were written",
        format!("{a_second:.0}"),
    );
    let share = delivered as f64 / rotations as f64;
    line("deliveries per rotation", format!("{share:.3}"));
    let cost = (spent(&agent) - before).as_secs_f64() * 1e6 / rotations as f64;
    line("processor time per rotation", format!("{cost:.0} µs"));
    let metrics = admin::get(&bed.admin(), "/metrics").body;
    for name in ["watch_queue_overflows", "watch_missed_changes"] {
        let mut values = metrics.lines().filter(|line| !line.starts_with('#'));
        let value = values.find_map(|line| line.split_once(name)?.1.split(' ').nth(1));
        line(name, value.unwrap_or("?"));
    }
}

/// Keeps what was delivered, and counts it.
fn take(delivery: DeltaDiscoveryResponse, held: &mut HashMap<String, Vec<u8>>) -> usize {
    let resources = delivery.resources;
    let count = resources.len();
    for resource in resources {
        held.insert(resource.name, resource.resource.unwrap().value);
    }
    count
}

fn holds(secret: &[u8], identity: &Identity) -> bool {
    let secret = Secret::decode(secret).unwrap().encode_to_vec();
    let chain = identity.chain.as_bytes();
    secret.windows(chain.len()).any(|piece| piece == chain)
}
