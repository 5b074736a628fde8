//! Memory limits: one budget for a process, on which all its instances draw, for their memories and tables as for what they
//! make the host keep: what is behind their handles (see [`kept`](crate::kept)), what waits in their connections, bodies that
//! are on their way, descriptors, queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vaquita_net::Payer;
use wasmtime::ResourceLimiter;

/// What an element of a table takes.
const TABLE_ELEMENT: u64 = size_of::<usize>() as u64;

/// Bytes of memory that a process may have, and has.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicU64::new(limit.unwrap_or(u64::MAX)),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Sets another limit, unless more than that is used now: then it says how much that is.
    pub(crate) fn set_limit(&self, limit: Option<u64>) -> Result<(), u64> {
        let limit = limit.unwrap_or(u64::MAX);
        let before = self.limit.swap(limit, Ordering::SeqCst);
        let used = self.used.load(Ordering::SeqCst);
        if used > limit {
            self.limit.store(before, Ordering::SeqCst);
            return Err(used);
        }
        Ok(())
    }

    fn take(&self, bytes: u64) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= limit)
            });
        if let Ok(before) = taken {
            self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// See [`Purse::charge`].
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// What an instance draws on its process's budget with, and whether that was ever refused. It outlives the instance: to
/// explain its end, and to take back what others still have to read of it.
#[derive(Debug)]
pub(crate) struct Purse {
    budget: Arc<Budget>,
    refused: AtomicBool,
}

impl Purse {
    pub(crate) fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            budget,
            refused: AtomicBool::new(false),
        })
    }

    fn take(&self, bytes: u64) -> bool {
        let granted = self.budget.take(bytes);
        if !granted {
            self.note_refusal();
        }
        granted
    }

    fn note_refusal(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Bytes that the host keeps for the process, until the result is dropped. `None` if it may not have so many more, which
    /// explains the instance's end, should it come to that.
    pub(crate) fn charge(&self, bytes: u64) -> Option<Charge> {
        self.take(bytes).then(|| Charge {
            budget: Arc::clone(&self.budget),
            bytes,
        })
    }
}

/// What waits in a connection until its other end reads it.
impl Payer for Purse {
    fn take(&self, bytes: usize) -> bool {
        self.take(bytes as u64)
    }

    fn give_back(&self, bytes: usize) {
        self.budget.give_back(bytes as u64);
    }
}

/// Whether an instance was refused memory.
#[derive(Clone, Debug)]
pub(crate) struct Refusals(Arc<Purse>);

impl Refusals {
    pub(crate) fn any(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// What the engine has room for, whatever a budget says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceilings {
    /// Bytes of one linear memory.
    pub(crate) memory: usize,
    /// Elements of one table.
    pub(crate) table_elements: usize,
}

/// One instance's share of its process's budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    purse: Arc<Purse>,
    /// For memories and tables, which never shrink.
    taken: u64,
    /// For what the host keeps behind the instance's handles, when that was last looked at.
    kept: u64,
    ceilings: Ceilings,
}

impl Share {
    pub(crate) fn new(budget: Arc<Budget>, ceilings: Ceilings) -> Self {
        Self::of(Purse::new(budget), ceilings)
    }

    fn of(purse: Arc<Purse>, ceilings: Ceilings) -> Self {
        Self {
            purse,
            taken: 0,
            kept: 0,
            ceilings,
        }
    }

    /// Another instance's of the same process, whose failures are explained by what either was refused.
    pub(crate) fn sibling(&self) -> Self {
        Self::of(self.purse(), self.ceilings)
    }

    pub(crate) fn purse(&self) -> Arc<Purse> {
        Arc::clone(&self.purse)
    }

    pub(crate) fn refusals(&self) -> Refusals {
        Refusals(self.purse())
    }

    fn take(&mut self, bytes: u64) -> bool {
        let granted = self.purse.take(bytes);
        if granted {
            self.taken += bytes;
        }
        granted
    }

    /// So much is behind the instance's handles now. `false` if it may not have that.
    pub(crate) fn keep(&mut self, bytes: u64) -> bool {
        if bytes > self.kept && !self.purse.take(bytes - self.kept) {
            return false;
        }
        self.purse.budget.give_back(self.kept.saturating_sub(bytes));
        self.kept = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.purse.budget.give_back(self.taken + self.kept);
    }
}

/// A growth that was granted and then failed in the kernel stays on the account until the instance ends. The engine
/// reports some failures that it never asked about, so giving back on report would let a guest wipe its account.
impl ResourceLimiter for Share {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // What the guest itself declared as the most it wants is its own affair, no refusal of the budget's.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        if desired > self.ceilings.memory {
            self.purse.note_refusal();
            return Ok(false);
        }
        Ok(self.take(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "a guest's memory could not grow");
        self.purse.note_refusal();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let most = maximum
            .unwrap_or(usize::MAX)
            .min(self.ceilings.table_elements);
        if desired > most {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.take(elements.saturating_mul(TABLE_ELEMENT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Ceilings = Ceilings {
        memory: 1 << 20,
        table_elements: 1000,
    };

    fn share(budget: &Arc<Budget>) -> Share {
        Share::new(Arc::clone(budget), ROOMY)
    }

    fn grow(share: &mut Share, from: usize, to: usize) -> bool {
        share.memory_growing(from, to, None).expect("no error")
    }

    #[test]
    fn shares_draw_on_one_budget_and_give_back() {
        let budget = Budget::new(Some(100));
        let (mut one, mut other) = (share(&budget), share(&budget));
        assert!(grow(&mut one, 0, 60));
        assert!(!grow(&mut other, 0, 41));
        assert!(other.refusals().any());
        assert!(!one.refusals().any());
        assert!(grow(&mut other, 0, 40));
        drop(one);
        assert_eq!((budget.used(), budget.peak()), (40, 100));
        assert!(grow(&mut other, 40, 100));
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn tables_count_as_memory() {
        let budget = Budget::new(Some(8 * TABLE_ELEMENT));
        let mut share = share(&budget);
        assert!(share.table_growing(0, 8, None).expect("no error"));
        assert!(!grow(&mut share, 0, 1));
    }

    #[test]
    fn failures_the_engine_never_asked_about_don_t_wipe_the_account() {
        let budget = Budget::new(None);
        let mut share = share(&budget);
        assert!(grow(&mut share, 0, 10));
        share
            .memory_grow_failed(wasmtime::Error::msg("beyond the type's limits"))
            .expect("no error");
        assert_eq!(budget.used(), 10);
        drop(share);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_the_host_keeps_comes_and_goes() {
        let budget = Budget::new(Some(100));
        let mut share = share(&budget);
        assert!(grow(&mut share, 0, 50));
        assert!(share.keep(40));
        assert!(!share.keep(51));
        assert!(share.refusals().any());
        assert_eq!(budget.used(), 90);
        assert!(share.keep(10));
        let charge = share.purse().charge(40).expect("room");
        assert!(share.purse().charge(1).is_none());
        drop(share);
        assert_eq!(budget.used(), 40, "it outlives the instance");
        drop(charge);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_guests_own_maximum_is_no_refusal() {
        let mut share = share(&Budget::new(Some(100)));
        assert!(!share.memory_growing(0, 20, Some(10)).expect("no error"));
        assert!(!share.refusals().any());
    }

    #[test]
    fn no_budget_goes_beyond_what_the_engine_has_room_for() {
        let budget = Budget::new(None);
        let mut share = share(&budget);
        assert!(!grow(&mut share, 0, ROOMY.memory + 1));
        assert!(
            !share
                .table_growing(0, ROOMY.table_elements + 1, None)
                .expect("no error")
        );
        assert_eq!(budget.used(), 0);
    }
}
