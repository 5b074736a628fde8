//! Two small tools: a lock that shrugs off poison, and a bounded set of wakers.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// Locks. A panic elsewhere leaves these structures whole (nothing in a locked section can panic half-way), so poison
/// is no reason to take the rest of the node down.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most wakers that one set keeps.
const MAX_WAKERS: usize = 8;

/// The tasks that wait for one thing: nearly always none or one.
#[derive(Debug, Default)]
pub(crate) struct WakerSet {
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl WakerSet {
    /// Adds a task, if it is not in the set. The set is bounded: what comes back has left it for the new one's sake and
    /// must be woken after unlocking, so that it can ask again if it still cares.
    #[must_use]
    pub(crate) fn add(&mut self, waker: &Waker) -> Option<Waker> {
        let Some(first) = &self.first else {
            self.first = Some(waker.clone());
            return None;
        };
        if first.will_wake(waker) || self.more.iter().any(|one| one.will_wake(waker)) {
            return None;
        }
        let displaced = (self.more.len() + 1 >= MAX_WAKERS).then(|| self.more.remove(0));
        self.more.push(waker.clone());
        displaced
    }

    /// Empties the set. What comes back is to be woken after unlocking.
    #[must_use]
    pub(crate) fn take(&mut self) -> Self {
        mem::take(self)
    }

    /// Wakes all of them.
    pub(crate) fn wake(self) {
        if let Some(first) = self.first {
            first.wake();
        }
        for waker in self.more {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_same_task_is_woken_once() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut set = WakerSet::default();
        assert!(set.add(&waker).is_none());
        assert!(set.add(&waker.clone()).is_none());
        set.take().wake();
        set.take().wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_full_set_gives_back_rather_than_forgets() {
        let mut set = WakerSet::default();
        let tasks: Vec<_> = (0..50).map(|_| Arc::new(Count::default())).collect();
        for task in &tasks {
            if let Some(displaced) = set.add(&Waker::from(task.clone())) {
                displaced.wake();
            }
            assert!(set.more.len() < MAX_WAKERS);
        }
        set.wake();
        for task in tasks {
            assert_eq!(task.0.load(Ordering::Relaxed), 1);
        }
    }
}
