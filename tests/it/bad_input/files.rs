//! Entries that are not regular files, and files that appear and disappear.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, mkfifoat};

use super::{Spoiled, assert_others_go_on, receive};
use crate::util::{Bed, require, tools};

/// What exists in place of `key`, by the name of the credential.
const IN_THE_PLACE_OF_KEY: [&str; 9] = [
    "pipe",
    "device",
    "link-loop",
    "link-to-itself",
    "dangling-link",
    "link-to-a-pipe",
    "folder",
    "64-mebibytes",
    "endless-device",
];

#[test]
fn only_regular_files_within_the_size_limit_are_read() {
    let mut spoiled = Spoiled::new(&IN_THE_PLACE_OF_KEY);
    for name in IN_THE_PLACE_OF_KEY {
        let key = spoiled.bed.root.credential(name).join("key");
        fs::remove_file(&key).unwrap();
        put(name, &key);
    }
    let resident = spoiled.agent.resident_kib();
    spoiled.assert_previous_version_stays();
    let grown = spoiled.agent.resident_kib().saturating_sub(resident);
    assert!(grown < 32 * 1024, "the agent has grown by {grown} KiB");
    for name in IN_THE_PLACE_OF_KEY {
        let key = spoiled.bed.root.credential(name).join("key");
        let path = key.to_str().unwrap();
        spoiled.agent.wait_for_line(&["rejected", path]);
    }
}

fn put(what: &str, key: &std::path::Path) {
    match what {
        "pipe" => mkfifoat(CWD, key, Mode::RUSR).unwrap(),
        "device" => symlink("/dev/null", key).unwrap(),
        "endless-device" => symlink("/dev/zero", key).unwrap(),
        "link-to-itself" => symlink("key", key).unwrap(),
        "dangling-link" => symlink("nowhere", key).unwrap(),
        "folder" => fs::create_dir(key).unwrap(),
        "link-loop" => {
            symlink("loop", key).unwrap();
            symlink("key", key.with_file_name("loop")).unwrap();
        }
        "link-to-a-pipe" => {
            mkfifoat(CWD, key.with_file_name("pipe"), Mode::RUSR).unwrap();
            symlink("pipe", key).unwrap();
        }
        "64-mebibytes" => File::create(key).unwrap().set_len(64 << 20).unwrap(),
        _ => unreachable!("{what}"),
    }
}

#[test]
fn a_folder_with_too_many_files_is_rejected() {
    let mut spoiled = Spoiled::new(&["crowded"]);
    let folder = spoiled.bed.root.credential("crowded");
    for number in 0..16_384 {
        fs::write(folder.join(format!("file-{number}")), "x").unwrap();
    }
    spoiled.assert_previous_version_stays();
}

#[test]
fn a_folder_with_too_many_parts_is_rejected() {
    let mut spoiled = Spoiled::new(&["crowded"]);
    let folder = spoiled.bed.root.credential("crowded");
    for number in 0..65 {
        fs::write(folder.join(format!("{number}.key")), "x").unwrap();
    }
    fs::remove_file(folder.join("cert")).unwrap();
    spoiled.assert_previous_version_stays();
}

#[test]
fn an_unreadable_file_is_reported_and_the_previous_version_stays() {
    const NOBODY: &str = "65534";
    let how = "Debian's package util-linux has it";
    let Some(setpriv) = require(&tools::program("setpriv", how)) else {
        return;
    };
    let bed = Bed::new();
    let identity = bed.pair("site");
    let open_to_all = [bed.root.beside(""), bed.socket().parent().unwrap().into()];
    for folder in open_to_all {
        fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
    }
    let mut builder = bed.builder();
    // Root reads everything.
    if rustix::process::geteuid().is_root() {
        let mut wrapper = Command::new(setpriv);
        wrapper.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
        builder = builder.wrapped_in(wrapper);
    }
    let agent = builder.start();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
    let key = bed.root.credential("site").join("key");
    fs::set_permissions(&key, Permissions::from_mode(0o000)).unwrap();
    // A change of the mode does not change the content, but this does.
    bed.root
        .write("site", &[("cert", &bed.ca.server(&["site.test"]).chain)]);
    agent.wait_for_line(&["rejected", "site", key.to_str().unwrap()]);
    stream.0.assert_silent();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let second = bed.pair("site");
    assert_ne!(second.chain, identity.chain);
    assert!(stream.secret().is_pair(&second.chain, &second.key));
}

#[test]
fn files_that_vanish_during_a_read_are_harmless() {
    let bed = Bed::new();
    let stable = bed.pair("stable");
    let agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["stable"]);
    assert!(stream.secret().is_pair(&stable.chain, &stable.key));

    let stop = AtomicBool::new(false);
    let identity = bed.ca.server(&["flapping.test"]);
    let folder = bed.root.credential("flapping");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bed.root.write_pair("flapping", &identity);
                let _ = fs::remove_file(folder.join("key"));
                let _ = fs::remove_dir_all(&folder);
            }
        });
        for _ in 0..100 {
            let identity = bed.pair("stable");
            assert!(stream.secret().is_pair(&identity.chain, &identity.key));
        }
        stop.store(true, Ordering::Relaxed);
    });
    bed.root.write_pair("flapping", &identity);
    let mut late = bed.client().delta();
    late.subscribe(&["flapping"]);
    let served = receive(&mut late, 1).remove(0);
    assert!(served.is_pair(&identity.chain, &identity.key));
    assert!(agent.terminate().success());
}

#[test]
fn an_empty_folder_and_half_a_pair_serve_nothing() {
    let bed = Bed::new();
    let identity = bed.ca.server(&["x.test"]);
    fs::create_dir(bed.root.credential("empty")).unwrap();
    bed.root.write("cert-alone", &[("cert", &identity.chain)]);
    bed.root.write("key-alone", &[("key", &identity.key)]);
    bed.root.write("readme-alone", &[("README", "hello")]);
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    for name in ["empty", "cert-alone", "key-alone", "readme-alone"] {
        for name in [name.to_owned(), format!("{name}-cacert")] {
            stream.subscribe(&[&name]);
            assert_eq!(stream.removed(), [name]);
        }
    }
    // The second half makes it complete.
    bed.root.write("cert-alone", &[("key", &identity.key)]);
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
    assert_others_go_on(&bed);
}

#[test]
fn a_file_that_goes_missing_keeps_the_previous_version() {
    let mut spoiled = Spoiled::new(&["keyless", "emptied"]);
    let root = &spoiled.bed.root;
    fs::remove_file(root.credential("keyless").join("key")).unwrap();
    for name in ["cert", "key"] {
        fs::remove_file(root.credential("emptied").join(name)).unwrap();
    }
    spoiled.assert_previous_version_stays();
}
