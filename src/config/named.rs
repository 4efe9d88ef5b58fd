//! `[[secret]]`: credentials whose files can be anywhere, each listed in the configuration.

use std::ffi::OsStr;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::NamedCredential;
use super::error::Wrong;
use super::forms::{self, FilePath};
use crate::name;

type File = Option<Spanned<FilePath>>;

/// The names of session ticket keys in a folder, where the last one by name encrypts: here it is the first.
const TICKET_KEYS: [&str; 8] = [
    "8.ticketkey",
    "7.ticketkey",
    "6.ticketkey",
    "5.ticketkey",
    "4.ticketkey",
    "3.ticketkey",
    "2.ticketkey",
    "1.ticketkey",
];

/// `[[secret]]` as it is written.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedFiles {
    name: Spanned<String>,
    certificate: File,
    private_key: File,
    trusted_ca: File,
    crl: File,
    ocsp_staple: File,
    password_file: File,
    #[serde(default)]
    ticket_keys: Vec<Spanned<FilePath>>,
    generic: File,
    #[serde(default, deserialize_with = "forms::number::<_, _, 0, 36_500>")]
    pub(super) warn_days: Option<u32>,
}

/// The credentials of the `[[secret]]` entries, which must have different names. Relative paths start from
/// `folder`.
pub(super) fn credentials(
    secrets: Vec<NamedFiles>,
    folder: &Path,
) -> Result<Vec<NamedCredential>, Wrong> {
    let mut named: Vec<NamedCredential> = Vec::new();
    for secret in secrets {
        check_name(&secret.name)?;
        if named.iter().any(|one| one.name == *secret.name.get_ref()) {
            let message = "another [[secret]] has this name; change one of the two";
            return Err(Wrong::new(secret.name.span(), message));
        }
        secret.check_companions()?;
        named.push(secret.credential(folder));
    }
    named.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(named)
}

impl NamedFiles {
    fn credential(self, folder: &Path) -> NamedCredential {
        let path = |file: Spanned<FilePath>| folder.join(file.into_inner().0);
        let ticket_keys = TICKET_KEYS.into_iter().zip(self.ticket_keys);
        let (certificate, key) = (self.certificate.map(path), self.private_key.map(path));
        let pair = match certificate == key {
            true => [
                certificate.map(|path| (name_of(&path, "tls.pem"), path)),
                None,
            ],
            false => [
                certificate.map(|path| ("tls.crt", path)),
                key.map(|path| ("tls.key", path)),
            ],
        };
        let generic = self.generic.as_ref();
        let generic = generic.map_or("secret", |path| name_of(&path.get_ref().0, "secret"));
        let others = [
            ("ca.crt", self.trusted_ca),
            ("ca.crl", self.crl),
            ("tls.ocsp-staple", self.ocsp_staple),
            ("tls.key.password", self.password_file),
            (generic, self.generic),
        ];
        let others = others.map(|(name, file)| Some((name, path(file?))));
        NamedCredential {
            name: self.name.into_inner(),
            files: (pair.into_iter().chain(others).flatten())
                .chain(ticket_keys.map(|(name, file)| (name, path(file))))
                .collect(),
            warn_days: self.warn_days,
        }
    }

    /// Checks that each file has those that it can't be used without.
    fn check_companions(&self) -> Result<(), Wrong> {
        let certificate = ("certificate", &self.certificate);
        let private_key = ("private_key", &self.private_key);
        for ((key, file), (other, needed)) in [
            (certificate, private_key),
            (private_key, certificate),
            (("crl", &self.crl), ("trusted_ca", &self.trusted_ca)),
            (("ocsp_staple", &self.ocsp_staple), certificate),
            (("password_file", &self.password_file), private_key),
        ] {
            if let (Some(file), None) = (file, needed) {
                let hint = match (key, other) {
                    ("certificate", _) | (_, "certificate") => {
                        "; if one file holds both, write its path for each"
                    }
                    _ => "",
                };
                let message = format!("`{key}` requires `{other}`{hint}");
                return Err(Wrong::new(file.span(), message));
            }
        }
        let most = TICKET_KEYS.len();
        if let Some(key) = self.ticket_keys.get(most) {
            let message = format!("there are more than {most} ticket keys; remove the oldest ones");
            return Err(Wrong::new(key.span(), message));
        }
        let files = [&self.certificate, &self.trusted_ca, &self.generic];
        if self.ticket_keys.is_empty() && files.iter().all(|file| file.is_none()) {
            let message = "no file is given; add `certificate` and `private_key`, `trusted_ca`, \
                           `ticket_keys` or `generic`";
            return Err(Wrong::new(self.name.span(), message));
        }
        Ok(())
    }
}

/// The name that the file would have in a credential folder: `usual`, unless its extension stands for
/// another form.
fn name_of(path: &Path, usual: &'static str) -> &'static str {
    match (usual, path.extension().and_then(OsStr::to_str)) {
        ("tls.pem", Some("p12")) => "tls.p12",
        ("tls.pem", Some("pfx")) => "tls.pfx",
        ("secret", Some("bin")) => "secret.bin",
        _ => usual,
    }
}

/// Checks that a credential can have this name: a folder of this name would be served, and clients can
/// request it.
fn check_name(name: &Spanned<String>) -> Result<(), Wrong> {
    let text = name.get_ref();
    let is_folder = !text.contains('/') && !name::is_foreign(OsStr::new(text));
    if is_folder && name::is_requestable(text) && name::servable(OsStr::new(text), false).is_ok() {
        return Ok(());
    }
    let message = format!(
        "no credential can have this name; use one to {} bytes without `/` and control characters that \
         do not begin with a dot and are not just `*`",
        name::MAX_NAME
    );
    Err(Wrong::new(name.span(), message))
}
