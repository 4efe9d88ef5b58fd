//! The keys that a configuration file may have, and the nearest one to a key that is unknown.

use std::path::Path;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor, value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Wrong};
use super::file::{File, FileRoot};
use super::named::FileSecret;
use super::trust::FileTrust;
use super::{AccessRule, Admin, Limits, Listen, Options};

/// The sections that may be there several times, as `[[root]]`.
const REPEATED: [&str; 4] = ["root", "secret", "access", "trust"];

/// A key with its section, which is empty at the top of the file.
type Key = (&'static str, &'static str);

/// Every key of `sds-agent.toml`.
pub(super) fn all() -> Vec<Key> {
    [
        of::<Options>(""),
        of::<File>(""),
        of::<FileRoot>("root"),
        of::<FileSecret>("secret"),
        of::<Listen>("listen"),
        of::<AccessRule>("access"),
        of::<FileTrust>("trust"),
        of::<Admin>("admin"),
        of::<Limits>("limits"),
    ]
    .concat()
}

/// Reads a file without sections. An unknown key is an error that names the nearest one.
///
/// # Errors
/// The place in the file, what is wrong there, and what to write.
pub fn parse_flat<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let wrong = |wrong: Wrong| wrong.in_file(path, text);
    let document = DeTable::parse(text).map_err(|error| wrong(error.into()))?;
    check_section(&of::<T>(""), "", document.get_ref()).map_err(wrong)?;
    T::deserialize(toml::Deserializer::from(document)).map_err(|error| wrong(error.into()))
}

/// Refuses the first unknown key of `sds-agent.toml`, and a section with the wrong number of brackets.
pub(super) fn check(top: &DeTable<'_>) -> Result<(), Wrong> {
    let known = all();
    check_section(&known, "", top)?;
    for (name, value) in top {
        let section: &str = name.get_ref();
        let tables: Vec<_> = match value.get_ref() {
            DeValue::Table(table) => vec![table],
            DeValue::Array(items) => items
                .iter()
                .filter_map(|item| item.get_ref().as_table())
                .collect(),
            _ => continue,
        };
        let is_repeated = value.get_ref().is_array();
        if is_repeated != REPEATED.contains(&section) && !tables.is_empty() {
            let expected = match is_repeated {
                true => format!("`[{section}]`, with one bracket: there is only one"),
                false => {
                    format!("`[[{section}]]`, with two brackets: there may be several of them")
                }
            };
            return Err(Wrong::new(name.span(), format!("expected {expected}")));
        }
        for table in tables {
            check_section(&known, section, table)?;
        }
    }
    Ok(())
}

fn check_section(known: &[Key], section: &str, table: &DeTable<'_>) -> Result<(), Wrong> {
    let mut keys = table.keys();
    match keys.find(|key| !known.contains(&(section, key.get_ref()))) {
        Some(key) => Err(unknown(known, section, key)),
        None => Ok(()),
    }
}

fn unknown(known: &[Key], section: &str, key: &Spanned<toml::de::DeString<'_>>) -> Wrong {
    let written = key.get_ref();
    let likeness = |(place, known): &Key| {
        let bonus = if *place == section { 0.1 } else { 0.0 };
        strsim::jaro_winkler(written, known) + bonus
    };
    // Of equally near keys, `min_by` takes the first.
    let nearest = known
        .iter()
        .min_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    let place = match section {
        "" => String::new(),
        _ => format!(" in [{section}]"),
    };
    let hint = nearest.map_or_else(String::new, |(other, known)| {
        let elsewhere = match *other {
            other if other == section => String::new(),
            "" => " at the top of the file".to_owned(),
            other => format!(" in [{other}]"),
        };
        format!("; did you mean `{known}`{elsewhere}?")
    });
    let message = format!("there is no key `{}`{place}{hint}", written.escape_debug());
    Wrong::new(key.span(), message)
}

/// The fields of a struct, as `serde` reads it, as keys of `section`.
fn of<T: DeserializeOwned>(section: &'static str) -> Vec<Key> {
    struct Fields<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Fields<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
            Err(de::Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, value::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
            unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names: &[&str] = &[];
    // It always fails, after it has been given the names.
    let _ = T::deserialize(Fields(&mut names));
    names.iter().map(|name| (section, *name)).collect()
}
