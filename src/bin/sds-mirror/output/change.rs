//! Creates, changes and removes a folder. Each operation ends with one rename: before it, only the old content
//! is visible, and after it only the new one.

use std::io;
use std::os::fd::AsFd;

use super::existing::{self, Current, DATA, Existing};
use super::{Outcome, Output, SCRATCH, WriteError, sys};
use crate::config::Rights;
use crate::manifest::{self, Manifest};
use crate::select::Files;

/// The link that will replace [`DATA`], under the name that kubelet uses.
const DATA_NEW: &str = "..data_tmp";
/// The manifest that will replace the current one.
const MANIFEST_NEW: &str = "..sds-mirror.json.new";

pub(super) fn write(
    output: &Output,
    folder: &str,
    manifest: &Manifest,
    files: &Files,
) -> Result<Outcome, WriteError> {
    let current = match existing::current(output.dir()?, folder)? {
        Existing::Foreign => return Err(WriteError::Foreign),
        Existing::Absent => {
            make(output, folder, manifest, files)?;
            return Ok(Outcome::Made);
        }
        Existing::Ours(current) => current,
    };
    clear(output, folder, &current)?;
    let same_links = current.links_are_of(files);
    if same_links && current.holds(files, output.rights)? {
        // The files are not written again, so their time stays.
        let written = current.manifest.written;
        let manifest = Manifest {
            written,
            ..manifest.clone()
        };
        note(&current, &manifest, output.rights)?;
        return Ok(Outcome::Same);
    }
    // If other files are linked, a swap of `..data` would briefly leave a link without its file, so the folder is
    // exchanged; but not if other programs have put files into it, which an exchange would lose.
    let exchanged =
        !same_links && !current.has_foreign_files && exchange(output, folder, manifest, files)?;
    if !exchanged {
        swap(output, folder, &current, manifest, files)?;
    }
    Ok(Outcome::Changed)
}

pub(super) fn remove(output: &Output, folder: &str) -> Result<bool, WriteError> {
    match existing::current(output.dir()?, folder)? {
        Existing::Foreign => return Err(WriteError::Foreign),
        Existing::Absent => return Ok(false),
        Existing::Ours(_) => {}
    }
    let scratch = sys::unique(SCRATCH);
    sys::rename_to_new(output.dir()?, folder, &scratch)?;
    sys::sync(output.dir()?)?;
    sys::remove_tree(&output.path.join(scratch))?;
    Ok(true)
}

/// Makes a new folder.
fn make(output: &Output, folder: &str, manifest: &Manifest, files: &Files) -> io::Result<()> {
    build(output, manifest, files, |scratch| {
        sys::rename_to_new(output.dir()?, scratch, folder)?;
        sys::sync(output.dir()?)?;
        Ok(true)
    })?;
    Ok(())
}

/// Builds a new folder, exchanges it with the current one, and removes that. Returns whether the file system
/// supports this.
fn exchange(output: &Output, folder: &str, manifest: &Manifest, files: &Files) -> io::Result<bool> {
    build(output, manifest, files, |scratch| {
        if !sys::exchange(output.dir()?, scratch, folder)? {
            sys::remove_tree(&output.path.join(scratch))?;
            return Ok(false);
        }
        sys::sync(output.dir()?)?;
        sys::remove_tree(&output.path.join(scratch))?;
        Ok(true)
    })
}

/// Builds a complete folder under a hidden name, which `place` then moves to its final name. After an error, it
/// is removed.
fn build<T>(
    output: &Output,
    manifest: &Manifest,
    files: &Files,
    place: impl FnOnce(&str) -> io::Result<T>,
) -> io::Result<T> {
    let scratch = sys::unique(SCRATCH);
    let built = || -> io::Result<T> {
        let dir = sys::make_folder(output.dir()?, &scratch)?;
        let generation = sys::unique("..");
        generate(&dir, &generation, manifest, files, output.rights)?;
        sys::make_link(&dir, DATA, &generation)?;
        for name in files.keys() {
            sys::make_link(&dir, name, &existing::link_target(name))?;
        }
        sys::settle(&dir, output.rights, output.rights.dir_mode)?;
        sys::sync(&dir)?;
        place(&scratch)
    };
    built().inspect_err(|_| {
        let _ = sys::remove_tree(&output.path.join(&scratch));
    })
}

/// Writes a new generation into the folder and swaps `..data`, as kubelet does.
fn swap(
    output: &Output,
    folder: &str,
    current: &Current,
    manifest: &Manifest,
    files: &Files,
) -> io::Result<()> {
    let dir = &current.dir;
    let generation = sys::unique("..");
    let swapped = || -> io::Result<()> {
        generate(dir, &generation, manifest, files, output.rights)?;
        sys::settle(dir, output.rights, output.rights.dir_mode)?;
        sys::make_link(dir, DATA_NEW, &generation)?;
        sys::sync(dir)?;
        sys::rename(dir, DATA_NEW, DATA)
    };
    swapped().inspect_err(|_| {
        let _ = sys::remove_tree(&output.path.join(folder).join(&generation));
    })?;
    for name in files.keys().filter(|name| !current.links.contains(name)) {
        sys::make_link(dir, name, &existing::link_target(name))?;
    }
    for name in current
        .links
        .iter()
        .filter(|name| !files.contains_key(*name))
    {
        sys::remove_file(dir, name)?;
    }
    sys::sync(dir)?;
    sys::remove_tree(&output.path.join(folder).join(&current.generation))
}

/// Writes a generation into a folder, synced.
fn generate(
    dir: impl AsFd,
    name: &str,
    manifest: &Manifest,
    files: &Files,
    rights: Rights,
) -> io::Result<()> {
    let generation = sys::make_folder(&dir, name)?;
    for (file, content) in files {
        sys::make_file(&generation, file, content, rights)?;
    }
    sys::make_file(
        &generation,
        manifest::FILE_NAME,
        &manifest.to_bytes(),
        rights,
    )?;
    sys::settle(&generation, rights, rights.dir_mode)?;
    sys::sync(&generation)
}

/// Replaces the manifest of a generation whose files are up to date.
pub(super) fn note(current: &Current, manifest: &Manifest, rights: Rights) -> io::Result<()> {
    if current.manifest == *manifest {
        return Ok(());
    }
    let data = &current.data;
    sys::remove_file(data, MANIFEST_NEW)?;
    sys::make_file(data, MANIFEST_NEW, &manifest.to_bytes(), rights)?;
    sys::rename(data, MANIFEST_NEW, manifest::FILE_NAME)?;
    sys::sync(data)
}

/// Removes what a crash left in the folder.
fn clear(output: &Output, folder: &str, current: &Current) -> io::Result<()> {
    for name in &current.leftovers {
        sys::remove_tree(&output.path.join(folder).join(name))?;
    }
    Ok(())
}
