//! What streams look at, and which of them wait for which name.
//!
//! A change costs as much as there are streams that wait for a name that it concerns, whatever else is
//! served or waited for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use super::access::Rules;
use crate::inventory::{Changes, Snapshot};
use crate::name::{self, Coverage, Host};
use crate::secret::Name;

/// What is served, and who may have it: one version of both.
#[derive(Clone, Default)]
pub struct Published {
    /// What is served.
    pub snapshot: Snapshot,
    /// Who may have what.
    pub rules: Arc<Rules>,
}

/// The current state, and the streams that wait for it to change. One for the whole agent.
#[derive(Default)]
pub struct Hub {
    published: RwLock<Arc<Published>>,
    waiting: Mutex<Waiting>,
}

/// Who waits for which name.
#[derive(Default)]
struct Waiting {
    /// By address, so that one of many is found at once.
    by_name: HashMap<Name, Vec<Arc<Inbox>>>,
    /// The names under which a host is waited for in another spelling than the usual one.
    spellings: HashMap<Host, HashSet<Name>>,
    /// The names of the hosts that a wildcard below that domain covers.
    by_parent: HashMap<String, HashSet<Name>>,
}

/// Where one stream learns which of its names may have changed. It holds no secret: whoever is
/// woken looks at the present state.
#[derive(Default)]
pub struct Inbox {
    mail: Mutex<Mail>,
}

#[derive(Default)]
struct Mail {
    changed: HashSet<Name>,
    waker: Option<Waker>,
}

impl Hub {
    /// The current state.
    pub fn current(&self) -> Arc<Published> {
        self.published
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Publishes another state, and wakes the streams that `changes` concern.
    pub fn publish(&self, published: Published, changes: &Changes) {
        let old = {
            let mut current = self
                .published
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(published))
        };
        // Not under the lock: what it held alone is wiped.
        drop(old);
        let waiting = self.waiting();
        if changes.everything {
            return waiting.wake_all();
        }
        for credential in &changes.credentials {
            let answers = name::answers(credential);
            answers.iter().for_each(|name| waiting.wake(name));
        }
        changes
            .hosts
            .iter()
            .for_each(|one| waiting.wake_covered(one));
    }

    /// Puts other rules in force, and wakes every stream.
    pub fn enforce(&self, rules: Arc<Rules>) {
        let snapshot = self.current().snapshot.clone();
        let everything = Changes {
            everything: true,
            ..Changes::default()
        };
        self.publish(Published { snapshot, rules }, &everything);
    }

    /// Wakes every stream, as when memberships of groups have changed.
    pub fn wake_all(&self) {
        self.waiting().wake_all();
    }

    /// From now on `inbox` learns of every change of that name. Returns false where it did so before.
    pub fn subscribe(&self, name: &Name, inbox: &Arc<Inbox>) -> bool {
        let mut waiting = self.waiting();
        let inboxes = waiting.by_name.entry(name.clone()).or_default();
        let Err(at) = position(inboxes, inbox) else {
            return false;
        };
        inboxes.insert(at, inbox.clone());
        if inboxes.len() == 1 {
            waiting.enter_host(name);
        }
        true
    }

    /// From now on `inbox` learns of no change of that name. Returns false where it did not before.
    pub fn unsubscribe(&self, name: &Name, inbox: &Arc<Inbox>) -> bool {
        let mut waiting = self.waiting();
        let Some(inboxes) = waiting.by_name.get_mut(name) else {
            return false;
        };
        let at = position(inboxes, inbox);
        if let Ok(at) = at {
            inboxes.remove(at);
        }
        if inboxes.is_empty() {
            waiting.by_name.remove(name);
            waiting.drop_host(name);
        }
        at.is_ok()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No code that can panic runs under the lock with the maps half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn enter_host(&mut self, name: &Name) {
        let Some(host) = Host::parse(name::plain(name)) else {
            return;
        };
        if let Some(parent) = host.parent() {
            let names = self.by_parent.entry(parent.to_owned()).or_default();
            names.insert(name.clone());
        }
        if host.as_str() != &**name {
            self.spellings.entry(host).or_default().insert(name.clone());
        }
    }

    fn drop_host(&mut self, name: &Name) {
        let Some(host) = Host::parse(name::plain(name)) else {
            return;
        };
        if let Some(parent) = host.parent() {
            remove_from(&mut self.by_parent, parent, name);
        }
        if host.as_str() != &**name {
            remove_from(&mut self.spellings, &host, name);
        }
    }

    fn wake(&self, name: &str) {
        if let Some((name, inboxes)) = self.by_name.get_key_value(name) {
            inboxes.iter().for_each(|inbox| inbox.put(name));
        }
    }

    fn wake_covered(&self, coverage: &Coverage) {
        match coverage {
            Coverage::Exact(host) => {
                self.wake(host.as_str());
                let names = self.spellings.get(host).into_iter().flatten();
                names.for_each(|name| self.wake(name));
            }
            Coverage::Wildcard(parent) => {
                let names = self.by_parent.get(parent).into_iter().flatten();
                names.for_each(|name| self.wake(name));
            }
        }
    }

    fn wake_all(&self) {
        for (name, inboxes) in &self.by_name {
            inboxes.iter().for_each(|inbox| inbox.put(name));
        }
    }
}

/// Where an inbox is among those of a name, or is to be.
fn position(inboxes: &[Arc<Inbox>], inbox: &Arc<Inbox>) -> Result<usize, usize> {
    inboxes.binary_search_by_key(&Arc::as_ptr(inbox), Arc::as_ptr)
}

fn remove_from<K, Q>(map: &mut HashMap<K, HashSet<Name>>, key: &Q, name: &Name)
where
    K: std::borrow::Borrow<Q> + Eq + std::hash::Hash,
    Q: Eq + std::hash::Hash + ?Sized,
{
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}

impl Inbox {
    /// Takes the names that may have changed since the last call, or registers to be woken.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<HashSet<Name>> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if mail.changed.is_empty() {
            mail.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut mail.changed))
    }

    fn put(&self, name: &Name) {
        let waker = {
            let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            mail.changed.insert(name.clone());
            mail.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(inbox: &Inbox) -> Vec<String> {
        let mut names = match inbox.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(names) => names.iter().map(ToString::to_string).collect(),
            Poll::Pending => Vec::new(),
        };
        names.sort();
        names
    }

    fn inbox(hub: &Hub, names: &[&str]) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        for name in names {
            hub.subscribe(&(*name).into(), &inbox);
        }
        inbox
    }

    fn change(hub: &Hub, credentials: &[&str], hosts: &[&str]) {
        let changes = Changes {
            credentials: credentials.iter().map(|name| (*name).into()).collect(),
            hosts: hosts
                .iter()
                .filter_map(|name| Coverage::parse(name))
                .collect(),
            ..Changes::default()
        };
        hub.publish(Published::default(), &changes);
    }

    #[test]
    fn a_change_wakes_those_that_it_concerns_and_nobody_else() {
        let hub = Hub::default();
        let a = inbox(
            &hub,
            &["a", "a-cacert", "kubernetes://a", "www.example.com"],
        );
        let b = inbox(
            &hub,
            &["b", "WWW.example.com", "api.example.com.", "b.test"],
        );

        change(&hub, &["a"], &[]);
        assert_eq!(changed(&a), ["a", "a-cacert", "kubernetes://a"]);
        assert_eq!(changed(&b), [""; 0]);

        change(&hub, &[], &["www.example.com"]);
        assert_eq!(changed(&a), ["www.example.com"]);
        assert_eq!(changed(&b), ["WWW.example.com"]);

        change(&hub, &[], &["*.example.com"]);
        assert_eq!(changed(&a), ["www.example.com"]);
        assert_eq!(changed(&b), ["WWW.example.com", "api.example.com."]);

        hub.enforce(Arc::default());
        assert_eq!(changed(&a).len() + changed(&b).len(), 8);
    }

    #[test]
    fn nothing_stays_of_a_name_that_nobody_waits_for() {
        let hub = Hub::default();
        let inbox = inbox(&hub, &["WWW.example.com", "WWW.example.com"]);
        hub.unsubscribe(&"WWW.example.com".into(), &inbox);
        let waiting = hub.waiting();
        assert!(waiting.by_name.is_empty());
        assert!(waiting.spellings.is_empty() && waiting.by_parent.is_empty());
        assert_eq!(Arc::strong_count(&inbox), 1);
    }
}
