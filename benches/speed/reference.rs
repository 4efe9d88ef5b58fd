//! The minimum cost of a start: a program that watches, reads and parses the same files, one after the other, and
//! does nothing else.

use std::fs;
use std::io::Read;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;

/// The first argument that makes the benchmark this program. The second one is the root.
pub(crate) const ARGUMENT: &str = "reference";

/// Watches, reads and parses everything, reports that it is done, and waits for the end of its input.
pub(crate) fn run(root: &Path) {
    let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
    let inotify = inotify::init(CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&inotify, root, flags).unwrap();
    let provider = aws_lc_rs::default_provider();
    let mut pairs = Vec::new();
    for folder in fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        inotify::add_watch(&inotify, &folder, flags).unwrap();
        let [chain, key] = ["tls.crt", "tls.key"].map(|name| fs::read(folder.join(name)).unwrap());
        let certificates = rustls_pemfile::certs(&mut &*chain)
            .map(Result::unwrap)
            .collect();
        let private = rustls_pemfile::private_key(&mut &*key).unwrap().unwrap();
        // Parses both, and checks that they belong together.
        CertifiedKey::from_der(certificates, private, &provider).unwrap();
        pairs.push((chain, key));
    }
    println!("{} pairs", pairs.len());
    let _ = std::io::stdin().read(&mut [0]);
}
