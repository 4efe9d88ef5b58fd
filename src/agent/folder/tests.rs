use proptest::prelude::*;

use super::*;
use crate::secret::tests::{bundle, pair};

const DELAY: Duration = Duration::from_secs(5);

fn good(pair_content: Option<&str>, bundle_content: Option<&str>) -> Outcome {
    Outcome::Good(Box::new(Whole {
        pair: pair_content.map(pair),
        bundle: bundle_content.map(bundle),
        warnings: Vec::new(),
    }))
}

fn bad(what: &str) -> Outcome {
    Outcome::Bad(vec![Problem::new(
        Reason::BadPem,
        "/c/site",
        what,
        "mend it",
    )])
}

/// A folder, and a clock that only moves when told to.
struct Bench {
    folder: Folder,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: Folder::new("/c/site".into(), DELAY),
            now: Instant::now(),
        }
    }

    fn observe(&mut self, outcome: Outcome) -> Vec<Event> {
        self.folder.observe(outcome, self.now)
    }

    fn wait(&mut self, time: Duration) -> Vec<Event> {
        self.now += time;
        self.folder.tick(self.now)
    }

    fn pair(&self) -> Option<String> {
        let pair = self.folder.parts().pair.as_ref()?;
        Some(String::from_utf8(pair.chain.clone()).unwrap())
    }

    fn bundle(&self) -> Option<String> {
        let bundle = self.folder.parts().bundle.as_ref()?;
        Some(String::from_utf8(bundle.trusted_ca.clone()).unwrap())
    }
}

#[test]
fn what_is_loaded_is_served_at_once_and_said_to_be_new() {
    let mut bench = Bench::new();
    let events = bench.observe(good(Some("1"), None));
    assert!(
        matches!(events[..], [Event::Changed { first: true, .. }]),
        "{events:?}"
    );
    assert_eq!(bench.pair().as_deref(), Some("chain 1"));
    let events = bench.observe(good(Some("1"), None));
    assert!(events.is_empty(), "the same again is no event: {events:?}");
    let events = bench.observe(good(Some("2"), None));
    assert!(
        matches!(events[..], [Event::Changed { first: false, .. }]),
        "{events:?}"
    );
}

#[test]
fn a_warning_that_stays_is_said_once() {
    let warning = Problem::new(Reason::ChainOrder, "/c/site/tls.crt", "no issuer", "add it");
    let warned = |content: &str| {
        Outcome::Good(Box::new(Whole {
            pair: Some(pair(content)),
            bundle: None,
            warnings: vec![warning.clone()],
        }))
    };
    let mut bench = Bench::new();
    for (content, said) in [("1", 1), ("2", 0), ("3", 0)] {
        let events = bench.observe(warned(content));
        let [Event::Changed { warnings, .. }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(warnings.len(), said);
        assert_eq!(bench.folder.warnings(), std::slice::from_ref(&warning));
    }
}

#[test]
fn a_problem_that_passes_is_not_logged_and_takes_nothing_away() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), None));
    assert!(bench.observe(bad("half a rotation")).is_empty());
    assert!(bench.wait(LASTING / 2).is_empty());
    assert_eq!(bench.pair().as_deref(), Some("chain 1"));
    let events = bench.observe(good(Some("2"), None));
    assert!(matches!(events[..], [Event::Changed { .. }]), "{events:?}");
    assert!(bench.wait(LASTING * 10).is_empty());
}

#[test]
fn a_problem_that_lasts_is_logged_once_and_so_is_its_end() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), None));
    bench.observe(bad("broken"));
    let events = bench.wait(LASTING);
    assert!(
        matches!(events[..], [Event::Rejected { keeps: true, .. }]),
        "{events:?}"
    );
    assert!(bench.observe(bad("broken")).is_empty());
    assert!(bench.wait(LASTING * 10).is_empty());
    bench.observe(bad("broken in another way"));
    let events = bench.wait(LASTING);
    assert!(matches!(events[..], [Event::Rejected { .. }]), "{events:?}");
    let events = bench.observe(good(Some("1"), None));
    assert!(matches!(events[..], [Event::Recovered]), "{events:?}");
}

#[test]
fn a_folder_that_was_never_good_serves_nothing() {
    let mut bench = Bench::new();
    bench.observe(bad("broken"));
    let events = bench.wait(LASTING);
    assert!(
        matches!(events[..], [Event::Rejected { keeps: false, .. }]),
        "{events:?}"
    );
    assert!(bench.folder.parts().is_empty());
}

#[test]
fn a_folder_gone_for_long_enough_takes_its_secrets_along() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), Some("ca")));
    bench.observe(Outcome::Gone);
    assert_eq!(bench.folder.deadline(), Some(bench.now + DELAY));
    assert!(bench.wait(DELAY - Duration::from_millis(1)).is_empty());
    assert!(
        bench.observe(Outcome::Gone).is_empty(),
        "still gone is not gone anew"
    );
    let events = bench.wait(Duration::from_millis(1));
    assert!(matches!(events[..], [Event::Removed]), "{events:?}");
    assert!(bench.folder.parts().is_empty() && bench.folder.is_over());
    assert_eq!(bench.folder.deadline(), None);
}

#[test]
fn what_is_wrong_while_a_folder_is_being_removed_is_not_logged() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), None));
    bench.observe(bad("empty"));
    bench.observe(Outcome::Gone);
    let events = bench.wait(DELAY.max(LASTING));
    assert!(matches!(events[..], [Event::Removed]), "{events:?}");
}

#[test]
fn a_folder_deleted_and_made_again_sooner_is_a_rotation() {
    for back in [good(Some("2"), None), bad("half copied")] {
        let mut bench = Bench::new();
        bench.observe(good(Some("1"), None));
        bench.observe(Outcome::Gone);
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
    assert_eq!(bench.bundle().as_deref(), Some("ca ca"));
    assert!(!bench.folder.parts().alone);
    assert_eq!(bench.folder.alone_deadline(), Some(bench.now + ALONE));
    let events = bench.wait(ALONE);
    assert!(matches!(events[..], [Event::Changed { .. }]), "{events:?}");
    assert!(bench.folder.parts().alone);
    bench.observe(good(Some("1"), Some("ca")));
    assert!(!bench.folder.parts().alone, "a pair takes the name");
}

#[test]
fn a_pair_whose_ca_comes_first_is_never_announced_as_a_bundle() {
    let mut bench = Bench::new();
    bench.observe(good(None, Some("ca")));
    bench.wait(ALONE / 2);
    bench.observe(bad("the key is missing"));
    bench.wait(ALONE * 10);
    assert!(!bench.folder.parts().alone);
    bench.observe(good(Some("1"), Some("ca")));
    bench.wait(ALONE * 10);
    assert!(!bench.folder.parts().alone);
}

#[test]
fn a_bundle_taken_out_beside_a_good_pair_goes_after_the_delay() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), Some("ca")));
    bench.observe(good(Some("2"), None));
    assert_eq!(
        bench.bundle().as_deref(),
        Some("ca ca"),
        "it may be on its way back"
    );
    let events = bench.wait(DELAY);
    assert!(matches!(events[..], [Event::Changed { .. }]), "{events:?}");
    assert_eq!(
        (bench.pair().as_deref(), bench.bundle()),
        (Some("chain 2"), None)
    );
}

#[test]
fn a_pair_taken_out_of_a_folder_that_stays_is_kept() {
    let mut bench = Bench::new();
    bench.observe(good(Some("1"), Some("ca")));
    bench.observe(good(None, Some("ca")));
    let events = bench.wait(DELAY * 10);
    assert!(
        matches!(events[..], [Event::Rejected { keeps: true, .. }]),
        "{events:?}"
    );
    assert_eq!(bench.pair().as_deref(), Some("chain 1"));
}

#[derive(Clone, Debug)]
enum Step {
    Good(Option<u8>, Option<u8>),
    Bad,
    Gone,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let part = || proptest::option::of(0..3_u8);
    let good = (part(), part()).prop_filter("a credential has a part", |(pair, bundle)| {
        pair.is_some() || bundle.is_some()
    });
    prop_oneof![
        good.prop_map(|(pair, bundle)| Step::Good(pair, bundle)),
        Just(Step::Bad),
        Just(Step::Gone),
        (0..8000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// The pair served is the last good one, until the folder was gone for the whole delay; and
    /// whatever is served only ever changes together with an event that says so.
    #[test]
    fn the_last_good_pair_stays(steps in proptest::collection::vec(step(), 0..40)) {
        let mut bench = Bench::new();
        let (mut expected, mut gone) = (None, None);
        for step in steps {
            let before = (bench.pair(), bench.bundle(), bench.folder.parts().alone);
            let events = match step {
                Step::Good(pair, bundle) => {
                    gone = None;
                    expected = pair.map(|n| format!("chain {n}")).or(expected);
                    let text = |part: Option<u8>| part.map(|n| n.to_string());
                    bench.observe(good(text(pair).as_deref(), text(bundle).as_deref()))
                }
                Step::Bad => {
                    gone = None;
                    bench.observe(bad("broken"))
                }
                Step::Gone => {
                    gone = gone.or(Some(bench.now));
                    bench.observe(Outcome::Gone)
                }
                Step::Wait(millis) => bench.wait(Duration::from_millis(millis)),
            };
            if gone.is_some_and(|since| bench.now >= since + DELAY) {
                expected = None;
            }
            prop_assert_eq!(bench.pair(), expected.clone());
            let after = (bench.pair(), bench.bundle(), bench.folder.parts().alone);
            prop_assert_eq!(before != after, events.iter().any(Event::is_change));
            if let Some(deadline) = bench.folder.deadline() {
                prop_assert!(deadline > bench.now, "nothing is left undone");
            }
        }
    }
}
