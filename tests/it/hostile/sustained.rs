//! All attacks at once, together with a well-behaved client and a well-behaved Envoy.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use sds_agent::proto::core::Node;
use sds_agent::proto::discovery::DeltaDiscoveryRequest;

use super::raw::{Raw, Stream, frame, head, yield_to_others};
use crate::util::sds::Delta;
use crate::util::tools::ENVOY;
use crate::util::{Bed, Envoy, Host, Identity, Protocol, eventually_true, require};

/// The duration of the attack.
const ATTACK: Duration = Duration::from_secs(20);
/// The maximum increase of resident memory that all attackers together may cause, in KiB: the budget for what
/// clients send, that of some thousand streams, and the same again for what the allocator keeps.
const BOUNDED_KIB: u64 = 512 * 1024;
/// Deliveries of an agent under attack may take this many times as long as while the attackers, who share the
/// processors with it, attack another agent,
const MULTIPLE: u32 = 20;
/// and this long in any case.
const FLOOR: Duration = Duration::from_secs(2);

/// The median time from a rotation on disk to the new version at the client, over some rotations.
fn median_delivery(bed: &Bed, stream: &mut Delta, go_on: impl Fn(usize) -> bool) -> Duration {
    let mut times = Vec::new();
    while go_on(times.len()) {
        let renewed = bed.ca.server(&["site.test"]);
        let begun = Instant::now();
        bed.root.write_pair("site", &renewed);
        loop {
            let changes = stream.changes();
            if changes
                .secrets
                .iter()
                .any(|s| s.is_pair(&renewed.chain, &renewed.key))
            {
                break;
            }
        }
        times.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// An attack, which is repeated.
type Attack = fn(&Bed);

const ATTACKS: [Attack; 6] = [
    empty_names,
    repeated_names,
    cut_short,
    idle_connections,
    abandoned_requests,
    garbage,
];

fn empty_names(bed: &Bed) {
    let mut raw = Raw::connect(&bed.socket());
    let stream = raw.open("StreamSecrets");
    stream.send(frame(&[0x1a, 0x00].repeat(1_000_000)));
}

fn repeated_names(bed: &Bed) {
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: "n".repeat(100_000),
            cluster: String::new(),
        }),
        resource_names_subscribe: vec!["site-that-is-not-there".into(); 5_000],
        ..DeltaDiscoveryRequest::default()
    };
    let request = frame(&request.encode_to_vec());
    let mut raw = Raw::connect(&bed.socket());
    let streams: Vec<Stream> = (0..50).map(|_| raw.open("DeltaSecrets")).collect();
    streams
        .iter()
        .for_each(|stream| stream.send(request.clone()));
}

fn cut_short(bed: &Bed) {
    let mut part = head(4_000_000);
    for n in 0..200 {
        part.extend([0x1a, 0xc8, 0x01]);
        part.extend(format!("{n:0>200}").into_bytes());
    }
    let mut raw = Raw::connect(&bed.socket());
    let streams: Vec<Stream> = (0..50).map(|_| raw.open("DeltaSecrets")).collect();
    streams.iter().for_each(|stream| stream.send(part.clone()));
    std::thread::sleep(Duration::from_millis(200));
}

fn idle_connections(bed: &Bed) {
    let idle: Vec<_> = (0..200)
        .filter_map(|_| UnixStream::connect(bed.socket()).ok())
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    drop(idle);
}

fn abandoned_requests(bed: &Bed) {
    for page in ["/status", "/metrics", "/"] {
        for _ in 0..50 {
            if let Ok(mut stream) = UnixStream::connect(bed.admin()) {
                let _ =
                    stream.write_all(format!("GET {page} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            }
        }
    }
}

fn garbage(bed: &Bed) {
    for seed in 0..20_u32 {
        if let Ok(mut stream) = UnixStream::connect(bed.socket()) {
            let bytes: Vec<u8> = (0..50_000_u32)
                .map(|n| (n.wrapping_mul(seed * 31 + 7) >> 3) as u8)
                .collect();
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            let _ = stream.write_all(&bytes);
        }
    }
}

/// Runs all attacks on the agent of `bed` while `task` runs. Returns its result, and the number of attacks.
fn under_attack<T>(bed: &Bed, task: impl FnOnce() -> T) -> (T, u64) {
    let done = AtomicBool::new(false);
    let attacks = AtomicU64::new(0);
    let result = std::thread::scope(|scope| {
        let _end = End(&done);
        for attack in &ATTACKS {
            scope.spawn(|| {
                yield_to_others();
                while !done.load(Ordering::Relaxed) {
                    attack(bed);
                    attacks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        task()
    });
    (result, attacks.into_inner())
}

/// Whether the agent answers a health check. It is repeated, because its connection may be closed to make room for
/// others.
fn is_alive(bed: &Bed) -> bool {
    let Ok(mut stream) = UnixStream::connect(bed.admin()) else {
        return false;
    };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
    asked
        .and_then(|()| stream.read_to_string(&mut answer))
        .is_ok()
        && answer.starts_with("HTTP/1.1 200 ")
}

/// The service manager's end of the agent's watchdog, which has 10 s.
struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    /// Reads everything until the test ends: a service manager that does not read would block the agent.
    fn start(socket: UnixDatagram) -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let silence = longest.clone();
        std::thread::spawn(move || {
            let mut fed: Option<Instant> = None;
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                if message[..length].starts_with(b"WATCHDOG=1") {
                    if let Some(fed) = fed {
                        silence.fetch_max(fed.elapsed().as_millis() as u64, Ordering::Relaxed);
                    }
                    fed = Some(Instant::now());
                }
            }
        });
        Self(longest)
    }

    /// The longest time between two notifications, in milliseconds. Asserts that there were some.
    fn longest_silence(&self) -> u64 {
        let silence = self.0.load(Ordering::Relaxed);
        assert!(silence > 0, "the watchdog was not fed");
        silence
    }
}

/// Ends the attacks when it is dropped, even if the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn well_behaved_clients_are_served_during_all_attacks_at_once() {
    let Some(envoy) = require(&ENVOY) else { return };
    let bed = Bed::new();
    bed.pair("site");
    let watchdog = Watchdog::start(UnixDatagram::bind(bed.scratch("notify")).unwrap());
    let builder = bed
        .builder()
        .env("NOTIFY_SOCKET", bed.scratch("notify"))
        .env("WATCHDOG_USEC", "10000000");
    let agent = bed.ready(builder);
    let hosts = [Host::new("site.test", "site")];
    let envoy = Envoy::start(&envoy, &bed.socket(), Protocol::Delta, &hosts);
    let client = bed.client();
    let mut stream = client.delta();
    stream.subscribe(&["site"]);
    stream.secret();
    let decoy = Bed::new();
    decoy.pair("site");
    let decoy_agent = decoy.ready(decoy.builder());
    let (quiet, _) = under_attack(&decoy, || {
        median_delivery(&bed, &mut stream, |done| done < 20)
    });
    drop(decoy_agent);

    let ((loud, most), attacks) = under_attack(&bed, || {
        let end = Instant::now() + ATTACK;
        let loud = median_delivery(&bed, &mut stream, |delivered| {
            delivered == 0 || Instant::now() < end
        });
        let most = agent.resident_kib();
        eventually_true("an answer to a probe", || is_alive(&bed));
        (loud, most)
    });
    eprintln!(
        "{attacks} attacks; median delivery {quiet:?} beside an agent under attack, {loud:?} by one; {most} KiB"
    );
    assert!(attacks > 20, "only {attacks} attacks");
    assert!(
        loud <= (quiet * MULTIPLE).max(FLOOR),
        "{quiet:?} beside an agent under attack, {loud:?} by one"
    );
    assert!(most < BOUNDED_KIB, "{most} KiB");
    let silence = watchdog.longest_silence();
    assert!(
        silence < 10_000,
        "the watchdog was not fed for {silence} ms"
    );

    // In the end, everyone has what is on disk.
    let last: Identity = bed.pair("site");
    assert!(stream.changes().secrets[0].is_pair(&last.chain, &last.key));
    let mut fresh = bed.client().sotw();
    fresh.subscribe(&["site"]);
    assert!(fresh.secret().is_pair(&last.chain, &last.key));
    eventually_true("the last certificate in a handshake", || {
        let served = envoy.https("site.test").ca(bed.ca.pem()).get();
        served.is_ok_and(|served| served.chain[0] == last.der)
    });
    envoy.assert_no_rejection();
    assert!(agent.terminate().success());
}
