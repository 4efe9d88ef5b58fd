use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::secret::tests::{bundle, facts, pair, staple};

const DELAY: Duration = Duration::from_secs(5);
/// Longer than a problem has to last before it is logged.
const LASTING: Duration = Duration::from_secs(1);

fn verdict<T>(part: Option<T>) -> Verdict<T> {
    Verdict {
        part,
        ..Verdict::default()
    }
}

fn rejected<T>(what: &str) -> Verdict<T> {
    Verdict {
        problems: vec![problem(what)],
        ..Verdict::default()
    }
}

fn problem(what: &str) -> Problem {
    Problem::new(Reason::BadPem, "/c/site", what, "mend it")
}

fn judged(credential: Credential) -> Found {
    Found::Judged(Box::new(credential.into()))
}

fn good(pair_content: Option<&str>, bundle_content: Option<&str>) -> Found {
    judged(Credential {
        pair: verdict(pair_content.map(pair)),
        bundle: verdict(bundle_content.map(bundle)),
        ..Credential::default()
    })
}

/// A read of files without a valid part.
fn bad(what: &str) -> Found {
    judged(Credential {
        pair: rejected(what),
        bundle: rejected(what),
        ..Credential::default()
    })
}

/// A folder, and a clock that moves by hand.
struct Bench {
    folder: Folder,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: Folder::woken(
                Arc::new(View {
                    since_start: true,
                    ..View::new(Path::new("/c").into(), "site".into(), false)
                }),
                WhenGone::KeepFolder,
            ),
            now: Now::read(),
        }
    }

    fn observe(&mut self, found: Found) -> Vec<Event> {
        let events = self
            .folder
            .observe(found, DELAY, self.now, self.now.instant);
        self.publish();
        events
    }

    fn wait(&mut self, time: Duration) -> Vec<Event> {
        self.now.instant += time;
        self.now.system += time;
        let events = self.folder.tick(DELAY, self.now);
        self.publish();
        events
    }

    /// Publishes its state. If it rests then, it continues as the folder that is made from that state.
    fn publish(&mut self) {
        let published = self.folder.publish(0, Some(false), self.now.system);
        self.folder.timer = self.folder.deadline(DELAY);
        if self.folder.rests() {
            self.folder = Folder::woken(published, WhenGone::KeepFolder);
        }
    }

    /// The content that is served of a kind, as the parts of the tests have it.
    fn content(&self, kind: Kind) -> Option<String> {
        let secret = self.folder.view.secret(kind)?;
        let fields: Vec<u8> = secret.fields().flat_map(|bytes| bytes.to_vec()).collect();
        let text = String::from_utf8_lossy(&fields);
        let printable = |char: char| char.is_ascii_alphanumeric() || char == ' ';
        Some(text.chars().filter(|char| printable(*char)).collect())
    }

    fn pair(&self) -> Option<String> {
        self.content(Kind::Certificate)
    }

    fn bundle(&self) -> Option<String> {
        self.content(Kind::TrustBundle)
    }

    /// Whether the bundle is served under the folder's own name.
    fn alone(&self) -> bool {
        self.folder.view.alone
    }
}

fn is_served(content: Option<String>, expected: &str) -> bool {
    content.is_some_and(|content| content.contains(expected))
}

#[test]
fn a_folder_rests_unless_it_has_something_to_do() {
    let mut bench = Bench::new();
    assert!(bench.folder.rests(), "it was never read");
    bench.observe(good(Some("1"), Some("1")));
    assert!(bench.folder.rests());
    bench.observe(bad("broken"));
    assert!(!bench.folder.rests(), "it serves what is gone");
    bench.observe(good(Some("2"), Some("1")));
    assert!(bench.folder.rests());
    bench.observe(Found::Gone);
    assert!(!bench.folder.rests(), "it is to be removed");
    bench.wait(DELAY);
    assert!(!bench.folder.rests(), "it is to be forgotten");
}

#[test]
fn what_is_loaded_is_served_at_once_and_logged_as_new() {
    let mut bench = Bench::new();
    let events = bench.observe(good(Some("1"), None));
    assert!(
        matches!(events[..], [Event::Changed { first: true, .. }]),
        "{events:?}"
    );
    assert!(is_served(bench.pair(), "chain 1"));
    let events = bench.observe(good(Some("1"), None));
    assert!(
        events.is_empty(),
        "the same content again is not an event: {events:?}"
    );
    let events = bench.observe(good(Some("2"), None));
    assert!(
        matches!(events[..], [Event::Changed { first: false, .. }]),
        "{events:?}"
    );
}

#[test]
fn a_warning_that_stays_is_logged_once() {
    let warning = problem("no issuer");
    let mut bench = Bench::new();
    for (content, logged) in [("1", 1), ("2", 0), ("3", 0)] {
        let events = bench.observe(judged(Credential {
            pair: Verdict {
                warnings: vec![warning.clone()],
                ..verdict(Some(pair(content)))
            },
            ..Credential::default()
        }));
        let [Event::Changed { warnings, .. }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(warnings.len(), logged);
        assert_eq!(bench.folder.warnings(), std::slice::from_ref(&warning));
    }
}

#[test]
fn a_problem_that_passes_is_not_logged_and_removes_nothing() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), None));
    assert!(bench.observe(bad("half a rotation")).is_empty());
    assert!(bench.wait(LASTING / 2).is_empty());
    assert!(is_served(bench.pair(), "chain 1"));
    let events = bench.observe(good(Some("2"), None));
    assert!(matches!(events[..], [Event::Changed { .. }]), "{events:?}");
    assert!(bench.wait(LASTING * 10).is_empty());
}

#[test]
fn a_problem_that_lasts_is_logged_once_and_so_is_its_end() {
    let reject = |what: &str| {
        judged(Credential {
            pair: rejected(what),
            ..Credential::default()
        })
    };
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), None));
    bench.observe(reject("broken"));
    let events = bench.wait(LASTING);
    assert!(
        matches!(events[..], [Event::Rejected { keeps: true, .. }]),
        "{events:?}"
    );
    assert!(bench.observe(reject("broken")).is_empty());
    assert!(bench.wait(LASTING * 10).is_empty());
    bench.observe(reject("broken in another way"));
    let events = bench.wait(LASTING);
    assert!(matches!(events[..], [Event::Rejected { .. }]), "{events:?}");
    let events = bench.observe(good(Some("1"), None));
    let kind = Some(Kind::Certificate);
    assert!(
        matches!(events[..], [Event::Recovered { kind: of }] if of == kind),
        "{events:?}"
    );
}

#[test]
fn each_part_is_checked_separately() {
    let mut bench = Bench::new();
    bench.observe(judged(Credential {
        pair: verdict(Some(pair("1"))),
        bundle: rejected("empty"),
        ..Credential::default()
    }));
    assert!(is_served(bench.pair(), "chain 1"));
    assert_eq!(bench.bundle(), None);
    bench.observe(good(Some("2"), Some("a")));
    bench.observe(judged(Credential {
        pair: rejected("mismatch"),
        bundle: verdict(Some(bundle("b"))),
        ..Credential::default()
    }));
    let events = bench.wait(LASTING);
    let kind = Some(Kind::Certificate);
    assert!(
        matches!(&events[..], [Event::Rejected { kind: of, keeps: true, .. }] if *of == kind),
        "{events:?}"
    );
    assert!(is_served(bench.pair(), "chain 2") && is_served(bench.bundle(), "ca b"));
}

#[test]
fn a_folder_that_was_never_valid_serves_nothing() {
    let mut bench = Bench::new();
    bench.observe(Found::Rejected(vec![problem("unreadable")]));
    let events = bench.wait(LASTING);
    assert!(
        matches!(
            events[..],
            [Event::Rejected {
                kind: None,
                keeps: false,
                ..
            }]
        ),
        "{events:?}"
    );
    assert!(!bench.folder.serves());
    assert!(bench.folder.is_unread());
}

#[test]
fn the_secrets_of_a_folder_missing_for_long_enough_are_removed() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), Some("ca")));
    bench.observe(Found::Gone);
    assert_eq!(
        bench.folder.deadline(DELAY),
        Some(bench.now.instant + DELAY)
    );
    assert!(bench.wait(DELAY - Duration::from_millis(1)).is_empty());
    assert!(
        bench.observe(Found::Gone).is_empty(),
        "still gone is not gone anew"
    );
    let events = bench.wait(Duration::from_millis(1));
    assert!(matches!(events[..], [Event::Removed]), "{events:?}");
    assert!(!bench.folder.serves() && bench.folder.is_over());
    assert_eq!(bench.folder.deadline(DELAY), None);
}

#[test]
fn what_is_wrong_while_a_folder_is_being_removed_is_not_logged() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), None));
    bench.observe(bad("empty"));
    bench.observe(Found::Gone);
    let events = bench.wait(DELAY.max(LASTING));
    assert!(matches!(events[..], [Event::Removed]), "{events:?}");
}

#[test]
fn a_folder_deleted_and_created_again_sooner_is_a_rotation() {
    for back in [good(Some("2"), None), bad("half copied")] {
        let mut bench = Bench::new();
        bench.observe(good(Some("1"), None));
        bench.observe(Found::Gone);
        bench.wait(DELAY / 2);
        bench.observe(back);
        bench.wait(DELAY * 10);
        assert!(bench.pair().is_some());
    }
}

#[test]
fn a_bundle_without_a_pair_has_the_folders_name_after_a_while() {
    let mut bench = Bench::new();
    bench.observe(good(None, Some("ca")));
    assert!(is_served(bench.bundle(), "ca ca"));
    assert!(!bench.alone());
    assert_eq!(bench.folder.settles_at(), Some(bench.now.instant + ALONE));
    let events = bench.wait(ALONE);
    assert!(matches!(events[..], [Event::Changed { .. }]), "{events:?}");
    assert!(bench.alone());
    bench.observe(good(Some("1"), Some("ca")));
    assert!(!bench.alone(), "a pair takes the name");
}

#[test]
fn a_pair_whose_ca_comes_first_is_never_announced_as_a_bundle() {
    let mut bench = Bench::new();
    bench.observe(good(None, Some("ca")));
    bench.wait(ALONE / 2);
    bench.observe(judged(Credential {
        pair: rejected("the key is missing"),
        bundle: verdict(Some(bundle("ca"))),
        ..Credential::default()
    }));
    bench.wait(ALONE * 10);
    assert!(!bench.alone());
    bench.observe(good(Some("1"), Some("ca")));
    bench.wait(ALONE * 10);
    assert!(!bench.alone());
}

#[test]
fn a_bundle_removed_next_to_a_valid_pair_is_no_longer_served_after_the_delay() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), Some("ca")));
    bench.observe(good(Some("2"), None));
    assert!(
        is_served(bench.bundle(), "ca ca"),
        "it may be on its way back"
    );
    let events = bench.wait(DELAY);
    assert!(matches!(events[..], [Event::Changed { .. }]), "{events:?}");
    assert!(is_served(bench.pair(), "chain 2"));
    assert_eq!(bench.bundle(), None);
}

#[test]
fn files_removed_from_a_folder_that_stays_remain_in_service() {
    for left in [good(None, Some("ca")), good(None, None)] {
        let mut bench = Bench::new();
        bench.observe(good(Some("1"), Some("ca")));
        bench.observe(left);
        let events = bench.wait(DELAY * 10);
        let kept = |event: &Event| matches!(event, Event::Rejected { keeps: true, .. });
        assert!(!events.is_empty() && events.iter().all(kept), "{events:?}");
        assert!(is_served(bench.pair(), "chain 1") && is_served(bench.bundle(), "ca ca"));
    }
}

/// A pair that is valid from `from` to `to`, in seconds from `now`.
fn dated(content: &str, now: Now, from: i64, to: i64) -> Found {
    let at = |seconds: i64| match u64::try_from(seconds) {
        Ok(ahead) => now.system + Duration::from_secs(ahead),
        Err(_) => now.system - Duration::from_secs(seconds.unsigned_abs()),
    };
    let mut pair = pair(content);
    pair.facts.leaf.not_before = at(from);
    pair.facts.leaf.not_after = at(to);
    judged(Credential {
        pair: verdict(Some(pair)),
        ..Credential::default()
    })
}

#[test]
fn a_pair_that_is_not_valid_yet_takes_over_when_it_becomes_valid_or_the_other_expires() {
    for (next, takes_over) in [((100, 900), 100), ((-900, -100), 501), ((700, 900), 501)] {
        let mut bench = Bench::new();
        let start = bench.now;
        bench.observe(dated("old", start, -100, 500));
        assert!(
            bench
                .observe(dated("new", start, next.0, next.1))
                .is_empty()
        );
        assert!(is_served(bench.pair(), "chain old"), "{next:?}");
        assert_eq!(bench.folder.warnings().len(), 1);
        assert_eq!(bench.folder.previous().count(), 1);
        let date = bench.folder.next_date(start.system).unwrap();
        assert!(date <= start.system + Duration::from_secs(takes_over));
        bench.wait(Duration::from_secs(takes_over - 1));
        assert!(is_served(bench.pair(), "chain old"), "{next:?}");
        bench.wait(Duration::from_secs(1));
        assert!(is_served(bench.pair(), "chain new"), "{next:?}");
        assert_eq!(bench.folder.previous().count(), 0);
    }
    let mut bench = Bench::new();
    let start = bench.now;
    bench.observe(dated("ended", start, -900, -100));
    bench.observe(dated("also ended", start, -800, -90));
    assert!(is_served(bench.pair(), "chain also"), "neither is valid");
}

#[test]
fn a_lesser_chain_is_used_if_no_better_one_has_followed() {
    let lesser = |content: &str| {
        let mut pair = pair(content);
        pair.lesser_chain = true;
        judged(Credential {
            pair: verdict(Some(pair)),
            ..Credential::default()
        })
    };
    for before in [None, Some("old")] {
        let mut bench = Bench::new();
        if let Some(before) = before {
            bench.observe(good(Some(before), None));
        }
        bench.observe(lesser("leaf"));
        bench.wait(Duration::from_millis(999));
        bench.observe(lesser("leaf"));
        assert!(!is_served(bench.pair(), "chain leaf"), "a tool is writing");
        assert_eq!(bench.pair().is_some(), before.is_some());
        bench.wait(Duration::from_millis(1));
        assert!(is_served(bench.pair(), "chain leaf"));
        bench.observe(good(Some("full"), None));
        assert!(is_served(bench.pair(), "chain full"), "at once");
        bench.observe(lesser("other"));
        bench.observe(good(Some("next"), None));
        bench.wait(Duration::from_secs(5));
        assert!(is_served(bench.pair(), "chain next"));
    }
}

#[test]
fn a_staple_is_sent_with_its_certificate_until_it_expires() {
    let with = |content: &str, serial: &str, ends_in: u64, now: Now| {
        let mut pair = pair(content);
        pair.facts.leaf = facts(serial, &[]);
        let mut staple = staple("s");
        staple.facts.next_update = Some(now.system + Duration::from_secs(ends_in));
        judged(Credential {
            pair: verdict(Some(pair)),
            staple: verdict(Some(staple)),
            ..Credential::default()
        })
    };
    let mut bench = Bench::new();
    bench.observe(with("1", "", 100, bench.now));
    assert!(is_served(bench.pair(), "staple s"));
    let events = bench.wait(Duration::from_secs(101));
    assert!(matches!(events[..], [Event::Changed { .. }]), "{events:?}");
    assert!(is_served(bench.pair(), "chain 1") && !is_served(bench.pair(), "staple"));
    bench.observe(with("2", "other", 100, bench.now));
    assert!(is_served(bench.pair(), "chain 2") && !is_served(bench.pair(), "staple"));
}

#[test]
fn a_restored_part_is_served_until_the_files_are_valid_or_removed() {
    for found in [bad("broken"), Found::Rejected(vec![problem("unreadable")])] {
        let mut bench = Bench::new();
        bench.folder.restore(pair("0").into(), bench.now);
        bench.observe(found);
        bench.wait(DELAY * 10);
        assert!(is_served(bench.pair(), "chain 0"));
        assert_eq!(bench.folder.previous().count(), 1);
        bench.observe(good(Some("1"), None));
        assert!(is_served(bench.pair(), "chain 1"));
        assert_eq!(bench.folder.previous().count(), 0);
    }
    let mut bench = Bench::new();
    bench.folder.restore(pair("0").into(), bench.now);
    bench.observe(Found::Gone);
    bench.wait(DELAY);
    assert!(!bench.folder.serves());
}

#[derive(Clone, Debug)]
enum Step {
    Judged([Option<Option<u8>>; 2]),
    Rejected,
    Gone,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    // Absent, rejected, or good.
    let part = || proptest::option::of(proptest::option::of(0..3_u8));
    prop_oneof![
        [part(), part()].prop_map(Step::Judged),
        Just(Step::Rejected),
        Just(Step::Gone),
        (0..8000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// The pair served is the previous version, until the folder was gone for the whole delay; and
    /// whatever is served only ever changes together with an event that reports it.
    #[test]
    fn the_previous_pair_stays(steps in proptest::collection::vec(step(), 0..40)) {
        fn part<T>(state: Option<Option<u8>>, make: fn(&str) -> T) -> Verdict<T> {
            match state {
                None => Verdict::default(),
                Some(None) => rejected("broken"),
                Some(Some(content)) => verdict(Some(make(&content.to_string()))),
            }
        }
        let mut bench = Bench::new();
        let (mut expected, mut gone) = (None, None);
        for step in steps {
            let before = (bench.pair(), bench.bundle(), bench.alone());
            let events = match step {
                Step::Judged([of_pair, of_bundle]) => {
                    gone = None;
                    expected = of_pair.flatten().map(|n| format!("chain {n}")).or(expected);
                    bench.observe(judged(Credential {
                        pair: part(of_pair, pair),
                        bundle: part(of_bundle, bundle),
                        ..Credential::default()
                    }))
                }
                Step::Rejected => {
                    gone = None;
                    bench.observe(Found::Rejected(vec![problem("unreadable")]))
                }
                Step::Gone => {
                    gone = gone.or(Some(bench.now.instant));
                    bench.observe(Found::Gone)
                }
                Step::Wait(millis) => bench.wait(Duration::from_millis(millis)),
            };
            if gone.is_some_and(|since| bench.now.instant >= since + DELAY) {
                expected = None;
            }
            match &expected {
                Some(expected) => prop_assert!(is_served(bench.pair(), expected)),
                None => prop_assert_eq!(bench.pair(), None),
            }
            let after = (bench.pair(), bench.bundle(), bench.alone());
            prop_assert_eq!(before != after, events.iter().any(Event::is_change));
            if let Some(deadline) = bench.folder.deadline(DELAY) {
                prop_assert!(deadline > bench.now.instant, "nothing is left undone");
            }
        }
    }
}
