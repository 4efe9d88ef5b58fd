//! Roots with `confine`, and roots with `strict_permissions`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{XattrFlags, removexattr, setxattr};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::util::folders::write_files;
use crate::util::users::ROOT;
use crate::util::{Agent, Bed, Identity, require};

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
    // A link that is switched later is not followed either.
    let folder = bed.root.credential("relative-in");
    symlink(outside.join("key"), folder.join("new")).unwrap();
    fs::rename(folder.join("new"), folder.join("key")).unwrap();
    agent.wait_for_line(&["rejected", "relative-in/key", "previous version"]);
    assert_serves(&bed, &[("relative-in", &pair)], &[]);

    // A reload without the setting reads them all.
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, format!("credentials = [{:?}]\n", bed.root.path())).unwrap();
    agent.signal(Signal::HUP);
    for name in out {
        agent.wait_for_line(&["loaded", name]);
    }
}

/// Gives a file an access control list: entries of users with these rights, nothing for the owning group and for
/// others. `false` if the file system does not support such lists.
fn set_list(file: &Path, users: &[(u32, u16)]) -> bool {
    const NONE: u32 = u32::MAX;
    let mut list = 2_u32.to_le_bytes().to_vec();
    let mut push = |tag: u16, rights: u16, id: u32| {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    };
    push(0x01, 7, NONE);
    for (user, rights) in users {
        push(0x02, *rights, *user);
    }
    push(0x04, 0, NONE);
    push(0x10, 7, NONE);
    push(0x20, 0, NONE);
    match setxattr(file, "system.posix_acl_access", &list, XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::OPNOTSUPP) => {
            eprintln!("left out: the file system of {file:?} has no access control lists");
            false
        }
        Err(error) => panic!("{file:?}: {error}"),
    }
}

/// Users who own a folder each; `DAEMON` is in the user database, with a group of that number.
const ALICE: u32 = 12_345;
const BOB: u32 = 12_346;
const DAEMON: u32 = 1;

#[test]
fn a_confined_root_gives_its_owner_no_key_that_the_owner_cannot_read() {
    if require(&ROOT).is_none() {
        return;
    }
    let bed = Bed::new();
    let pair = bed.ca.server(&["site.test"]);
    // A folder with the key that the case makes, and a certificate of the folder's owner.
    let folder = |name: &str, owner: u32| {
        let folder = bed.root.credential(name);
        write_files(&folder, &[("cert", &pair.chain)]);
        chown(folder.join("cert"), Some(owner), None).unwrap();
        chown(&folder, Some(owner), None).unwrap();
        folder
    };
    let key = |path: &Path, owner: u32, group: u32, mode: u32| {
        fs::write(path, &pair.key).unwrap();
        chown(path, Some(owner), Some(group)).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let outside = bed.root.beside("root-key");
    key(&outside, 0, 0, 0o600);

    // Bob's folders, one closed and one open, with keys that belong to him, to others, or to root.
    for (name, mode) in [("bob", 0o700), ("bob-open", 0o755)] {
        let bob = folder(name, BOB);
        key(&bob.join("key"), BOB, BOB, 0o600);
        key(&bob.join("public"), BOB, BOB, 0o644);
        key(&bob.join("daemons"), BOB, DAEMON, 0o640);
        key(&bob.join("roots"), 0, BOB, 0o640);
        fs::set_permissions(&bob, PermissionsExt::from_mode(mode)).unwrap();
    }

    let own = folder("own", ALICE).join("key");
    key(&own, ALICE, ALICE, 0o600);
    key(&folder("put-by-root", ALICE).join("key"), 0, 0, 0o600);
    key(&folder("put-by-bob", ALICE).join("key"), BOB, BOB, 0o600);
    fs::hard_link(&outside, folder("hard-link-roots", ALICE).join("key")).unwrap();
    let bobs = bed.root.credential("bob").join("key");
    fs::hard_link(bobs, folder("hard-link-bobs", ALICE).join("key")).unwrap();
    for (name, owner, target) in [
        ("linked", ALICE, "../bob-open/key"),
        ("linked-roots", ALICE, "../bob-open/roots"),
        ("linked-closed", ALICE, "../bob/public"),
        ("linked-public", ALICE, "../bob-open/public"),
        ("linked-daemons", ALICE, "../bob-open/daemons"),
        ("daemon-linked", DAEMON, "../bob-open/daemons"),
        ("root-linked", 0, "../bob/key"),
    ] {
        symlink(target, folder(name, owner).join("key")).unwrap();
    }
    // A link in the root itself, to the folder of another user.
    for (name, owner) in [("folder-alices", ALICE), ("folder-bobs", BOB)] {
        let link = bed.root.credential(name);
        symlink("bob-open", &link).unwrap();
        lchown(&link, Some(owner), None).unwrap();
    }

    let agent = start(&bed, "confine = true");
    let served = [
        "bob",
        "bob-open",
        "daemon-linked",
        "folder-bobs",
        "linked-public",
        "own",
        "put-by-root",
        "root-linked",
    ];
    let refused = [
        "folder-alices",
        "hard-link-bobs",
        "hard-link-roots",
        "linked",
        "linked-closed",
        "linked-daemons",
        "linked-roots",
        "put-by-bob",
    ];
    assert_serves(&bed, &served.map(|name| (name, &pair)), &refused);
    for name in refused {
        agent.wait_for_line(&[name, "could not read it"]);
    }
    // Without the setting, everything that the agent can read is served.
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, format!("credentials = [{:?}]\n", bed.root.path())).unwrap();
    agent.signal(Signal::HUP);
    for name in refused {
        agent.wait_for_line(&["loaded", name]);
    }
}

#[test]
fn access_control_lists_count_when_deciding_what_a_folders_owner_can_read() {
    if require(&ROOT).is_none() {
        return;
    }
    let bed = Bed::new();
    let pair = bed.ca.server(&["site.test"]);
    // Each of Alice's folders has a link to a key in a folder of Bob's, of the group of `daemon`.
    let case = |name: &str, owner: u32, folder: &[(u32, u16)], key: &[(u32, u16)]| {
        let bobs = bed.root.path().join(format!(".bob-{name}"));
        put(&bobs, &pair);
        for path in [&bobs, &bobs.join("key")] {
            chown(path, Some(BOB), Some(DAEMON)).unwrap();
        }
        fs::set_permissions(bobs.join("key"), PermissionsExt::from_mode(0o600)).unwrap();
        let own = bed.root.credential(name);
        write_files(&own, &[("cert", &pair.chain)]);
        symlink(format!("../.bob-{name}/key"), own.join("key")).unwrap();
        for path in [own.join("cert"), own] {
            chown(path, Some(owner), None).unwrap();
        }
        let listed = folder.is_empty() || set_list(&bobs, folder);
        listed && (key.is_empty() || set_list(&bobs.join("key"), key))
    };
    let (read, search) = (4, 1);
    let all_listed = [
        case("given", ALICE, &[], &[(ALICE, read)]),
        case(
            "given-all-the-way",
            ALICE,
            &[(ALICE, search)],
            &[(ALICE, read)],
        ),
        case("given-to-another", ALICE, &[], &[(BOB + 1, read)]),
        case(
            "closed-on-the-way",
            ALICE,
            &[(BOB + 1, search)],
            &[(ALICE, read)],
        ),
        case("not-listed", ALICE, &[], &[]),
        // The group's bits of the mode are those of the list's mask then, and give the group nothing.
        case("masked", DAEMON, &[], &[(ALICE, read)]),
    ];
    if all_listed.contains(&false) {
        return;
    }
    let agent = start(&bed, "confine = true");
    let refused = [
        "closed-on-the-way",
        "given-to-another",
        "masked",
        "not-listed",
    ];
    assert_serves(
        &bed,
        &[("given", &pair), ("given-all-the-way", &pair)],
        &refused,
    );
    for name in refused {
        agent.wait_for_line(&[name, "could not read it"]);
    }
}

#[test]
fn a_key_that_an_access_control_list_exposes_is_warned_of_or_rejected() {
    for (settings, refused) in [("", false), ("strict_permissions = true", true)] {
        let bed = Bed::new();
        let (open, closed) = (bed.pair("open"), bed.pair("closed"));
        let key = |name: &str| {
            let key = bed.root.credential(name).join("key");
            fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
            key
        };
        let own = rustix::process::geteuid().as_raw();
        // The agent's own user may be on the list.
        if !set_list(&key("closed"), &[(own, 4)]) || !set_list(&key("open"), &[(ALICE, 4)]) {
            return;
        }
        let agent = start(&bed, settings);
        agent.wait_for_line(&["open/key", "setfacl"]);
        if !refused {
            assert_serves(&bed, &[("open", &open), ("closed", &closed)], &[]);
            continue;
        }
        assert_serves(&bed, &[("closed", &closed)], &["open"]);
        let mut stream = bed.client().delta();
        stream.subscribe(&["open"]);
        assert_eq!(stream.removed(), ["open"]);
        removexattr(key("open"), "system.posix_acl_access").unwrap();
        assert!(stream.secret().is_pair(&open.chain, &open.key));
        // After it is given again, there is a problem, and the previous version stays in service.
        assert!(set_list(&key("open"), &[(ALICE, 4)]));
        agent.wait_for_line(&["rejected", "open/key", "setfacl", "previous version"]);
        stream.0.assert_silent();
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
fn a_key_that_other_users_can_read_is_warned_of_or_rejected() {
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
        // After the repair, it is served without any further action.
        chmod("open", 0o600);
        assert!(stream.secret().is_pair(&open.chain, &open.key));
        // After it is opened again, there is a problem, and the previous version stays in service.
        chmod("open", 0o604);
        agent.wait_for_line(&["rejected", "open/key", "0604", "previous version"]);
        stream.0.assert_silent();
    }
}
