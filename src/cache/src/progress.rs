//! How far the cache has come, and who waits for it to come further.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::oneshot;
use vaquita_store::Revision;

/// The revision up to which the cache has applied everything. Each waiter is woken once, when its own revision is there:
/// with hundreds of writers, waking all of them for each revision would cost more than the writes.
#[derive(Debug, Default)]
pub struct Progress {
    applied: AtomicU64,
    waiting: Mutex<BinaryHeap<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    revision: Reverse<Revision>,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Waiter {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision
    }
}

impl Eq for Waiter {}

impl PartialOrd for Waiter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiter {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.revision.cmp(&other.revision)
    }
}

impl Progress {
    /// The revision that has been applied.
    pub fn applied(&self) -> Revision {
        self.applied.load(Ordering::Acquire)
    }

    /// Everything up to `revision` has been applied. Never goes back.
    pub fn advance(&self, revision: Revision) {
        self.applied.fetch_max(revision, Ordering::AcqRel);
        let mut ready = Vec::new();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while waiting
                .peek()
                .is_some_and(|waiter| waiter.revision.0 <= revision)
            {
                ready.extend(waiting.pop());
            }
        }
        for waiter in ready {
            let _ = waiter.wake.send(());
        }
    }

    /// Resolves when `revision` has been applied. Never, if it never is.
    pub async fn reached(&self, revision: Revision) {
        let woken = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock: `advance` stores before it looks for waiters.
            if self.applied() >= revision {
                return;
            }
            // Callers with a deadline give up; what they leave behind goes when the heap would have to grow.
            if waiting.len() == waiting.capacity() {
                waiting.retain(|waiter| !waiter.wake.is_closed());
            }
            let (wake, woken) = oneshot::channel();
            waiting.push(Waiter {
                revision: Reverse(revision),
                wake,
            });
            woken
        };
        let _ = woken.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn waiters_are_woken_by_their_own_revision() {
        let progress = Progress::default();
        progress.advance(5);
        progress.reached(5).await;
        let (mut six, mut eight) = (Box::pin(progress.reached(6)), Box::pin(progress.reached(8)));
        assert!(six.as_mut().now_or_never().is_none() && eight.as_mut().now_or_never().is_none());
        progress.advance(7);
        assert!(six.now_or_never().is_some());
        assert!(eight.as_mut().now_or_never().is_none());
        progress.advance(8);
        assert!(eight.now_or_never().is_some());
    }

    #[tokio::test]
    async fn abandoned_waiters_do_not_pile_up() {
        let progress = Progress::default();
        for _ in 0..10_000 {
            assert!(progress.reached(u64::MAX).now_or_never().is_none());
        }
        assert!(progress.waiting.lock().unwrap().len() < 100);
    }

    #[test]
    fn progress_never_goes_back() {
        let progress = Progress::default();
        progress.advance(9);
        progress.advance(4);
        assert_eq!(progress.applied(), 9);
    }
}
