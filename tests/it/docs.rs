//! The documentation is consistent.

use std::fs;
use std::path::{Path, PathBuf};

/// The pages of the project.
fn pages() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [top.to_owned(), top.join("docs"), top.join("examples")];
    let entries = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

#[test]
fn every_link_to_a_file_resolves() {
    let mut links = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for rest in text.split("](").skip(1) {
            let link = rest.split([')', '#']).next().unwrap();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            links += 1;
            let target = page.parent().unwrap().join(link);
            assert!(target.exists(), "{} links to {link}", page.display());
        }
    }
    assert!(links > 0, "no page links to another");
}

#[test]
fn every_source_file_named_for_contributors_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["", "src", "tests/it", "src/bin"].map(|place| top.join(place));
    let mut sources = 0;
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(top.join(page)).unwrap();
        let quoted = text
            .lines()
            .flat_map(|line| line.split('`').skip(1).step_by(2));
        for name in quoted.filter(|name| name.ends_with(".rs") || name.ends_with('/')) {
            sources += 1;
            let exists = places.iter().any(|place| place.join(name).exists());
            assert!(exists, "{page} names {name}");
        }
    }
    assert!(sources > 0, "no page names a source");
}
