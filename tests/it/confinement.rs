//! Roots that keep reads to themselves, and roots that refuse keys that others can read.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::process::Signal;

use crate::util::folders::write_files;
use crate::util::{Agent, Bed, Identity};

/// An agent whose root has these settings.
fn start(bed: &Bed, settings: &str) -> Agent {
    let config = bed.scratch("sds-agent.toml");
    let root = bed.root.path();
    fs::write(&config, format!("[[root]]\npath = {root:?}\n{settings}\n")).unwrap();
    Agent::builder(&bed.socket())
        .arg("--config")
        .arg(&config)
        .start()
}

/// What a new subscriber gets: each pair that is served, and the names that do not exist.
#[track_caller]
fn assert_serves(bed: &Bed, pairs: &[(&str, &Identity)], missing: &[&str]) {
    let mut names: Vec<_> = pairs.iter().map(|(name, _)| *name).collect();
    names.extend(missing);
    let mut stream = bed.client().delta();
    stream.subscribe(&names);
    let changes = stream.changes();
    assert_eq!(changes.removed, missing);
    for served in &changes.secrets {
        let (_, pair) = pairs.iter().find(|(name, _)| *name == served.name).unwrap();
        assert!(served.is_pair(&pair.chain, &pair.key), "{}", served.name);
    }
    assert_eq!(changes.secrets.len(), pairs.len());
}

fn put(folder: &Path, pair: &Identity) {
    write_files(folder, &[("cert", &pair.chain), ("key", &pair.key)]);
}

#[test]
fn confined_reads_follow_no_link_out_of_the_root() {
    let bed = Bed::new();
    let pair = bed.ca.server(&["site.test"]);
    let outside = bed.root.beside("outside");
    put(&outside, &pair);
    // Within the root, a link may lead anywhere.
    let inside = bed.root.path().join(".store");
    put(&inside, &pair);
    let folder = |name: &str| {
        let folder = bed.root.credential(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let linked = |name: &str, target: &Path| {
        for file in ["cert", "key"] {
            symlink(target.join(file), folder(name).join(file)).unwrap();
        }
    };
    linked("absolute-out", &outside);
    linked("relative-out", Path::new("../../outside"));
    linked("relative-in", Path::new("../.store"));
    symlink(&outside, bed.root.credential("folder-out")).unwrap();
    symlink(".store", bed.root.credential("folder-in")).unwrap();
    symlink(&outside, folder("data-out").join("..data")).unwrap();
    linked("data-out", Path::new("..data"));
    let out = ["absolute-out", "data-out", "folder-out", "relative-out"];

    let agent = start(&bed, "confine = true");
    assert_serves(&bed, &[("relative-in", &pair), ("folder-in", &pair)], &out);
    for name in out {
        agent.wait_for_line(&[name, "confine"]);
    }
    // A link that is switched later is followed no more than one that was there.
    let folder = bed.root.credential("relative-in");
    symlink(outside.join("key"), folder.join("new")).unwrap();
    fs::rename(folder.join("new"), folder.join("key")).unwrap();
    agent.wait_for_line(&["rejected", "relative-in/key", "last good"]);
    assert_serves(&bed, &[("relative-in", &pair)], &[]);

    // A reload without the setting reads them all.
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, format!("credentials = [{:?}]\n", bed.root.path())).unwrap();
    agent.signal(Signal::HUP);
    for name in out {
        agent.wait_for_line(&["loaded", name]);
    }
}

#[test]
fn a_root_that_is_a_link_itself_can_be_confined() {
    let bed = Bed::new();
    let elsewhere = bed.root.beside("elsewhere");
    fs::rename(bed.root.path(), &elsewhere).unwrap();
    symlink(&elsewhere, bed.root.path()).unwrap();
    let site = bed.pair("site");
    let _agent = start(&bed, "confine = true");
    assert_serves(&bed, &[("site", &site)], &[]);
}

#[test]
fn a_key_that_others_can_read_is_warned_of_or_refused() {
    for (settings, refused) in [("", false), ("strict_permissions = true", true)] {
        let bed = Bed::new();
        let (open, closed) = (bed.pair("open"), bed.pair("closed"));
        let chmod = |name: &str, mode: u32| {
            let key = bed.root.credential(name).join("key");
            fs::set_permissions(key, PermissionsExt::from_mode(mode)).unwrap();
        };
        chmod("open", 0o644);
        chmod("closed", 0o640);
        let agent = start(&bed, settings);
        agent.wait_for_line(&["open/key", "0644", "chmod"]);
        if !refused {
            assert_serves(&bed, &[("open", &open), ("closed", &closed)], &[]);
            continue;
        }
        assert_serves(&bed, &[("closed", &closed)], &["open"]);
        let mut stream = bed.client().delta();
        stream.subscribe(&["open"]);
        assert_eq!(stream.removed(), ["open"]);
        // Repaired, it is served without more ado.
        chmod("open", 0o600);
        assert!(stream.secret().is_pair(&open.chain, &open.key));
        // Opened up again, it is a problem, and the last good one stays.
        chmod("open", 0o604);
        agent.wait_for_line(&["rejected", "open/key", "0604", "last good"]);
        stream.0.assert_silent();
    }
}
