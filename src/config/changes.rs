//! What a reload changes: the running configuration and a new one → the one that applies from now on.

use std::fmt;

use super::{Admin, Config, Layout, Limits, Listen, Log, Root};

/// The differences between the running configuration and the one that was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The roots that differ, each with how: added, removed, changed or reordered.
    pub roots: Vec<String>,
    /// The other keys that take effect at once.
    pub keys: Vec<&'static str>,
    /// The keys that differ and keep their old values until a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Compares all fields of a struct: those that take effect at once, those that keep their old values, and
/// those that the caller compares. A field that is not listed is a compiler error.
macro_rules! compare {
    ($changes:ident, $struct:ident, $prefix:literal, $old:expr, $new:expr;
     takes $($takes:ident)*; keeps $($keeps:ident)*; apart $($apart:ident)*) => {
        let $struct { $($takes,)* $($keeps,)* $($apart,)* } = $old;
        $(if *$takes != $new.$takes {
            $changes.keys.push(concat!($prefix, stringify!($takes)));
        })*
        $($changes.keep(concat!($prefix, stringify!($keeps)), $keeps, &mut $new.$keeps);)*
    };
}

impl Config {
    /// The configuration that replaces this one when `new` is loaded, and what that changes. It is `new`,
    /// except for settings that can't change in a running agent.
    pub fn reload(&self, mut new: Self) -> (Self, Changes) {
        let mut changes = Changes::default();
        compare!(changes, Config, "", self, new;
            takes access absent hosts default_credential removal_delay warn_days reload;
            keeps lock_memory; apart roots listen admin log limits warnings);
        compare!(changes, Listen, "listen.", listen, new.listen;
            takes allow_users allow_groups; keeps mode group; apart socket);
        changes.keep("socket", socket, &mut new.listen.socket);
        compare!(changes, Admin, "admin.", admin, new.admin;
            takes allow_users allow_groups; keeps mode group tcp_details; apart socket tcp);
        changes.keep("admin_socket", socket, &mut new.admin.socket);
        changes.keep("admin_tcp", tcp, &mut new.admin.tcp);
        compare!(changes, Log, "log_", log, new.log; takes level; keeps format; apart);
        compare!(changes, Limits, "limits.", limits, new.limits;
            takes file_bytes files credentials;
            keeps connections streams streams_per_connection names_per_stream request_bytes client_bytes;
            apart);
        let trust = |roots: &[Root]| roots.first().map(|root| root.trust.clone());
        if trust(roots) != trust(&new.roots) {
            changes.keys.push("trust");
        }
        changes.roots = root_changes(self, &new);
        // A reload logs all warnings of the file anyway.
        let _ = warnings;
        (new, changes)
    }
}

impl Changes {
    fn keep<T: PartialEq + Clone>(&mut self, key: &'static str, old: &T, new: &mut T) {
        if old != new {
            self.needs_restart.push(key);
            new.clone_from(old);
        }
    }
}

/// Which roots differ, and how.
fn root_changes(old: &Config, new: &Config) -> Vec<String> {
    let place = |roots: &[Root], root: &Root| roots.iter().position(|one| one.path == root.path);
    let mut changes = Vec::new();
    let mut places = Vec::new();
    for root in &new.roots {
        let Some(at) = place(&old.roots, root) else {
            changes.push(format!("{} added", shown(root)));
            continue;
        };
        places.push(at);
        if is_changed(&old.roots[at], root, old, new) {
            changes.push(format!("{} changed", shown(root)));
        }
    }
    let removed = old.roots.iter();
    let removed = removed.filter(|root| place(&new.roots, root).is_none());
    changes.extend(removed.map(|root| format!("{} removed", shown(root))));
    if !places.is_sorted() {
        changes.push("roots reordered".to_owned());
    }
    changes
}

/// Whether a setting of the root itself differs. One that it inherits from the top of the file is listed
/// there alone.
fn is_changed(before: &Root, now: &Root, old: &Config, new: &Config) -> bool {
    let same = Root {
        trust: now.trust.clone(),
        ..before.clone()
    };
    let mut inherited = same.clone();
    if before.absent == old.absent {
        inherited.absent = new.absent;
    }
    if before.warn_days == old.warn_days {
        inherited.warn_days = new.warn_days;
    }
    *now != same && *now != inherited
}

fn shown(root: &Root) -> String {
    let path = root.path.display().to_string();
    match root.layout {
        Layout::Named(_) => path,
        Layout::Folders | Layout::Flat => format!("root {}", path.escape_debug()),
    }
}

impl fmt::Display for Changes {
    /// What takes effect, as one line for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.roots.clone();
        if !self.keys.is_empty() {
            parts.push(format!("changed keys: {}", self.keys.join(" ")));
        }
        match parts.is_empty() {
            true => f.write_str("nothing changed"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}
