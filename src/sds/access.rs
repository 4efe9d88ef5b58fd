//! Access rules.
//!
//! - Without any rule, a peer that may connect may read every secret.
//! - With rules, a peer may read a secret if at least one rule allows it: rules only add.
//! - A rule allows the secrets whose names match one of its `secrets`, for a peer that is one of its
//!   `users` or in one of its `groups` (any peer, if the rule has neither), and whose node id
//!   matches one of its `nodes` (any, if it has none).
//! - In `secrets` and `nodes`, `*` matches any number of any characters; matching is case-sensitive.
//! - Users and groups come from the kernel and the user database. A client chooses its own node id, which
//!   distinguishes the Envoys of one user, but does not protect one user from another.
//!
//! A secret that the peer is not allowed to have is reported as nonexistent.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::{AccessRule, Account, Config, Pattern};
use crate::peer::{self, Peer};

/// Rules with numeric users and groups. The default allows everything to every peer.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The users who may connect; without it, every user who can open the socket.
    admitted: Option<Members>,
    /// The users who may connect to the admin socket; without it, every user who can open it.
    operators: Option<Members>,
    rules: Vec<Rule>,
    /// Other rules that must allow it too.
    narrowed_by: Option<Arc<Rules>>,
}

#[derive(Clone, Debug)]
struct Rule {
    secrets: Vec<Pattern>,
    /// Without it, every peer.
    members: Option<Members>,
    nodes: Vec<Pattern>,
}

#[derive(Clone, Debug, Default)]
struct Members {
    users: HashSet<u32>,
    groups: HashSet<u32>,
}

impl Rules {
    /// The rules of a configuration. A user or group that this machine does not have is logged, and matches
    /// no peer, so that a rule never allows more than intended. Queries the user database: may block.
    pub fn resolve(config: &Config) -> Self {
        Self {
            admitted: Members::resolve(&config.listen.allow_users, &config.listen.allow_groups),
            operators: Members::resolve(&config.admin.allow_users, &config.admin.allow_groups),
            rules: config.access.iter().map(Rule::resolve).collect(),
            narrowed_by: None,
        }
    }

    /// Rules that allow only what both allow, used while a reload changes from `old` rules and roots to `new`
    /// ones.
    pub fn narrowed(new: &Self, old: &Arc<Self>) -> Self {
        Self {
            narrowed_by: Some(old.clone()),
            ..new.clone()
        }
    }

    /// Whether the peer may connect to the admin socket.
    pub fn admits_operator(&self, peer: &Peer) -> bool {
        self.operators.as_ref().is_none_or(|m| m.contains(peer))
            && self
                .narrowed_by
                .as_ref()
                .is_none_or(|old| old.admits_operator(peer))
    }

    /// Whether this peer may use the reserve for users that the configuration names: it is one of them, or in
    /// a named group; or the configuration names none.
    pub fn has_reserve(&self, peer: &Peer) -> bool {
        let mut named = self.named().peekable();
        named.peek().is_none() || named.any(|m| m.contains(peer))
    }

    /// The users and groups that the configuration names, in `[listen]` and in the rules.
    fn named(&self) -> impl Iterator<Item = &Members> {
        let of_rules = self.rules.iter().filter_map(|rule| rule.members.as_ref());
        self.admitted.iter().chain(of_rules)
    }

    /// Whether the peer may connect at all.
    pub fn admits(&self, peer: &Peer) -> bool {
        self.admitted.as_ref().is_none_or(|m| m.contains(peer))
            && self.narrowed_by.as_ref().is_none_or(|old| old.admits(peer))
    }

    /// Whether the peer, with the node id `node`, may read the credential `name`.
    pub fn allows(&self, peer: &Peer, node: &str, name: &str) -> bool {
        self.admits(peer)
            && (self.rules.is_empty() || self.rules.iter().any(|r| r.gives(peer, node, name)))
            && self
                .narrowed_by
                .as_ref()
                .is_none_or(|old| old.allows(peer, node, name))
    }
}

impl Rule {
    fn resolve(config: &AccessRule) -> Self {
        Self {
            secrets: config.secrets.clone(),
            members: Members::resolve(&config.users, &config.groups),
            nodes: config.nodes.clone(),
        }
    }

    fn gives(&self, peer: &Peer, node: &str, name: &str) -> bool {
        self.members.as_ref().is_none_or(|m| m.contains(peer))
            && (self.nodes.is_empty() || self.nodes.iter().any(|p| p.matches(node)))
            && self.secrets.iter().any(|p| p.matches(name))
    }
}

impl Members {
    /// `None` if the configuration names no account, but not if it only names unknown ones.
    fn resolve(users: &[Account], groups: &[Account]) -> Option<Self> {
        if users.is_empty() && groups.is_empty() {
            return None;
        }
        Some(Self {
            users: known(users, "user", peer::user_id),
            groups: known(groups, "group", peer::group_id),
        })
    }

    fn contains(&self, peer: &Peer) -> bool {
        self.users.contains(&peer.uid) || self.groups.iter().any(|group| peer.is_in(*group))
    }
}

/// The numbers of the accounts that exist on this machine.
fn known(
    accounts: &[Account],
    kind: &str,
    id: impl Fn(&Account) -> std::io::Result<Option<u32>>,
) -> HashSet<u32> {
    let mut ids = HashSet::new();
    for account in accounts {
        match id(account) {
            Ok(Some(id)) => {
                ids.insert(id);
            }
            Ok(None) => tracing::warn!(
                "the configuration allows the {kind} `{account}`, which does not exist on this \
                 machine; create it, then reload"
            ),
            Err(error) => {
                tracing::warn!("the {kind} `{account}` can't be looked up: {error}; reload");
            }
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer {
            uid,
            gid: groups[0],
            pid: None,
            user: None,
            groups: groups.into(),
            process: None,
        }
    }

    fn patterns(list: &[&str]) -> Vec<Pattern> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ids(list: &[u32]) -> Vec<Account> {
        list.iter().copied().map(Account::Id).collect()
    }

    fn allow(users: Vec<Account>, groups: Vec<Account>) -> Rules {
        Rules::resolve(&Config {
            listen: Listen {
                allow_users: users,
                allow_groups: groups,
                ..Listen::default()
            },
            ..Config::default()
        })
    }

    #[test]
    fn without_rules_every_peer_may_read_everything() {
        let access = Rules::default();
        assert!(access.admits(&peer(1, &[1])));
        assert!(access.allows(&peer(1, &[1]), "", "a"));
    }

    #[test]
    fn only_the_named_users_and_members_of_groups_may_connect() {
        let access = allow(ids(&[7]), ids(&[40]));
        for (peer, admitted) in [
            (peer(7, &[7]), true),
            (peer(8, &[8, 40]), true),
            (peer(8, &[8]), false),
            (peer(40, &[7]), false),
            (peer(0, &[0]), false),
        ] {
            assert_eq!(access.admits(&peer), admitted, "{peer:?}");
            assert_eq!(access.allows(&peer, "n", "a"), admitted, "{peer:?}");
        }
    }

    #[test]
    fn a_rule_gives_names_to_users_groups_and_nodes() {
        let rule = |secrets: &[&str], users, groups, nodes: &[&str]| AccessRule {
            secrets: patterns(secrets),
            users: ids(users),
            groups: ids(groups),
            nodes: patterns(nodes),
        };
        let access = Rules::resolve(&Config {
            access: vec![
                rule(&["shop-*", "api"], &[7], &[40], &[]),
                rule(&["edge"], &[], &[], &["edge-*"]),
                rule(&["both"], &[7], &[], &["node-a"]),
            ],
            ..Config::default()
        });
        for (peer, node, name, allowed) in [
            (peer(7, &[7]), "n", "shop-eu", true),
            (peer(8, &[8, 40]), "n", "api", true),
            (peer(8, &[8]), "n", "api", false),
            (peer(7, &[7]), "n", "SHOP-eu", false),
            (peer(7, &[7]), "n", "other", false),
            (peer(9, &[9]), "edge-1", "edge", true),
            (peer(9, &[9]), "core-1", "edge", false),
            (peer(7, &[7]), "node-a", "both", true),
            (peer(7, &[7]), "node-b", "both", false),
            (peer(8, &[8]), "node-a", "both", false),
        ] {
            assert_eq!(
                access.allows(&peer, node, name),
                allowed,
                "{node} {name} {peer:?}"
            );
            assert!(access.admits(&peer));
        }
    }

    #[test]
    fn a_rule_for_an_unknown_user_matches_no_peer() {
        let unknown = vec![Account::Name("no-such-user-here".into())];
        let access = allow(unknown, vec![]);
        assert!(!access.admits(&peer(0, &[0])));
    }

    #[test]
    fn the_reserve_is_for_named_users() {
        let rules = |users: &[u32], rules| {
            let mut config = Config::default();
            config.listen.allow_users = ids(users);
            config.access = rules;
            Rules::resolve(&config)
        };
        let rule = AccessRule {
            secrets: patterns(&["*"]),
            users: vec![],
            groups: ids(&[40]),
            nodes: vec![],
        };
        let unnamed = rules(&[], vec![]);
        assert!(unnamed.has_reserve(&peer(1, &[1])));
        let both = rules(&[7], vec![rule]);
        assert!(both.has_reserve(&peer(7, &[7])));
        assert!(both.has_reserve(&peer(8, &[8, 40])));
        assert!(!both.has_reserve(&peer(8, &[8])));
    }

    #[test]
    fn the_admin_socket_has_its_own_list() {
        let mut config = Config::default();
        config.admin.allow_groups = ids(&[40]);
        let access = Rules::resolve(&config);
        assert!(access.admits_operator(&peer(8, &[8, 40])));
        assert!(!access.admits_operator(&peer(8, &[8])));
        assert!(access.admits(&peer(8, &[8])));
    }

    #[test]
    fn names_are_looked_up() {
        let root = vec![Account::Name("root".into())];
        let access = allow(root.clone(), root);
        assert!(access.admits(&peer(0, &[9])));
        assert!(access.admits(&peer(4242, &[9, 0])));
        assert!(!access.admits(&peer(1, &[9])));
    }

    #[test]
    fn narrowed_rules_allow_what_both_allow() {
        let only = |uid| Arc::new(allow(ids(&[uid]), vec![]));
        let everyone = || Arc::new(Rules::default());
        for (old, new, uid, allowed) in [
            (only(7), everyone(), 7, true),
            (only(7), everyone(), 8, false),
            (everyone(), only(7), 8, false),
            (only(7), only(8), 7, false),
            (only(7), only(8), 8, false),
        ] {
            let both = Rules::narrowed(&new, &old);
            let peer = peer(uid, &[uid]);
            assert_eq!(both.admits(&peer), allowed);
            assert_eq!(both.allows(&peer, "n", "a"), allowed);
        }
    }
}
