//! The keys that a configuration file may have, and the nearest one to a key that is unknown.

use std::fmt::Display;
use std::path::Path;

use serde::de::value::MapDeserializer;
use serde::de::{self, DeserializeOwned};
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Wrong};
use super::named::NamedFiles;
use super::{AccessRule, Admin, Limits, Listen, Options, Root, TrustOptions};

/// A section and its keys.
pub(super) struct Section {
    /// The name, which is empty for the top of the file.
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
    is_repeated: bool,
}

/// The sections of `sds-agent.toml`.
pub(super) fn sections() -> [Section; 8] {
    [
        section::<Options>("", false),
        section::<Root>("root", true),
        section::<NamedFiles>("secret", true),
        section::<Listen>("listen", false),
        section::<AccessRule>("access", true),
        section::<TrustOptions>("trust", true),
        section::<Admin>("admin", false),
        section::<Limits>("limits", false),
    ]
}

/// Reads a file without sections. An unknown key is an error that names the nearest one.
///
/// # Errors
/// The place in the file, what is wrong there, and what to write.
pub fn parse_flat<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let parse = || {
        let document = DeTable::parse(text)?;
        check(&[section::<T>("", false)], document.get_ref())?;
        Ok(T::deserialize(toml::Deserializer::from(document))?)
    };
    parse().map_err(|wrong: Wrong| wrong.in_file(path, text))
}

/// Refuses the first unknown key, and a section with the wrong number of brackets. The first section must
/// be the top of the file.
pub(super) fn check(all: &[Section], top: &DeTable<'_>) -> Result<(), Wrong> {
    check_keys(all, &all[0], top)?;
    for section in &all[1..] {
        let name = section.name;
        let Some((place, value)) = top.get_key_value(name) else {
            continue;
        };
        let items = match value.get_ref() {
            DeValue::Array(items) => items,
            _ => std::slice::from_ref(value),
        };
        for table in items.iter().filter_map(|item| item.get_ref().as_table()) {
            if value.get_ref().is_array() != section.is_repeated {
                let expected = match section.is_repeated {
                    true => format!("`[[{name}]]`, with two brackets: there may be several"),
                    false => format!("`[{name}]`, with one bracket: there is only one"),
                };
                return Err(Wrong::new(place.span(), format!("expected {expected}")));
            }
            check_keys(all, section, table)?;
        }
    }
    Ok(())
}

fn check_keys(all: &[Section], section: &Section, table: &DeTable<'_>) -> Result<(), Wrong> {
    let mut keys = table.keys();
    let Some(key) = keys.find(|key| !section.keys.contains(&&**key.get_ref())) else {
        return Ok(());
    };
    let likeness = |(place, known): &(&str, &&str)| {
        let bonus = if *place == section.name { 0.1 } else { 0.0 };
        strsim::jaro_winkler(key.get_ref(), known) + bonus
    };
    // Of equally near keys, `min_by` takes the first.
    let nearest = (all.iter()).flat_map(|one| one.keys.iter().map(|key| (one.name, key)));
    let nearest = nearest.min_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    let hint = nearest.map_or_else(String::new, |(place, known)| match place {
        place if place == section.name => format!("; did you mean `{known}`?"),
        "" => format!("; did you mean `{known}` at the top of the file?"),
        place => format!("; did you mean `{known}` in [{place}]?"),
    });
    let place = match section.name {
        "" => String::new(),
        name => format!(" in [{name}]"),
    };
    let name = key.get_ref().escape_debug();
    Err(Wrong::new(
        key.span(),
        format!("there is no key `{name}`{place}{hint}"),
    ))
}

/// The section that `T` is read from. `T` has to deny unknown fields.
fn section<T: DeserializeOwned>(name: &'static str, is_repeated: bool) -> Section {
    let unknown = MapDeserializer::new([("", ())].into_iter());
    let keys = T::deserialize(unknown).map_or_else(|Expected(keys)| keys, |_| &[]);
    debug_assert!(!keys.is_empty(), "[{name}] accepts unknown fields");
    Section {
        name,
        keys,
        is_repeated,
    }
}

/// The fields of a struct, which serde passes to the error about an unknown field.
#[derive(Debug, thiserror::Error)]
#[error("expected one of {0:?}")]
struct Expected(&'static [&'static str]);

impl de::Error for Expected {
    fn custom<T: Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self(expected)
    }
}
