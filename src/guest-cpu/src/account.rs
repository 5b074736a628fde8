//! What a process has computed, and may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::quota::Quota;

/// The share of a process that requests nothing, in thousandths of a core: as little as Kubernetes gives a container.
const LEAST_WEIGHT: u32 = 2;

/// A process's account of CPU time.
#[derive(Debug)]
pub struct Account {
    /// Nanoseconds.
    used: AtomicU64,
    /// The time used, on a scale on which all processes that want to compute should be equal: nanoseconds for each
    /// core requested. Processes that were idle are moved up to the others, so that they don't save up time.
    level: AtomicU64,
    weight: AtomicU32,
    quota: Quota,
}

impl Account {
    /// Both in thousandths of a core. A limit of 0 is none.
    pub fn new(limit: Option<u32>, request: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            level: AtomicU64::new(0),
            weight: AtomicU32::new(weight(request)),
            quota: Quota::new(limit.unwrap_or_default()),
        })
    }

    /// Sets another limit and another request, as [`new`](Self::new) takes them. A process that waits because of the limit
    /// before goes on no later than that would have let it.
    pub fn set(&self, limit: Option<u32>, request: Option<u32>) {
        self.weight.store(weight(request), Ordering::Relaxed);
        self.quota.set(limit.unwrap_or_default());
    }

    /// All that was charged.
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    pub(super) fn charge(&self, spent: Duration) {
        let spent = nanoseconds(spent);
        self.used.fetch_add(spent, Ordering::Relaxed);
        self.level
            .fetch_add(self.weighted(spent), Ordering::Relaxed);
        if let Some(quota) = self.quota() {
            quota.charge(spent);
        }
    }

    pub(super) fn quota(&self) -> Option<&Quota> {
        Some(&self.quota).filter(|quota| quota.is_set())
    }

    pub(super) fn level(&self) -> u64 {
        self.level.load(Ordering::Relaxed)
    }

    /// Its level, which is at least `floor` from now on.
    pub(super) fn lift(&self, floor: u64) -> u64 {
        self.level.fetch_max(floor, Ordering::Relaxed).max(floor)
    }

    /// By how much so many nanoseconds raise its level.
    pub(super) fn weighted(&self, nanoseconds: u64) -> u64 {
        nanoseconds.saturating_mul(1000) / u64::from(self.weight.load(Ordering::Relaxed))
    }
}

fn weight(request: Option<u32>) -> u32 {
    request.unwrap_or_default().max(LEAST_WEIGHT)
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_requested_the_slower_the_level_rises() {
        let rise = |request| {
            let account = Account::new(None, request);
            account.charge(Duration::from_millis(1));
            assert_eq!(account.used(), Duration::from_millis(1));
            account.level()
        };
        assert_eq!(rise(Some(1000)), 1_000_000);
        assert_eq!(rise(Some(500)), 2_000_000);
        assert_eq!(rise(None), rise(Some(2)));
    }

    #[test]
    fn idling_saves_nothing_up() {
        let account = Account::new(None, Some(1000));
        assert_eq!(account.lift(500), 500);
        account.charge(Duration::from_nanos(100));
        assert_eq!(account.lift(500), 600);
    }
}
