//! Renamed keys. The old name is accepted for one release, with a warning that names the new one.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Wrong, line};

/// The old section and key, and the key at the top of the file that replaces them.
const RENAMED: [(&str, &str, &str); 5] = [
    ("listen", "socket", "socket"),
    ("admin", "socket", "admin_socket"),
    ("admin", "tcp", "admin_tcp"),
    ("log", "level", "log_level"),
    ("log", "format", "log_format"),
];

/// Renames the keys of the file. Returns a warning for each: its line, and what to write.
pub(super) fn apply(top: &mut DeTable<'_>, text: &str) -> Result<Vec<(usize, String)>, Wrong> {
    let mut warnings = Vec::new();
    for (section, old, new) in RENAMED {
        let Some(DeValue::Table(table)) = top.get_mut(section).map(Spanned::get_mut) else {
            continue;
        };
        let Some((key, value)) = table.remove_entry(old) else {
            continue;
        };
        warnings.push((
            line(text, key.span().start),
            format!(
                "`{old}` in [{section}] is now `{new}` at the top of the file; move it there: the next \
                 release will not read it here"
            ),
        ));
        match top.get(new) {
            Some(other) if text.get(other.span()) != text.get(value.span()) => {
                let message = format!(
                    "conflicting values for `{new}` and its old name, `{old}` in [{section}]; remove the \
                     latter"
                );
                return Err(Wrong::new(other.span(), message));
            }
            Some(_) => {}
            None => {
                top.insert(Spanned::new(key.span(), Cow::Borrowed(new)), value);
            }
        }
    }
    // All keys of this section have been renamed.
    let log = top.get("log").and_then(|log| log.get_ref().as_table());
    if log.is_some_and(DeTable::is_empty) {
        top.remove("log");
    }
    Ok(warnings)
}
