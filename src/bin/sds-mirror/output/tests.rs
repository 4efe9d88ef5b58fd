use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::cluster::Cluster;
use crate::manifest;
use crate::select::Kind;

pub(super) fn manifest(name: &str, version: u32) -> Manifest {
    Manifest {
        cluster: Cluster::new("https://cluster", &[]),
        kind: Kind::Secret,
        namespace: "ns".into(),
        name: name.into(),
        uid: "uid".into(),
        resource_version: version.to_string(),
        written: 0,
        held: false,
    }
}

pub(super) fn files(content: &[(&str, &str)]) -> Files {
    let file = |(name, bytes): &(&str, &str)| {
        (
            (*name).to_owned(),
            Zeroizing::new(bytes.as_bytes().to_vec()),
        )
    };
    content.iter().map(file).collect()
}

/// The files that a reader finds by name, as `cat NAME/*` does; `None` if there is no folder.
pub(super) fn seen(folder: &Path) -> Option<BTreeMap<String, String>> {
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(folder).ok()? {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("..") {
            seen.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
    Some(seen)
}

fn as_seen(files: &Files) -> BTreeMap<String, String> {
    let text = |bytes: &Zeroizing<Vec<u8>>| String::from_utf8(bytes.to_vec()).unwrap();
    files.iter().map(|(k, v)| (k.clone(), text(v))).collect()
}

struct Fixture {
    folder: tempfile::TempDir,
    output: Output,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::open(&folder.path().join("out"), Rights::default()).unwrap();
        Self { folder, output }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    fn write(&self, name: &str, version: u32, content: &[(&str, &str)]) -> Outcome {
        self.output
            .write(name, &manifest(name, version), &files(content))
            .unwrap()
    }
}

const PAIR: [(&str, &str); 2] = [("cert", "C1"), ("key", "K1")];
const OTHER_PAIR: [(&str, &str); 2] = [("cert", "C2"), ("key", "K2")];

#[test]
fn a_folder_has_the_structure_that_kubelet_writes() {
    let fixture = Fixture::new();
    assert_eq!(fixture.write("a", 1, &PAIR), Outcome::Made);
    let folder = fixture.path("a");
    assert_eq!(seen(&folder).unwrap(), as_seen(&files(&PAIR)));
    let link = fs::read_link(folder.join("cert")).unwrap();
    assert_eq!(link, Path::new("..data/cert"));
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    let generation = folder.join(fs::read_link(folder.join("..data")).unwrap());
    assert_eq!(mode(&fixture.path("")), 0o750);
    assert_eq!(mode(&folder), 0o750);
    assert_eq!(mode(&generation), 0o750);
    for name in ["cert", "key", manifest::FILE_NAME] {
        assert_eq!(mode(&generation.join(name)), 0o640, "{name}");
    }
    let found = fixture.output.scan().unwrap();
    assert_eq!(
        found,
        [("a".to_owned(), Found::Ours(manifest("a", 1)))].into()
    );
}

#[test]
fn new_content_is_swapped_in_and_the_old_generation_removed() {
    let fixture = Fixture::new();
    fixture.write("a", 1, &PAIR);
    let inode = fs::metadata(fixture.path("a")).unwrap().ino();
    assert_eq!(fixture.write("a", 2, &OTHER_PAIR), Outcome::Changed);
    assert_eq!(
        seen(&fixture.path("a")).unwrap(),
        as_seen(&files(&OTHER_PAIR))
    );
    assert_eq!(fs::metadata(fixture.path("a")).unwrap().ino(), inode);
    // cert, key, ..data and one generation.
    assert_eq!(fs::read_dir(fixture.path("a")).unwrap().count(), 4);
}

#[test]
fn the_same_content_only_changes_the_manifest() {
    let fixture = Fixture::new();
    fixture.write("a", 1, &PAIR);
    let generation = fs::read_link(fixture.path("a/..data")).unwrap();
    assert_eq!(fixture.write("a", 2, &PAIR), Outcome::Same);
    assert_eq!(fs::read_link(fixture.path("a/..data")).unwrap(), generation);
    let found = fixture.output.scan().unwrap();
    assert_eq!(found["a"], Found::Ours(manifest("a", 2)));
}

#[test]
fn links_are_added_and_removed_with_their_files() {
    let fixture = Fixture::new();
    fixture.write("a", 1, &PAIR);
    let three = [("cacert", "A"), ("cert", "C2"), ("key", "K2")];
    assert_eq!(fixture.write("a", 2, &three), Outcome::Changed);
    assert_eq!(seen(&fixture.path("a")).unwrap(), as_seen(&files(&three)));
    assert_eq!(fixture.write("a", 3, &PAIR), Outcome::Changed);
    assert_eq!(seen(&fixture.path("a")).unwrap(), as_seen(&files(&PAIR)));
    assert_eq!(
        fs::read_dir(fixture.path("")).unwrap().count(),
        1,
        "a alone"
    );
}

#[test]
fn foreign_files_in_a_folder_survive_a_change() {
    let fixture = Fixture::new();
    fixture.write("a", 1, &PAIR);
    fs::write(fixture.path("a/README"), "mine").unwrap();
    fixture.write("a", 2, &[("cert", "C"), ("key", "K"), ("cacert", "A")]);
    fixture.write("a", 3, &OTHER_PAIR);
    let mut expected = as_seen(&files(&OTHER_PAIR));
    expected.insert("README".into(), "mine".into());
    assert_eq!(seen(&fixture.path("a")).unwrap(), expected);
}

#[test]
fn tampering_is_repaired() {
    let fixture = Fixture::new();
    fixture.write("a", 1, &PAIR);
    fs::write(fixture.path("a/key"), "other").unwrap();
    assert_eq!(fixture.write("a", 1, &PAIR), Outcome::Changed);
    fs::remove_file(fixture.path("a/cert")).unwrap();
    assert_eq!(fixture.write("a", 1, &PAIR), Outcome::Changed);
    fs::write(fixture.path("a/..data/more"), "x").unwrap();
    assert_eq!(fixture.write("a", 1, &PAIR), Outcome::Changed);
    assert_eq!(seen(&fixture.path("a")).unwrap(), as_seen(&files(&PAIR)));
    assert_eq!(fixture.write("a", 1, &PAIR), Outcome::Same);
}

#[test]
fn a_manifest_that_a_crash_left_is_not_a_file_of_the_object() {
    let fixture = Fixture::new();
    fixture.write("a", 1, &PAIR);
    fs::write(fixture.path("a/..data/..sds-mirror.json.new"), "{").unwrap();
    let previous = fixture.output.files("a", &manifest("a", 1)).unwrap();
    assert_eq!(previous, files(&PAIR));
    let stamp = fixture.output.inspect("a").unwrap().unwrap().stamp;
    assert!(stamp.is_of(&previous));
    assert_eq!(fixture.write("a", 2, &PAIR), Outcome::Changed);
    assert!(!fixture.path("a/..data/..sds-mirror.json.new").exists());
}

#[test]
fn foreign_folders_are_not_changed() {
    let fixture = Fixture::new();
    fixture.write("real", 1, &PAIR);
    fs::create_dir(fixture.path("by-hand")).unwrap();
    fs::write(fixture.path("by-hand/cert"), "mine").unwrap();
    fs::write(fixture.path("file"), "mine").unwrap();
    symlink(fixture.path("real"), fixture.path("link")).unwrap();
    // As kubelet writes it: a generation without a manifest.
    fs::create_dir_all(fixture.path("kubelet/..1")).unwrap();
    symlink("..1", fixture.path("kubelet/..data")).unwrap();
    // A manifest that is reached through a link out of the folder.
    fs::create_dir(fixture.path("outside")).unwrap();
    symlink("../real/..data", fixture.path("outside/..data")).unwrap();
    for name in ["by-hand", "file", "link", "kubelet", "outside"] {
        let manifest = manifest(name, 1);
        let result = fixture.output.write(name, &manifest, &files(&PAIR));
        assert!(matches!(result, Err(WriteError::Foreign)), "{name}");
        let result = fixture.output.remove(name);
        assert!(matches!(result, Err(WriteError::Foreign)), "{name}");
        assert_eq!(fixture.output.scan().unwrap()[name], Found::Foreign);
    }
    assert_eq!(
        fs::read_to_string(fixture.path("by-hand/cert")).unwrap(),
        "mine"
    );
}

#[test]
fn a_second_mirror_can_not_open_the_folder() {
    let fixture = Fixture::new();
    let error = Output::open(&fixture.path(""), Rights::default())
        .err()
        .unwrap();
    assert!(error.contains("another sds-mirror"), "{error}");
}

#[test]
fn a_failed_write_leaves_the_old_content_and_nothing_else() {
    let fixture = Fixture::new();
    fixture.write("a", 1, &PAIR);
    // This file can't be created: its name is too long for any file system.
    let long = "k".repeat(300);
    for (folder, content) in [
        ("a", [("cert", "C2"), (&*long, "K2")]),
        ("b", [("cert", "C2"), (&*long, "K2")]),
    ] {
        let result = fixture
            .output
            .write(folder, &manifest(folder, 2), &files(&content));
        assert!(matches!(result, Err(WriteError::System(_))), "{folder}");
    }
    assert_eq!(seen(&fixture.path("a")).unwrap(), as_seen(&files(&PAIR)));
    assert_eq!(fs::read_dir(fixture.path("a")).unwrap().count(), 4);
    assert_eq!(
        fs::read_dir(fixture.path("")).unwrap().count(),
        1,
        "a alone"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<(usize, u8)>),
    Remove(usize),
    Tamper(usize),
    /// The mirror restarts.
    Reopen,
}

const KEYS: [&str; 4] = ["cacert", "cert", "key", "tls.crt"];
const FOLDERS: [&str; 3] = ["a", "b", "by-hand"];

fn any_step() -> impl Strategy<Value = Step> {
    let content = prop::collection::vec((0..KEYS.len(), 0..3u8), 0..4);
    prop_oneof![
        6 => (0..FOLDERS.len(), content).prop_map(|(folder, c)| Step::Write(folder, c)),
        2 => (0..FOLDERS.len()).prop_map(Step::Remove),
        1 => (0..2usize).prop_map(Step::Tamper),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The model is a map from folder to files.
    #[test]
    fn the_output_behaves_like_a_map(steps in prop::collection::vec(any_step(), 1..12)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::create_dir_all(path.join("by-hand")).unwrap();
        fs::write(path.join("by-hand/cert"), "mine").unwrap();
        let mut output = Output::open(&path, Rights::default()).unwrap();
        let mut model: BTreeMap<&str, Files> = BTreeMap::new();
        for (version, step) in (0..).zip(steps) {
            match step {
                Step::Write(at, content) => {
                    let name = FOLDERS[at];
                    let content = content.iter().map(|(key, value)| {
                        (KEYS[*key].to_owned(), Zeroizing::new(vec![b'0' + value; 10]))
                    });
                    let content: Files = content.collect();
                    let result = output.write(name, &manifest(name, version), &content);
                    match (name, result) {
                        ("by-hand", result) => {
                            prop_assert!(matches!(result, Err(WriteError::Foreign)));
                        }
                        (name, Ok(Outcome::Made)) => {
                            prop_assert!(model.insert(name, content).is_none());
                        }
                        (name, Ok(Outcome::Same)) => prop_assert_eq!(model.get(name), Some(&content)),
                        (name, Ok(Outcome::Changed)) => {
                            prop_assert!(model.insert(name, content).is_some());
                        }
                        (_, Err(error)) => prop_assert!(false, "{}", error),
                    }
                }
                Step::Remove(at) => {
                    let name = FOLDERS[at];
                    match output.remove(name) {
                        Ok(was_there) => prop_assert_eq!(was_there, model.remove(name).is_some()),
                        Err(_) => prop_assert_eq!(name, "by-hand"),
                    }
                }
                Step::Tamper(at) => {
                    if let Some(content) = model.get(FOLDERS[at]) {
                        let folder = path.join(FOLDERS[at]);
                        if let Some(key) = content.keys().next() {
                            fs::write(folder.join(key), "tampered").unwrap();
                        }
                        fs::create_dir(folder.join("..deadbeef")).unwrap();
                        let result = output.write(FOLDERS[at], &manifest("x", version), content);
                        prop_assert!(result.is_ok());
                    }
                }
                Step::Reopen => {
                    drop(output);
                    fs::create_dir(path.join(".sds-mirror-tmp-1")).unwrap();
                    output = Output::open(&path, Rights::default()).unwrap();
                }
            }
            for name in ["a", "b"] {
                prop_assert_eq!(seen(&path.join(name)), model.get(name).map(as_seen));
                if let Some(content) = model.get(name) {
                    let entries = fs::read_dir(path.join(name)).unwrap().count();
                    prop_assert_eq!(entries, content.len() + 2, "litter in {}", name);
                }
            }
            prop_assert_eq!(fs::read_dir(&path).unwrap().count(), model.len() + 1, "litter");
        }
        prop_assert_eq!(fs::read_to_string(path.join("by-hand/cert")).unwrap(), "mine");
    }
}
