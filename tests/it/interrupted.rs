//! Random file operations, as each tool does them, interrupted anywhere and compared with a model: whatever is
//! served is always one complete generation that was on disk.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use crate::util::sds::Content;
use crate::util::steps::Tool;
use crate::util::{Bed, Ca, Identity};

/// A run of a tool that ends early.
#[derive(Clone, Debug)]
struct Interrupted {
    /// After this many of its steps.
    at: Index,
    /// Whether the agent has time to read what is there.
    seen: bool,
}

fn runs() -> impl Strategy<Value = Vec<Interrupted>> {
    let run = (any::<Index>(), any::<bool>()).prop_map(|(at, seen)| Interrupted { at, seen });
    proptest::collection::vec(run, 0..5)
}

#[test]
fn every_served_version_is_one_complete_generation() {
    let bed = Bed::new();
    let authority = bed.ca.intermediate("intermediate");
    let _agent = bed.agent();
    let client = bed.client();
    let case = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        max_shrink_iters: 20,
        ..Config::default()
    });
    let strategy = (proptest::sample::select(&Tool::ALL[..]), runs());
    let outcome = runner.run(&strategy, |(tool, runs)| {
        case.set(case.get() + 1);
        let name = format!("case-{}", case.get());
        let mut stream = client.delta();
        stream.subscribe(&[&name]);
        prop_assert_eq!(stream.removed(), [name.as_str()]);
        let generations = write(&bed, &authority, tool, &name, &runs);

        let last = generations.last().unwrap();
        loop {
            let changes = stream.changes();
            prop_assert!(
                changes.removed.is_empty(),
                "the folder was there all the time"
            );
            let Content::Pair { chain, key } = &changes.secrets[0].content else {
                return Err(TestCaseError::fail("it is not a pair"));
            };
            let served =
                |pair: &Identity| pair.chain.as_bytes() == chain && pair.key.as_bytes() == key;
            // acme.sh first writes the leaf to a separate file: if it ended before the chain was written, the leaf
            // is what belongs to the key.
            let lesser = |pair: &Identity| {
                matches!(tool, Tool::AcmeSh)
                    && pair.leaf.as_bytes() == chain
                    && pair.key.as_bytes() == key
            };
            prop_assert!(
                generations.iter().any(|pair| served(pair) || lesser(pair)),
                "{tool:?} {runs:?}: what is served was never whole on disk"
            );
            if served(last) {
                return Ok(());
            }
        }
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// Runs the tool, interrupted and then once to its end. Returns all generations that it was to write.
fn write(bed: &Bed, authority: &Ca, tool: Tool, name: &str, runs: &[Interrupted]) -> Vec<Identity> {
    let mut generations = Vec::new();
    for run in runs.iter().map(Some).chain([None]) {
        let pair = authority.server(&["site.test"]);
        let steps = tool.steps(&bed.root, name, generations.len(), &pair);
        let count = run.map_or(steps.len(), |run| run.at.index(steps.len()));
        steps.into_iter().take(count).for_each(|step| step());
        if run.is_some_and(|run| run.seen) {
            // Longer than the agent waits for a file that is open.
            std::thread::sleep(Duration::from_millis(150));
        }
        generations.push(pair);
    }
    generations
}
