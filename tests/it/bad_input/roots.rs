//! Roots that don't exist yet, that are replaced, and that overlap.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::util::folders::write_files;
use crate::util::sds::Delta;
use crate::util::wait::eventually_within;
use crate::util::{Bed, Identity};

fn write(root: &Path, name: &str, identity: &Identity) {
    let files = [("cert", &identity.chain), ("key", &identity.key)];
    write_files(&root.join(name), &files);
}

#[track_caller]
fn assert_serves(stream: &mut Delta, identity: &Identity) {
    let served = stream.secret();
    assert!(
        served.is_pair(&identity.chain, &identity.key),
        "expected {:?}: {served:?}",
        identity.chain
    );
}

#[test]
fn a_missing_root_is_logged_and_served_once_it_is_created() {
    let bed = Bed::new();
    // Its parents don't exist either.
    let root = bed.root.beside("later/deep/down");
    let agent = bed.builder().credentials(&root).start();
    agent.wait_for_line(&[root.to_str().unwrap()]);
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    assert_eq!(stream.removed(), ["site"]);
    let identity = bed.ca.server(&["site.test"]);
    write(&root, "site", &identity);
    assert_serves(&mut stream, &identity);
    let identity = bed.ca.server(&["site.test"]);
    write(&root, "site", &identity);
    assert_serves(&mut stream, &identity);
}

#[test]
fn a_root_renamed_away_and_replaced_is_followed() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
    for round in 0..5 {
        let new = bed.root.beside("new");
        let identity = bed.ca.server(&["site.test"]);
        write(&new, "site", &identity);
        let old = bed.root.beside(&format!("old-{round}"));
        fs::rename(bed.root.path(), &old).unwrap();
        fs::rename(&new, bed.root.path()).unwrap();
        assert_serves(&mut stream, &identity);
        // The new folder is watched, and the old one is not.
        write(&old, "site", &bed.ca.server(&["site.test"]));
        let identity = bed.ca.server(&["site.test"]);
        write(&bed.root.path(), "site", &identity);
        assert_serves(&mut stream, &identity);
    }
    stream.0.assert_silent();
}

#[test]
fn a_root_that_is_a_switched_link_is_followed() {
    let bed = Bed::new();
    let root = bed.scratch("root");
    let folder = |round: usize| bed.root.beside(&format!("generation-{round}"));
    let first = bed.ca.server(&["site.test"]);
    write(&folder(0), "site", &first);
    symlink(folder(0), &root).unwrap();
    let _agent = bed.builder().credentials(&root).start();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    assert_serves(&mut stream, &first);
    for round in 1..=5 {
        let identity = bed.ca.server(&["site.test"]);
        write(&folder(round), "site", &identity);
        let temporary = bed.scratch("root.new");
        symlink(folder(round), &temporary).unwrap();
        fs::rename(&temporary, &root).unwrap();
        assert_serves(&mut stream, &identity);
        let identity = bed.ca.server(&["site.test"]);
        write(&folder(round), "site", &identity);
        assert_serves(&mut stream, &identity);
    }
    stream.0.assert_silent();
}

#[test]
fn a_root_switched_without_a_pause_is_served_from_where_it_leads_in_the_end() {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    /// The check of everything, once a minute, must not be what finds it.
    const BEFORE_THE_CHECK: Duration = Duration::from_secs(30);
    let bed = Bed::new();
    let (root, temporary) = (bed.scratch("root"), bed.scratch("root.new"));
    let sides = ["left", "right"].map(|side| {
        let folder = bed.root.beside(side);
        let identities = NAMES.map(|name| {
            let identity = bed.ca.server(&["site.test"]);
            write(&folder, name, &identity);
            identity
        });
        (folder, identities)
    });
    symlink(&sides[0].0, &root).unwrap();
    let _agent = bed.builder().credentials(&root).start();
    for round in 1..=20 {
        // An odd number of switches.
        for switch in 0..round * 10 + 1 {
            symlink(&sides[(round + switch) % 2].0, &temporary).unwrap();
            fs::rename(&temporary, &root).unwrap();
        }
        let (_, identities) = &sides[round % 2];
        for (name, identity) in NAMES.iter().zip(identities) {
            eventually_within(BEFORE_THE_CHECK, name, || {
                let mut stream = bed.client().delta();
                stream.subscribe(&[name]);
                let served = stream.secret();
                served.is_pair(&identity.chain, &identity.key).then_some(())
            });
        }
    }
}

#[test]
fn a_parent_of_the_root_renamed_away_and_replaced_is_followed() {
    let bed = Bed::new();
    let parent = bed.root.beside("parent");
    let first = bed.ca.server(&["site.test"]);
    write(&parent.join("root"), "site", &first);
    let _agent = bed.builder().credentials(&parent.join("root")).start();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    assert_serves(&mut stream, &first);
    let new = bed.root.beside("new-parent");
    let identity = bed.ca.server(&["site.test"]);
    write(&new.join("root"), "site", &identity);
    fs::rename(&parent, bed.root.beside("old-parent")).unwrap();
    fs::rename(&new, &parent).unwrap();
    assert_serves(&mut stream, &identity);
    stream.0.assert_silent();
}

#[test]
fn removing_a_root_removes_its_secrets_and_restoring_it_restores_them() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
    fs::remove_dir_all(bed.root.path()).unwrap();
    assert_eq!(stream.removed(), ["site"]);
    let identity = bed.pair("site");
    assert_serves(&mut stream, &identity);
}

#[test]
fn of_two_roots_with_a_name_the_first_is_served_and_the_other_logged() {
    let bed = Bed::new();
    let winner = bed.pair("site");
    let second = bed.root.beside("second");
    let loser = bed.ca.server(&["site.test"]);
    write(&second, "site", &loser);
    let alone = bed.ca.server(&["alone.test"]);
    write(&second, "alone", &alone);
    let agent = bed.builder().credentials(&second).start();
    agent.wait_for_line(&["site", second.to_str().unwrap()]);
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    assert_serves(&mut stream, &winner);
    stream.subscribe(&["alone"]);
    assert_serves(&mut stream, &alone);

    // Changes of the hidden folder have no effect.
    let loser = bed.ca.server(&["site.test"]);
    write(&second, "site", &loser);
    stream.0.assert_silent();
    // When the first root's folder is removed, no other one has the name.
    bed.root.remove("site");
    assert_serves(&mut stream, &loser);
    // When it is created again, it takes precedence again.
    let winner = bed.pair("site");
    assert_serves(&mut stream, &winner);
    stream.0.assert_silent();
}

#[test]
fn a_root_inside_another_is_served_by_both() {
    let bed = Bed::new();
    let outer = bed.root.path();
    let inner = outer.join("inner");
    let [site, other] = ["site", "other"].map(|name| bed.ca.server(&[&format!("{name}.test")]));
    write(&inner, "site", &site);
    write(&outer, "other", &other);
    // As if it were a credential folder too.
    let own = bed.ca.server(&["inner.test"]);
    write(&outer, "inner", &own);
    let builder = bed.builder().credentials(&inner);
    let _agent = builder.start();
    let mut stream = bed.client().delta();
    for (name, identity) in [("site", &site), ("other", &other), ("inner", &own)] {
        stream.subscribe(&[name]);
        assert_serves(&mut stream, identity);
    }
    let renewed = bed.ca.server(&["site.test"]);
    write(&inner, "site", &renewed);
    assert_serves(&mut stream, &renewed);
    let renewed = bed.ca.server(&["inner.test"]);
    write(&outer, "inner", &renewed);
    assert_serves(&mut stream, &renewed);
    stream.0.assert_silent();
    fs::remove_dir_all(inner.join("site")).unwrap();
    assert_eq!(stream.removed(), ["site"]);
}
