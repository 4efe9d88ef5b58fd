//! How values are written in the file. Each error states the expected form.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

use super::values::{Account, CredentialName, parse_duration, parse_mode, parse_tcp};

/// A value that is written as a string or as a whole number.
pub trait FromToml: Sized {
    /// The expected form.
    fn expected() -> String;

    /// Parses a string.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    fn from_text(text: &str) -> Result<Self, String>;

    /// The value of a number, where numbers are a form of it.
    fn from_number(_: i64) -> Option<Self> {
        None
    }
}

/// Implements [`FromToml`] for what a function parses from a string.
macro_rules! from_text {
    ($($type:ty: $expected:literal, $parse:expr;)*) => {$(
        impl FromToml for $type {
            fn expected() -> String {
                $expected.to_owned()
            }
            fn from_text(text: &str) -> Result<Self, String> {
                $parse(text)
            }
        }
    )*};
}

from_text! {
    Duration: "a duration such as \"500ms\" or \"1s\"", parse_duration;
    Interval: "a duration such as \"5s\"", parse_interval;
    PathBuf: "a path", parse_path;
    CredentialName: "the name of a credential", str::parse;
    SocketAddr: "an address such as \"127.0.0.1:9901\"", parse_tcp;
    Mode: "a mode such as \"0660\", with its quotes", |text| parse_mode(text).map(Mode);
}

/// The time between two checks of a root.
pub(super) struct Interval(pub(super) Duration);

fn parse_interval(text: &str) -> Result<Interval, String> {
    match parse_duration(text)? {
        time if time < Duration::from_millis(100) => {
            Err(format!("{text:?} is too short; the minimum is 100ms"))
        }
        time => Ok(Interval(time)),
    }
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("the path is empty; name a file or folder".to_owned()),
        _ if text.contains('\0') => Err(format!("{text:?} can't be a path")),
        _ => Ok(text.into()),
    }
}

struct Mode(u32);

impl FromToml for Account {
    fn expected() -> String {
        "a name, or a number from 0 to 4294967295".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn from_number(number: i64) -> Option<Self> {
        u32::try_from(number).ok().map(Self::Id)
    }
}

/// A whole number from `MIN` to `MAX`.
struct Number<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> FromToml for Number<MIN, MAX> {
    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let expected = Self::expected();
        Err(format!(
            "{text:?} is not a number; write {expected}, without quotes"
        ))
    }

    fn from_number(number: i64) -> Option<Self> {
        let number = u32::try_from(number).ok()?;
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }
}

/// A value, or `off` for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrOff<T> {
    /// None.
    Off,
    /// The value.
    On(T),
}

impl<T> OrOff<T> {
    /// The value, if there is one.
    pub fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }

    /// Applies `change` to the value.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> OrOff<U> {
        self.on()
            .map_or(OrOff::Off, |value| OrOff::On(change(value)))
    }
}

impl<T: FromToml> FromStr for OrOff<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        or_word(text, "off").map(|value| value.map_or(Self::Off, Self::On))
    }
}

impl<T: FromToml> FromToml for OrOff<T> {
    fn expected() -> String {
        format!("{}, or \"off\"", T::expected())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl<'de, T: FromToml> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer).map(|text| text.0)
    }
}

/// A value, or `auto` for none.
struct OrAuto<T>(Option<T>);

impl<T: FromToml> FromToml for OrAuto<T> {
    fn expected() -> String {
        format!("{}, or \"auto\"", T::expected())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        or_word(text, "auto").map(Self)
    }

    fn from_number(number: i64) -> Option<Self> {
        T::from_number(number).map(|value| Self(Some(value)))
    }
}

/// A value, or none for `word`.
fn or_word<T: FromToml>(text: &str, word: &str) -> Result<Option<T>, String> {
    match text == word {
        true => Ok(None),
        false => T::from_text(text)
            .map(Some)
            .map_err(|error| format!("{error}, or \"{word}\"")),
    }
}

/// A value as `serde` reads it.
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: FromToml> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);
        impl<T: FromToml> Visitor<'_> for Form<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&T::expected())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
                T::from_number(number)
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Form(PhantomData)).map(Self)
    }
}

/// Reads a value that may be left out.
pub(super) fn text<'de, D: Deserializer<'de>, T: FromToml>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Text::deserialize(deserializer).map(|text| Some(text.0))
}

/// Reads a value, or `auto` for none.
pub(super) fn or_auto<'de, D: Deserializer<'de>, T: FromToml>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Text::<OrAuto<T>>::deserialize(deserializer).map(|text| text.0.0)
}

/// Reads the mode of a file.
pub(super) fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Text::<Mode>::deserialize(deserializer).map(|mode| mode.0.0)
}

/// Reads a list of paths that may be left out.
pub(super) fn paths<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<PathBuf>>, D::Error> {
    let paths: Vec<Text<_>> = Vec::deserialize(deserializer)?;
    Ok(Some(paths.into_iter().map(|path| path.0).collect()))
}

/// Reads a number of days that may be left out.
pub(super) fn days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Text::<Number<0, 36_500>>::deserialize(deserializer).map(|days| Some(days.0.0))
}

/// Reads a limit from `MIN` to `MAX`.
pub(super) fn limit<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<usize, D::Error> {
    Text::<Number<MIN, MAX>>::deserialize(deserializer).map(|number| number.0.0 as usize)
}
