//! Users who may open the agent's socket, and can also read private keys directly: without the access rules, and
//! without a line in the audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, User, getgrouplist};

use crate::config::{Account, CLIENTS_GROUP, Config, Listen};
use crate::peer;
use crate::rights::{READ, Rights, SEARCH};
use crate::text;

/// How many users are examined. Few users of a machine may open the socket.
const USERS: usize = 1024;

/// The users who may open the socket, without root and the agent's own user.
#[derive(Debug, Default)]
pub struct Clients(Vec<Client>);

#[derive(Debug)]
struct Client {
    name: String,
    uid: u32,
    groups: Vec<u32>,
}

/// A user who can read keys, and one of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The user's name.
    pub user: String,
    /// How many keys the user can read.
    pub keys: usize,
    /// The file of the first one.
    pub example: PathBuf,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the user {} may open the socket, and can also read {} private key(s) directly, which \
             bypasses the access rules, such as {}: let only the agent's own group read them, and \
             put that user into another group, which may open the socket (docs/service.md)",
            text::escape(&self.user),
            self.keys,
            text::path(&self.example)
        )
    }
}

impl Clients {
    /// The users who may open the socket that the configuration describes; the agent runs as the user `agent`.
    /// Queries the user database, so it may block.
    pub fn of(config: &Config, agent: u32) -> Self {
        let listen = &config.listen;
        // If the socket exists, its own mode and group count: systemd may have created it.
        let (mode, group) = match fs::metadata(&listen.socket) {
            Ok(socket) => (socket.mode(), Some(socket.gid())),
            Err(_) => (listen.mode, configured_group(listen)),
        };
        let local = local_users();
        let mut names = BTreeSet::new();
        if mode & 0o002 != 0 {
            names.extend(local.iter().map(|user| user.name.clone()));
        } else if mode & 0o020 != 0
            && let Some(group) = group
        {
            let members = Group::from_gid(Gid::from_raw(group)).ok().flatten();
            names.extend(members.map(|group| group.mem).unwrap_or_default());
            let primary = local.iter().filter(|user| user.gid.as_raw() == group);
            names.extend(primary.map(|user| user.name.clone()));
        }
        names.extend(named_users(config));
        let clients = names.into_iter().take(USERS).filter_map(client);
        let admitted = clients
            .filter(|client| client.uid != 0 && client.uid != agent && client.is_admitted(listen));
        Self(admitted.collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which of them can read which of these files.
    pub fn exposures<P: AsRef<Path>>(&self, keys: impl IntoIterator<Item = P>) -> Vec<Exposure> {
        let mut found: Vec<Option<Exposure>> = self.0.iter().map(|_| None).collect();
        let mut folders = BTreeMap::new();
        for key in keys {
            let key = key.as_ref();
            // Links are resolved: what counts is where the file really is.
            let Ok(real) = key.canonicalize() else {
                continue;
            };
            let Ok(rights) = Rights::at(&real) else {
                continue;
            };
            for (client, found) in self.0.iter().zip(&mut found) {
                if client.may(&rights, READ) && client.reaches(&real, &mut folders) {
                    let exposure = found.get_or_insert_with(|| Exposure {
                        user: client.name.clone(),
                        keys: 0,
                        example: key.to_owned(),
                    });
                    exposure.keys += 1;
                }
            }
        }
        found.into_iter().flatten().collect()
    }
}

impl Client {
    fn may(&self, rights: &Rights, wanted: u32) -> bool {
        rights.allow(self.uid, |gid| Some(self.groups.contains(&gid)), wanted)
    }

    /// Whether the user can search all folders above `path`.
    fn reaches(&self, path: &Path, known: &mut BTreeMap<PathBuf, Option<Rights>>) -> bool {
        path.ancestors().skip(1).all(|folder| {
            if !known.contains_key(folder) {
                known.insert(folder.to_owned(), Rights::at(folder).ok());
            }
            let rights = known.get(folder).and_then(Option::as_ref);
            rights.is_some_and(|rights| self.may(rights, SEARCH))
        })
    }

    fn is_admitted(&self, listen: &Listen) -> bool {
        let users = &listen.allow_users;
        let groups = &listen.allow_groups;
        let is = |id: std::io::Result<Option<u32>>, own: &[u32]| {
            id.ok().flatten().is_some_and(|id| own.contains(&id))
        };
        users.is_empty() && groups.is_empty()
            || users
                .iter()
                .any(|user| is(peer::user_id(user), &[self.uid]))
            || groups
                .iter()
                .any(|group| is(peer::group_id(group), &self.groups))
    }
}

/// The group that the socket would have, as far as that is known without a running agent.
fn configured_group(listen: &Listen) -> Option<u32> {
    let clients = Account::Name(CLIENTS_GROUP.to_owned());
    let group = listen.group.as_ref().unwrap_or(&clients);
    peer::group_id(group).ok().flatten()
}

/// The users that `[listen]` and the rules list by name. They may be in the socket's group even if its members
/// can't be listed.
fn named_users(config: &Config) -> impl Iterator<Item = String> {
    let of_rules = config.access.iter().flat_map(|rule| &rule.users);
    let users = config.listen.allow_users.iter().chain(of_rules);
    users.filter_map(|user| match user {
        Account::Name(name) => Some(name.clone()),
        Account::Id(id) => {
            let user = User::from_uid((*id).into()).ok().flatten();
            user.map(|user| user.name)
        }
    })
}

/// The users of `/etc/passwd`. The users of a remote database can't always be listed.
fn local_users() -> Vec<User> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let names = passwd.lines().filter_map(|line| line.split(':').next());
    let users = names.take(USERS).map(|name| User::from_name(name).ok());
    users.flatten().flatten().collect()
}

fn client(name: String) -> Option<Client> {
    let user = User::from_name(&name).ok().flatten()?;
    let c_name = std::ffi::CString::new(name.as_str()).ok()?;
    let groups = getgrouplist(&c_name, user.gid).ok()?;
    Some(Client {
        name,
        uid: user.uid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn clients(uid: u32, groups: &[u32]) -> Clients {
        Clients(vec![Client {
            name: "envoy".into(),
            uid,
            groups: groups.into(),
        }])
    }

    #[test]
    fn a_key_is_exposed_if_the_user_can_read_it_and_search_all_folders_above_it() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let folder = dir.path().join("site");
        fs::create_dir(&folder).unwrap();
        let key = folder.join("tls.key");
        fs::write(&key, "").unwrap();
        let group = fs::metadata(&key).unwrap().gid();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&key, &link).unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        for (of_dir, of_folder, of_key, member, exposed) in [
            (0o755, 0o755, 0o640, true, true),
            (0o755, 0o755, 0o640, false, false),
            (0o755, 0o750, 0o644, false, false),
            (0o755, 0o750, 0o640, true, true),
            (0o700, 0o755, 0o644, true, false),
            (0o755, 0o755, 0o644, false, true),
            (0o755, 0o755, 0o600, true, false),
        ] {
            mode(dir.path(), of_dir);
            mode(&folder, of_folder);
            mode(&key, of_key);
            let groups = if member { vec![group] } else { vec![4_000_001] };
            let clients = clients(4_000_000, &groups);
            let found = clients.exposures([&*key, &*link]);
            let case = format!("{of_dir:o} {of_folder:o} {of_key:o} {member}");
            assert_eq!(found.len(), usize::from(exposed), "{case}");
            if exposed {
                assert_eq!((found[0].keys, &found[0].example), (2, &key), "{case}");
            }
        }
    }
}
