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

impl Config {
    /// The configuration to go on with when `new` is to replace this one, and what it changes:
    /// `new`, with what can't change in a running agent as it was.
    pub fn reload(&self, mut new: Self) -> (Self, Changes) {
        let mut changes = Changes::default();
        changes.roots(&self.roots, &new.roots);
        // No `..` here: a new field must be given its place.
        let Self {
            roots: _,
            listen,
            access,
            admin,
            log,
            limits,
            absent,
            hosts,
            default_credential,
            removal_delay,
            warn_days,
            lock_memory,
            reload,
        } = self;
        changes.listen(listen, &mut new.listen);
        changes.takes("access", access, &new.access);
        changes.admin(admin, &mut new.admin);
        changes.log(log, &mut new.log);
        changes.limits(limits, &mut new.limits);
        changes.takes("absent", absent, &new.absent);
        changes.takes("hosts", hosts, &new.hosts);
        changes.takes(
            "default_credential",
            default_credential,
            &new.default_credential,
        );
        changes.takes("removal_delay", removal_delay, &new.removal_delay);
        changes.takes("warn_days", warn_days, &new.warn_days);
        changes.keeps("lock_memory", lock_memory, &mut new.lock_memory);
        changes.takes("reload", reload, &new.reload);
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

    fn listen(&mut self, old: &Listen, new: &mut Listen) {
        let Listen {
            socket,
            mode,
            group,
            allow_users,
            allow_groups,
        } = old;
        self.keeps("listen.socket", socket, &mut new.socket);
        self.keeps("listen.mode", mode, &mut new.mode);
        self.keeps("listen.group", group, &mut new.group);
        self.takes("listen.allow_users", allow_users, &new.allow_users);
        self.takes("listen.allow_groups", allow_groups, &new.allow_groups);
    }

    fn admin(&mut self, old: &Admin, new: &mut Admin) {
        let Admin {
            socket,
            mode,
            group,
            allow_users,
            allow_groups,
            tcp,
            tcp_details,
        } = old;
        self.keeps("admin.socket", socket, &mut new.socket);
        self.keeps("admin.mode", mode, &mut new.mode);
        self.keeps("admin.group", group, &mut new.group);
        self.takes("admin.allow_users", allow_users, &new.allow_users);
        self.takes("admin.allow_groups", allow_groups, &new.allow_groups);
        self.keeps("admin.tcp", tcp, &mut new.tcp);
        self.keeps("admin.tcp_details", tcp_details, &mut new.tcp_details);
    }

    fn log(&mut self, old: &Log, new: &mut Log) {
        let Log { level, format } = old;
        self.takes("log.level", level, &new.level);
        self.keeps("log.format", format, &mut new.format);
    }

    fn limits(&mut self, old: &Limits, new: &mut Limits) {
        let Limits {
            file_bytes,
            files,
            credentials,
            connections,
            streams,
            streams_per_connection,
            names_per_stream,
            request_bytes,
            client_bytes,
        } = old;
        self.takes("limits.file_bytes", file_bytes, &new.file_bytes);
        self.takes("limits.files", files, &new.files);
        self.takes("limits.credentials", credentials, &new.credentials);
        self.keeps("limits.connections", connections, &mut new.connections);
        self.keeps(
            "limits.names_per_stream",
            names_per_stream,
            &mut new.names_per_stream,
        );
        self.keeps(
            "limits.streams_per_connection",
            streams_per_connection,
            &mut new.streams_per_connection,
        );
        self.keeps("limits.streams", streams, &mut new.streams);
        self.keeps("limits.client_bytes", client_bytes, &mut new.client_bytes);
        self.keeps(
            "limits.request_bytes",
            request_bytes,
            &mut new.request_bytes,
        );
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
