//! The values of keys and options: text → checked types.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::name::is_requestable;

/// A user or group, by name or number. A text with only digits is a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// By name. Whether it exists is only known when it is used.
    Name(String),
    /// By number.
    Id(u32),
}

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains([':', '\n', '\0']) {
            return Err(format!(
                "{text:?} is not a user or group; write a name or a number"
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

/// A pattern for names, in which `*` stands for zero or more characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Whether the pattern matches the whole `name`. The time is at worst proportional to the product of
    /// both lengths.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        // Between two stars, the leftmost match is always sufficient.
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

/// What is logged: a level, or levels by module as in `info,sds_agent::sds=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter for a `tracing` subscriber. Audit events do not depend on the level: only a filter that
    /// names them turns them off. The warnings of `notify` about removed watches are left out.
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
        // `tracing` would interpret anything that is not a level as the name of a module, and log nothing else.
        let stray = text.split(',').find(|directive| {
            !directive.contains('=')
                && directive
                    .trim()
                    .parse::<tracing::metadata::LevelFilter>()
                    .is_err()
        });
        if let Some(stray) = stray {
            return Err(format!("{stray:?} is not a log level; {HELP}"));
        }
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!("{text:?}: {error}; {HELP}")),
        }
    }
}

/// The maximum duration, far below what makes arithmetic with times overflow.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// A duration such as `500ms`, `1s` or `1m 30s`.
///
/// # Errors
/// What is wrong, and how to write one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| {
        format!("{text:?} is not a duration: {error}; write one such as \"500ms\" or \"1s\"")
    })?;
    if duration > LONGEST {
        return Err(format!("{text:?} is too long; the maximum is 30 days"));
    }
    Ok(duration)
}

/// A name that a credential can have, and that clients can request.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    match is_requestable(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("no credential can have this name; use the name of a credential folder".to_owned())
        }
    }
}

/// A path.
pub(super) fn parse_path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("the path is empty; name a file or folder".to_owned()),
        _ if text.contains('\0') => Err(format!("{text:?} can't be a path")),
        _ => Ok(text.into()),
    }
}

/// The time between two checks of a root.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time < Duration::from_millis(100) => {
            Err(format!("{text:?} is too short; the minimum is 100ms"))
        }
        time => Ok(time),
    }
}

/// The mode of a file in octal digits, such as `0660`.
///
/// # Errors
/// What is wrong, and how to write one.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| digits && *mode <= 0o777)
        .ok_or_else(|| format!("{text:?} is not a mode; write it in octal as in \"0660\""))
}

/// A TCP address on loopback, such as `127.0.0.1:9901` or `[::1]:9901`.
///
/// # Errors
/// What is wrong, and how to write one.
pub fn parse_tcp(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not an address; write one such as \"127.0.0.1:9901\""))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{address} is not a loopback address; use 127.0.0.1 or [::1], and a proxy for access from other machines"
        ));
    }
    Ok(address)
}

/// A value, or `none` for none.
pub(super) fn or<T>(
    none: &str,
    text: &str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match text == none {
        true => Ok(None),
        false => parse(text)
            .map(Some)
            .map_err(|error| format!("{error}, or \"{none}\"")),
    }
}
