use zeroize::Zeroizing;

use super::*;
use crate::config::Absent;
use crate::credential::{Credential as Checked, Generic, Pair, TicketKeys, Verdict};
use crate::secret::tests::{bundle, facts, pair};
use crate::text::Texts;

const ROOTS: [&str; 2] = ["/a", "/b"];

/// An inventory of two roots.
struct Bench {
    inventory: Inventory,
    now: Now,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self {
            inventory: Inventory::new(&config),
            now: Now::read(),
        }
    }

    /// Lists a root that holds these folders.
    fn list(&mut self, root: &str, folders: &[&str], complete: bool) -> Vec<String> {
        let root: Arc<Path> = Path::new(root).into();
        let listing = Listing {
            present: true,
            complete,
            credentials: folders.iter().map(|name| (*name).to_owned()).collect(),
            problems: Vec::new(),
            stamps: Default::default(),
            folder: Default::default(),
        };
        let new = self
            .inventory
            .listed(&root, listing, self.now, self.now.instant);
        new.iter().map(|key| key.name.to_string()).collect()
    }

    fn read(&mut self, folder: &str, read: Read) {
        let (root, name) = folder.rsplit_once('/').unwrap();
        let key = Key::new(&Path::new(root).into(), name.into());
        self.inventory
            .observe(&key, read, self.now, self.now.instant);
    }

    fn wait(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.system += Duration::from_secs(seconds);
        self.inventory.tick(self.now);
    }

    fn lookup_as(&self, name: &str, may: &dyn Fn(&str) -> bool) -> String {
        match self.inventory.snapshot().lookup(name, self.now.system, may) {
            Lookup::Found(found) => text(&found),
            Lookup::Absent(_) => "absent".to_owned(),
            Lookup::Unknown(otherwise, _) => match otherwise.found() {
                Some(found) => format!("{} unless held", text(&found)),
                None => "unknown".to_owned(),
            },
        }
    }

    fn lookup(&self, name: &str) -> String {
        self.lookup_as(name, &|_| true)
    }
}

/// The credential that was found, and the content of the secret.
fn text(found: &Found) -> String {
    let fields: Vec<u8> = found.secret.fields().flatten().copied().collect();
    let text = String::from_utf8_lossy(&fields).into_owned();
    let content = text.rsplit(' ').next().unwrap_or_default().to_owned();
    format!("{} {content}", found.credential)
}

fn config() -> Config {
    Config {
        roots: ROOTS.map(config::Root::new).to_vec(),
        ..Config::default()
    }
}

pub(crate) fn verdict<T>(part: T) -> Verdict<T> {
    Verdict {
        part: Some(part),
        ..Verdict::default()
    }
}

pub(crate) fn judged(credential: Checked) -> Read {
    Read::Judged(Box::new(credential.into()))
}

fn good(content: &str) -> Read {
    judged(Checked {
        pair: verdict(pair(content)),
        bundle: verdict(bundle(content)),
        ..Checked::default()
    })
}

pub(crate) fn bad() -> Read {
    let problem = Problem::new(Reason::BadPem, "/a/site", "broken", "mend it");
    Read::Rejected(vec![problem])
}

/// A pair that covers these hosts and expires in this number of days.
fn covering(content: &str, hosts: &[&str], days: u64) -> Read {
    let mut pair: Pair = pair(content);
    pair.facts.leaf = facts(
        "",
        &hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    pair.facts.leaf.not_after = SystemTime::now() + Duration::from_secs(days * 86_400);
    judged(Checked {
        pair: verdict(pair),
        ..Checked::default()
    })
}

/// Both roots listed: the first with these folders, which are read, the second without any.
fn with_folders(config: Config, folders: Vec<(&str, Read)>) -> Bench {
    let mut bench = Bench::new(config);
    let names: Vec<_> = folders.iter().map(|(name, _)| *name).collect();
    bench.list("/a", &names, true);
    bench.list("/b", &[], true);
    for (name, read) in folders {
        bench.read(&format!("/a/{name}"), read);
    }
    bench
}

#[test]
fn a_name_is_looked_up_as_folder_bundle_istios_spelling_host_and_default() {
    let config = Config {
        default_credential: Some("site".into()),
        ..config()
    };
    let mut bench = with_folders(
        config,
        vec![
            ("site", good("1")),
            ("own-cacert", good("2")),
            ("own", good("3")),
            ("pending", bad()),
            ("wild", covering("4", &["*.example.com"], 90)),
            (
                "ca",
                judged(Checked {
                    bundle: verdict(bundle("5")),
                    ..Checked::default()
                }),
            ),
        ],
    );
    assert_eq!(bench.lookup("ca"), "unknown", "a pair may still come");
    bench.wait(2);
    for (name, expected) in [
        ("site", "site 1"),
        ("site-cacert", "site 1"),
        ("kubernetes://site", "site 1"),
        ("kubernetes://site-cacert", "site 1"),
        ("own-cacert", "own-cacert 2"),
        ("www.example.com", "wild 4"),
        ("WWW.EXAMPLE.com.", "wild 4"),
        ("kubernetes://www.example.com", "wild 4"),
        ("a.www.example.com", "site 1 unless held"),
        ("unheard.of", "site 1 unless held"),
        ("ca", "ca 5"),
        ("ca-cacert", "ca 5"),
        ("ghost cacert", "absent"),
        ("pending", "unknown"),
        ("not a host", "absent"),
        ("*", "absent"),
        ("", "absent"),
    ] {
        assert_eq!(bench.lookup(name), expected, "{name}");
    }
}

#[test]
fn the_best_certificate_for_a_host_wins_until_it_is_removed() {
    let mut bench = with_folders(
        config(),
        vec![
            ("wild", covering("1", &["*.example.com"], 90)),
            (
                "short",
                covering("2", &["www.example.com", "192.0.2.7"], 30),
            ),
            ("long-b", covering("3", &["www.example.com"], 60)),
            ("long-a", covering("4", &["www.example.com"], 60)),
        ],
    );
    // Of two that end at the same moment, to the second, the name decides.
    bench.read("/a/long-b", covering("3", &["www.example.com"], 50));
    assert_eq!(bench.lookup("www.example.com"), "long-a 4", "expires last");
    assert_eq!(bench.lookup("api.example.com"), "wild 1");
    assert_eq!(bench.lookup("192.0.2.7"), "short 2");
    bench.read("/a/long-a", covering("5", &["other.example.org"], 60));
    assert_eq!(
        bench.lookup("www.example.com"),
        "long-b 3",
        "a SAN was lost"
    );
    bench.read("/a/long-b", Read::Gone);
    bench.wait(2);
    assert_eq!(bench.lookup("www.example.com"), "short 2");
    bench.wait(31 * 86_400);
    assert_eq!(
        bench.lookup("www.example.com"),
        "short 2",
        "exact before wildcard"
    );
    let may = |name: &str| name == "wild";
    assert_eq!(bench.lookup_as("www.example.com", &may), "wild 1");
    assert_eq!(bench.lookup_as("short", &may), "absent");
}

#[test]
fn nothing_holds_what_is_no_longer_published() {
    let pair = |content| covering(content, &["www.example.com"], 90);
    let mut bench = with_folders(config(), vec![("site", pair("1"))]);
    let published = |bench: &Bench| {
        let credential = bench.inventory.snapshot().winner("site").unwrap();
        let secret = credential.secret(Kind::Certificate).unwrap();
        (Arc::downgrade(credential), Arc::downgrade(secret))
    };
    let (credential, secret) = published(&bench);
    bench.read("/a/site", bad());
    assert_eq!(bench.lookup("www.example.com"), "site 1");
    assert!(credential.upgrade().is_none() && secret.upgrade().is_some());
    let (credential, secret) = published(&bench);
    bench.read("/a/site", pair("2"));
    assert_eq!(bench.lookup("www.example.com"), "site 2");
    assert!(credential.upgrade().is_none() && secret.upgrade().is_none());
}

#[test]
fn a_change_affects_only_the_names_that_it_concerns() {
    let mut bench = with_folders(
        config(),
        vec![
            ("site", covering("1", &["www.example.com"], 90)),
            ("other", covering("1", &["api.example.com"], 90)),
        ],
    );
    bench.inventory.take_changes();
    bench.read(
        "/a/site",
        covering("2", &["www.example.com", "*.x.test"], 90),
    );
    let changes = bench.inventory.take_changes();
    assert_eq!(changes.credentials, ["site".into()]);
    let mut hosts: Vec<_> = changes.hosts;
    hosts.sort();
    hosts.dedup();
    assert_eq!(
        hosts,
        ["www.example.com", "*.x.test"].map(|name| Coverage::parse(name).unwrap())
    );
    assert!(!changes.everything);
    bench.read(
        "/a/site",
        covering("2", &["www.example.com", "*.x.test"], 90),
    );
    let changes = bench.inventory.take_changes();
    assert!(changes.credentials.is_empty() && changes.hosts.is_empty());
}

#[test]
fn the_first_root_that_serves_a_name_wins() {
    let mut bench = Bench::new(config());
    bench.list("/a", &["site"], true);
    bench.list("/b", &["site"], true);
    bench.read("/a/site", bad());
    bench.read("/b/site", good("b"));
    let count = |bench: &Bench| bench.inventory.snapshot().secret_count();
    assert_eq!(bench.lookup("site"), "site b");
    assert_eq!(count(&bench), 2, "a pair and a bundle");
    bench.read("/a/site", good("a"));
    assert_eq!(bench.lookup("site"), "site a");
    assert_eq!(count(&bench), 2, "those of /b are not served");
    bench.read("/a/site", Read::Gone);
    bench.wait(2);
    assert_eq!(bench.lookup("site"), "site b");

    bench.read("/b/site", good("b2"));
    let mut swapped = config();
    swapped.roots.reverse();
    bench.list("/a", &["site"], true);
    bench.read("/a/site", good("a2"));
    assert_eq!(bench.lookup("site"), "site a2");
    bench.inventory.configure(&swapped, bench.now);
    assert_eq!(bench.lookup("site"), "site b2");
    swapped.roots.remove(0);
    bench.inventory.configure(&swapped, bench.now);
    assert_eq!(bench.lookup("site"), "site a2");
}

#[test]
fn what_could_not_be_read_since_the_start_is_unknown_and_not_absent() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.lookup("site"), "unknown");
    bench.list("/a", &["site", "empty", "nocrt"], true);
    assert_eq!(bench.lookup("no host"), "unknown", "a root is not listed");
    bench.list("/b", &[], false);
    assert_eq!(bench.lookup("no host"), "unknown", "not all of it is");
    bench.list("/b", &[], true);
    assert_eq!(bench.lookup("no host"), "absent");
    assert_eq!(bench.lookup("www.example.com"), "unknown");
    bench.read("/a/site", bad());
    bench.read("/a/empty", judged(Checked::default()));
    bench.read("/a/nocrt", good("1"));
    for name in ["site", "site-cacert", "empty", "www.example.com"] {
        assert_eq!(bench.lookup(name), "unknown", "{name}");
    }
    let forbidden = |name: &str| bench.lookup_as(name, &|_| false);
    assert_eq!(forbidden("site"), forbidden("ghost"));
    assert_eq!(forbidden("site name"), "absent");
    bench.read("/a/site", good("1"));
    assert_eq!(bench.lookup("www.example.com"), "unknown", "the empty one");
    bench.inventory.take_changes();
    bench.list("/a", &["site", "nocrt"], true);
    assert_eq!(bench.lookup("www.example.com"), "unknown", "it may be back");
    bench.wait(2);
    assert!(bench.inventory.take_changes().everything);
    assert_eq!(bench.lookup("www.example.com"), "absent");
    bench.read("/a/site", bad());
    assert_eq!(bench.lookup("site"), "site 1", "the previous version stays");
    bench.read("/a/site", Read::Gone);
    bench.wait(2);
    assert_eq!(bench.lookup("site"), "absent");
}

#[test]
fn no_client_of_a_pair_gets_ticket_keys_or_a_generic_secret() {
    let with = |pair: Verdict<Pair>| {
        judged(Checked {
            pair,
            ticket_keys: verdict(TicketKeys {
                keys: vec![Zeroizing::new(b" ticket".to_vec())],
                files: Texts::default(),
            }),
            generic: verdict(Generic {
                secret: Zeroizing::new(b" token".to_vec()),
                files: Texts::default(),
            }),
            ..Checked::default()
        })
    };
    let broken = || {
        let problem = Problem::new(Reason::BadPem, "/a/site/tls.crt", "broken", "mend it");
        Verdict {
            problems: vec![problem],
            ..Verdict::default()
        }
    };
    for folders in [&["site"][..], &[]] {
        // There before the start, and made after it.
        let mut bench = Bench::new(config());
        bench.list("/a", folders, true);
        bench.list("/b", &[], true);
        bench.list("/a", &["site"], true);
        bench.read("/a/site", with(broken()));
        assert_eq!(bench.lookup("site"), "unknown");
        bench.read("/a/site", with(Verdict::default()));
        assert_eq!(bench.lookup("site"), "site ticket", "no pair after all");
        bench.read("/a/site", with(broken()));
        assert_eq!(bench.lookup("site"), "site ticket", "the keys stay");
        bench.read("/a/site", with(verdict(pair("1"))));
        assert_eq!(bench.lookup("site"), "site 1");
        bench.read("/a/site", with(broken()));
        assert_eq!(bench.lookup("site"), "site 1");
    }
}

#[test]
fn the_answer_to_a_removed_name_is_its_roots_for_clients_that_were_allowed_to_read_it() {
    let mut config = config();
    config.roots[0].absent = Absent::Wait;
    let mut bench = with_folders(config, vec![("site", good("1"))]);
    bench.read("/a/site", Read::Gone);
    bench.wait(2);
    let absent = |name: &str, may: bool| {
        let snapshot = bench.inventory.snapshot();
        match snapshot.lookup(name, bench.now.system, &|_| may) {
            Lookup::Absent(absent) => absent,
            other => panic!("{other:?}"),
        }
    };
    for name in ["site", "site-cacert"] {
        assert_eq!(absent(name, true), Absent::Wait);
        assert_eq!(absent(name, false), absent("ghost", false));
    }
    assert_eq!(absent("ghost", true), Absent::SaySo);
}

#[test]
fn the_limit_applies_to_all_roots_together_and_removes_nothing() {
    let mut config = config();
    config.limits.credentials = 3;
    let mut bench = Bench::new(config);
    assert_eq!(bench.list("/a", &["a1", "a2"], true), ["a1", "a2"]);
    bench.read("/a/a1", good("1"));
    bench.read("/a/a2", good("2"));
    assert_eq!(bench.list("/b", &["b1", "b2"], true), ["b1"]);
    bench.read("/b/b1", good("3"));
    let problems = &bench.inventory.snapshot().roots()[1].problems;
    assert_eq!(problems[0].reason(), Reason::TooLarge);
    assert_eq!(bench.list("/a", &["a0", "a1", "a2"], true), [""; 0]);
    bench.list("/a", &["a1"], true);
    bench.wait(2);
    assert_eq!(bench.list("/b", &["b1", "b2"], true), ["b2"]);
}

#[test]
fn a_previous_version_in_service_is_to_be_kept_and_given_back_as_it_was() {
    let mut bench = with_folders(config(), vec![("site", good("1"))]);
    bench.inventory.take_changes();
    bench.read("/a/site", judged(Checked::default()));
    let kept = bench.inventory.take_changes().kept;
    let [(key, parts)] = &kept[..] else {
        panic!("{kept:?}");
    };
    assert_eq!((&*key.name, parts.len()), ("site", 2));
    bench.read("/a/site", good("2"));
    assert!(bench.inventory.take_changes().kept[0].1.is_empty());
}

#[test]
fn an_expiry_is_logged_at_its_time_and_again_when_the_clock_was_set_back() {
    let day = 86_400;
    let mut bench = with_folders(config(), vec![("site", covering("1", &["site.test"], 100))]);
    let reminders = |bench: &mut Bench| bench.inventory.take_changes().reminders.len();
    bench.wait(day);
    assert_eq!(reminders(&mut bench), 0);
    assert_eq!(bench.inventory.wait(bench.now), Some(CLOCK_CHECK));
    bench.wait(98 * day);
    assert_eq!(reminders(&mut bench), 1);
    bench.wait(60);
    assert_eq!(reminders(&mut bench), 0);

    bench.now.system -= Duration::from_secs(98 * day);
    assert_eq!(bench.inventory.wait(bench.now), Some(Duration::ZERO));
    bench.wait(0);
    assert_eq!(reminders(&mut bench), 0);
    assert_eq!(bench.inventory.wait(bench.now), Some(CLOCK_CHECK));
    bench.wait(98 * day);
    assert_eq!(reminders(&mut bench), 1);
}
