//! Roots with any content.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;
use crate::files::read::Unwatched;

fn list(root: &Path) -> Listing {
    list_with(root, 1000, false)
}

fn list_with(root: &Path, max_folders: usize, confine: bool) -> Listing {
    let options = Options {
        flat: false,
        max_credentials: max_folders,
        confine,
        reserved_names: true,
    };
    super::list(root, options, &mut Unwatched)
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.credentials.iter().map(String::as_str).collect()
}

#[test]
fn folders_and_links_to_folders_are_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for name in ["b", "a", ".hidden", "..2024", "*.example.com", "ünïcode"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", root.join("linked")).unwrap();
    symlink("linked", root.join("linked-twice")).unwrap();
    fs::write(root.join("README"), "").unwrap();
    symlink("README", root.join("link-to-a-file")).unwrap();
    let listing = list(&root);
    assert!(listing.present && listing.complete);
    assert_eq!(
        names(&listing),
        [
            "*.example.com",
            "a",
            "b",
            "linked",
            "linked-twice",
            "ünïcode"
        ]
    );
    assert!(listing.problems.is_empty());
}

#[test]
fn names_that_can_not_be_served_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(253);
    let too_long = "x".repeat(254);
    let served = ["good", "istanbul", &long];
    let refused = [
        "istio",
        "istio-ca",
        "prometheus-x",
        "a\nb",
        "tab\t",
        &too_long,
    ];
    for name in served.iter().chain(&refused) {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::create_dir(dir.path().join(OsStr::from_bytes(b"\xff"))).unwrap();
    let listing = list(dir.path());
    assert_eq!(names(&listing), served);
    assert_eq!(listing.problems.len(), refused.len() + 1);
    for problem in &listing.problems {
        assert_eq!(problem.reason(), Reason::Name);
        assert!(!problem.to_string().contains(['\n', '\t']));
    }
}

#[test]
fn broken_links_are_named_and_a_root_may_be_absent() {
    let dir = tempfile::tempdir().unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    symlink("circle", dir.path().join("circle")).unwrap();
    fs::create_dir(dir.path().join("good")).unwrap();
    let listing = list(dir.path());
    assert_eq!(names(&listing), ["good"]);
    assert!(listing.complete);
    assert!(
        listing
            .problems
            .iter()
            .all(|problem| problem.reason() == Reason::BrokenLink)
    );
    assert_eq!(listing.problems.len(), 2);

    let listing = list(&dir.path().join("none"));
    assert!(!listing.present && listing.complete);
    assert_eq!(listing.problems[0].what(), "the root does not exist");
    let listing = list(&dir.path().join("dangling"));
    assert!(!listing.present);
    assert_eq!(listing.problems[0].reason(), Reason::BrokenLink);
    fs::write(dir.path().join("file"), "").unwrap();
    let listing = list(&dir.path().join("file"));
    assert!(!listing.present);
    assert_eq!(listing.problems[0].reason(), Reason::NotAFile);
}

#[test]
fn of_too_many_the_first_by_name_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..50 {
        fs::create_dir(dir.path().join(format!("{i:02}"))).unwrap();
    }
    let listing = list_with(dir.path(), 50, false);
    assert!(listing.credentials.len() == 50 && listing.problems.is_empty() && listing.complete);
    let listing = list_with(dir.path(), 10, false);
    let expected: Vec<String> = (0..10).map(|i| format!("{i:02}")).collect();
    assert_eq!(names(&listing), expected);
    assert_eq!(listing.problems[0].reason(), Reason::TooLarge);
    assert!(!listing.complete);
}

#[test]
fn a_confined_root_has_no_folders_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("a")).unwrap();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", root.join("out")).unwrap();
    symlink("a", root.join("in")).unwrap();
    symlink("root", dir.path().join("link")).unwrap();
    let listing = list_with(&dir.path().join("link"), 1000, true);
    assert_eq!(names(&listing), ["a", "in"]);
    assert_eq!(listing.problems.len(), 1);
    assert_eq!(names(&list(&root)), ["a", "in", "out"]);
}

#[test]
fn the_stamps_show_new_folders_and_links_that_lead_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(&root).unwrap();
    symlink("../target", root.join("link")).unwrap();
    let before = list(&root);
    assert!(!before.stamps.changed(&root));
    fs::create_dir(dir.path().join("target")).unwrap();
    assert!(before.stamps.changed(&root));
    let before = list(&root);
    assert_eq!(names(&before), ["link"]);
    fs::write(dir.path().join("target/file"), "").unwrap();
    assert!(
        !before.stamps.changed(&root),
        "what is in the folders is their own matter"
    );
    fs::create_dir(root.join("new")).unwrap();
    assert!(before.stamps.changed(&root));
}

/// Lists a flat root with these files.
fn list_flat(files: &[&str], max_credentials: usize) -> Listing {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::write(dir.path().join(file), "").unwrap();
    }
    fs::create_dir(dir.path().join("folder.crt")).unwrap();
    symlink("nowhere", dir.path().join("dangling.key")).unwrap();
    let options = Options {
        flat: true,
        max_credentials,
        confine: false,
        reserved_names: true,
    };
    super::list(dir.path(), options, &mut Unwatched)
}

#[test]
fn the_files_of_a_flat_root_are_grouped_by_their_names() {
    let files = [
        "a.example.crt",
        "a.example.issuer.crt",
        "a.example.json",
        "a.example.key",
        // Not next to a file of `own`, and with a private key: credentials like any other.
        "own.issuer.crt",
        "b.ca.crt",
        "b.ca.key",
        "b.pem",
        "alone.ocsp",
        ".hidden.crt",
        "README",
    ];
    let listing = list_flat(&files, 100);
    let expected = ["a.example", "b", "b.ca", "dangling", "own.issuer"];
    assert_eq!(names(&listing), expected);
    assert!(listing.complete && listing.problems.is_empty());

    let listing = list_flat(&files, 2);
    assert_eq!(names(&listing), expected[..2]);
    assert!(!listing.complete);
    assert_eq!(listing.problems[0].reason(), Reason::TooLarge);
    assert_eq!(listing.problems.len(), 1);

    let listing = list_flat(&["istio.crt", "prometheus.key"], 10);
    assert_eq!(listing.problems.len(), 2, "reserved names");
}

#[test]
fn what_the_layout_leaves_out_is_reported() {
    let reported = |files: &[&str], folders: &[&str], flat: bool| {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), "").unwrap();
        }
        for folder in folders {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let options = Options {
            flat,
            max_credentials: 10,
            confine: false,
            reserved_names: true,
        };
        let listing = super::list(dir.path(), options, &mut Unwatched);
        let problem = listing.problems.first();
        problem.map(|problem| (problem.reason(), problem.what().to_owned()))
    };
    let of = |files: &[&str], folders: &[&str], flat| {
        reported(files, folders, flat).map(|problem| problem.0)
    };
    assert_eq!(of(&["README", "x.ocsp"], &["site"], false), None);
    assert_eq!(of(&[], &[], false), Some(Reason::Incomplete));
    assert_eq!(
        of(&["README"], &["lost+found"], false),
        Some(Reason::Incomplete)
    );
    assert_eq!(of(&["a.crt"], &["site"], false), Some(Reason::Layout));
    assert_eq!(of(&["a.crt"], &["site"], true), None);
    assert_eq!(of(&[], &["site"], true), Some(Reason::Layout));
    assert_eq!(of(&[], &[], true), Some(Reason::Incomplete));
    let (_, what) = reported(&["privkey.pem", "fullchain.pem"], &[], false).unwrap();
    assert!(what.contains("privkey.pem is directly in it"), "{what}");
    let (_, what) = reported(&["d.pem", "c.pem", "a.crt", "a.key"], &[], false).unwrap();
    assert!(what.contains("(a.crt, a.key, c.pem and 1 more)"), "{what}");
}

#[test]
fn several_pairs_make_a_flat_folder_and_one_does_not() {
    let flat = |names: &[&str]| is_flat(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert!(flat(&["a.crt", "a.key", "b.crt", "b.key"]));
    assert!(flat(&["a.pem", "a-key.pem", "b.pem", "b-key.pem"]));
    for one in [
        &["tls.crt", "tls.key", "ca.crt", "ca.key"][..],
        &["fullchain.pem", "privkey.pem", "cert.pem", "key.pem"],
        &["a.crt", "a.key", "a.issuer.crt"],
        &["fullchain.cer", "a.cer", "a.key", "ca.cer"],
    ] {
        assert!(!flat(one), "{one:?}");
    }
}
