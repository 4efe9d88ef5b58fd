//! The values of keys and options: text → something that can't be wrong.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use tracing_subscriber::EnvFilter;

use crate::name::is_requestable;

/// A user or group, by name or number. A text of digits alone is a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// By name; whether there is such a one is only known when it is used.
    Name(String),
    /// By number.
    Id(u32),
}

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains([':', '\n', '\0']) {
            return Err(format!(
                "{text:?} is no user or group; write a name or a number"
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        let id = text
            .parse()
            .map_err(|_| format!("{text} is too large for a user or group"))?;
        Ok(Self::Id(id))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => id.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;
        impl Visitor<'_> for NameOrNumber {
            type Value = Account;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a number from 0 to 4294967295")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Account, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, id: i64) -> Result<Account, E> {
                u32::try_from(id)
                    .map(Account::Id)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(id), &self))
            }
        }
        deserializer.deserialize_any(NameOrNumber)
    }
}

/// A name that a credential can have, and that clients can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialName(pub(super) String);

impl FromStr for CredentialName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match is_requestable(text) {
            true => Ok(Self(text.to_owned())),
            false => Err("no credential can have this name; use the name of a folder".to_owned()),
        }
    }
}

/// A pattern for names, in which `*` stands for any number of characters, none included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `name` is what the pattern describes. Takes time in proportion to the
    /// product of both lengths at worst, whatever the client sends.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        // Between two stars the leftmost place is always as good as any other.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(char::is_control) {
            return Err(format!(
                "{text:?} matches no name; write a name, with `*` for any characters"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// What is logged: a level, or levels by module as in `info,sds_agent::sds=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter for a `tracing` subscriber. The audit is not a matter of levels: it is left out
    /// only where the filter names it. That a watch went with its folder, `notify` need not say.
    pub fn to_filter(&self) -> EnvFilter {
        EnvFilter::new(format!("audit=info,notify=error,{}", self.0))
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HELP: &str = "write error, warn, info, debug, trace or off, \
                            or levels by module as in `info,sds_agent::sds=debug`";
        // A lone word that is no level would be taken for the name of a module, and silence all else.
        let stray = text.split(',').find(|directive| {
            !directive.contains('=')
                && directive
                    .trim()
                    .parse::<tracing::metadata::LevelFilter>()
                    .is_err()
        });
        if let Some(stray) = stray {
            return Err(format!("{stray:?} is no log level; {HELP}"));
        }
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!("{text:?}: {error}; {HELP}")),
        }
    }
}

impl<'de> Deserialize<'de> for LogFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// The longest duration that there is a use for; the clock can be counted on beyond it.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// A duration as in `500ms`, `1s`, `1m 30s`.
///
/// # Errors
/// What is wrong, and how to write one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| {
        format!("{text:?} is no duration: {error}; write one as \"500ms\" or \"1s\"")
    })?;
    if duration > LONGEST {
        return Err(format!("{text:?} is too long; 30 days are the most"));
    }
    Ok(duration)
}

/// The mode of a file in octal digits, as in `0660`.
///
/// # Errors
/// What is wrong, and how to write one.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| digits && *mode <= 0o777)
        .ok_or_else(|| format!("{text:?} is no mode; write it in octal as in \"0660\""))
}

/// A TCP address on loopback, as in `127.0.0.1:9901` or `[::1]:9901`.
///
/// # Errors
/// What is wrong, and how to write one.
pub fn parse_tcp(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is no address; write one as \"127.0.0.1:9901\""))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{address} is no loopback address; use 127.0.0.1 or [::1], and a proxy for the way in from elsewhere"
        ));
    }
    Ok(address)
}
