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

mod cost;
mod delivery;
mod envoy;
mod stats;
#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
#[path = "../../tests/it/util/mod.rs"]
mod util;

type Measure = fn();

const MEASURES: [(&str, Measure); 7] = [
    ("delivery", delivery::among_1_000),
    ("rotation-cost", cost::of_a_rotation),
    ("other-streams", cost::of_a_rotation_beside_other_streams),
    ("streams", cost::of_10_000_streams),
    ("idle", cost::of_doing_nothing),
    ("strangers", cost::of_what_strangers_open),
    ("envoy", envoy::against_its_own_file_watch),
];

fn main() {
    // Cargo passes --bench along.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    for (_, measure) in MEASURES.into_iter().filter(|(name, _)| is_wanted(name)) {
        measure();
    }
}
