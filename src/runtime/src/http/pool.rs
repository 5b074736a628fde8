//! Instances that have answered a request and may answer more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Store;

use super::guest::Guest;
use crate::budget::Refusals;
use crate::process::Counted;
use crate::state::State;

/// How long an instance waits for its next request. An idle handler holds none.
const IDLE: Duration = Duration::from_secs(10);

/// An instance of a handler, between two requests.
pub(super) struct Instance {
    pub(super) guest: Guest,
    pub(super) store: Store<State>,
    pub(super) refusals: Refusals,
    /// Requests it was given.
    pub(super) served: u32,
    pub(super) _counted: Counted,
}

/// The instances that wait, the one that has waited longest in front.
#[derive(Default)]
pub(super) struct Pool {
    waiting: Mutex<VecDeque<(Instant, Instance)>>,
}

impl Pool {
    /// The instance that was used last, which is the one most likely still in the processor's caches.
    pub(super) fn take(&self) -> Option<Instance> {
        self.lock().pop_back().map(|(_, instance)| instance)
    }

    /// Keeps an instance, for a while.
    pub(super) fn put(self: &Arc<Self>, instance: Instance) {
        let mut waiting = self.lock();
        let is_first = waiting.is_empty();
        waiting.push_back((Instant::now(), instance));
        drop(waiting);
        if is_first {
            tokio::spawn(tidy(Arc::downgrade(self)));
        }
    }

    /// Drops those that have waited long enough. Says when to look again, unless none is left.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut waiting = self.lock();
        let mut expired = Vec::new();
        let next = loop {
            match waiting.front() {
                None => break None,
                Some((since, _)) if *since + IDLE > now => break Some(*since + IDLE),
                Some(_) => expired.extend(waiting.pop_front()),
            }
        };
        drop(waiting);
        drop(expired);
        next
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, Instance)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lives as long as anything waits.
async fn tidy(pool: Weak<Pool>) {
    loop {
        let Some(next) = pool.upgrade().and_then(|pool| pool.expire()) else {
            return;
        };
        tokio::time::sleep_until(next).await;
    }
}
