//! How tools write a credential folder, step by step, so that they can be interrupted in between.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::folders::Root;
use super::kubelet;
use super::pki::Identity;

/// One system call, or a few that can't be observed separately.
pub(crate) type Step = Box<dyn FnOnce()>;

/// A tool that writes credential folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Kubelet,
    Certbot,
    AcmeSh,
    Lego,
    VaultAgent,
    Rename,
    Copy,
}

impl Tool {
    pub(crate) const ALL: [Self; 7] = [
        Self::Kubelet,
        Self::Certbot,
        Self::AcmeSh,
        Self::Lego,
        Self::VaultAgent,
        Self::Rename,
        Self::Copy,
    ];

    /// The steps that put `generation` of a pair into folder `name`, over what an earlier run has left there.
    pub(crate) fn steps(
        self,
        root: &Root,
        name: &str,
        generation: usize,
        pair: &Identity,
    ) -> Vec<Step> {
        let folder = root.credential(name);
        fs::create_dir_all(&folder).unwrap();
        let at = |file: &str| folder.join(file);
        let mut steps = Steps::default();
        match self {
            Self::Kubelet => {
                let files = [("tls.crt", &pair.chain), ("tls.key", &pair.key)];
                for step in kubelet::steps(&folder, generation, &files) {
                    steps.then(|| step().unwrap());
                }
            }
            Self::Certbot => {
                steps.certbot(
                    &root.beside("archive").join(name),
                    &folder,
                    generation,
                    pair,
                );
            }
            Self::AcmeSh => {
                steps.in_place(&at("cert.cer"), &pair.leaf);
                steps.in_place(&at("ca.cer"), pair.chain.strip_prefix(&pair.leaf).unwrap());
                steps.in_place(&at("site.key"), &pair.key);
                steps.in_place(&at("fullchain.cer"), &pair.chain);
            }
            Self::Lego => {
                steps.in_place(&at("site.crt"), &pair.chain);
                steps.in_place(&at("site.key"), &pair.key);
            }
            Self::VaultAgent => {
                let temporary = |file: &str| at(&format!("{file}{generation}7135"));
                for (file, content) in [("cert.pem", &pair.chain), ("key.pem", &pair.key)] {
                    steps.in_place(&temporary(file), content);
                    steps.rename(&temporary(file), &at(file));
                    let path = at(file);
                    steps.then(move || std::os::unix::fs::chown(path, None, None).unwrap());
                }
            }
            Self::Rename => {
                for (file, content) in [("tls.key", &pair.key), ("tls.crt", &pair.chain)] {
                    let new = at(&format!("{file}.new"));
                    steps.in_place(&new, content);
                    steps.rename(&new, &at(file));
                }
            }
            Self::Copy => {
                steps.in_place(&at("cert"), &pair.chain);
                steps.in_place(&at("key"), &pair.key);
            }
        }
        steps.0
    }
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn then(&mut self, step: impl FnOnce() + 'static) {
        self.0.push(Box::new(step));
    }

    /// The file is truncated, written in two pieces of which the first ends within a line, and closed.
    fn in_place(&mut self, path: &Path, content: &str) {
        let file: Rc<RefCell<Option<File>>> = Rc::default();
        let (head, tail) = content.split_at(content.len() / 4);
        let (path, opened) = (path.to_owned(), file.clone());
        self.then(move || *opened.borrow_mut() = Some(File::create(path).unwrap()));
        for piece in [head.to_owned(), tail.to_owned()] {
            let file = file.clone();
            self.then(move || {
                let mut file = file.borrow_mut();
                file.as_mut().unwrap().write_all(piece.as_bytes()).unwrap();
            });
        }
        self.then(move || drop(file.take()));
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.then(move || fs::rename(from, to).unwrap());
    }

    fn link(&mut self, target: impl Into<PathBuf>, path: PathBuf) {
        let target = target.into();
        self.then(move || symlink(target, path).unwrap());
    }

    fn certbot(&mut self, archive: &Path, live: &Path, generation: usize, pair: &Identity) {
        fs::create_dir_all(archive).unwrap();
        let chain = pair.chain.strip_prefix(&pair.leaf).unwrap();
        let files = [
            ("cert", pair.leaf.as_str()),
            ("privkey", pair.key.as_str()),
            ("chain", chain),
            ("fullchain", pair.chain.as_str()),
        ];
        let target = |kind: &str| archive.join(format!("{kind}{generation}.pem"));
        for (kind, content) in files {
            self.in_place(&target(kind), content);
        }
        for (kind, _) in files {
            let link = live.join(format!("{kind}.pem"));
            let unlinked = link.clone();
            self.then(move || drop(fs::remove_file(unlinked)));
            self.link(target(kind), link);
        }
    }
}
