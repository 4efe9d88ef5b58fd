//! A reload that changes roots and rules together, while clients send requests.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::util::folders::write_files;
use crate::util::sds::{Content, Delta};
use crate::util::users::{ROOT, connect_as};
use crate::util::{Agent, Bed, Identity, Sds, eventually, require};

/// Users that this machine has no entries for.
const FIRST: u32 = 54_361;
const SECOND: u32 = 54_362;
const FOLDERS: usize = 3_000;

fn config(root: &Path, user: u32) -> String {
    format!(
        "credentials = [{root:?}]\nlog_level = \"sds_agent::cli=info,warn\"\n\
         [listen]\nmode = \"0666\"\n[[access]]\nsecrets = [\"*\"]\nusers = [{user}]\n"
    )
}

/// Two roots with the same names, each with one certificate, and an agent.
struct Two {
    bed: Bed,
    first: Identity,
    second: Identity,
    agent: Agent,
}

impl Two {
    fn start(folders: usize) -> Self {
        let bed = Bed::new();
        fs::set_permissions(bed.scratch(""), PermissionsExt::from_mode(0o711)).unwrap();
        let identities = ["first", "second"].map(|root| {
            let identity = bed.ca.server(&["*.example.test"]);
            for number in 0..folders {
                let folder = bed.root.beside(root).join(format!("site-{number}"));
                let files = [("cert", &identity.chain), ("key", &identity.key)];
                write_files(&folder, &files);
            }
            identity
        });
        let path = bed.scratch("sds-agent.toml");
        fs::write(&path, config(&bed.root.beside("first"), FIRST)).unwrap();
        let builder = Agent::builder(&bed.socket()).arg("--config").arg(path);
        let agent = bed.ready(builder);
        let [first, second] = identities;
        Self {
            bed,
            first,
            second,
            agent,
        }
    }

    fn ask_for_reload(&self, root: &str, user: u32) {
        let path = self.bed.scratch("sds-agent.toml");
        fs::write(path, config(&self.bed.root.beside(root), user)).unwrap();
        self.agent.signal(Signal::HUP);
    }

    fn stream(&self, user: u32) -> Delta {
        let connection = connect_as(&self.bed.socket(), user, user).unwrap();
        Sds::on(connection).unwrap().delta()
    }

    /// Requests folders and hosts as `user`, again and again, until `over`; `keys` gets each key that arrives,
    /// once.
    fn ask(&self, user: u32, over: &AtomicBool, keys: &Mutex<Vec<Vec<u8>>>) {
        let mut standing = self.stream(user);
        standing.subscribe(&["site-0", "www.example.test"]);
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            let mut stream = self.stream(user);
            for _ in 0..20 {
                number = (number + 37) % FOLDERS;
                stream.subscribe(&[
                    &format!("site-{number}"),
                    &format!("h{number}.example.test"),
                ]);
                let mut received = vec![stream.changes()];
                while let Some(response) = standing.0.recv_within(Duration::ZERO) {
                    received.push(standing.accept(&response));
                }
                for secret in received.into_iter().flat_map(|changes| changes.secrets) {
                    let Content::Pair { key, .. } = secret.content else {
                        panic!("{secret:?}");
                    };
                    let mut keys = keys.lock().unwrap();
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
            }
        }
    }
}

#[test]
fn during_a_reload_no_client_gets_what_neither_configuration_allows() {
    if require(&ROOT).is_none() {
        return;
    }
    let two = Two::start(FOLDERS);
    let over = AtomicBool::new(false);
    let [first, second] = [(); 2].map(|()| Mutex::new(Vec::new()));
    let has_a_key = |keys: &Mutex<Vec<_>>| {
        eventually("a key", || (!keys.lock().unwrap().is_empty()).then_some(()));
    };
    std::thread::scope(|scope| {
        let askers = [
            scope.spawn(|| two.ask(FIRST, &over, &first)),
            scope.spawn(|| two.ask(SECOND, &over, &second)),
        ];
        let reload = |root: &str, user| {
            let seen = two.agent.lines().len();
            two.ask_for_reload(root, user);
            two.agent.wait_for_line_after(seen, &["reloaded"]);
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            has_a_key(&first);
            reload("second", SECOND);
            has_a_key(&second);
            reload("first", FIRST);
            reload("second", SECOND);
            let mut stream = two.stream(SECOND);
            stream.subscribe(&["site-1"]);
            // Until the new root has been read, which takes longer on a busy machine, nothing is served.
            let secret = std::iter::repeat_with(|| stream.changes().secrets.pop())
                .flatten()
                .next();
            assert!(secret.unwrap().is_pair(&two.second.chain, &two.second.key));
            let mut stream = two.stream(FIRST);
            stream.subscribe(&["site-1", "www.example.test"]);
            assert_eq!(stream.removed().len(), 2);
        }));
        over.store(true, Ordering::Relaxed);
        for asker in askers {
            asker.join().unwrap();
        }
        result.unwrap();
    });
    let [first, second] = [first, second].map(|keys| keys.into_inner().unwrap());
    assert_eq!(first, [two.first.key.as_bytes()], "the first user's keys");
    assert_eq!(
        second,
        [two.second.key.as_bytes()],
        "the second user's keys"
    );
}

#[test]
fn an_unfinished_reload_does_not_delay_shutdown() {
    if require(&ROOT).is_none() {
        return;
    }
    let mut two = Two::start(10);
    let mut stream = two.stream(FIRST);
    stream.subscribe(&["site-0"]);
    stream.secret();
    // A file that is being written prevents the new root from being read completely, and the reload from ending.
    let file = two.bed.root.beside("second").join("site-0/key");
    let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                file.write_all(b"\n").unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        two.ask_for_reload("second", SECOND);
        // What the new rules forbid is already forbidden, and what they allow is not allowed yet.
        assert_eq!(stream.removed(), ["site-0"]);
        let mut second = two.stream(SECOND);
        second.subscribe(&["site-1"]);
        assert_eq!(second.removed(), ["site-1"]);
        second.0.assert_silent();
        assert!(two.agent.lines_with(&["reloaded"]).is_empty());
        let start = Instant::now();
        two.agent.signal(Signal::TERM);
        let status = two.agent.wait();
        let took = start.elapsed();
        over.store(true, Ordering::Relaxed);
        assert!(status.success(), "{status}");
        // Far less than the time limit for the end of a reload.
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}
