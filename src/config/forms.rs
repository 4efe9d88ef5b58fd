//! The forms that values have in the file: each says what should stand there when something else does.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};

use super::values::{CredentialName, parse_duration, parse_mode, parse_tcp};

/// The shortest pause between two looks at a root.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// A whole number within bounds.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Number<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Number<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InBounds(u32, u32);
        impl Visitor<'_> for InBounds {
            type Value = u32;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {} to {}", self.0, self.1)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<u32, E> {
                u32::try_from(number)
                    .ok()
                    .filter(|number| (self.0..=self.1).contains(number))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(InBounds(MIN, MAX)).map(Self)
    }
}

/// A value that is written as a text in a form of its own.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Text<T>(pub(super) T);

/// How the text of a [`Text`] becomes its value.
pub trait FromText: Sized {
    /// What should stand there, for whoever wrote something else than a text.
    const EXPECTED: &str;
    /// The value, or what is wrong with the text.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for Duration {
    const EXPECTED: &str = "a duration such as \"500ms\" or \"1s\"";
    fn from_text(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
}

/// A pause between two looks.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Pause(pub(super) Duration);

impl FromText for Pause {
    const EXPECTED: &str = "a duration such as \"5s\"";
    fn from_text(text: &str) -> Result<Self, String> {
        match parse_duration(text)? {
            pause if pause < SHORTEST_PAUSE => {
                Err(format!("{text:?} is too short; 100ms are the least"))
            }
            pause => Ok(Self(pause)),
        }
    }
}

impl FromText for PathBuf {
    const EXPECTED: &str = "a path";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("the path is empty; name a file or folder".to_owned()),
            _ if text.contains('\0') => Err(format!("{text:?} can't be a path")),
            _ => Ok(text.into()),
        }
    }
}

impl FromText for CredentialName {
    const EXPECTED: &str = "the name of a credential";
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl FromText for SocketAddr {
    const EXPECTED: &str = "an address such as \"127.0.0.1:9901\"";
    fn from_text(text: &str) -> Result<Self, String> {
        parse_tcp(text)
    }
}

/// The mode of a file.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Mode(pub(super) u32);

impl FromText for Mode {
    const EXPECTED: &str = "a mode such as \"0660\", with its quotes";
    fn from_text(text: &str) -> Result<Self, String> {
        parse_mode(text).map(Self)
    }
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText<T>(PhantomData<T>);
        impl<T: FromText> Visitor<'_> for OfText<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(OfText(PhantomData)).map(Self)
    }
}

/// A value, or `off` for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrOff<T> {
    /// There shall be no such thing.
    Off,
    /// The value.
    On(T),
}

impl<T> OrOff<T> {
    /// The value, if there shall be one.
    pub fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }

    /// The same with another value.
    pub(super) fn map<U>(self, other: impl FnOnce(T) -> U) -> OrOff<U> {
        match self {
            Self::Off => OrOff::Off,
            Self::On(value) => OrOff::On(other(value)),
        }
    }
}

impl<T: FromText> FromStr for OrOff<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => match T::from_text(text) {
                Ok(value) => Ok(Self::On(value)),
                Err(error) => Err(format!("{error}, or \"off\"")),
            },
        }
    }
}

impl<'de, T: FromText> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText<T>(PhantomData<T>);
        impl<T: FromText> Visitor<'_> for OfText<T> {
            type Value = OrOff<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, or \"off\"", T::EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OrOff<T>, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(OfText(PhantomData))
    }
}

/// Reads a [`Text`] that may be left out.
pub(super) fn text<'de, D: Deserializer<'de>, T: FromText>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Text::deserialize(deserializer).map(|text| Some(text.0))
}

/// Reads a list of paths that may be left out.
pub(super) fn paths<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<PathBuf>>, D::Error> {
    let paths: Vec<Text<_>> = Vec::deserialize(deserializer)?;
    Ok(Some(paths.into_iter().map(|path| path.0).collect()))
}

/// Reads a [`Number`] that may be left out.
pub(super) fn number<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    Number::<MIN, MAX>::deserialize(deserializer).map(|number| Some(number.0))
}

/// A value, or the word that says that there is none.
#[derive(Clone, PartialEq)]
pub(super) struct OrWord<W, T>(pub(super) Option<T>, PhantomData<W>);

/// The word of an [`OrWord`].
pub(super) trait Word {
    const WORD: &str;
}

/// The agent decides.
#[derive(Clone, PartialEq)]
pub(super) struct Auto;

impl Word for Auto {
    const WORD: &str = "auto";
}

impl<'de, W: Word, T: DeserializeOwned> Deserialize<'de> for OrWord<W, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        if value.as_str() == Some(W::WORD) {
            return Ok(Self(None, PhantomData));
        }
        let value = T::deserialize(value).map_err(|error| {
            de::Error::custom(format!(
                "{}, or \"{}\"",
                error.message().trim_end(),
                W::WORD
            ))
        })?;
        Ok(Self(Some(value), PhantomData))
    }
}
