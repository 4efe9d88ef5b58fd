//! The state that streams read, and the names that they are subscribed to.
//!
//! The cost of a change is proportional to the number of streams that are subscribed to the affected names, and
//! does not depend on other names. Streams can subscribe while others are woken: the lock is held to find one
//! name at a time, and no stream is woken while it is held.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use super::access::Rules;
use crate::inventory::{Changes, Snapshot};
use crate::name::{self, Coverage, Host};
use crate::secret::Name;

/// How many streams of a thread are woken together: enough to make it cheap, and so few that the first ones don't
/// wait for the others.
const AT_ONCE: usize = 256;

/// A consistent version of what is served and of the access rules.
#[derive(Clone, Default)]
pub struct Published {
    /// What is served.
    pub snapshot: Snapshot,
    /// The access rules.
    pub rules: Arc<Rules>,
}

/// The current state, and the streams that wait for changes. There is one for the whole agent.
#[derive(Default)]
pub struct Hub {
    published: RwLock<Arc<Published>>,
    waiting: Mutex<Waiting>,
}

/// The streams that are subscribed to each name.
#[derive(Default)]
struct Waiting {
    /// By name, sorted, so that an iteration over all of them can be resumed.
    by_name: BTreeMap<Name, Inboxes>,
    /// Subscribed names that are another spelling of a host.
    spellings: Groups,
    /// Domains, and the names of the hosts that a wildcard below them covers.
    by_parent: Groups,
}

/// Names by what they have in common: the names of a group stand together.
type Groups = BTreeSet<(Arc<str>, Name)>;

/// Sorted by address, so that one of many is found quickly. Shared with the code that wakes them.
type Inboxes = Arc<Vec<Arc<Inbox>>>;

/// Collects the names of one stream that may have changed. It holds no secret: a woken stream reads the
/// current state.
#[derive(Default)]
pub struct Inbox {
    mail: Mutex<Mail>,
}

#[derive(Default)]
struct Mail {
    changed: BTreeSet<Name>,
    waiter: Option<Waiter>,
}

/// A stream that waits.
struct Waiter {
    waker: Waker,
    /// The runtime that it was polled on.
    runtime: Option<Handle>,
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
        // Not under the lock: dropping it may wipe secrets.
        drop(old);
        if changes.everything {
            return self.wake_all();
        }
        for credential in &changes.credentials {
            let answers = name::answers(credential);
            answers.iter().for_each(|name| self.wake(name));
        }
        for coverage in &changes.hosts {
            self.wake_covered(coverage);
        }
    }

    /// Applies other rules, and wakes every stream.
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
        let mut last: Option<Name> = None;
        loop {
            // A separate statement: the lock is not held while they are woken.
            let next = self.waiting().after(last.as_ref());
            let Some((name, inboxes)) = next else {
                return;
            };
            put(&name, &inboxes);
            last = Some(name);
        }
    }

    /// Subscribes `inbox` to changes of that name. Returns false if it already was.
    pub fn subscribe(&self, name: &Name, inbox: &Arc<Inbox>) -> bool {
        let mut waiting = self.waiting();
        let inboxes = waiting.by_name.entry(name.clone()).or_default();
        let Err(at) = position(inboxes, inbox) else {
            return false;
        };
        Arc::make_mut(inboxes).insert(at, inbox.clone());
        if inboxes.len() == 1 {
            waiting.enter_host(name);
        }
        true
    }

    /// Unsubscribes `inbox` from changes of that name. Returns false if it was not subscribed.
    pub fn unsubscribe(&self, name: &Name, inbox: &Arc<Inbox>) -> bool {
        let mut waiting = self.waiting();
        let Some(inboxes) = waiting.by_name.get_mut(name) else {
            return false;
        };
        let at = position(inboxes, inbox);
        if let Ok(at) = at {
            Arc::make_mut(inboxes).remove(at);
        }
        if inboxes.is_empty() {
            waiting.by_name.remove(name);
            waiting.drop_host(name);
        }
        at.is_ok()
    }

    fn wake(&self, name: &str) {
        let found = self.waiting().named(name);
        if let Some((name, inboxes)) = found {
            put(&name, &inboxes);
        }
    }

    fn wake_covered(&self, coverage: &Coverage) {
        match coverage {
            Coverage::Exact(host) => {
                self.wake(host.as_str());
                self.wake_group(host.as_str(), |waiting| &waiting.spellings);
            }
            Coverage::Wildcard(parent) => self.wake_group(parent, |waiting| &waiting.by_parent),
        }
    }

    /// Wakes those that wait for the names of `group` in one of the sets.
    fn wake_group(&self, group: &str, set: fn(&Waiting) -> &Groups) {
        let mut last = (Arc::from(group), Name::from(""));
        // No stream waits for an empty name, which is not a host.
        loop {
            let next = next_of_group(set(&self.waiting()), &last);
            let Some(next) = next else {
                return;
            };
            self.wake(&next.1);
            last = next;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing can panic in the middle of a change under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn enter_host(&mut self, name: &Name) {
        let Some(host) = Host::parse(name::plain(name)) else {
            return;
        };
        if let Some(parent) = host.parent() {
            self.by_parent.insert((parent.into(), name.clone()));
        }
        if host.as_str() != &**name {
            self.spellings.insert((host.as_str().into(), name.clone()));
        }
    }

    fn drop_host(&mut self, name: &Name) {
        let Some(host) = Host::parse(name::plain(name)) else {
            return;
        };
        if let Some(parent) = host.parent() {
            self.by_parent.remove(&(parent.into(), name.clone()));
        }
        self.spellings.remove(&(host.as_str().into(), name.clone()));
    }

    fn named(&self, name: &str) -> Option<(Name, Inboxes)> {
        let (name, inboxes) = self.by_name.get_key_value(name)?;
        Some((name.clone(), inboxes.clone()))
    }

    /// The first name after `last`, and its subscribers.
    fn after(&self, last: Option<&Name>) -> Option<(Name, Inboxes)> {
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut names = self.by_name.range::<Name, _>((start, Bound::Unbounded));
        let (name, inboxes) = names.next()?;
        Some((name.clone(), inboxes.clone()))
    }
}

/// The entry after `last`, if it is of the same group.
fn next_of_group(set: &Groups, last: &(Arc<str>, Name)) -> Option<(Arc<str>, Name)> {
    let mut entries = set.range((Bound::Excluded(last), Bound::Unbounded));
    entries
        .next()
        .filter(|(group, _)| *group == last.0)
        .cloned()
}

/// Puts the name into the inboxes, and wakes their streams. Many are woken on the thread that they run on: from
/// another one, each takes a system call.
fn put(name: &Name, inboxes: &Inboxes) {
    let mut groups: Vec<(Handle, Vec<Waker>)> = Vec::new();
    for Waiter { waker, runtime } in inboxes.iter().filter_map(|inbox| inbox.put(name)) {
        let Some(runtime) = runtime.filter(|_| inboxes.len() > 1) else {
            waker.wake();
            continue;
        };
        let group = groups.iter_mut().find(|(of, _)| of.id() == runtime.id());
        match group {
            Some((_, wakers)) => wakers.push(waker),
            None => groups.push((runtime, vec![waker])),
        }
        groups
            .extract_if(.., |(_, wakers)| wakers.len() == AT_ONCE)
            .for_each(wake);
    }
    groups.into_iter().for_each(wake);
}

fn wake((runtime, wakers): (Handle, Vec<Waker>)) {
    runtime.spawn(async move { wakers.into_iter().for_each(Waker::wake) });
}

/// The position of an inbox among those of a name, or where to insert it.
fn position(inboxes: &[Arc<Inbox>], inbox: &Arc<Inbox>) -> Result<usize, usize> {
    inboxes.binary_search_by_key(&Arc::as_ptr(inbox), Arc::as_ptr)
}

impl Inbox {
    /// Takes the names that may have changed since the last call, or registers to be woken.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<BTreeSet<Name>> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if mail.changed.is_empty() {
            match &mut mail.waiter {
                Some(waiter) => waiter.waker.clone_from(cx.waker()),
                None => {
                    mail.waiter = Some(Waiter {
                        waker: cx.waker().clone(),
                        runtime: Handle::try_current().ok(),
                    })
                }
            }
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut mail.changed))
    }

    /// Puts the name in. Returns the stream if it waits and must be woken.
    fn put(&self, name: &Name) -> Option<Waiter> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.changed.insert(name.clone());
        mail.waiter.take()
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::sds::threads::Threads;

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
    fn a_change_wakes_only_the_streams_that_it_affects() {
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
    fn streams_are_woken_without_a_lock_that_others_need() {
        /// Subscribes to another name when it is woken.
        struct Subscriber(Arc<Hub>, Arc<Inbox>);

        impl std::task::Wake for Subscriber {
            fn wake(self: Arc<Self>) {
                // `try_lock`, because waiting for a held lock would hang the test.
                assert!(self.0.waiting.try_lock().is_ok(), "the lock is held");
                self.0.subscribe(&"www.example.net".into(), &self.1);
            }
        }

        type Wake = fn(&Hub);
        let wakes: [Wake; 4] = [
            |hub| change(hub, &["a"], &[]),
            |hub| change(hub, &[], &["www.example.com"]),
            |hub| change(hub, &[], &["*.example.com"]),
            Hub::wake_all,
        ];
        for wake in wakes {
            let hub = Arc::new(Hub::default());
            let names = ["a", "WWW.example.com", "api.example.com", "z"];
            let inboxes = names.map(|name| inbox(&hub, &[name]));
            let newcomer = Arc::new(Inbox::default());
            let waker = Waker::from(Arc::new(Subscriber(hub.clone(), newcomer.clone())));
            for inbox in &inboxes {
                assert!(inbox.poll(&mut Context::from_waker(&waker)).is_pending());
            }
            wake(&hub);
            assert!(!hub.subscribe(&"www.example.net".into(), &newcomer));
        }
    }

    #[tokio::test]
    async fn many_streams_are_woken_once_and_on_their_own_thread() {
        /// Reports the thread that it is woken on.
        struct Reporter(mpsc::UnboundedSender<ThreadId>);

        impl std::task::Wake for Reporter {
            fn wake(self: Arc<Self>) {
                self.0.send(thread::current().id()).unwrap();
            }
        }

        let threads = Threads::start().unwrap();
        let hub = Hub::default();
        let count = 2 * AT_ONCE + 1;
        let inboxes: Vec<_> = (0..count).map(|_| inbox(&hub, &["a"])).collect();
        let (send, mut woken) = mpsc::unbounded_channel();
        let (polled, is_polled) = oneshot::channel();
        threads.spawn(async move {
            let waker = Waker::from(Arc::new(Reporter(send)));
            for inbox in inboxes {
                assert!(inbox.poll(&mut Context::from_waker(&waker)).is_pending());
            }
            polled.send(thread::current().id()).unwrap();
        });
        let thread = is_polled.await.unwrap();
        change(&hub, &["a"], &[]);
        for _ in 0..count {
            assert_eq!(woken.recv().await, Some(thread));
        }
        assert_eq!(woken.recv().await, None);
    }

    #[test]
    fn nothing_remains_of_a_name_without_subscribers() {
        let hub = Hub::default();
        let inbox = inbox(&hub, &["WWW.example.com", "WWW.example.com"]);
        hub.unsubscribe(&"WWW.example.com".into(), &inbox);
        let waiting = hub.waiting();
        assert!(waiting.by_name.is_empty());
        assert!(waiting.spellings.is_empty() && waiting.by_parent.is_empty());
        assert_eq!(Arc::strong_count(&inbox), 1);
    }
}
