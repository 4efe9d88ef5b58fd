//! A budget for what clients may use concurrently: connections, streams, or bytes.
//!
//! One user gets at most three quarters, so that no user can exhaust it. If the configuration names users,
//! the last quarter is reserved for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A limited amount that clients share.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    /// The part of `total` used by holders that may not use the reserve.
    unreserved: usize,
    users: HashMap<u32, usize>,
}

/// The user of a part of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The user.
    pub(crate) uid: u32,
    /// Whether this user may use the reserve.
    pub(crate) reserve: bool,
}

/// A part of a budget, returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    budget: Arc<Budget>,
    holder: Holder,
    amount: usize,
}

impl Budget {
    /// A budget with this total.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: Mutex::default(),
        })
    }

    /// An empty grant.
    pub(crate) fn open(self: &Arc<Self>, holder: Holder) -> Grant {
        Grant {
            budget: self.clone(),
            holder,
            amount: 0,
        }
    }

    /// A part of the budget; `None` if that would exceed it.
    pub(crate) fn grant(self: &Arc<Self>, holder: Holder, amount: usize) -> Option<Grant> {
        let mut grant = self.open(holder);
        grant.grow(amount).then_some(grant)
    }

    /// How much one user, or all users together that may not use the reserve, can use.
    fn share(&self) -> usize {
        self.limit - self.limit / 4
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        // Nothing can panic in the middle of a change under the lock.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grant {
    /// Adds `amount`. Returns false, and adds nothing, if that would exceed the budget.
    pub(crate) fn grow(&mut self, amount: usize) -> bool {
        let (limit, share) = (self.budget.limit, self.budget.share());
        let mut used = self.budget.lock();
        let user = used.users.get(&self.holder.uid).copied().unwrap_or(0);
        let fits = |used: usize, most: usize| used.saturating_add(amount) <= most;
        if !fits(used.total, limit)
            || !fits(user, share)
            || !self.holder.reserve && !fits(used.unreserved, share)
        {
            return false;
        }
        used.total += amount;
        if !self.holder.reserve {
            used.unreserved += amount;
        }
        if amount > 0 {
            *used.users.entry(self.holder.uid).or_default() += amount;
        }
        self.amount += amount;
        true
    }

    /// Its amount.
    pub(crate) fn amount(&self) -> usize {
        self.amount
    }

    /// Returns `amount` to the budget.
    pub(crate) fn shrink(&mut self, amount: usize) {
        let amount = amount.min(self.amount);
        if amount == 0 {
            return;
        }
        self.amount -= amount;
        let mut used = self.budget.lock();
        used.total -= amount;
        if !self.holder.reserve {
            used.unreserved -= amount;
        }
        if let Some(user) = used.users.get_mut(&self.holder.uid) {
            *user -= amount;
            if *user == 0 {
                used.users.remove(&self.holder.uid);
            }
        }
    }

    /// Returns all of it to the budget.
    pub(crate) fn clear(&mut self) {
        self.shrink(self.amount);
    }

    /// Withdraws the right to the reserve. Returns false if the amount is too large without it.
    pub(crate) fn lose_reserve(&mut self) -> bool {
        let amount = self.amount;
        self.clear();
        self.holder.reserve = false;
        self.grow(amount)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(uid: u32, reserve: bool) -> Holder {
        Holder { uid, reserve }
    }

    #[test]
    fn one_user_leaves_room_for_others() {
        let budget = Budget::new(8);
        let most: Vec<_> = (0..8)
            .filter_map(|_| budget.grant(holder(1, true), 1))
            .collect();
        assert_eq!(most.len(), 6);
        assert!(budget.grant(holder(2, false), 2).is_some());
        assert!(budget.grant(holder(2, false), 3).is_none());
        drop(most);
        assert!(budget.grant(holder(1, true), 6).is_some());
    }

    #[test]
    fn users_who_are_not_named_leave_the_reserve_alone() {
        let budget = Budget::new(8);
        let _others: Vec<_> = (1..=6)
            .map(|uid| budget.grant(holder(uid, false), 1).unwrap())
            .collect();
        assert!(budget.grant(holder(7, false), 1).is_none());
        assert!(budget.grant(holder(7, true), 2).is_some());
        let mut lookup = budget.grant(holder(8, true), 1).unwrap();
        assert!(!lookup.lose_reserve());
    }

    #[test]
    fn a_small_budget_is_not_divided() {
        let budget = Budget::new(2);
        assert!(budget.grant(holder(1, false), 2).is_some());
        assert!(budget.grant(holder(1, false), 3).is_none());
    }

    proptest! {
        /// After any steps, the sums equal those of a plain list of grants.
        #[test]
        fn nothing_is_lost_or_exceeded(steps in proptest::collection::vec(
            (0..4_u32, any::<bool>(), 0..40_usize, any::<bool>()), 1..200)
        ) {
            let budget = Budget::new(100);
            let mut grants: Vec<Grant> = Vec::new();
            for (uid, reserve, amount, give_back) in steps {
                let held = |of: &dyn Fn(&Holder) -> bool| -> usize {
                    grants.iter().filter(|g| of(&g.holder)).map(|g| g.amount).sum()
                };
                let fits = held(&|_| true) + amount <= 100
                    && held(&|h| h.uid == uid) + amount <= 75
                    && (reserve || held(&|h| !h.reserve) + amount <= 75);
                if give_back && !grants.is_empty() {
                    grants.swap_remove(amount % grants.len());
                    continue;
                }
                let grant = budget.grant(holder(uid, reserve), amount);
                prop_assert_eq!(grant.is_some(), fits);
                grants.extend(grant);
            }
            grants.clear();
            let used = budget.lock();
            prop_assert_eq!((used.total, used.unreserved, used.users.len()), (0, 0, 0));
        }
    }
}
