//! What the device counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Metrics;

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, amount: usize) {
        self.0.fetch_add(amount as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: Counter,
    pub(super) refused: Counter,
    pub(super) overflowed: Counter,
    pub(super) packets_in: Counter,
    pub(super) bytes_in: Counter,
    pub(super) packets_out: Counter,
    pub(super) bytes_out: Counter,
    pub(super) dropped: Counter,
}

impl Counters {
    pub(super) fn snapshot(&self, connections: usize) -> Metrics {
        Metrics {
            connections,
            accepted: self.accepted.get(),
            refused: self.refused.get(),
            overflowed: self.overflowed.get(),
            packets_in: self.packets_in.get(),
            bytes_in: self.bytes_in.get(),
            packets_out: self.packets_out.get(),
            bytes_out: self.bytes_out.get(),
            dropped: self.dropped.get(),
        }
    }
}
