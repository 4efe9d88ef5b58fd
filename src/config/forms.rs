//! How values are written in the file. Each error states the expected form.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

use super::OrOff;
use super::trust::{CertificateHash, KeyHash, SubjectAltName};
use super::values::{Account, LogFilter, Pattern, or, parse_duration, parse_interval};
use super::values::{parse_mode, parse_name, parse_path, parse_tcp};

/// The path of a file or folder, in lists and where its place in the file matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePath(pub(super) PathBuf);

/// A value that is written as a string or as a whole number.
struct Form<T> {
    expected: String,
    text: fn(&str) -> Result<T, String>,
    number: fn(i64) -> Option<T>,
}

impl<T> Visitor<'_> for Form<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.number)(number).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

/// Implements `Deserialize` for the types that occur in lists, and defines functions for
/// `deserialize_with`: what is expected, and how a string and a number are parsed. A function can also
/// return an `Option` of the type, for a key that may be left out.
macro_rules! forms {
    ($(fn $name:ident -> $type:ty: $expected:literal, $text:expr, $number:expr;)*) => {$(
        pub(super) fn $name<'de, D: Deserializer<'de>, T: From<$type>>(deserializer: D) -> Result<T, D::Error> {
            let form = Form { expected: $expected.to_owned(), text: $text, number: $number };
            deserializer.deserialize_any(form).map(T::from)
        }
    )*};
    ($($type:ty: $expected:literal, $text:expr, $number:expr;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let form = Form { expected: $expected.to_owned(), text: $text, number: $number };
                deserializer.deserialize_any(form)
            }
        }
    )*};
}

forms! {
    Account: "a name, or a number from 0 to 4294967295", str::parse, account_id;
    CertificateHash: "a SHA-256 hash", str::parse, |_| None;
    FilePath: "a path", |text| parse_path(text).map(FilePath), |_| None;
    KeyHash: "a SHA-256 hash", str::parse, |_| None;
    LogFilter: "a log level", str::parse, |_| None;
    Pattern: "a name, with `*` for any characters", str::parse, |_| None;
    SubjectAltName: "a name such as \"dns:a.example.com\"", str::parse, |_| None;
}

forms! {
    fn account_or_auto -> Option<Account>: "a name, a number from 0 to 4294967295, or \"auto\"",
        |text| or("auto", text, str::parse), account_id;
    fn duration -> Duration: "a duration such as \"500ms\" or \"1s\"", parse_duration, |_| None;
    fn interval_or_auto -> Option<Duration>: "a duration such as \"5s\", or \"auto\"",
        |text| or("auto", text, parse_interval), |_| None;
    fn mode -> u32: "a mode such as \"0660\", with its quotes", parse_mode, |_| None;
    fn name -> String: "the name of a credential", parse_name, |_| None;
    fn name_or_off -> OrOff<String>: "the name of a credential, or \"off\"", |text| or("off", text, parse_name), |_| None;
    fn path -> PathBuf: "a path", parse_path, |_| None;
    fn path_or_off -> OrOff<PathBuf>: "a path, or \"off\"", |text| or("off", text, parse_path), |_| None;
    fn tcp_or_off -> OrOff<SocketAddr>: "an address such as \"127.0.0.1:9901\", or \"off\"",
        |text| or("off", text, parse_tcp), |_| None;
}

/// Reads a whole number from `MIN` to `MAX`.
pub(super) fn number<'de, D: Deserializer<'de>, T: TryFrom<u32>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Form {
        expected: format!("a whole number from {MIN} to {MAX}"),
        text: |text| {
            let expected = format!("a whole number from {MIN} to {MAX}, without quotes");
            Err(format!("{text:?} is not a number; write {expected}"))
        },
        number: |number| {
            let number = u32::try_from(number).ok()?;
            T::try_from((MIN..=MAX).contains(&number).then_some(number)?).ok()
        },
    })
}

fn account_id<T: From<Account>>(number: i64) -> Option<T> {
    u32::try_from(number).ok().map(|id| Account::Id(id).into())
}
