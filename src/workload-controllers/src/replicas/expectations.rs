//! What a controller has asked for and not seen happen yet.
//!
//! The local copy trails the API server: right after creating three pods a controller may still see none, and would
//! create three more. So before it acts it writes down what it will do, the informer's handlers strike out what they
//! see, and until all is struck out the controller leaves the number of replicas alone.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use vaquita_reconcile::ObjectKey;

/// After this long, what was expected is not waited for any more: some event never came.
const PATIENCE: Duration = Duration::from_mins(5);

/// The expectations of all owners of one kind.
#[derive(Debug, Default)]
pub struct Expectations {
    by_owner: Mutex<HashMap<ObjectKey, Expected>>,
}

#[derive(Debug)]
struct Expected {
    /// Creations not yet seen. Below zero when one was seen that had counted as failed.
    creations: i64,
    /// The uids of objects whose deletion was asked for and not yet seen.
    deletions: HashSet<String>,
    since: Instant,
}

impl Expected {
    fn is_met(&self) -> bool {
        (self.creations <= 0 && self.deletions.is_empty()) || self.since.elapsed() > PATIENCE
    }
}

impl Expectations {
    /// Whether all that was asked for in the name of `owner` has been seen, or has been waited for long enough.
    pub fn are_met(&self, owner: &ObjectKey) -> bool {
        self.lock().get(owner).is_none_or(Expected::is_met)
    }

    /// `owner` is about to create `count` objects. Forgets what was expected before.
    pub fn expect_creations(&self, owner: &ObjectKey, count: usize) {
        let creations = i64::try_from(count).unwrap_or(i64::MAX);
        self.expect(owner, creations, HashSet::new());
    }

    /// `owner` is about to delete the objects with these uids. Forgets what was expected before.
    pub fn expect_deletions(&self, owner: &ObjectKey, uids: impl IntoIterator<Item = String>) {
        self.expect(owner, 0, uids.into_iter().collect());
    }

    /// An object of `owner` was created, or its creation failed and will not be seen.
    pub fn creation_seen(&self, owner: &ObjectKey) {
        self.creations_seen(owner, 1);
    }

    /// So many creations at once: those that were not even tried.
    pub fn creations_seen(&self, owner: &ObjectKey, count: usize) {
        if let Some(expected) = self.lock().get_mut(owner) {
            expected.creations = expected
                .creations
                .saturating_sub(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The object with this uid is gone or going, or its deletion failed and will not be seen.
    pub fn deletion_seen(&self, owner: &ObjectKey, uid: &str) {
        if let Some(expected) = self.lock().get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    /// `owner` is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.lock().remove(owner);
    }

    fn expect(&self, owner: &ObjectKey, creations: i64, deletions: HashSet<String>) {
        let expected = Expected {
            creations,
            deletions,
            since: Instant::now(),
        };
        self.lock().insert(owner.clone(), expected);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Expected>> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner() -> ObjectKey {
        ObjectKey::new("shop", "rc")
    }

    #[tokio::test(start_paused = true)]
    async fn creations_are_met_when_all_are_seen_whatever_the_order() {
        let expectations = Expectations::default();
        assert!(expectations.are_met(&owner()), "nothing was asked for");
        expectations.expect_creations(&owner(), 3);
        expectations.creation_seen(&owner());
        expectations.creation_seen(&ObjectKey::new("shop", "other"));
        assert!(!expectations.are_met(&owner()));
        expectations.creations_seen(&owner(), 2);
        assert!(expectations.are_met(&owner()));
        expectations.creation_seen(&owner());
        assert!(
            expectations.are_met(&owner()),
            "one more than expected changes nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_counts_once_however_often_it_is_seen() {
        let expectations = Expectations::default();
        expectations.expect_deletions(&owner(), ["a".to_owned(), "b".to_owned()]);
        expectations.deletion_seen(&owner(), "a");
        expectations.deletion_seen(&owner(), "a");
        expectations.deletion_seen(&owner(), "unknown");
        assert!(!expectations.are_met(&owner()));
        expectations.deletion_seen(&owner(), "b");
        assert!(expectations.are_met(&owner()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_never_comes_does_not_block_for_ever() {
        let expectations = Expectations::default();
        expectations.expect_creations(&owner(), 1);
        tokio::time::advance(PATIENCE).await;
        assert!(!expectations.are_met(&owner()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(expectations.are_met(&owner()));
    }

    proptest! {
        /// However the events come, doubled or not: expectations are met exactly when all creations were counted and
        /// every deletion was seen, and they never go back to unmet.
        #[test]
        fn expectations_are_met_when_all_was_seen(
            created in 0..5usize,
            seen in prop::collection::vec(any::<bool>(), 0..12),
            doomed in prop::collection::hash_set(0..5u8, 0..5),
            gone in prop::collection::vec(0..5u8, 0..12),
        ) {
            let expectations = Expectations::default();
            expectations.expect_creations(&owner(), created);
            let mut counted = 0;
            for ours in seen {
                let whose = if ours { owner() } else { ObjectKey::new("shop", "other") };
                expectations.creation_seen(&whose);
                counted += usize::from(ours);
                prop_assert_eq!(expectations.are_met(&owner()), counted >= created);
            }
            expectations.expect_deletions(&owner(), doomed.iter().map(u8::to_string));
            let mut left = doomed;
            for uid in gone {
                expectations.deletion_seen(&owner(), &uid.to_string());
                left.remove(&uid);
                prop_assert_eq!(expectations.are_met(&owner()), left.is_empty());
            }
        }
    }
}
