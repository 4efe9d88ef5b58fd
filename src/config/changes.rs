//! What a reload changes: the running configuration and a new one → the one that applies from now on.

use std::fmt;

use super::{Admin, Config, Layout, Limits, Listen, Log, Root};

/// The differences between the running configuration and the one that was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What takes effect at once: each root that differs, with how, and the other keys.
    pub applied: Vec<String>,
    /// The keys that differ and keep their old values until a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Compares all fields of a struct: those that take effect at once, those that keep their old values, and
/// those that the caller compares. A field that is not listed is a compiler error.
macro_rules! compare {
    ($keys:ident, $changes:ident, $struct:ident, $old:expr, $new:expr;
     takes $at_once:literal $($takes:ident)*; $(keeps $later:literal $($keeps:ident)*;)* $(apart $($apart:ident)*)?) => {
        let $struct { $($takes,)* $($($keeps,)*)* $($($apart,)*)? } = $old;
        $(if *$takes != $new.$takes {
            $keys.push(concat!($at_once, stringify!($takes)));
        })*
        $($(if *$keeps != $new.$keeps {
            $changes.needs_restart.push(concat!($later, stringify!($keeps)));
            $new.$keeps.clone_from($keeps);
        })*)*
    };
}

impl Config {
    /// The configuration that replaces this one when `new` is loaded, and what that changes. It is `new`,
    /// except for settings that can't change in a running agent.
    pub fn reload(&self, mut new: Self) -> (Self, Changes) {
        let mut changes = root_changes(self, &new);
        let mut keys = Vec::new();
        compare!(keys, changes, Config, self, new;
            takes "" access absent hosts default_credential removal_delay warn_days reload;
            keeps "" lock_memory; apart roots listen admin log limits warnings);
        compare!(keys, changes, Listen, listen, new.listen;
            takes "listen." allow_users allow_groups; keeps "listen." mode group; keeps "" socket;);
        compare!(keys, changes, Admin, admin, new.admin;
            takes "admin." allow_users allow_groups; keeps "admin." mode group tcp_details;
            keeps "admin_" socket tcp;);
        compare!(keys, changes, Log, log, new.log; takes "log_" level; keeps "log_" format;);
        compare!(keys, changes, Limits, limits, new.limits;
            takes "limits." file_bytes files credentials;
            keeps "limits." connections streams streams_per_connection names_per_stream request_bytes
                client_bytes;);
        if roots.first().map(|root| &root.trust) != new.roots.first().map(|root| &root.trust) {
            keys.push("trust");
        }
        if !keys.is_empty() {
            let keys = keys.join(" ");
            changes.applied.push(format!("changed keys: {keys}"));
        }
        // A reload logs all warnings of the file anyway.
        let _ = warnings;
        (new, changes)
    }
}

/// Which roots differ, and how.
fn root_changes(old: &Config, new: &Config) -> Changes {
    let place = |roots: &[Root], root: &Root| roots.iter().position(|one| one.path == root.path);
    let mut changes = Changes::default();
    let mut add = |root: &Root, how| changes.applied.push(format!("{} {how}", shown(root)));
    for root in &new.roots {
        match place(&old.roots, root) {
            Some(at) if is_changed(&old.roots[at], root, old, new) => add(root, "changed"),
            Some(_) => {}
            None => add(root, "added"),
        }
    }
    let removed = (old.roots.iter()).filter(|root| place(&new.roots, root).is_none());
    removed.for_each(|root| add(root, "removed"));
    let kept = (new.roots.iter()).filter_map(|root| place(&old.roots, root));
    if !kept.is_sorted() {
        changes.applied.push("roots reordered".to_owned());
    }
    changes
}

/// Whether a setting of the root itself differs. Inherited settings and `trust` are only listed under their own
/// keys.
fn is_changed(before: &Root, now: &Root, old: &Config, new: &Config) -> bool {
    let mut before = before.clone();
    before.trust.clone_from(&now.trust);
    if before.absent == old.absent && now.absent == new.absent {
        before.absent = now.absent;
    }
    if before.warn_days == old.warn_days && now.warn_days == new.warn_days {
        before.warn_days = now.warn_days;
    }
    before != *now
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
        match self.applied.is_empty() {
            true => f.write_str("nothing changed"),
            false => f.write_str(&self.applied.join(", ")),
        }
    }
}
