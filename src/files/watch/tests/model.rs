//! Whatever is done to the files, in whatever order: in the end, what is there has been read.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::files::kubelet;
use crate::files::read::Unwatched;

/// Something that is done to a credential folder, or above it. What can't be done is left.
#[derive(Clone, Debug)]
enum Deed {
    /// Writes a file in place.
    Write(u8, u8),
    /// Writes a file beside another one and renames it over that.
    Rename(u8, u8),
    /// Unlinks a file and makes a link in its place.
    Relink(u8, u8),
    /// Gives a file elsewhere a name in the folder.
    HardLink(u8, u8),
    Remove(u8),
    Mode(u8, u8),
    /// Switches `..data` to a new generation, and removes all others.
    Swap(u8),
    RemoveData,
    RemoveFolder,
    MakeFolder,
    /// Renames a new folder into the place of the old one.
    ReplaceFolder(u8),
    /// Renames a new root into the place of the old one.
    ReplaceRoot(u8),
    /// Makes the root a link to another one.
    SwitchRoot(u8),
    /// Lets the follower follow.
    Follow,
}

fn deed() -> impl Strategy<Value = Deed> {
    let (file, value) = (0..3_u8, any::<u8>());
    let both = (file.clone(), value);
    prop_oneof![
        3 => both.clone().prop_map(|(f, v)| Deed::Write(f, v)),
        2 => both.clone().prop_map(|(f, v)| Deed::Rename(f, v)),
        2 => both.clone().prop_map(|(f, v)| Deed::Relink(f, v)),
        1 => both.clone().prop_map(|(f, v)| Deed::HardLink(f, v)),
        1 => both.prop_map(|(f, v)| Deed::Mode(f, v)),
        1 => file.prop_map(Deed::Remove),
        2 => value.prop_map(Deed::Swap),
        1 => Just(Deed::RemoveData),
        1 => Just(Deed::RemoveFolder),
        1 => Just(Deed::MakeFolder),
        1 => value.prop_map(Deed::ReplaceFolder),
        1 => value.prop_map(Deed::ReplaceRoot),
        1 => value.prop_map(Deed::SwitchRoot),
        4 => Just(Deed::Follow),
    ]
}

/// Does a deed below `base`, where the folder is `root/host`, for the `n`th time.
fn perform(base: &Path, n: usize, deed: &Deed) -> std::io::Result<()> {
    let at = |path: String| base.join(path);
    let host = at("root/host".into());
    let file = |f: &u8| host.join(["tls.crt", "tls.key", "ca.crt"][usize::from(*f)]);
    let fresh = at(format!("fresh{n}"));
    match deed {
        Deed::Write(f, v) => fs::write(file(f), [*v]),
        Deed::Rename(f, v) => {
            fs::write(&fresh, [*v])?;
            fs::rename(fresh, file(f))
        }
        Deed::Relink(f, v) => {
            fs::write(&fresh, [*v])?;
            let _ = fs::remove_file(file(f));
            symlink(fresh, file(f))
        }
        Deed::HardLink(f, v) => {
            fs::write(&fresh, [*v])?;
            fs::hard_link(fresh, file(f))
        }
        Deed::Remove(f) => fs::remove_file(file(f)),
        Deed::Mode(f, v) => fs::set_permissions(file(f), PermissionsExt::from_mode((*v).into())),
        Deed::Swap(v) => kubelet::write(&host, n, &[("tls.key", [*v])]),
        Deed::RemoveData => fs::remove_file(host.join("..data")),
        Deed::RemoveFolder => fs::remove_dir_all(host),
        Deed::MakeFolder => fs::create_dir_all(host),
        Deed::ReplaceFolder(v) => {
            write(&fresh, &[("tls.key", &v.to_string())]);
            let _ = fs::rename(&host, at(format!("old{n}")));
            fs::rename(fresh, host)
        }
        Deed::ReplaceRoot(v) | Deed::SwitchRoot(v) => {
            write(&fresh.join("host"), &[("tls.crt", &v.to_string())]);
            let _ = fs::rename(at("root".into()), at(format!("old{n}")));
            match deed {
                Deed::ReplaceRoot(_) => fs::rename(fresh, at("root".into())),
                _ => symlink(fresh, at("root".into())),
            }
        }
        Deed::Follow => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn what_is_there_in_the_end_has_been_read(deeds in prop::collection::vec(deed(), 1..40)) {
        let place = Place::new();
        let mut follower = Follower::new(&place.folder);
        for (n, deed) in deeds.iter().enumerate() {
            let _ = perform(place.dir.path(), n, deed);
            if matches!(deed, Deed::Follow) {
                while follower.step(Duration::from_millis(1)) {}
            }
        }
        follower.until_is(place.files());
        prop_assert_eq!(follower.watch.state().missed, 0);
    }

    #[test]
    fn what_is_done_while_it_is_read_is_read_too(deeds in prop::collection::vec(deed(), 1..200)) {
        let place = Place::new();
        let mut follower = Follower::new(&place.folder);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for (n, deed) in deeds.iter().enumerate() {
                    let _ = perform(place.dir.path(), n, deed);
                }
            });
            while !writer.is_finished() {
                follower.step(Duration::from_millis(1));
            }
        });
        follower.until_is(place.files());
        prop_assert_eq!(follower.watch.state().missed, 0);
    }
}

/// A folder `root/host` that deeds are done to.
struct Place {
    dir: tempfile::TempDir,
    folder: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("root/host");
        fs::create_dir_all(&folder).unwrap();
        Self { dir, folder }
    }

    /// What is there.
    fn files(&self) -> Files {
        let limits = Limits::default();
        let reading = read(self.folder.as_path(), options(&limits), &mut Unwatched);
        let files = reading.files.into_iter();
        let files = files.map(|file| (file.name, String::from_utf8_lossy(&file.bytes).into()));
        reading.present.then(|| files.collect())
    }
}
