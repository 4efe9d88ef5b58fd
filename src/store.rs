//! Name → current secret, and who waits for which name.
//!
//! A change costs as much as there are streams that asked for that name, whatever else is stored.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use crate::config::Absent;
use crate::secret::{Name, Secret};

/// Names that are gone and have an answer of their own; as many as there may be credentials, or the
/// names of a folder that is filled and emptied for ever would stay for ever.
const DEPARTED: usize = 20_000;

/// The current secrets. One for the whole agent.
#[derive(Default)]
pub struct Store {
    entries: Mutex<HashMap<Name, Entry>>,
    answers: RwLock<Answers>,
}

/// What is answered to names that have no secret.
#[derive(Default)]
struct Answers {
    /// To those that never had one.
    unknown: Absent,
    /// To those that had one, where that is another answer.
    departed: HashMap<Name, Absent>,
}

/// A name that has a secret, or somebody who waits for one, or both.
#[derive(Default)]
struct Entry {
    secret: Option<Arc<Secret>>,
    inboxes: Vec<Arc<Inbox>>,
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

impl Store {
    /// The current secret of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Secret>> {
        self.lock().get(name)?.secret.clone()
    }

    /// All current secrets, in no order.
    pub fn secrets(&self) -> Vec<Arc<Secret>> {
        self.lock()
            .values()
            .filter_map(|entry| entry.secret.clone())
            .collect()
    }

    /// Makes `secret` the current one of its name and wakes those who wait for it. Returns false,
    /// and wakes nobody, when it is the same version as before.
    pub fn set(&self, secret: Arc<Secret>) -> bool {
        let mut entries = self.lock();
        let entry = entries.entry(secret.name().clone()).or_default();
        if entry
            .secret
            .as_ref()
            .is_some_and(|old| old.version() == secret.version())
        {
            return false;
        }
        let name = secret.name().clone();
        entry.secret = Some(secret);
        entry.wake(&name);
        true
    }

    /// Removes the secret of that name and wakes those who wait for it. Returns false when there
    /// was none.
    pub fn remove(&self, name: &Name) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(name) else {
            return false;
        };
        let removed = entry.secret.take().is_some();
        if removed {
            entry.wake(name);
        }
        if entry.is_empty() {
            entries.remove(name);
        }
        removed
    }

    /// How to answer those who ask for that name, which has no secret.
    pub fn absent(&self, name: &str) -> Absent {
        let answers = self.answers.read().unwrap_or_else(PoisonError::into_inner);
        let departed = answers.departed.get(name);
        departed.copied().unwrap_or(answers.unknown)
    }

    /// How to answer those who ask for a name that never had a secret.
    pub fn answer_unknown(&self, answer: Absent) {
        let mut answers = self.answers.write().unwrap_or_else(PoisonError::into_inner);
        answers.unknown = answer;
    }

    /// How to answer those who ask for that name when its secret is gone, until it has one again.
    pub fn answer_departed(&self, name: &Name, answer: Absent) {
        let mut answers = self.answers.write().unwrap_or_else(PoisonError::into_inner);
        if answers.departed.len() >= DEPARTED {
            answers.departed.clear();
        }
        answers.departed.insert(name.clone(), answer);
    }

    /// From now on `inbox` hears of every change of that name.
    pub fn subscribe(&self, name: &Name, inbox: &Arc<Inbox>) {
        let mut entries = self.lock();
        let entry = entries.entry(name.clone()).or_default();
        if !entry.inboxes.iter().any(|other| Arc::ptr_eq(other, inbox)) {
            entry.inboxes.push(inbox.clone());
        }
    }

    /// From now on `inbox` hears of that name no more.
    pub fn unsubscribe(&self, name: &Name, inbox: &Arc<Inbox>) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(name) else {
            return;
        };
        if let Some(index) = entry
            .inboxes
            .iter()
            .position(|other| Arc::ptr_eq(other, inbox))
        {
            entry.inboxes.swap_remove(index);
        }
        if entry.is_empty() {
            entries.remove(name);
        }
    }

    /// Tells everybody of all of their names, as when the rules of who may have what have changed.
    pub fn wake_all(&self) {
        for (name, entry) in self.lock().iter() {
            entry.wake(name);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Entry>> {
        // No code that can panic runs under the lock with the map half changed.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn wake(&self, name: &Name) {
        self.inboxes.iter().for_each(|inbox| inbox.put(name));
    }

    fn is_empty(&self) -> bool {
        self.secret.is_none() && self.inboxes.is_empty()
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
    use crate::secret::tests::sample;

    fn mail(inbox: &Inbox) -> Vec<String> {
        match inbox.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(names) => names.iter().map(ToString::to_string).collect(),
            Poll::Pending => Vec::new(),
        }
    }

    #[test]
    fn a_change_reaches_those_who_asked_for_it_and_nobody_else() {
        let store = Store::default();
        let (a, b) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
        store.subscribe(&"a".into(), &a);
        store.subscribe(&"b".into(), &b);

        assert!(store.set(sample("a", "one")));
        assert_eq!(mail(&a), ["a"]);
        assert_eq!(mail(&b), [""; 0]);

        assert!(
            !store.set(sample("a", "one")),
            "the same content is no change"
        );
        assert_eq!(mail(&a), [""; 0]);

        assert!(store.remove(&"a".into()));
        assert!(!store.remove(&"a".into()));
        assert_eq!(mail(&a), ["a"]);
        assert!(store.get("a").is_none());
    }

    #[test]
    fn a_name_that_is_gone_can_have_an_answer_of_its_own() {
        let store = Store::default();
        store.answer_departed(&"gone".into(), Absent::Wait);
        assert_eq!(store.absent("gone"), Absent::Wait);
        assert_eq!(store.absent("other"), Absent::SaySo);
        store.answer_unknown(Absent::Wait);
        store.answer_departed(&"gone".into(), Absent::SaySo);
        assert_eq!(store.absent("gone"), Absent::SaySo);
        assert_eq!(store.absent("other"), Absent::Wait);
    }

    #[test]
    fn nothing_stays_of_a_name_that_nobody_has_or_wants() {
        let store = Store::default();
        let inbox = Arc::new(Inbox::default());
        store.subscribe(&"ghost".into(), &inbox);
        store.subscribe(&"ghost".into(), &inbox);
        store.unsubscribe(&"ghost".into(), &inbox);
        store.set(sample("a", "one"));
        store.remove(&"a".into());
        assert!(store.lock().is_empty());
        assert_eq!(Arc::strong_count(&inbox), 1);
    }
}
