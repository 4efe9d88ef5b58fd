//! The supported releases of Envoy. All other tests run with the newest one.

use std::path::Path;

use crate::envoy_config::{serves_on_demand, takes_every_combination};
use crate::hosts::envoy::hosts_change_hands;
use crate::util::tools::{self, envoy_release, envoy_releases};
use crate::util::{Protocol, require};
use crate::walk::walk;

/// The release that has no certificates on demand.
const WITHOUT_ON_DEMAND: &str = "1.36.";

/// Fewer than with the newest release: differences appear in the first ones.
const ROTATIONS: usize = 10;

/// Tests everything that the release `version` supports.
fn everything_works(version: &str, envoy: &Path) {
    let on_demand = !version.starts_with(WITHOUT_ON_DEMAND);
    for protocol in Protocol::BOTH {
        walk(envoy, protocol, ROTATIONS);
    }
    takes_every_combination(envoy, on_demand);
    if on_demand {
        hosts_change_hands(envoy);
        serves_on_demand(envoy);
    }
}

#[test]
fn everything_works_with_the_oldest_release() {
    if let Some(envoy) = require(&tools::OLDEST_ENVOY) {
        everything_works(envoy_releases().last().unwrap(), &envoy);
    }
}

#[test]
#[ignore = "tests/soak runs it: a download of 30 MB and half a minute for each release"]
fn everything_works_with_each_release() {
    let releases = envoy_releases();
    assert!(releases.len() > 1, "{releases:?}");
    for release in releases {
        eprintln!("Envoy {release}");
        everything_works(&release, &envoy_release(&release).unwrap());
    }
}

#[test]
fn the_documentation_names_the_oldest_and_the_newest() {
    let minor = |release: &String| release.rsplit_once('.').unwrap().0.to_owned();
    let releases: Vec<_> = envoy_releases().iter().map(minor).collect();
    let supported = format!("Envoy {} to {}", releases.last().unwrap(), releases[0]);
    let readme = include_str!("../../README.md");
    let words: Vec<_> = readme.split_whitespace().collect();
    assert!(
        words.join(" ").contains(&supported),
        "README.md does not say `{supported}`"
    );
}
