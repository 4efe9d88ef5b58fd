//! What a reload changes: the running configuration and a new one → the one to go on with.

use std::fmt;

use super::{Admin, Config, Limits, Listen, Log, Root};

/// What differs between the running configuration and the one that it was reloaded with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Roots that are new.
    pub roots_added: Vec<Root>,
    /// Roots that are gone, as they were.
    pub roots_removed: Vec<Root>,
    /// Roots with other settings, as they are now.
    pub roots_changed: Vec<Root>,
    /// Whether roots that stay have another order among themselves: another one may win a name.
    pub roots_reordered: bool,
    /// The other keys that take effect at once.
    pub keys: Vec<&'static str>,
    /// The keys that differ, and stay as they were until a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Compares all fields of a struct: those that take effect at once, those that stay as they were, and
/// those that are left for the caller.
macro_rules! compare {
    ($changes:ident, $struct:ident, $prefix:literal, $old:expr, $new:expr;
     takes $($takes:ident)*; keeps $($keeps:ident)*; apart $($apart:ident)*) => {
        let $struct { $($takes,)* $($keeps,)* $($apart,)* } = $old;
        $($changes.takes(concat!($prefix, stringify!($takes)), $takes, &$new.$takes);)*
        $($changes.keeps(concat!($prefix, stringify!($keeps)), $keeps, &mut $new.$keeps);)*
    };
}

impl Config {
    /// The configuration to go on with when `new` is to replace this one, and what it changes:
    /// `new`, with what can't change in a running agent as it was.
    pub fn reload(&self, mut new: Self) -> (Self, Changes) {
        let mut changes = Changes::default();
        // Every field has its place here: a new one does not compile without one.
        compare!(changes, Config, "", self, new;
            takes access absent hosts default_credential removal_delay warn_days reload;
            keeps lock_memory; apart roots listen admin log limits warnings);
        compare!(changes, Listen, "listen.", listen, new.listen;
            takes allow_users allow_groups; keeps mode group; apart socket);
        changes.keeps("socket", socket, &mut new.listen.socket);
        compare!(changes, Admin, "admin.", admin, new.admin;
            takes allow_users allow_groups; keeps mode group tcp_details; apart socket tcp);
        changes.keeps("admin_socket", socket, &mut new.admin.socket);
        changes.keeps("admin_tcp", tcp, &mut new.admin.tcp);
        compare!(changes, Log, "log_", log, new.log; takes level; keeps format; apart);
        compare!(changes, Limits, "limits.", limits, new.limits;
            takes file_bytes files credentials;
            keeps connections streams streams_per_connection names_per_stream request_bytes client_bytes;
            apart);
        changes.roots(roots, &new.roots);
        // Those of the file are logged with each reload.
        let _ = warnings;
        (new, changes)
    }
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn takes<T: PartialEq>(&mut self, key: &'static str, old: &T, new: &T) {
        if old != new {
            self.keys.push(key);
        }
    }

    fn keeps<T: PartialEq + Clone>(&mut self, key: &'static str, old: &T, new: &mut T) {
        if old != new {
            self.needs_restart.push(key);
            new.clone_from(old);
        }
    }

    fn roots(&mut self, old: &[Root], new: &[Root]) {
        let in_old = |root: &&Root| old.iter().find(|other| other.path == root.path);
        let in_new = |root: &&Root| new.iter().any(|other| other.path == root.path);
        for root in new {
            match in_old(&root) {
                None => self.roots_added.push(root.clone()),
                Some(before) if before != root => self.roots_changed.push(root.clone()),
                Some(_) => {}
            }
        }
        self.roots_removed = old.iter().filter(|root| !in_new(root)).cloned().collect();
        let stayed = old.iter().filter(in_new).map(|root| &root.path);
        let stay = new
            .iter()
            .filter(|root| in_old(root).is_some())
            .map(|root| &root.path);
        self.roots_reordered = !stayed.eq(stay);
    }
}

impl fmt::Display for Changes {
    /// What takes effect, as one line for the log. What needs a restart is for a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (what, roots) in [
            ("added", &self.roots_added),
            ("removed", &self.roots_removed),
            ("changed", &self.roots_changed),
        ] {
            parts.extend(roots.iter().map(|root| {
                let path = root.path.display().to_string();
                format!("root {} {what}", path.escape_debug())
            }));
        }
        if self.roots_reordered {
            parts.push("roots reordered".to_owned());
        }
        if !self.keys.is_empty() {
            parts.push(format!("changed keys: {}", self.keys.join(" ")));
        }
        if parts.is_empty() {
            return f.write_str("nothing changed");
        }
        f.write_str(&parts.join(", "))
    }
}
