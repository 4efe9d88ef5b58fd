//! Secret → the name of its folder, and the rules for names of folders.

use std::fmt;

/// Bytes of a folder's name: what sds-agent serves at most.
const MAX_NAME: usize = 253;
/// Names that sds-agent, like Istio, skips, as folders and as Secrets.
const RESERVED_PREFIXES: [&str; 2] = ["istio", "prometheus"];

/// The name of a folder, of `{name}` and `{namespace}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Namespace,
}

impl NameTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// Placeholders that there are not, and a template without `{name}`, which gives all Secrets
    /// the same folder.
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
                        "the name template {template:?} has the placeholder {{{placeholder}}}; \
                         there are {{name}} and {{namespace}}"
                    ));
                }
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        if !pieces.contains(&Piece::Name) {
            return Err(format!(
                "the name template {template:?} lacks {{name}}, so that all Secrets would share a folder"
            ));
        }
        Ok(Self(pieces))
    }

    /// The name of the folder for a Secret.
    ///
    /// # Errors
    /// A name that no folder may have, or that sds-agent skips.
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

/// A folder's name, if sds-agent serves folders of this name.
///
/// # Errors
/// Why no folder may have it.
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

/// A name that is refused.
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

/// Whether a Secret of this name is skipped, as Istio does it.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether a key of a Secret can be the name of a file.
///
/// # Errors
/// Why not.
pub(crate) fn check_key(key: &str) -> Result<(), &'static str> {
    match key {
        "" => Err("is empty"),
        _ if key.contains('/') => Err("has a path separator"),
        _ if key.contains(char::is_control) => Err("has control characters"),
        // `.`, `..` and all that is a link or a generation of the folder itself.
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
    fn folders_that_could_not_be_or_would_not_be_served_are_refused() {
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
    fn keys_that_are_no_file_names_are_refused() {
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
