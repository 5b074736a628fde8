//! What a fabric counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::NetError;

/// Figures of a fabric, at one moment. Counters count since the fabric was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Pods attached now.
    pub pods: usize,
    /// Pod addresses in use now: those of `pods`, and of pods that are just closing.
    pub addresses_used: usize,
    /// Pod addresses that the network has.
    pub addresses: usize,
    /// Services now.
    pub services: usize,
    /// Node ports open on the host now.
    pub node_ports: usize,
    /// Counter: connects by pods and by the node that succeeded.
    pub connects: u64,
    /// Counter: those that failed for whatever reason; the next three are among them.
    pub connects_failed: u64,
    /// Counter: connects refused.
    pub connects_refused: u64,
    /// Counter: connects timed out.
    pub connects_timed_out: u64,
    /// Counter: connects denied by policy.
    pub connects_denied: u64,
    /// Counter: sockets of the host handed to a pod.
    pub delivered: u64,
    /// Counter: sockets of the host for which there was no pod or no room, and which were reset.
    pub undelivered: u64,
    /// Counter: connections relayed between two sockets of the host.
    pub relayed: u64,
    /// Connects that are held now, until a Service that sleeps has an endpoint.
    pub held: usize,
    /// Counter: connects that were held and then found an endpoint.
    pub woken: u64,
    /// Counter: connects that were held in vain, or for which there was no room to be held.
    pub not_woken: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    connects: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    denied: AtomicU64,
    delivered: AtomicU64,
    undelivered: AtomicU64,
    relayed: AtomicU64,
    woken: AtomicU64,
    not_woken: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn count_connect<T>(&self, connected: &Result<T, NetError>) {
        let Err(error) = connected else {
            return bump(&self.connects);
        };
        bump(&self.failed);
        match error {
            NetError::ConnectionRefused(_) => bump(&self.refused),
            NetError::TimedOut(_) => bump(&self.timed_out),
            NetError::Denied(_) => bump(&self.denied),
            _ => {}
        }
    }

    pub(crate) fn count_delivery(&self, delivered: &Result<(), NetError>) {
        bump(if delivered.is_ok() {
            &self.delivered
        } else {
            &self.undelivered
        });
    }

    pub(crate) fn count_held<T>(&self, held: &Result<T, NetError>) {
        bump(if held.is_ok() {
            &self.woken
        } else {
            &self.not_woken
        });
    }

    pub(crate) fn count_relay(&self) {
        bump(&self.relayed);
    }

    /// The counters; gauges are 0.
    pub(crate) fn snapshot(&self) -> Metrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Metrics {
            connects: read(&self.connects),
            connects_failed: read(&self.failed),
            connects_refused: read(&self.refused),
            connects_timed_out: read(&self.timed_out),
            connects_denied: read(&self.denied),
            delivered: read(&self.delivered),
            undelivered: read(&self.undelivered),
            relayed: read(&self.relayed),
            woken: read(&self.woken),
            not_woken: read(&self.not_woken),
            ..Metrics::default()
        }
    }
}
