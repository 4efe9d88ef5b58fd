//! What the tools do when they write credentials, step by step: whatever they are interrupted in,
//! exactly what stands there is read, and never a part of a file.

use super::*;
use crate::files::kubelet;

/// The text of a file of generation `n`: long enough to be written in pieces, and cut anywhere it
/// is not whole.
fn text(name: &str, n: u32) -> String {
    format!(
        "begin {name} {n}\n{}end {name} {n}\n",
        "certificate\n".repeat(40)
    )
}

fn pair(n: u32) -> BTreeMap<String, String> {
    let names = ["tls.crt", "tls.key"];
    names.map(|name| (name.to_owned(), text(name, n))).into()
}

/// The generation of a whole file.
fn generation(name: &str, content: &str) -> Option<u32> {
    let n = content.lines().next()?.rsplit(' ').next()?.parse().ok()?;
    (content == text(name, n)).then_some(n)
}

/// A file whose name is not that of its text, such as certbot's.
fn write_text(path: &Path, name: &str, n: u32) {
    fs::write(path, text(name, n)).unwrap();
}

/// 1,000 rotations in a row, none of them lost and no file seen in part. Returns what was seen.
fn rotate(folder: &Path, rotate: impl Fn(&Path, u32)) -> Vec<(Option<u32>, Option<u32>)> {
    fs::create_dir_all(folder).unwrap();
    let mut follower = Follower::new(folder);
    for n in 0..1000 {
        rotate(folder, n);
        follower.until_is(Some(pair(n)));
    }
    assert_eq!(follower.watch.state().missed, 0);
    let seen = follower.seen.iter().flatten().map(|files| {
        let of = |name: &str| {
            let content = files.get(name)?;
            let n = generation(name, content);
            assert!(n.is_some(), "a part of {name}: {content:?}");
            n
        };
        (of("tls.crt"), of("tls.key"))
    });
    seen.collect()
}

#[test]
fn a_thousand_rotations_by_the_kubelet() {
    let dir = tempfile::tempdir().unwrap();
    let seen = rotate(&dir.path().join("host"), kubelet);
    assert!(
        seen.iter().all(|(crt, key)| crt == key),
        "generations were mixed"
    );
}

fn kubelet(folder: &Path, n: u32) {
    kubelet::write(folder, n, &files(n)).unwrap();
}

/// The files of generation `n`.
fn files(n: u32) -> Vec<(String, String)> {
    pair(n).into_iter().collect()
}

#[test]
fn a_thousand_rotations_by_renames() {
    let dir = tempfile::tempdir().unwrap();
    rotate(&dir.path().join("host"), |folder, n| {
        for name in ["tls.key", "tls.crt"] {
            write_text(&folder.join("..tmp"), name, n);
            fs::rename(folder.join("..tmp"), folder.join(name)).unwrap();
        }
    });
}

#[test]
fn a_thousand_rotations_by_copies_in_place() {
    let dir = tempfile::tempdir().unwrap();
    rotate(&dir.path().join("host"), |folder, n| {
        for name in ["tls.crt", "tls.key"] {
            write_text(&folder.join(name), name, n);
        }
    });
}

#[test]
fn a_thousand_rotations_by_slow_copies_in_place() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    rotate(&dir.path().join("host"), |folder, n| {
        for name in ["tls.crt", "tls.key"] {
            let mut file = fs::File::create(folder.join(name)).unwrap();
            for piece in text(name, n).as_bytes().chunks(200) {
                file.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    });
}

#[test]
fn a_thousand_rotations_by_certbot() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    fs::create_dir(&archive).unwrap();
    rotate(&dir.path().join("host"), |folder, n| {
        for name in ["tls.crt", "tls.key"] {
            let file = format!("{name}.{n}");
            write_text(&archive.join(&file), name, n);
            let _ = fs::remove_file(folder.join(name));
            symlink(Path::new("../archive").join(file), folder.join(name)).unwrap();
        }
    });
}

#[test]
fn certbot_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: String| dir.path().join(path);
    let names = ["cert.pem", "privkey.pem", "chain.pem", "fullchain.pem"];
    let stem = |name: &str| name.trim_end_matches(".pem").to_owned();
    let issue = |n: u32| {
        fs::create_dir_all(at("archive/host".into())).unwrap();
        for name in names {
            write_text(&at(format!("archive/host/{}{n}.pem", stem(name))), name, n);
        }
    };
    issue(1);
    fs::create_dir_all(at("live/host".into())).unwrap();
    for name in names {
        symlink(
            format!("../../archive/host/{}1.pem", stem(name)),
            at(format!("live/host/{name}")),
        )
        .unwrap();
    }
    let mut expected: BTreeMap<String, String> =
        names.map(|name| (name.into(), text(name, 1))).into();
    let mut follower = Follower::new(at("live/host".into()));
    follower.until_is(Some(expected.clone()));
    issue(2);
    for name in names {
        let link = at(format!("live/host/{name}"));
        fs::remove_file(&link).unwrap();
        expected.remove(name);
        follower.until_is(Some(expected.clone()));
        symlink(format!("../../archive/host/{}2.pem", stem(name)), &link).unwrap();
        expected.insert(name.into(), text(name, 2));
        follower.until_is(Some(expected.clone()));
    }
    follower.settle();
    follower.assert_idle();
}

#[test]
fn acme_sh_truncates_each_file_in_place_and_is_interrupted_in_it() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let names = ["host.cer", "ca.cer", "host.key", "fullchain.cer"];
    for name in names {
        write_text(&dir.path().join(name), name, 1);
    }
    let mut expected: BTreeMap<String, String> =
        names.map(|name| (name.into(), text(name, 1))).into();
    let mut follower = Follower::new(dir.path());
    follower.until_is(Some(expected.clone()));
    follower.settle();
    for name in names {
        let mut file = fs::File::create(dir.path().join(name)).unwrap();
        let text = text(name, 2);
        file.write_all(&text.as_bytes()[..100]).unwrap();
        // Stopped here: what stands there is read once it is silent, and it is a part.
        expected.insert(name.into(), text[..100].into());
        follower.until_is(Some(expected.clone()));
        file.write_all(&text.as_bytes()[100..]).unwrap();
        drop(file);
        expected.insert(name.into(), text);
        follower.until_is(Some(expected.clone()));
    }
}

#[test]
fn lego_adds_to_one_flat_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut follower = Follower::new(dir.path());
    let mut expected = BTreeMap::new();
    for name in ["host.crt", "host.issuer.crt", "host.json", "host.key"] {
        write_text(&dir.path().join(name), name, 1);
        expected.insert(name.into(), text(name, 1));
        follower.until_is(Some(expected.clone()));
    }
}

#[test]
fn vault_agent_leaves_temporary_files_and_changes_the_owner_last() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    fs::create_dir(&folder).unwrap();
    let mut follower = Follower::new(&folder);
    let mut expected = BTreeMap::new();
    for (round, name) in ["cert.pem", "key.pem", "cert.pem"].into_iter().enumerate() {
        let temporary = format!("12345{round}");
        let (from, to) = (folder.join(&temporary), folder.join(name));
        write_text(&from, name, round as u32);
        expected.insert(temporary.clone(), text(name, round as u32));
        follower.until_is(Some(expected.clone()));
        fs::rename(from, &to).unwrap();
        expected.remove(&temporary);
        expected.insert(name.into(), text(name, round as u32));
        follower.until_is(Some(expected.clone()));
        follower.settle();
        fs::set_permissions(to, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(
            follower.step(LOST),
            "a file that became readable was not noticed"
        );
    }
}

#[test]
fn the_kubelet_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    fs::create_dir(&folder).unwrap();
    kubelet(&folder, 1);
    let mut follower = Follower::new(&folder);
    follower.until_is(Some(pair(1)));
    follower.settle();
    follower.seen.clear();
    let before = fs::read_link(folder.join("..data")).unwrap();
    for step in kubelet::steps(&folder, 2, &files(2)) {
        step().unwrap();
        let switched = fs::read_link(folder.join("..data")).unwrap() != before;
        follower.until_is(Some(pair(if switched { 2 } else { 1 })));
        follower.settle();
    }
    // A link for a new key is made last; the file counts as soon as it is in the generation.
    assert_eq!(follower.files, Some(pair(2)));
    let mut seen = follower.seen.iter();
    assert!(seen.all(|files| [Some(pair(1)), Some(pair(2))].contains(files)));
}
