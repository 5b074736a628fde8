//! What this controller wrote and has not seen come back.
//!
//! Planning from a local copy that lacks one's own last write would make a slice twice. So a Service is not looked at
//! before the informers show everything that was written for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use vaquita_reconcile::ObjectKey;

/// After this long, a write is not waited for any more: its event was lost, or it was undone before it was seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The unseen writes of all Services.
#[derive(Debug, Default)]
pub(super) struct Written {
    by_service: Mutex<HashMap<ObjectKey, HashMap<String, Write>>>,
}

#[derive(Debug)]
struct Write {
    outcome: Outcome,
    at: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The object has at least this version.
    Version(u64),
    Deleted,
}

impl Written {
    /// The object `uid` of `service` now has this version.
    pub(super) fn wrote(&self, service: &ObjectKey, uid: &str, version: u64) {
        self.note(service, uid, Outcome::Version(version));
    }

    /// The object `uid` of `service` is gone.
    pub(super) fn deleted(&self, service: &ObjectKey, uid: &str) {
        self.note(service, uid, Outcome::Deleted);
    }

    /// Whether `shown` (uid → version) includes everything that was written for `service`.
    pub(super) fn all_seen(&self, service: &ObjectKey, shown: &BTreeMap<String, u64>) -> bool {
        let mut by_service = self.lock();
        let Some(writes) = by_service.get_mut(service) else {
            return true;
        };
        writes.retain(|uid, write| {
            let seen = match (&write.outcome, shown.get(uid)) {
                (Outcome::Version(wrote), Some(shown)) => shown >= wrote,
                (Outcome::Deleted, None) => true,
                _ => false,
            };
            !seen && write.at.elapsed() < PATIENCE
        });
        let all_seen = writes.is_empty();
        if all_seen {
            by_service.remove(service);
        }
        all_seen
    }

    /// An informer shows a version of the object `uid` of `service`, or that it is gone. Whether that is worth a look:
    /// it is not if it only confirms what was written.
    pub(super) fn is_news(&self, service: &ObjectKey, uid: &str, version: u64, gone: bool) -> bool {
        let mut by_service = self.lock();
        let Some(writes) = by_service.get_mut(service) else {
            return true;
        };
        let Some(write) = writes.get(uid) else {
            return true;
        };
        match write.outcome {
            Outcome::Version(awaited) if !gone && version < awaited => return false,
            // Others may wait behind this one, so a look is due when it was the last that was missing.
            _ => writes.remove(uid),
        };
        let last = writes.is_empty();
        if last {
            by_service.remove(service);
        }
        last
    }

    /// The Service is gone.
    pub(super) fn forget(&self, service: &ObjectKey) {
        self.lock().remove(service);
    }

    fn note(&self, service: &ObjectKey, uid: &str, outcome: Outcome) {
        let write = Write {
            outcome,
            at: Instant::now(),
        };
        self.lock()
            .entry(service.clone())
            .or_default()
            .insert(uid.to_owned(), write);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, HashMap<String, Write>>> {
        self.by_service
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ObjectKey {
        ObjectKey::new("shop", "front")
    }

    fn shown(objects: &[(&str, u64)]) -> BTreeMap<String, u64> {
        objects
            .iter()
            .map(|(uid, version)| ((*uid).to_owned(), *version))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_waits_until_all_its_writes_are_shown() {
        let written = Written::default();
        assert!(written.all_seen(&service(), &shown(&[])));
        written.wrote(&service(), "a", 7);
        written.deleted(&service(), "b");
        assert!(!written.all_seen(&service(), &shown(&[("a", 6), ("b", 3)])));
        assert!(!written.all_seen(&service(), &shown(&[("a", 7), ("b", 3)])));
        assert!(written.all_seen(&service(), &shown(&[("a", 8)])));
        assert!(written.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_last_confirmation_is_news() {
        let written = Written::default();
        assert!(
            written.is_news(&service(), "x", 1, false),
            "somebody else's write"
        );
        written.wrote(&service(), "a", 7);
        written.wrote(&service(), "b", 8);
        assert!(
            !written.is_news(&service(), "a", 5, false),
            "from before our write"
        );
        assert!(
            !written.is_news(&service(), "a", 7, false),
            "one is still missing"
        );
        assert!(written.is_news(&service(), "b", 8, false));
        written.wrote(&service(), "c", 9);
        assert!(
            written.is_news(&service(), "c", 10, true),
            "deleted by somebody"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_event_is_not_waited_for_for_ever() {
        let written = Written::default();
        written.wrote(&service(), "a", 7);
        tokio::time::advance(PATIENCE).await;
        assert!(written.all_seen(&service(), &shown(&[])));
    }
}
