//! The keys that `sds-agent.toml` may have, and what was probably meant by another one.

use serde::de::{self, Deserialize, Deserializer, Visitor, value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Wrong;
use super::file::{File, FileAccess, FileAdmin, FileLimits, FileListen, FileRoot};
use super::named::FileSecret;
use super::options::Options;
use super::trust::FileTrust;

/// The sections that may be there several times, as `[[root]]`.
const REPEATED: [&str; 4] = ["root", "secret", "access", "trust"];

/// Every key, with its section: none at the top of the file.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let sections = [
        ("", fields::<Options>()),
        ("", fields::<File>()),
        ("root", fields::<FileRoot>()),
        ("secret", fields::<FileSecret>()),
        ("listen", fields::<FileListen>()),
        ("access", fields::<FileAccess>()),
        ("trust", fields::<FileTrust>()),
        ("admin", fields::<FileAdmin>()),
        ("limits", fields::<FileLimits>()),
    ];
    let keys =
        |(section, keys): (_, &'static [&'static str])| keys.iter().map(move |key| (section, *key));
    sections.into_iter().flat_map(keys)
}

/// Refuses the first key that is unknown, and names the nearest one that there is; and a section with the
/// wrong number of brackets.
pub(super) fn check(top: &DeTable<'_>) -> Result<(), Wrong> {
    check_section("", top)?;
    for (name, value) in top {
        let section: &str = name.get_ref();
        let is_repeated = REPEATED.contains(&section);
        match value.get_ref() {
            DeValue::Table(_) if is_repeated => {
                let message = format!(
                    "expected `[[{section}]]`, with two brackets: there may be several of them"
                );
                return Err(Wrong::new(name.span(), message));
            }
            DeValue::Table(table) => check_section(section, table)?,
            DeValue::Array(items) if is_repeated => {
                for table in items.iter().filter_map(|item| item.get_ref().as_table()) {
                    check_section(section, table)?;
                }
            }
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                let message =
                    format!("expected `[{section}]`, with one bracket: there is only one");
                return Err(Wrong::new(name.span(), message));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_section(section: &str, table: &DeTable<'_>) -> Result<(), Wrong> {
    let unknown = table
        .keys()
        .find(|key| !all().any(|known| known == (section, key.get_ref())));
    unknown.map_or(Ok(()), |key| Err(wrong(section, key)))
}

fn wrong(section: &str, key: &Spanned<toml::de::DeString<'_>>) -> Wrong {
    let written = key.get_ref();
    let likeness = |(place, known): &(&str, &str)| {
        let bonus = if *place == section { 0.1 } else { 0.0 };
        strsim::jaro_winkler(written, known) + bonus
    };
    // Of keys that are as near, `min_by` takes the first.
    let nearest = all().min_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    let place = match section {
        "" => String::new(),
        _ => format!(" in [{section}]"),
    };
    let hint = nearest.map_or_else(String::new, |(other, known)| {
        let elsewhere = match other {
            _ if other == section => String::new(),
            "" => " at the top of the file".to_owned(),
            _ => format!(" in [{other}]"),
        };
        format!("; did you mean `{known}`{elsewhere}?")
    });
    let message = format!("there is no key `{}`{place}{hint}", written.escape_debug());
    Wrong::new(key.span(), message)
}

/// The names of the fields of a struct, as `serde` reads it.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
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
    // The names are all that is wanted of it: it always fails.
    let _ = T::deserialize(Fields(&mut names));
    names
}
