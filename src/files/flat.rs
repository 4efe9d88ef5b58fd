//! Flat roots: which files of a folder belong to one credential, by their names.
//!
//! A file's name consists of the name of its credential and an ending. The endings are those of the tools that keep
//! all certificates in one folder: lego, HAProxy, mkcert, openssl, systemd.

/// What a file with an ending is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It may contain a private key.
    Key,
    /// It is a part without a private key.
    Part,
    /// It is only used together with another file.
    Beside,
}

/// What follows the name of the credential.
struct Ending {
    text: &'static str,
    what: Use,
    /// The name that the same file has in a credential folder, if its own has no meaning there.
    known_as: Option<&'static str>,
}

impl Ending {
    const fn new(text: &'static str, what: Use) -> Self {
        Self {
            text,
            what,
            known_as: None,
        }
    }

    const fn known_as(text: &'static str, what: Use, name: &'static str) -> Self {
        Self {
            text,
            what,
            known_as: Some(name),
        }
    }
}

/// The endings. If several fit, the first one counts.
const ENDINGS: [Ending; 18] = [
    Ending::known_as("-cacert.crt", Use::Part, "ca.crt"),
    Ending::known_as("-cacert.pem", Use::Part, "ca.pem"),
    Ending::known_as("-cacert.crl", Use::Beside, "ca.crl"),
    Ending::known_as(".key.password", Use::Beside, "tls.key.password"),
    Ending::known_as(".password", Use::Beside, "password"),
    Ending::new(".crt.ocsp", Use::Beside),
    Ending::new(".pem.ocsp", Use::Beside),
    Ending::new(".ocsp", Use::Beside),
    Ending::new("-key.pem", Use::Key),
    Ending::new(".crt.key", Use::Key),
    Ending::new(".pem.key", Use::Key),
    Ending::new(".key", Use::Key),
    Ending::new(".p12", Use::Key),
    Ending::new(".pfx", Use::Key),
    Ending::new(".ticketkey", Use::Key),
    Ending::new(".crt", Use::Part),
    Ending::new(".cer", Use::Part),
    Ending::new(".pem", Use::Part),
];

/// What follows the name of a credential in the name of its issuer's certificate, as lego writes it.
const ISSUERS: [&str; 2] = [".issuer", ".ca"];

/// A file of a flat root, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member<'a> {
    /// The name of the credential.
    pub(super) credential: &'a str,
    /// Whether this file alone makes a credential. Otherwise it is only used next to another file.
    pub(super) counts: bool,
    /// Whether its name is that of a private key, or of a keystore.
    pub(super) is_key: bool,
}

/// The credential that the file `name` belongs to, if it is a file of one.
pub(super) fn member(name: &str) -> Option<Member<'_>> {
    ENDINGS.iter().find_map(|ending| {
        let credential = name.strip_suffix(ending.text)?;
        let member = Member {
            credential,
            counts: ending.what != Use::Beside,
            is_key: ending.what == Use::Key,
        };
        (!credential.is_empty() && !credential.starts_with('.')).then_some(member)
    })
}

/// The credential whose issuer's certificate may have this name.
pub(super) fn issued(credential: &str) -> Option<&str> {
    let mut endings = ISSUERS.iter();
    endings.find_map(|ending| credential.strip_suffix(ending))
}

/// The names of the files that a credential may have, each with the name of the same file in a credential folder.
pub(super) fn names(credential: &str) -> impl Iterator<Item = (String, String)> {
    ENDINGS.iter().filter_map(move |ending| {
        let name = format!("{credential}{}", ending.text);
        let known_as = match ending.known_as {
            // `ca.crt` is a file of the credential `ca` itself.
            Some(known) if belongs(known, credential) && known != name => return None,
            Some(known) => known.to_owned(),
            None => name.clone(),
        };
        Some((name, known_as))
    })
}

/// The name of the file of `credential` that has the name `known_as` in a credential folder.
pub(super) fn name_of(credential: &str, known_as: &str) -> String {
    let known = names(credential).find(|(_, known)| known == known_as);
    known.map_or_else(|| known_as.to_owned(), |(name, _)| name)
}

fn belongs(name: &str, credential: &str) -> bool {
    member(name).is_some_and(|member| member.credential == credential)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_grouped_by_the_name_before_their_ending() {
        for (name, credential) in [
            ("site.crt", "site"),
            ("site.example.crt", "site.example"),
            ("_.example.com.key", "_.example.com"),
            ("site-key.pem", "site"),
            ("site.pem", "site"),
            ("site.pem.key", "site"),
            ("site.crt.ocsp", "site"),
            ("site.key.password", "site"),
            ("site-cacert.crt", "site"),
            ("key.pem", "key"),
            ("a.issuer.crt", "a.issuer"),
        ] {
            let found = member(name).map(|member| member.credential);
            assert_eq!(found, Some(credential), "{name}");
            let mut files = names(credential);
            assert!(files.any(|(file, _)| file == name), "{name}");
        }
        for name in [
            "site.json",
            ".crt",
            "..crt",
            "crt",
            "site",
            "README",
            "site.pem~",
        ] {
            assert_eq!(member(name), None, "{name}");
        }
    }

    #[test]
    fn a_file_has_one_name_in_a_credential_folder_and_back() {
        for credential in ["site", "ca", "tls", "a.issuer"] {
            let mut known = std::collections::HashSet::new();
            for (name, known_as) in names(credential) {
                assert!(known.insert(known_as.clone()), "{name} {known_as}");
                assert_eq!(name_of(credential, &known_as), name);
            }
        }
        assert_eq!(name_of("site", "ca.crt"), "site-cacert.crt");
        assert_eq!(name_of("ca", "ca.crt"), "ca.crt");
        assert_eq!(name_of("site", "password"), "site.password");
    }
}
