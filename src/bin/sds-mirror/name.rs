//! The name of a Secret's folder, and the rules for names of folders and files.

use std::fmt;

/// The maximum size in bytes of a name that sds-agent serves.
const MAX_NAME: usize = 253;
/// Names with these prefixes are skipped, as by Istio: of folders by sds-agent, and of Secrets by the mirror.
const RESERVED_PREFIXES: [&str; 2] = ["istio", "prometheus"];

/// A template for names of folders, with `{name}` and `{namespace}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Namespace,
}

impl NameTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// It has an unknown placeholder, or lacks `{name}`, so that all Secrets would have the same folder.
    pub(crate) fn parse(template: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = template;
        while let Some((text, after)) = rest.split_once('{') {
            let (placeholder, after) = after
                .split_once('}')
                .ok_or_else(|| format!("the name template {template:?} has a {{ without a }}"))?;
            pieces.push(Piece::Text(text.to_owned()));
            pieces.push(match placeholder {
                "name" => Piece::Name,
                "namespace" => Piece::Namespace,
                _ => {
                    return Err(format!(
                        "the name template {template:?} has the unknown placeholder {{{placeholder}}}; \
                         use {{name}} and {{namespace}}"
                    ));
                }
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        if !pieces.contains(&Piece::Name) {
            return Err(format!(
                "the name template {template:?} lacks {{name}}: all Secrets would have the same folder"
            ));
        }
        Ok(Self(pieces))
    }

    /// The name of the folder for a Secret.
    ///
    /// # Errors
    /// No folder can have this name, or sds-agent would skip it.
    pub(crate) fn folder(&self, namespace: &str, name: &str) -> Result<String, BadName> {
        let folder: String = self
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Name => name,
                Piece::Namespace => namespace,
            })
            .collect();
        check_folder(folder)
    }
}

/// Checks that sds-agent serves folders of this name.
///
/// # Errors
/// No folder can have this name, or sds-agent would skip it.
pub(crate) fn check_folder(folder: String) -> Result<String, BadName> {
    match check(&folder) {
        None => Ok(folder),
        Some(why) => Err(BadName { folder, why }),
    }
}

impl Default for NameTemplate {
    fn default() -> Self {
        Self(vec![Piece::Name])
    }
}

/// A refused name of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadName {
    folder: String,
    why: &'static str,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.folder.chars().take(MAX_NAME).collect();
        write!(f, "its folder's name {shown:?} {}", self.why)
    }
}

/// Whether a Secret of this name is skipped, as by Istio.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Checks that a key of a Secret can be the name of a file.
///
/// # Errors
/// Why it can't.
pub(crate) fn check_key(key: &str) -> Result<(), &'static str> {
    match key {
        "" => Err("is empty"),
        _ if key.contains('/') => Err("has a path separator"),
        _ if key.contains(char::is_control) => Err("has control characters"),
        // Links and generations of the folder have such names.
        _ if key.starts_with("..") || key == "." => Err("begins with .."),
        _ if key.len() > MAX_NAME => Err("is longer than 253 bytes"),
        _ => Ok(()),
    }
}

fn check(folder: &str) -> Option<&'static str> {
    if folder.is_empty() {
        Some("is empty")
    } else if folder.contains('/') {
        Some("has a path separator")
    } else if folder.contains(char::is_control) {
        Some("has control characters")
    } else if folder.starts_with('.') {
        Some("begins with a dot, which sds-agent skips")
    } else if folder.len() > MAX_NAME {
        Some("is longer than 253 bytes; choose a shorter --name-template or Secret name")
    } else if is_reserved(folder) {
        Some(
            "begins with istio or prometheus, which sds-agent skips; put {name} first in --name-template",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in() {
        let folder = |template: &str| {
            NameTemplate::parse(template)
                .unwrap()
                .folder("shop", "web")
                .unwrap()
        };
        assert_eq!(folder("{name}"), "web");
        assert_eq!(folder("{namespace}.{name}"), "shop.web");
        assert_eq!(folder("k8s-{name}@{namespace}"), "k8s-web@shop");
        assert_eq!(
            NameTemplate::default(),
            NameTemplate(vec![Piece::Name]),
            "the default is the Secret's name"
        );
    }

    #[test]
    fn bad_templates_are_refused() {
        for template in ["", "web", "{namespace}", "{uid}-{name}", "{name"] {
            assert!(NameTemplate::parse(template).is_err(), "{template}");
        }
    }

    #[test]
    fn names_of_folders_that_would_not_be_served_are_refused() {
        let refused = |template: &str, namespace: &str, name: &str| {
            NameTemplate::parse(template)
                .unwrap()
                .folder(namespace, name)
                .unwrap_err()
                .to_string()
        };
        assert!(refused("../{name}", "a", "b").contains("path separator"));
        assert!(refused("{name}", "a", ".b").contains("a dot"));
        assert!(refused("{name}", "a", "b\n").contains("control"));
        assert!(refused("{namespace}.{name}", "istio-system", "b").contains("istio"));
        let long = "n".repeat(200);
        assert!(refused("{namespace}.{name}", &"s".repeat(63), &long).contains("253 bytes"));
    }

    #[test]
    fn keys_that_can_not_be_file_names_are_refused() {
        for key in [
            "",
            "a/b",
            "../x",
            "..data",
            "..",
            ".",
            "a\0",
            &"k".repeat(254),
        ] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        for key in ["tls.crt", ".hidden", "a..b"] {
            assert!(check_key(key).is_ok(), "{key:?}");
        }
    }
}
