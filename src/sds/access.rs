//! Who may have what.
//!
//! - Without any rule, a peer that may connect may have every secret.
//! - With rules, a peer may have a secret if at least one rule gives it: rules only add.
//! - A rule gives the secrets whose names match one of its `names`, to a peer that is one of its
//!   `users` or in one of its `groups` (everyone, where a rule has neither), and whose node id
//!   matches one of its `nodes` (any, where it has none).
//! - What counts is the secret's own name: a host name that is answered by a certificate that
//!   covers it stands for the name of that certificate's secret.
//! - In `names` and `nodes`, `*` stands for any number of any characters; case counts.
//! - Users and groups are what the kernel and the user database say. A node id is what the client
//!   says of itself: it tells the Envoys of one user apart, it does not keep one user from another.
//!
//! What a peer may not have is to it a name that does not exist.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use nix::unistd::{Group, User};
use serde::{Deserialize, Serialize};

use crate::peer::Peer;

/// A user or a group: by number, or by a name that the user database of this machine knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Account {
    /// A number. One in quotes is one too.
    Id(u32),
    /// A name.
    Name(String),
}

/// Who may connect and who may have what, as it stands in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// Users that may connect. With `allow_groups` empty too, everyone who can open the socket may.
    pub allow_users: Vec<Account>,
    /// Groups whose members may connect.
    pub allow_groups: Vec<Account>,
    /// What connected peers may have; everything, where there is no rule.
    pub rules: Vec<RuleConfig>,
}

/// One `[[access]]` rule, as it stands in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Patterns of the names of secrets.
    pub names: Vec<String>,
    /// Users that get them.
    #[serde(default)]
    pub users: Vec<Account>,
    /// Groups whose members get them.
    #[serde(default)]
    pub groups: Vec<Account>,
    /// Patterns of the node ids of clients that get them.
    #[serde(default)]
    pub nodes: Vec<String>,
}

/// The rules in force, shared by all streams.
#[derive(Debug, Default)]
pub struct Access {
    rules: RwLock<Arc<Rules>>,
}

/// Rules in numbers, ready to be asked. The default gives everything to everyone.
#[derive(Debug, Default)]
pub struct Rules {
    /// Who may connect; everyone who can open the socket, where there is none.
    admitted: Option<Members>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    names: Vec<String>,
    /// Everyone, where there is none.
    members: Option<Members>,
    nodes: Vec<String>,
}

#[derive(Debug, Default)]
struct Members {
    users: HashSet<u32>,
    groups: HashSet<u32>,
}

impl Access {
    /// Access by these rules.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules: RwLock::new(Arc::new(rules)),
        }
    }

    /// Puts other rules in force, for open streams too: wake them afterwards.
    pub fn replace(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Whether the peer may connect at all.
    pub fn admits(&self, peer: &Peer) -> bool {
        self.current().admits(peer)
    }

    /// Whether the peer, calling itself `node`, may have the secret `name`.
    pub fn allows(&self, peer: &Peer, node: &str, name: &str) -> bool {
        self.current().allows(peer, node, name)
    }

    fn current(&self) -> Arc<Rules> {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Rules {
    /// The rules of a configuration. A user or group that this machine does not have is logged, and
    /// is nobody: a rule is never wider than it was meant to be. Asks the user database: may block.
    pub fn resolve(config: &AccessConfig) -> Self {
        Self {
            admitted: Members::resolve(&config.allow_users, &config.allow_groups),
            rules: config.rules.iter().map(Rule::resolve).collect(),
        }
    }

    fn admits(&self, peer: &Peer) -> bool {
        self.admitted.as_ref().is_none_or(|m| m.contains(peer))
    }

    fn allows(&self, peer: &Peer, node: &str, name: &str) -> bool {
        self.admits(peer)
            && (self.rules.is_empty() || self.rules.iter().any(|r| r.gives(peer, node, name)))
    }
}

impl Rule {
    fn resolve(config: &RuleConfig) -> Self {
        Self {
            names: config.names.clone(),
            members: Members::resolve(&config.users, &config.groups),
            nodes: config.nodes.clone(),
        }
    }

    fn gives(&self, peer: &Peer, node: &str, name: &str) -> bool {
        self.members.as_ref().is_none_or(|m| m.contains(peer))
            && (self.nodes.is_empty() || self.nodes.iter().any(|p| matches(p, node)))
            && self.names.iter().any(|p| matches(p, name))
    }
}

impl Members {
    /// `None` where the configuration names nobody; never where it names only unknown ones.
    fn resolve(users: &[Account], groups: &[Account]) -> Option<Self> {
        if users.is_empty() && groups.is_empty() {
            return None;
        }
        let user = |name: &str| User::from_name(name).map(|u| u.map(|u| u.uid.as_raw()));
        let group = |name: &str| Group::from_name(name).map(|g| g.map(|g| g.gid.as_raw()));
        Some(Self {
            users: users.iter().filter_map(|a| a.id("user", user)).collect(),
            groups: groups.iter().filter_map(|a| a.id("group", group)).collect(),
        })
    }

    fn contains(&self, peer: &Peer) -> bool {
        self.users.contains(&peer.uid) || peer.groups.iter().any(|g| self.groups.contains(g))
    }
}

impl Account {
    /// The number, where there is one.
    fn id(&self, kind: &str, look_up: impl Fn(&str) -> nix::Result<Option<u32>>) -> Option<u32> {
        let name = match self {
            Self::Id(id) => return Some(*id),
            Self::Name(name) => name,
        };
        if let Ok(id) = name.parse() {
            return Some(id);
        }
        match look_up(name) {
            Ok(Some(id)) => return Some(id),
            Ok(None) => tracing::warn!(
                "the configuration allows the {kind} `{name}`, which this machine does not have; \
                 make it and reload"
            ),
            Err(error) => tracing::warn!("the {kind} `{name}` can't be looked up: {error}; reload"),
        }
        None
    }
}

/// Whether the pattern covers the whole text; `*` stands for any number of any characters. Linear
/// in practice and quadratic at worst, whatever a client sends: only the last `*` is ever retried.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn ids(list: &[u32]) -> Vec<Account> {
        list.iter().copied().map(Account::Id).collect()
    }

    fn access(config: &AccessConfig) -> Access {
        Access::new(Rules::resolve(config))
    }

    #[test]
    fn without_rules_everything_is_everyones() {
        let access = Access::default();
        assert!(access.admits(&peer(1, &[1])));
        assert!(access.allows(&peer(1, &[1]), "", "a"));
    }

    #[test]
    fn users_or_members_of_groups_may_connect_and_nobody_else() {
        let access = access(&AccessConfig {
            allow_users: ids(&[7]),
            allow_groups: ids(&[40]),
            ..AccessConfig::default()
        });
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
        let rule = |names: &[&str], users, groups, nodes: &[&str]| RuleConfig {
            names: strings(names),
            users: ids(users),
            groups: ids(groups),
            nodes: strings(nodes),
        };
        let access = access(&AccessConfig {
            rules: vec![
                rule(&["shop-*", "api"], &[7], &[40], &[]),
                rule(&["edge"], &[], &[], &["edge-*"]),
                rule(&["both"], &[7], &[], &["node-a"]),
            ],
            ..AccessConfig::default()
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
    fn a_rule_for_an_unknown_user_is_a_rule_for_nobody() {
        let access = access(&AccessConfig {
            allow_users: vec![Account::Name("no-such-user-here".into())],
            ..AccessConfig::default()
        });
        assert!(!access.admits(&peer(0, &[0])));
    }

    #[test]
    fn names_and_numbers_in_quotes_are_looked_up() {
        let access = access(&AccessConfig {
            allow_users: vec![Account::Name("root".into()), Account::Name("4242".into())],
            ..AccessConfig::default()
        });
        assert!(access.admits(&peer(0, &[9])));
        assert!(access.admits(&peer(4242, &[9])));
        assert!(!access.admits(&peer(1, &[9])));
    }

    #[test]
    fn new_rules_are_in_force_at_once() {
        let access = Access::default();
        access.replace(Rules::resolve(&AccessConfig {
            allow_users: ids(&[7]),
            ..AccessConfig::default()
        }));
        assert!(!access.allows(&peer(1, &[1]), "n", "a"));
        access.replace(Rules::default());
        assert!(access.allows(&peer(1, &[1]), "n", "a"));
    }

    #[test]
    fn a_pattern_that_invites_backtracking_is_decided_quickly() {
        let pattern = "*a".repeat(60) + "b";
        assert!(!matches(&pattern, &"a".repeat(100_000)));
    }

    /// The definition, by recursion.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|i| model(rest, &text[i..])),
            Some((c, rest)) => text.first() == Some(c) && model(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_defined(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(
                matches(&pattern, &text),
                model(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
