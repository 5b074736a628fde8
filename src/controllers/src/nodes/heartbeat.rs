//! When each node was last heard of.
//!
//! What counts is when a sign of life *arrived* here, by this process's own clock. The times in the signs are the nodes'
//! clocks, and serve only to tell a new sign from one seen before.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

/// Something by which a node says that it is alive, with the node's own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It renewed its Lease.
    Lease(Timestamp),
    /// It posted its status.
    Status(Timestamp),
}

/// The last signs of life of all nodes.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    by_node: Mutex<HashMap<String, LastSign>>,
}

#[derive(Debug)]
struct LastSign {
    lease: Option<Timestamp>,
    status: Option<Timestamp>,
    arrived: Instant,
}

impl LastSign {
    fn nothing(now: Instant) -> Self {
        Self {
            lease: None,
            status: None,
            arrived: now,
        }
    }
}

impl Heartbeats {
    /// `node` gave a sign, perhaps one that was seen before.
    pub(super) fn sign(&self, node: &str, sign: Sign, now: Instant) {
        let mut by_node = self.lock();
        let last = by_node
            .entry(node.to_owned())
            .or_insert_with(|| LastSign::nothing(now));
        let (slot, time) = match sign {
            Sign::Lease(time) => (&mut last.lease, time),
            Sign::Status(time) => (&mut last.status, time),
        };
        if slot.replace(time) != Some(time) {
            last.arrived = now;
        }
    }

    /// For how long `node` has given no sign. A node is first given the benefit of the doubt from now on.
    pub(super) fn silence(&self, node: &str, now: Instant) -> Duration {
        let mut by_node = self.lock();
        let last = by_node
            .entry(node.to_owned())
            .or_insert_with(|| LastSign::nothing(now));
        now.duration_since(last.arrived)
    }

    /// Gives all nodes the benefit of the doubt from now on.
    pub(super) fn forgive(&self, now: Instant) {
        for last in self.lock().values_mut() {
            last.arrived = now;
        }
    }

    /// The node is gone.
    pub(super) fn forget(&self, node: &str) {
        self.lock().remove(node);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, LastSign>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_new_sign_ends_the_silence() {
        let heartbeats = Heartbeats::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(
            heartbeats.silence("n", start),
            Duration::ZERO,
            "not heard of before"
        );
        heartbeats.sign("n", Sign::Lease(at(7)), later(10));
        heartbeats.sign("n", Sign::Lease(at(7)), later(20));
        assert_eq!(heartbeats.silence("n", later(30)), Duration::from_secs(20));
        heartbeats.sign("n", Sign::Status(at(7)), later(30));
        assert_eq!(heartbeats.silence("n", later(30)), Duration::ZERO);
        heartbeats.sign("n", Sign::Lease(at(3)), later(40));
        assert_eq!(
            heartbeats.silence("n", later(40)),
            Duration::ZERO,
            "a clock that was set back is alive"
        );
        heartbeats.forget("n");
        assert_eq!(heartbeats.silence("n", later(90)), Duration::ZERO);
    }
}
