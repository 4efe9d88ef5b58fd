//! The files of a folder, each examined once: their PEM blocks, with encrypted keys decrypted.

use std::path::Path;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::der::Der;
use super::encrypted::{self, Closed};
use super::key::Loaded;
use super::layout;
use super::pem::{self, Block, Content, Flaw};
use super::x509::X509;
use crate::files::read::File;
use crate::problem::{Problem, Reason};

/// A file of a folder.
pub(crate) struct Item {
    pub(crate) name: String,
    /// Its content, tidied.
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) mode: u32,
    /// Why it could not be read; it is empty then.
    pub(crate) unreadable: Option<Problem>,
    /// What was changed in it, and what to do about it.
    pub(crate) tidied: Option<(String, &'static str)>,
    /// Its PEM blocks, or why they can't be separated.
    pub(crate) blocks: Result<Vec<Block>, (Reason, Flaw)>,
    /// Whether it seems to contain a certificate, and a private key.
    pub(crate) has: Holdings,
    /// Its first private key, if that is valid.
    pub(crate) key: Option<Loaded>,
    /// Whether its blocks differ from those of `bytes`, because something was decrypted or left out.
    pub(crate) rewritten: bool,
}

/// What a file seems to contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) certificate: bool,
    pub(crate) key: bool,
}

impl Item {
    pub(crate) fn new(file: File) -> Self {
        let mut item = Self {
            name: file.name,
            bytes: file.bytes,
            mode: file.mode,
            unreadable: None,
            tidied: None,
            blocks: Ok(Vec::new()),
            has: Holdings::default(),
            key: None,
            rewritten: false,
        };
        if !layout::is_binary(&item.name) {
            item.parse();
        }
        item
    }

    /// A file that could not be read.
    pub(crate) fn unreadable(name: String, problem: Problem) -> Self {
        let mut item = Self::new(File {
            name,
            bytes: Zeroizing::default(),
            mode: 0o600,
        });
        item.unreadable = Some(problem);
        item
    }

    fn parse(&mut self) {
        match pem::tidy(&self.bytes) {
            Ok(None) => {}
            Ok(Some(tidied)) => {
                self.bytes = tidied.bytes;
                self.tidied = Some((tidied.what, tidied.remedy));
            }
            Err(flaw) => {
                self.has = self.hints();
                self.blocks = Err((Reason::BadPem, flaw));
                return;
            }
        }
        self.has = self.hints();
        self.blocks = pem::blocks(&self.bytes).map_err(|flaw| (Reason::BadPem, flaw));
        self.cut();
        self.load();
    }

    /// Leaves out what follows a certificate within its block: BoringSSL expects trust settings there, and rejects
    /// anything else.
    fn cut(&mut self) {
        for block in self.blocks.iter_mut().flatten() {
            let Content::Certificate(der) = &mut block.content else {
                continue;
            };
            let length = Der(der).any().map_or(der.len(), |whole| whole.all.len());
            if length < der.len() {
                der.truncate(length);
                block.text = pem::base64_text(b"CERTIFICATE", der);
                self.rewritten = true;
                let what = format!(
                    "there are more bytes after the certificate in the block in line {}: they are \
                     left out",
                    block.line
                );
                self.tidied = Some((what, "write the certificate again"));
            }
        }
    }

    fn hints(&self) -> Holdings {
        let mut has = Holdings::default();
        for label in pem::labels(&self.bytes) {
            has.certificate |= label.ends_with(b"CERTIFICATE");
            has.key |= label.ends_with(b"PRIVATE KEY");
        }
        has
    }

    fn load(&mut self) {
        let blocks = self.blocks.iter().flatten();
        let mut keys = blocks.filter_map(|block| match &block.content {
            Content::Key(der) => Some(Some(der)),
            Content::EncryptedKey(_) => Some(None),
            _ => None,
        });
        self.key = keys.next().flatten().and_then(|der| Loaded::new(der));
    }

    /// Its certificates; none if one of them is broken.
    pub(crate) fn certificates(&self) -> Vec<X509<'_>> {
        let blocks = self.blocks.iter().flatten();
        let parsed = blocks.filter_map(|block| match &block.content {
            Content::Certificate(der) => Some(X509::parse(der)),
            _ => None,
        });
        parsed.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// The index of its certificate that `key` belongs to, if there is one.
    pub(crate) fn place_of(&self, key: &Loaded) -> Option<usize> {
        let mut certificates = self.certificates().into_iter();
        certificates.position(|x509| key.belongs_to(&x509) == Some(true))
    }

    /// Decrypts its encrypted key with `password`.
    pub(crate) fn decrypt(&mut self, password: &[u8]) {
        for block in self.blocks.iter_mut().flatten() {
            let Content::EncryptedKey(Some(der)) = &block.content else {
                continue;
            };
            match encrypted::decrypt(der, password) {
                Ok(plain) => {
                    block.text = pem::base64_text(b"PRIVATE KEY", &plain);
                    block.content = Content::Key(pkcs8(&plain));
                    self.rewritten = true;
                }
                Err(closed) => {
                    self.blocks = Err(flaw_of(closed, "private key"));
                    return;
                }
            }
        }
        self.load();
    }

    /// Opens it as a PKCS#12 keystore with `password`. From then on, it counts as a PEM file with its key and
    /// chain.
    pub(crate) fn open(&mut self, password: Option<&[u8]>) {
        self.has = Holdings {
            certificate: true,
            key: true,
        };
        self.rewritten = true;
        let opened = encrypted::open(&self.bytes, password.unwrap_or_default());
        let keystore = match opened {
            Ok(keystore) => keystore,
            Err(Closed::WrongPassword) if password.is_none() => {
                let flaw = Flaw::new(
                    "it needs a password, and there is none",
                    "put the password beside it, in a file called password",
                );
                self.blocks = Err((Reason::EncryptedKey, flaw));
                return;
            }
            Err(closed) => {
                self.blocks = Err(flaw_of(closed, "keystore"));
                return;
            }
        };
        self.has.key = !keystore.keys.is_empty();
        let [key] = &keystore.keys[..] else {
            if self.has.key {
                let flaw = Flaw::new(
                    "it contains several private keys",
                    "keep only one of them, with its certificates",
                );
                self.blocks = Err((Reason::Ambiguous, flaw));
            }
            return;
        };
        let text = pem::base64_text(b"PRIVATE KEY", key);
        let mut blocks = vec![Block {
            text,
            content: Content::Key(pkcs8(key)),
            line: 1,
        }];
        for der in in_order(key, &keystore.certificates) {
            blocks.push(Block {
                text: pem::base64_text(b"CERTIFICATE", der),
                content: Content::Certificate(der.to_vec()),
                line: 1,
            });
        }
        self.blocks = Ok(blocks);
        self.load();
    }
}

/// The chain of the key: its certificate, and each one followed by its issuer. If none belongs to the key, all
/// certificates.
fn in_order<'a>(key: &[u8], certificates: &'a [Vec<u8>]) -> Vec<&'a [u8]> {
    let all = || certificates.iter().map(Vec::as_slice).collect();
    let parsed: Vec<X509<'_>> = certificates
        .iter()
        .filter_map(|der| X509::parse(der))
        .collect();
    let loaded = Loaded::new(&pkcs8(key));
    if parsed.len() < certificates.len() {
        return all();
    }
    let is_leaf =
        |x509: &X509<'_>| loaded.as_ref().and_then(|key| key.belongs_to(x509)) == Some(true);
    let Some(leaf) = parsed.iter().position(is_leaf) else {
        return all();
    };
    let mut chain = vec![leaf];
    while let Some(at) = chain.last().copied() {
        let next = parsed
            .iter()
            .position(|issuer| issuer.is_issuer_of(&parsed[at]))
            .filter(|next| !chain.contains(next));
        match next {
            Some(next) => chain.push(next),
            None => break,
        }
    }
    chain
        .into_iter()
        .map(|at| certificates[at].as_slice())
        .collect()
}

fn pkcs8(der: &[u8]) -> Zeroizing<PrivateKeyDer<'static>> {
    Zeroizing::new(PrivatePkcs8KeyDer::from(der.to_vec()).into())
}

fn flaw_of(closed: Closed, what: &str) -> (Reason, Flaw) {
    let (reason, why, remedy) = match closed {
        Closed::WrongPassword => (
            Reason::WrongPassword,
            "can't be decrypted with the password beside it",
            "write the right password into the file password, or tls.key.password",
        ),
        Closed::Unsupported => (
            Reason::EncryptedKey,
            "is encrypted in a way that is not supported",
            "encrypt it with PBES2, which is what OpenSSL does by default",
        ),
        Closed::TooCostly => (
            Reason::EncryptedKey,
            "requires too much computation or memory to derive a key from the password",
            "encrypt it again with at most 2,000,000 iterations, or 64 MiB with scrypt",
        ),
        Closed::Broken => (Reason::BadPem, "is damaged", "write it again"),
    };
    (reason, Flaw::new(format!("the {what} {why}"), remedy))
}

/// The password in a file, without one line break at its end.
pub(crate) fn without_line_end(bytes: &[u8]) -> &[u8] {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// The items of `folder`, sorted by name: its files, and the problems of those that could not be read.
pub(crate) fn items(folder: &Path, files: Vec<File>, unreadable: Vec<Problem>) -> Vec<Item> {
    let mut items: Vec<Item> = files.into_iter().map(Item::new).collect();
    for problem in unreadable {
        let name = problem.path().strip_prefix(folder).ok();
        if let Some(name) = name.and_then(|name| name.to_str()).map(str::to_owned) {
            items.push(Item::unreadable(name, problem));
        }
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    items
}
