//! Writes on their way to the one who writes them.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{CommitError, Committed, Revision, Write};

/// A write, and who waits for it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) write: Write,
    pub(super) done: oneshot::Sender<Result<Committed, CommitError>>,
}

/// A compaction, and who waits for it.
#[derive(Debug)]
pub(super) struct Compaction {
    pub(super) to: Revision,
    pub(super) done: oneshot::Sender<Result<(), crate::CompactError>>,
}

/// What goes into one transaction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) writes: Vec<Pending>,
    pub(super) compactions: Vec<Compaction>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.compactions.is_empty()
    }
}

/// Why something was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    Full,
    Closed,
}

/// A bounded queue that is emptied at one go.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    max_writes: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// A queue for at most so many writes, which bring at most so many bytes.
    pub(super) fn new(max_writes: usize, max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            max_writes,
            max_bytes,
        }
    }

    pub(super) fn write(&self, pending: Pending) -> Result<(), Rejected> {
        let size = pending.write.size();
        self.push(|state| {
            // A write that is alone is taken, however large.
            let writes = state.batch.writes.len();
            if writes > 0
                && (writes >= self.max_writes || state.bytes.saturating_add(size) > self.max_bytes)
            {
                return Err(Rejected::Full);
            }
            state.bytes += size;
            state.batch.writes.push(pending);
            Ok(())
        })
    }

    /// Never [`Rejected::Full`]: compactions come one at a time, minutes apart.
    pub(super) fn compact(&self, compaction: Compaction) -> Result<(), Rejected> {
        self.push(|state| {
            state.batch.compactions.push(compaction);
            Ok(())
        })
    }

    fn push(&self, push: impl FnOnce(&mut State) -> Result<(), Rejected>) -> Result<(), Rejected> {
        let mut state = self.lock();
        if state.closed {
            return Err(Rejected::Closed);
        }
        let was_empty = state.batch.is_empty();
        push(&mut state)?;
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Everything that is queued, as soon as there is something; or nothing, once `patience` is over. `None` when the
    /// queue is closed and empty.
    pub(super) fn take(&self, patience: Option<Duration>) -> Option<Batch> {
        let idle = |state: &mut State| state.batch.is_empty() && !state.closed;
        let state = self.lock();
        let mut state = match patience {
            None => self
                .filled
                .wait_while(state, idle)
                .unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.filled.wait_timeout_while(state, patience, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if state.closed && state.batch.is_empty() {
            return None;
        }
        state.bytes = 0;
        Some(std::mem::take(&mut state.batch))
    }

    /// Refuses what comes from now on; what is queued is still taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Expect;

    fn pending(value: usize) -> Pending {
        let write = Write::put("k", vec![0; value], Expect::Anything);
        Pending {
            write,
            done: oneshot::channel().0,
        }
    }

    #[test]
    fn holds_so_many_writes() {
        let queue = Queue::new(2, usize::MAX);
        assert_eq!(queue.write(pending(0)), Ok(()));
        assert_eq!(queue.write(pending(0)), Ok(()));
        assert_eq!(queue.write(pending(0)), Err(Rejected::Full));
        assert_eq!(queue.take(None).unwrap().writes.len(), 2);
        assert_eq!(queue.write(pending(0)), Ok(()));
    }

    #[test]
    fn holds_so_many_bytes_or_one_write() {
        let queue = Queue::new(10, 100);
        assert_eq!(queue.write(pending(1000)), Ok(()));
        assert_eq!(queue.write(pending(0)), Err(Rejected::Full));
        assert_eq!(queue.take(None).unwrap().writes.len(), 1);
        assert_eq!(queue.write(pending(90)), Ok(()));
        assert_eq!(queue.write(pending(8)), Ok(()));
        assert_eq!(queue.write(pending(0)), Err(Rejected::Full));
    }

    #[test]
    fn is_emptied_after_it_was_closed() {
        let queue = Queue::new(10, 100);
        assert_eq!(queue.write(pending(0)), Ok(()));
        queue.close();
        assert_eq!(queue.write(pending(0)), Err(Rejected::Closed));
        assert_eq!(queue.take(None).unwrap().writes.len(), 1);
        assert!(queue.take(None).is_none());
    }

    #[test]
    fn waits_no_longer_than_it_may() {
        assert!(
            Queue::new(1, 1)
                .take(Some(Duration::ZERO))
                .unwrap()
                .is_empty()
        );
    }
}
