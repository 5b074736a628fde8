//! How long to wait before something that failed is tried again. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(10);
/// The longest wait. After twice that time without a failure, it all begins anew.
const LONGEST: Duration = Duration::from_mins(5);

/// Waits between a container's instances: upstream's `flowcontrol.Backoff`. The first failure is not waited for.
#[derive(Debug, Clone, Default)]
pub(super) struct BackOff {
    last: Option<Wait>,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    length: Duration,
    /// When the attempt that it was for began.
    since: Instant,
}

impl Wait {
    fn is_forgotten(self, failed: Instant) -> bool {
        failed.saturating_duration_since(self.since) > 2 * LONGEST
    }
}

impl BackOff {
    /// The wait that is due after a failure at that time, and when it ends. `None`: try again at once.
    pub(super) fn due(&self, failed: Instant) -> Option<(Duration, Instant)> {
        let last = self.last.filter(|last| !last.is_forgotten(failed))?;
        Some((last.length, failed + last.length))
    }

    /// Takes note that a new attempt begins after a failure at that time.
    pub(super) fn attempt(&mut self, failed: Instant, now: Instant) {
        let length = match self.last.filter(|last| !last.is_forgotten(failed)) {
            Some(last) => (2 * last.length).min(LONGEST),
            None => FIRST,
        };
        self.last = Some(Wait { length, since: now });
    }
}

/// Waits that double each time, for what is tried again until it succeeds.
#[derive(Debug, Clone)]
pub(super) struct Doubling {
    next: Duration,
    longest: Duration,
}

impl Doubling {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            next: first,
            longest,
        }
    }

    /// For what upstream backs off from as it does from crashes.
    pub(super) const fn as_for_crashes() -> Self {
        Self::new(FIRST, LONGEST)
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (2 * wait).min(self.longest);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_ends_at_the_longest() {
        let mut doubling = Doubling::as_for_crashes();
        let waits: Vec<u64> = (0..7).map(|_| doubling.next().as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_are_forgotten_after_ten() {
        let mut now = Instant::now();
        let mut backoff = BackOff::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let failed = now;
            let due = backoff.due(failed);
            waits.push(due.map_or(0, |(length, _)| length.as_secs()));
            now = due.map_or(failed, |(_, end)| end);
            backoff.attempt(failed, now);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        let failed = now + Duration::from_secs(599);
        assert!(backoff.due(failed).is_some());
        let failed = now + Duration::from_secs(601);
        assert!(backoff.due(failed).is_none());
        backoff.attempt(failed, failed);
        assert_eq!(backoff.due(failed).unwrap().0, FIRST);
    }
}
