//! From the drop of a credential to its delivery.

use std::time::Instant;

use crate::beds::Beds;
use crate::stats::{Durations, line, title};
use crate::util::{Bed, Way};

const CREDENTIALS: usize = 1_000;
const ROTATIONS: usize = 300;

/// Writes one credential among many, and waits until a stream has it. The time starts before the first byte is
/// written, so that it includes the writing.
pub(crate) fn among_1_000(_: &Beds) {
    title("Drop to delivery of one credential among 1,000, including the writing");
    // The slow way would measure its own pauses.
    for way in [Way::Kubelet, Way::Rename, Way::Copy, Way::Certbot] {
        let bed = Bed::new();
        for number in 1..CREDENTIALS {
            bed.pair(&format!("other-{number}"));
        }
        way.write(&bed.root, "site", 0, &bed.ca.server(&["site.test"]));
        let _agent = bed.agent();
        let mut stream = bed.client().delta();
        stream.subscribe(&["site"]);
        stream.secret();
        let times = (1..=ROTATIONS).map(|generation| {
            let identity = bed.ca.server(&["site.test"]);
            let start = Instant::now();
            way.write(&bed.root, "site", generation, &identity);
            let served = stream.secret();
            let time = start.elapsed();
            assert!(served.is_pair(&identity.chain, &identity.key));
            time
        });
        line(way.name(), Durations::new(times.collect()));
    }
}
