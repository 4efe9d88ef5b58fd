//! How fast the real agent is, and what it costs: a table of measured numbers, nothing asserted.
//!
//!     cargo bench --bench speed [-- PART OF A NAME...]
//!
//! Numbers of one run can be compared with each other; those of two machines can't.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it is a program of its own, for people"
)]

mod beds;
mod client;
mod cost;
mod delivery;
mod envoy;
mod reference;
mod start;
mod stats;
mod storm;
#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
#[path = "../../tests/it/util/mod.rs"]
mod util;

use beds::Beds;

type Measure = fn(&Beds);

const MEASURES: [(&str, Measure); 10] = [
    ("delivery", delivery::among_1_000),
    ("start", start::with_many),
    ("rotation-cost", cost::of_a_rotation),
    ("idle", cost::of_doing_nothing),
    ("other-streams", cost::of_a_rotation_beside_other_streams),
    ("fan-out", cost::of_a_delivery),
    ("streams", cost::of_100_000_streams),
    ("storm", storm::of_rotations),
    ("strangers", cost::of_what_strangers_open),
    ("envoy", envoy::against_its_own_file_watch),
];

fn main() {
    // Cargo passes --bench along.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    if let [first, root] = &wanted[..]
        && first == reference::ARGUMENT
    {
        return reference::run(root.as_ref());
    }
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let beds = Beds::default();
    for (_, measure) in MEASURES.into_iter().filter(|(name, _)| is_wanted(name)) {
        measure(&beds);
    }
}
