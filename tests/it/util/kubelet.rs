//! kubelet's atomic writer, step by step: `NAME → ..data/NAME`, `..data → ..GENERATION`.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::rc::Rc;

/// One system call, or a few that can't be observed separately.
pub(crate) type Step = Box<dyn FnOnce() -> io::Result<()>>;

/// The steps that put `generation` of these files into `folder`, over what an earlier run with another generation
/// has left there.
pub(crate) fn steps<N: AsRef<str>, C: AsRef<[u8]>>(
    folder: &Path,
    generation: impl Display,
    files: &[(N, C)],
) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let name = format!("..2026_01_01_00_00_00.{generation}");
    let new = folder.join(&name);
    let (data, temporary) = (folder.join("..data"), folder.join("..data_tmp"));
    let (made, leftover) = (new.clone(), temporary.clone());
    steps.push(Box::new(move || {
        let _ = fs::remove_file(leftover);
        fs::create_dir(made)
    }));
    for (file, content) in files {
        write_in_pieces(&mut steps, &new.join(file.as_ref()), content.as_ref());
    }
    let made = temporary.clone();
    steps.push(Box::new(move || symlink(name, made)));
    let old: Rc<RefCell<Option<_>>> = Rc::default();
    let (link, before) = (data.clone(), old.clone());
    steps.push(Box::new(move || {
        before.replace(fs::read_link(&link).ok());
        fs::rename(temporary, link)
    }));
    for (file, _) in files {
        let (target, link) = (
            Path::new("..data").join(file.as_ref()),
            folder.join(file.as_ref()),
        );
        steps.push(Box::new(move || match fs::symlink_metadata(&link) {
            Ok(_) => Ok(()),
            Err(_) => symlink(target, link),
        }));
    }
    let folder = folder.to_owned();
    steps.push(Box::new(move || match old.take() {
        Some(old) => fs::remove_dir_all(folder.join(old)),
        None => Ok(()),
    }));
    steps
}

/// Does all steps.
pub(crate) fn write<N: AsRef<str>, C: AsRef<[u8]>>(
    folder: &Path,
    generation: impl Display,
    files: &[(N, C)],
) -> io::Result<()> {
    steps(folder, generation, files)
        .into_iter()
        .try_for_each(|step| step())
}

/// Opened, written in two pieces of which the first ends within a line, closed.
fn write_in_pieces(steps: &mut Vec<Step>, path: &Path, content: &[u8]) {
    let file: Rc<RefCell<Option<File>>> = Rc::default();
    let (path, opened) = (path.to_owned(), file.clone());
    steps.push(Box::new(move || {
        opened.replace(Some(File::create(path)?));
        Ok(())
    }));
    let (head, tail) = content.split_at(content.len() / 4);
    for piece in [head.to_owned(), tail.to_owned()] {
        let file = file.clone();
        steps.push(Box::new(move || match &mut *file.borrow_mut() {
            Some(file) => file.write_all(&piece),
            None => Ok(()),
        }));
    }
    steps.push(Box::new(move || {
        drop(file.take());
        Ok(())
    }));
}
