//! Random histories of files, reads and restarts against a simple model: nothing that a client holds is
//! removed unless its folder was seen to be gone, and a peer can't distinguish a secret that it is not allowed to
//! read from one that does not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::delta::Delta;
use super::hub::{Hub, Inbox, Published};
use super::session::tests::decode;
use super::session::{Effect, Session, Subscriptions, View};
use super::sotw::Sotw;
use crate::config::{Absent, Config, Root};
use crate::credential::Credential as Checked;
use crate::files::roots::Listing;
use crate::inventory::tests::{bad, judged, verdict};
use crate::inventory::{Inventory, Key, Lookup, Now, Read};
use crate::name::{Coverage, Host};
use crate::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::secret::tests::{bundle, facts, pair};

const ROOT: &str = "/c";
/// The credential folders. Where it matters, the client may read all of them except `x`.
const FOLDERS: [&str; 4] = ["a", "b", "c", "x"];
/// The names that the client requests.
const NAMES: [&str; 13] = [
    "a",
    "a-cacert",
    "a.test",
    "b",
    "b.test",
    "c-cacert",
    "c.test",
    "kubernetes://c",
    "none.test",
    "www.shared.test",
    "x",
    "x-cacert",
    "x.test",
];

/// The parts that the files of a folder make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    Good(u8),
    Bad,
    Empty,
}

impl Files {
    /// The hosts that its certificate covers.
    fn hosts(folder: &str, content: u8) -> Vec<String> {
        let own = (content % 3 != 2).then(|| format!("{folder}.test"));
        let shared = content
            .is_multiple_of(2)
            .then(|| "*.shared.test".to_owned());
        own.into_iter().chain(shared).collect()
    }

    fn has_bundle(content: u8) -> bool {
        content != 5
    }

    fn read(self, folder: &str) -> Read {
        let content = match self {
            Self::Good(content) => content,
            Self::Bad => return bad(),
            Self::Empty => return judged(Checked::default()),
        };
        let text = format!("{folder}{content}");
        let mut pair = pair(&text);
        pair.facts.leaf = facts("", &Self::hosts(folder, content));
        pair.facts.leaf.not_after = SystemTime::now() + Duration::from_secs(1 << 30);
        let mut checked = Checked::default();
        if Self::has_bundle(content) {
            let mut bundle = bundle(&text);
            bundle.facts.certificates[0].not_after = pair.facts.leaf.not_after;
            checked.bundle = verdict(bundle);
        }
        checked.pair = verdict(pair);
        judged(checked)
    }

    /// Whether a folder with these files visibly no longer serves anything under `name`.
    fn lack(self, folder: &str, name: &str) -> bool {
        let Self::Good(content) = self else {
            return false;
        };
        let name = crate::name::plain(name);
        if name == folder {
            return false;
        }
        if crate::name::bundle_owner(name) == Some(folder) {
            return !Self::has_bundle(content);
        }
        let host = Host::parse(name).unwrap();
        let hosts = Self::hosts(folder, content);
        !hosts
            .iter()
            .any(|one| Coverage::parse(one).is_some_and(|coverage| coverage.covers(&host)))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(&'static str, Files),
    Delete(&'static str),
    MoveRoot(bool),
    /// The agent reads a folder.
    Read(&'static str),
    /// The agent lists the root, and reads what is new.
    List,
    Wait(u64),
    /// Another process, which reads everything before it serves, or does not get that far.
    Restart(bool),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let folder = || proptest::sample::select(&FOLDERS[..]);
    let files = prop_oneof![
        3 => (0..6_u8).prop_map(Files::Good),
        2 => Just(Files::Bad),
        1 => Just(Files::Empty),
    ];
    prop_oneof![
        4 => (folder(), files).prop_map(|(folder, files)| Step::Write(folder, files)),
        2 => folder().prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::MoveRoot),
        6 => folder().prop_map(Step::Read),
        3 => Just(Step::List),
        3 => (1..2_000_u64).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(Step::Restart),
        1 => Just(Step::Reconnect),
    ]
}

/// The files, and the agent that reads them.
struct World {
    folders: BTreeMap<&'static str, Files>,
    root_is_there: bool,
    /// Whether `x` exists.
    with_x: bool,
    /// Whether the client may read `x`.
    may_have_x: bool,
    config: Config,
    inventory: Inventory,
    hub: Hub,
    now: Now,
    /// What the agent saw last of each folder; none where it was gone.
    seen: BTreeMap<&'static str, Option<Files>>,
}

impl World {
    fn new(with_x: bool, may_have_x: bool) -> Self {
        let mut root = Root::new(ROOT);
        root.absent = Absent::Wait;
        // A property of withdrawals needs them.
        if may_have_x {
            root.absent = Absent::SaySo;
        }
        let config = Config {
            roots: vec![root],
            ..Config::default()
        };
        let mut world = Self {
            folders: BTreeMap::new(),
            root_is_there: true,
            with_x,
            may_have_x,
            inventory: Inventory::new(&config),
            config,
            hub: Hub::default(),
            now: Now::read(),
            seen: BTreeMap::new(),
        };
        world.publish();
        world
    }

    fn root() -> Arc<Path> {
        Path::new(ROOT).into()
    }

    /// Does one step that is about files or the agent. Returns whether the process is another one.
    fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::Write("x", _) | Step::Delete("x") | Step::Read("x") if !self.with_x => {}
            Step::Write(folder, files) => {
                self.folders.insert(folder, files);
            }
            Step::Delete(folder) => {
                self.folders.remove(folder);
            }
            Step::MoveRoot(there) => self.root_is_there = there,
            Step::Read(folder) => self.read(folder),
            Step::List => self.list(),
            Step::Wait(millis) => {
                self.now.instant += Duration::from_millis(millis);
                self.now.system += Duration::from_millis(millis);
                self.inventory.tick(self.now);
            }
            Step::Restart(completely) => {
                self.inventory = Inventory::new(&self.config);
                self.hub = Hub::default();
                if completely {
                    self.list();
                    FOLDERS.iter().for_each(|folder| self.read(folder));
                }
            }
            Step::Reconnect => {}
        }
        self.publish();
        matches!(step, Step::Restart(_) | Step::Reconnect)
    }

    fn read(&mut self, folder: &'static str) {
        let key = Key::new(&Self::root(), folder.into());
        if !self.inventory.keys(&key.root).contains(&key) {
            return;
        }
        let files = self.folders.get(folder).filter(|_| self.root_is_there);
        let read = files.map_or(Read::Gone, |files| files.read(folder));
        self.seen.insert(folder, files.copied());
        self.inventory
            .observe(&key, read, self.now, self.now.instant);
    }

    fn list(&mut self) {
        let there = self.root_is_there;
        let folders = self.folders.keys().filter(|_| there);
        let listing = Listing {
            present: there,
            complete: true,
            credentials: folders.map(|name| (*name).to_owned()).collect(),
            problems: Vec::new(),
            stamps: Default::default(),
            folder: Default::default(),
        };
        // A root that is away shows nothing of folders that this process has not seen.
        let known = self.inventory.keys(&Self::root());
        for folder in FOLDERS {
            let is_known = known.iter().any(|key| *key.name == *folder);
            if (there || is_known) && !(there && self.folders.contains_key(folder)) {
                self.seen.insert(folder, None);
            }
        }
        let new = self
            .inventory
            .listed(&Self::root(), listing, self.now, self.now.instant);
        for key in new {
            let folder = FOLDERS.iter().find(|folder| **folder == &*key.name);
            self.read(folder.unwrap());
        }
    }

    fn publish(&mut self) {
        let changes = self.inventory.take_changes();
        let published = Published {
            snapshot: self.inventory.snapshot().clone(),
            rules: Arc::default(),
        };
        self.hub.publish(published, &changes);
    }

    fn may(&self, credential: &str) -> bool {
        self.may_have_x || !credential.starts_with('x')
    }

    /// Everything becomes valid, and is read.
    fn mend(&mut self) {
        self.root_is_there = true;
        for files in self.folders.values_mut() {
            if !matches!(files, Files::Good(_)) {
                *files = Files::Good(0);
            }
        }
        self.list();
        FOLDERS.iter().for_each(|folder| self.read(folder));
        self.step(&Step::Wait(3_000));
        self.step(&Step::Wait(3_000));
    }
}

impl View for World {
    fn lookup(&self, name: &str) -> Lookup {
        let published = self.hub.current();
        let may = |credential: &str| self.may(credential);
        published.snapshot.lookup(name, self.now.system, &may)
    }

    fn is_unread(&self, credential: &str) -> bool {
        self.may(credential) && self.hub.current().snapshot.is_unread(credential)
    }

    fn now(&self) -> SystemTime {
        self.now.system
    }
}

/// A session, and where it learns of changes.
struct Stream<S> {
    session: S,
    names: Subscriptions,
    inbox: Arc<Inbox>,
}

impl<S: Session> Stream<S> {
    fn open(session: S, request: S::Request, hub: &Hub) -> Self {
        let mut stream = Self {
            session,
            names: Subscriptions::new(),
            inbox: Arc::default(),
        };
        stream.send(request, hub);
        stream
    }

    fn send(&mut self, request: S::Request, hub: &Hub) {
        for effect in self.session.request(request, &mut self.names).unwrap() {
            if let Effect::Subscribe(name) = effect {
                hub.subscribe(&name, &self.inbox);
            }
        }
    }

    /// The next response.
    fn receive<M: prost::Message + Default>(&mut self, world: &World) -> Option<M> {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(changed) = self.inbox.poll(&mut context) {
            self.session.changed(changed);
        }
        let mut response = self.session.respond(&mut self.names, world)?;
        Some(decode(&mut response))
    }
}

fn strings<'a>(names: impl IntoIterator<Item = &'a &'a str>) -> Vec<String> {
    names.into_iter().map(ToString::to_string).collect()
}

/// A delta client that reconnects with what it holds.
struct Client {
    stream: Stream<Delta>,
    /// Name → version, and the folder that it came from.
    has: BTreeMap<String, (String, String)>,
    /// The names whose folder was seen to be gone, or to serve nothing under that name.
    gone: BTreeSet<String>,
}

impl Client {
    fn new(world: &World) -> Self {
        Self {
            stream: Self::connect(world, &BTreeMap::new()),
            has: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }

    fn connect(world: &World, has: &BTreeMap<String, (String, String)>) -> Stream<Delta> {
        let versions = has.iter();
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: strings(&NAMES),
            initial_resource_versions: versions
                .map(|(name, (version, _))| (name.clone(), version.clone()))
                .collect(),
            ..Default::default()
        };
        Stream::open(Delta::new(100), request, &world.hub)
    }

    fn reconnect(&mut self, world: &World) {
        self.stream = Self::connect(world, &self.has);
    }

    /// Handles all responses. Nothing may be removed that is not seen to be gone.
    fn receive(&mut self, world: &World) {
        self.note_gone(world);
        while let Some(response) = self.stream.receive::<DeltaDiscoveryResponse>(world) {
            for resource in response.resources {
                let found = world.lookup(&resource.name).found().unwrap();
                assert_eq!(found.secret.version(), *resource.version);
                let from = found.credential.to_string();
                self.gone.remove(&resource.name);
                self.has.insert(resource.name, (resource.version, from));
            }
            self.note_gone(world);
            for name in response.removed_resources {
                let had = self.has.remove(&name);
                assert!(
                    had.is_none() || self.gone.contains(&name),
                    "{name} was withdrawn, of which the client has {had:?}"
                );
            }
            let ack = DeltaDiscoveryRequest {
                response_nonce: response.nonce,
                ..Default::default()
            };
            self.stream.send(ack, &world.hub);
        }
    }

    fn note_gone(&mut self, world: &World) {
        for (name, (_, from)) in &self.has {
            let lacks = match world.seen.get(&**from) {
                Some(None) => true,
                Some(Some(files)) => files.lack(from, name),
                None => false,
            };
            if lacks {
                self.gone.insert(name.clone());
            }
        }
    }
}

/// All that a client can observe, with the same names asked for each time.
struct Observer {
    delta: Stream<Delta>,
    sotw: Stream<Sotw>,
    asked: Vec<&'static str>,
    seen: Vec<String>,
}

impl Observer {
    fn new(world: &World, asked: &[&'static str]) -> Self {
        let (delta, sotw) = Self::connect(world, asked);
        Self {
            delta,
            sotw,
            asked: asked.to_vec(),
            seen: Vec::new(),
        }
    }

    /// As a client that claims to hold a version of every name.
    fn connect(world: &World, asked: &[&'static str]) -> (Stream<Delta>, Stream<Sotw>) {
        let held = asked.iter().skip(asked.len() / 2);
        let delta = DeltaDiscoveryRequest {
            resource_names_subscribe: strings(asked),
            initial_resource_versions: held.map(|name| ((*name).into(), "1".into())).collect(),
            ..Default::default()
        };
        let sotw = DiscoveryRequest {
            resource_names: strings(asked),
            version_info: "1".into(),
            ..Default::default()
        };
        (
            Stream::open(Delta::new(100), delta, &world.hub),
            Stream::open(Sotw::new(100), sotw, &world.hub),
        )
    }

    fn observe(&mut self, world: &World, restarted: bool) {
        if restarted {
            (self.delta, self.sotw) = Self::connect(world, &self.asked);
        }
        while let Some(response) = self.delta.receive::<DeltaDiscoveryResponse>(world) {
            self.seen.push(format!("{response:?}"));
        }
        while let Some(response) = self.sotw.receive::<DiscoveryResponse>(world) {
            self.seen.push(format!("{response:?}"));
        }
        self.seen.push("then".into());
    }
}

proptest! {
    #[test]
    fn nothing_is_withdrawn_unless_its_folder_was_seen_to_be_gone(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(true, true);
        let mut client = Client::new(&world);
        for step in &steps {
            if world.step(step) {
                client.reconnect(&world);
            }
            client.receive(&world);
        }
        world.mend();
        client.receive(&world);
        for name in NAMES {
            let found = world.lookup(name).found();
            let version = found.map(|found| found.secret.version().to_string());
            let has = client.has.get(name).map(|(version, _)| version.clone());
            prop_assert_eq!(has, version, "{}", name);
        }
    }

    #[test]
    fn a_forbidden_name_is_as_a_nonexistent_one(
        steps in proptest::collection::vec(step(), 0..60),
        asked in proptest::sample::subsequence(&NAMES[..], 1..=NAMES.len()),
    ) {
        let (mut with, mut without) = (World::new(true, false), World::new(false, false));
        let mut observers = [Observer::new(&with, &asked), Observer::new(&without, &asked)];
        for step in &steps {
            for (world, observer) in [&mut with, &mut without].into_iter().zip(&mut observers) {
                let restarted = world.step(step);
                observer.observe(world, restarted);
            }
        }
        let [with, without] = observers.map(|observer| observer.seen);
        prop_assert_eq!(with, without);
    }
}
