//! Everything at once, for a bounded time: rotations in every way, removals, broken files, clients
//! that connect and disconnect, floods, reloads, stops and crashes. In the end every subscriber has what is on
//! disk, and was never served anything else.
//!
//! Seconds in `cargo test`; `tests/soak` runs it for longer.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rustix::process::Signal;

use crate::util::sds::{Content, Served, secrets_of};
use crate::util::steps::Tool;
use crate::util::{Agent, Bed, Identity, Protocol, eventually_true};

/// How long in `cargo test`.
const SECONDS: u64 = 12;
/// Credentials for each tool.
const PER_TOOL: usize = 3;
/// The total number of credentials.
const CREDENTIALS: usize = Tool::ALL.len() * PER_TOOL;

/// A pair's bytes: chain, then key.
type Pair = (Vec<u8>, Vec<u8>);

/// What is on disk, and everything that was on disk before.
#[derive(Default)]
struct Model {
    now: HashMap<String, Option<Pair>>,
    ever: HashSet<(String, Pair)>,
}

#[derive(Clone, Debug)]
enum Action {
    /// A credential is rotated by its tool.
    Rotate { credential: usize },
    /// The tool is interrupted after a part of its steps, and runs again.
    Interrupt { credential: usize, part: usize },
    /// An invalid key replaces a valid one, and is repaired.
    Break { credential: usize },
    /// A folder is removed, and created again sooner or later.
    Remove { credential: usize, long: bool },
    /// Connections that send nothing, or garbage.
    Crowd { connections: usize },
    /// A flood of irrelevant events.
    Noise,
    /// SIGHUP.
    Reload,
    /// SIGSTOP for a while.
    Stop,
    /// SIGKILL and another agent.
    Crash,
}

fn actions() -> impl Strategy<Value = Action> {
    let credential = 0..CREDENTIALS;
    prop_oneof![
        20 => credential.clone().prop_map(|credential| Action::Rotate { credential }),
        8 => (credential.clone(), 0..20_usize)
            .prop_map(|(credential, part)| Action::Interrupt { credential, part }),
        4 => credential.clone().prop_map(|credential| Action::Break { credential }),
        4 => (credential, any::<bool>())
            .prop_map(|(credential, long)| Action::Remove { credential, long }),
        2 => (1..200_usize).prop_map(|connections| Action::Crowd { connections }),
        1 => Just(Action::Noise),
        1 => Just(Action::Reload),
        1 => Just(Action::Stop),
        1 => Just(Action::Crash),
    ]
}

struct Soak {
    bed: Arc<Bed>,
    agent: Option<Agent>,
    model: Arc<Mutex<Model>>,
    generation: usize,
}

fn name(credential: usize) -> String {
    format!("soak-{credential}")
}

fn tool(credential: usize) -> Tool {
    Tool::ALL[credential % Tool::ALL.len()]
}

impl Soak {
    fn credential(&self, credential: usize) -> PathBuf {
        self.bed.root.credential(&name(credential))
    }

    /// The next pair of a credential, which may be served from now on.
    fn next(&mut self, credential: usize) -> Identity {
        self.generation += 1;
        let pair = self.bed.ca.server(&["soak.test"]);
        let bytes = (pair.chain.clone().into(), pair.key.clone().into());
        let mut model = lock(&self.model);
        model.ever.insert((name(credential), bytes));
        pair
    }

    fn rotate(&mut self, credential: usize) {
        let pair = self.next(credential);
        let name = name(credential);
        let steps = tool(credential).steps(&self.bed.root, &name, self.generation, &pair);
        steps.into_iter().for_each(|step| step());
        let bytes = (pair.chain.into(), pair.key.into());
        lock(&self.model).now.insert(name, Some(bytes));
    }

    fn remove(&mut self, credential: usize, long: bool) {
        fs::remove_dir_all(self.credential(credential)).unwrap();
        if long {
            lock(&self.model).now.insert(name(credential), None);
        } else {
            self.rotate(credential);
        }
    }

    fn resident_kib(&self) -> u64 {
        self.agent.as_ref().unwrap().resident_kib()
    }

    fn perform(&mut self, action: &Action) {
        match *action {
            Action::Rotate { credential } => self.rotate(credential),
            Action::Interrupt { credential, part } => {
                let pair = self.next(credential);
                let (root, name) = (&self.bed.root, name(credential));
                let steps = tool(credential).steps(root, &name, self.generation, &pair);
                steps.into_iter().take(part).for_each(|step| step());
                self.rotate(credential);
            }
            Action::Break { credential } => {
                self.rotate(credential);
                let keys = fs::read_dir(self.credential(credential)).unwrap().flatten();
                let keys = keys.filter(|file| file.file_name().to_string_lossy().contains("key"));
                keys.for_each(|key| {
                    fs::remove_file(key.path()).unwrap();
                    fs::write(key.path(), "no key").unwrap();
                });
                self.remove(credential, false);
            }
            Action::Remove { credential, long } => {
                if self.credential(credential).exists() {
                    self.remove(credential, long);
                } else {
                    self.rotate(credential);
                }
            }
            Action::Crowd { connections } => self.crowd(connections),
            Action::Noise => self.noise(),
            Action::Reload => self.agent.as_ref().unwrap().signal(Signal::HUP),
            Action::Stop => {
                let agent = self.agent.as_ref().unwrap();
                agent.signal(Signal::STOP);
                thread::sleep(Duration::from_millis(200));
                agent.signal(Signal::CONT);
            }
            Action::Crash => {
                self.agent.take().unwrap().kill();
                self.agent = Some(self.bed.agent());
            }
        }
    }

    fn crowd(&self, connections: usize) {
        let crowd: Vec<_> = (0..connections)
            .filter_map(|index| {
                let mut connection = UnixStream::connect(self.bed.socket()).ok()?;
                if index % 2 == 0 {
                    connection.write_all(b"GET / HTTP/1.1\r\n\r\n").ok()?;
                }
                Some(connection)
            })
            .collect();
        drop(crowd);
    }

    fn noise(&self) {
        let file = self.bed.root.path().join("noise");
        for _ in 0..5_000 {
            File::create(&file).unwrap();
            fs::remove_file(&file).unwrap();
        }
    }
}

/// Applies a response to a subscriber's state. What is sent must have been on disk.
fn take(has: &Mutex<HashMap<String, Pair>>, served: Served, model: &Mutex<Model>) {
    let Content::Pair { chain, key } = served.content else {
        panic!("{} is not a pair", served.name);
    };
    let pair = (chain, key);
    let known = (served.name.clone(), pair.clone());
    assert!(
        lock(model).ever.contains(&known),
        "{} was never on disk as it is served",
        served.name
    );
    lock(has).insert(served.name, pair);
}

/// A subscriber that fails its assertion must not hide it behind a poisoned lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client that stays subscribed to every name, and connects again when it has to.
struct Subscriber {
    has: Arc<Mutex<HashMap<String, Pair>>>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Subscriber {
    fn start(protocol: Protocol, bed: &Arc<Bed>, model: &Arc<Mutex<Model>>) -> Self {
        let has: Arc<Mutex<HashMap<String, Pair>>> = Arc::default();
        let over: Arc<AtomicBool> = Arc::default();
        let (own_has, own_over) = (has.clone(), over.clone());
        let (bed, model) = (bed.clone(), model.clone());
        let thread = thread::spawn(move || {
            while !own_over.load(Ordering::Relaxed) {
                lock(&own_has).clear();
                follow(protocol, &bed, &model, &own_has, &own_over);
            }
        });
        Self { has, over, thread }
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Follows one stream to its end.
fn follow(
    protocol: Protocol,
    bed: &Bed,
    model: &Mutex<Model>,
    has: &Mutex<HashMap<String, Pair>>,
    over: &AtomicBool,
) {
    let names: Vec<_> = (0..CREDENTIALS).map(name).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let client = bed.client();
    let (mut sotw, mut delta) = (client.sotw(), client.delta());
    match protocol {
        Protocol::Sotw => sotw.subscribe(&names),
        Protocol::Delta => delta.subscribe(&names),
    }
    while !over.load(Ordering::Relaxed) {
        let bound = Duration::from_millis(100);
        match protocol {
            Protocol::Sotw => match sotw.stream.next(bound) {
                None => {}
                Some(Err(_)) => return,
                Some(Ok(response)) => {
                    let secrets = secrets_of(&response);
                    secrets
                        .into_iter()
                        .for_each(|served| take(has, served, model));
                    sotw.ack(&response);
                }
            },
            Protocol::Delta => match delta.0.next(bound) {
                None => {}
                Some(Err(_)) => return,
                Some(Ok(response)) => {
                    let changes = delta.accept(&response);
                    changes
                        .removed
                        .iter()
                        .for_each(|name| drop(lock(has).remove(name)));
                    changes
                        .secrets
                        .into_iter()
                        .for_each(|served| take(has, served, model));
                }
            },
        }
    }
}

#[test]
fn every_subscriber_ends_up_with_what_is_on_disk() {
    let seconds = std::env::var("SDS_AGENT_SOAK").ok();
    let seconds = seconds.map_or(SECONDS, |text| text.parse().unwrap());
    let mut soak = Soak {
        bed: Arc::new(Bed::new()),
        agent: None,
        model: Arc::default(),
        generation: 0,
    };
    (0..CREDENTIALS).for_each(|credential| soak.rotate(credential));
    soak.agent = Some(soak.bed.agent());
    let memory = soak.resident_kib();
    let subscribers = [Protocol::Sotw, Protocol::Delta, Protocol::Delta]
        .map(|protocol| Subscriber::start(protocol, &soak.bed, &soak.model));

    let mut runner = TestRunner::default();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut done = 0;
    while Instant::now() < until {
        let action = actions().new_tree(&mut runner).unwrap().current();
        soak.perform(&action);
        done += 1;
    }

    let late = Subscriber::start(Protocol::Delta, &soak.bed, &soak.model);
    let on_disk: HashMap<_, _> = {
        let model = lock(&soak.model);
        let now = model.now.iter();
        now.filter_map(|(name, pair)| Some((name.clone(), pair.clone()?)))
            .collect()
    };
    for (index, subscriber) in subscribers.into_iter().chain([late]).enumerate() {
        eventually_true(&format!("the state on disk in subscriber {index}"), || {
            assert!(
                !subscriber.thread.is_finished(),
                "subscriber {index} has failed"
            );
            let has = lock(&subscriber.has);
            // With SotW, the protocol of the first one, a removed name is never withdrawn.
            let gone = |name: &String| index == 0 && !on_disk.contains_key(name);
            has.iter().filter(|(name, _)| !gone(name)).count() == on_disk.len()
                && on_disk
                    .iter()
                    .all(|(name, pair)| has.get(name) == Some(pair))
        });
        subscriber.stop();
    }
    let grown = soak.resident_kib().saturating_sub(memory);
    assert!(grown < 128 * 1024, "the agent has grown by {grown} KiB");
    eprintln!("soak: {done} actions in {seconds} s, {grown} KiB grown");
}
