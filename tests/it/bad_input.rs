//! Files that must not be served, and what is served in the meantime.

mod bundles;
mod files;
mod hosts;
mod names;
mod pairs;
mod roots;

use crate::util::sds::{Delta, Served};
use crate::util::{Agent, Bed, Identity};

/// Credential folders that were valid, each of which then becomes invalid.
struct Spoiled {
    bed: Bed,
    agent: Agent,
    stream: Delta,
    /// The valid pairs: name and identity.
    good: Vec<(String, Identity)>,
}

impl Spoiled {
    /// An agent that serves a pair under each of `names`, and a stream that has them all.
    fn new(names: &[&str]) -> Self {
        let bed = Bed::new();
        let good: Vec<_> = names
            .iter()
            .map(|name| ((*name).to_owned(), bed.pair(name)))
            .collect();
        let agent = bed.agent();
        let mut stream = bed.client().delta();
        stream.subscribe(names);
        receive(&mut stream, names.len());
        Self {
            bed,
            agent,
            stream,
            good,
        }
    }

    /// Asserts that each one was rejected with a log line that names it, that nothing was sent, that new clients
    /// get the previous version, and that another credential is still updated.
    #[track_caller]
    fn assert_previous_version_stays(&mut self) {
        for (name, _) in &self.good {
            self.agent.wait_for_line(&["rejected", name]);
        }
        self.assert_nothing_was_sent();
    }

    #[track_caller]
    fn assert_nothing_was_sent(&mut self) {
        self.stream.0.assert_silent();
        let mut late = self.bed.client().delta();
        let names: Vec<_> = self.good.iter().map(|(name, _)| name.as_str()).collect();
        late.subscribe(&names);
        for served in receive(&mut late, names.len()) {
            let (_, good) = self.good.iter().find(|(n, _)| *n == served.name).unwrap();
            assert!(served.is_pair(&good.chain, &good.key), "{served:?}");
        }
        assert_others_go_on(&self.bed);
    }
}

#[track_caller]
fn assert_others_go_on(bed: &Bed) {
    let mut stream = bed.client().delta();
    let first = bed.pair("another");
    // Until then, the name is reported as nonexistent.
    stream.subscribe(&["another"]);
    let served = receive(&mut stream, 1).remove(0);
    assert!(served.is_pair(&first.chain, &first.key));
    let second = bed.pair("another");
    assert!(stream.secret().is_pair(&second.chain, &second.key));
    bed.root.remove("another");
    assert_eq!(stream.removed(), ["another"]);
}

/// Receives until `count` secrets have arrived.
#[track_caller]
fn receive(stream: &mut Delta, count: usize) -> Vec<Served> {
    let mut served = Vec::new();
    while served.len() < count {
        served.extend(stream.changes().secrets);
    }
    served
}
