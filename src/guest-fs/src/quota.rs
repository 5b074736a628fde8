//! How many bytes a volume may hold, and holds.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::node::Result;

/// What an entry of a directory counts beside its file's bytes, so that empty files are no way around a limit.
pub(crate) const ENTRY: u64 = 256;

#[derive(Debug)]
pub(crate) struct Quota {
    limit: u64,
    used: AtomicU64,
}

impl Quota {
    pub(crate) fn new(limit: u64, used: u64) -> Self {
        Self {
            limit,
            used: AtomicU64::new(used),
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes so much, or nothing.
    pub(crate) fn take(&self, bytes: u64) -> Result<()> {
        let take = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map(drop)
            .map_err(|_| Errno::NOSPC)
    }

    /// Takes as much as there is of it, and says how much that was.
    pub(crate) fn take_some(&self, bytes: u64) -> u64 {
        let some = |used: u64| bytes.min(self.limit.saturating_sub(used));
        let take = |used: u64| used.checked_add(some(used));
        let before = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.map_or(0, some)
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        let give = |used: u64| Some(used.saturating_sub(bytes));
        // It never refuses.
        let _ = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is() {
        let quota = Quota::new(10, 4);
        assert_eq!(quota.take(7), Err(Errno::NOSPC));
        assert_eq!(quota.take(2), Ok(()));
        assert_eq!(quota.take_some(7), 4);
        assert_eq!(quota.take_some(1), 0);
        quota.give_back(3);
        assert_eq!(quota.used(), 7);
        quota.give_back(u64::MAX);
        assert_eq!(quota.used(), 0);
        assert_eq!(quota.take(u64::MAX), Err(Errno::NOSPC));
    }
}
