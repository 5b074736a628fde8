//! A limit of CPU time for each period, as Linux's CFS bandwidth control has it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// As long as Kubernetes' default for containers.
pub(super) const PERIOD: Duration = Duration::from_millis(100);

/// What a thousandth of a core is in a period, in nanoseconds.
const PER_MILLICORE: i64 = 100_000;

/// So much time in each period. What a slice takes beyond it is owed, and taken off the next periods.
#[derive(Debug)]
pub(super) struct Quota {
    /// Nanoseconds; 0 for as much as there is.
    per_period: AtomicI64,
    period: Mutex<Period>,
}

#[derive(Debug)]
struct Period {
    start: Option<Instant>,
    /// Nanoseconds; negative when too much was used.
    left: i64,
}

impl Quota {
    /// In thousandths of a core; 0 for no limit.
    pub(super) fn new(limit: u32) -> Self {
        let per_period = i64::from(limit) * PER_MILLICORE;
        Self {
            per_period: AtomicI64::new(per_period),
            period: Mutex::new(Period {
                start: None,
                left: per_period,
            }),
        }
    }

    /// Sets another limit; what is left of the period, or owed, changes with it.
    pub(super) fn set(&self, limit: u32) {
        let per_period = i64::from(limit) * PER_MILLICORE;
        let before = self.per_period.swap(per_period, Ordering::Relaxed);
        let mut period = self.lock();
        period.left = period.left.saturating_add(per_period - before);
    }

    /// Whether there is a limit.
    pub(super) fn is_set(&self) -> bool {
        self.per_period() > 0
    }

    fn per_period(&self) -> i64 {
        self.per_period.load(Ordering::Relaxed)
    }

    pub(super) fn charge(&self, nanoseconds: u64) {
        let spent = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
        let mut period = self.lock();
        period.left = period.left.saturating_sub(spent);
    }

    /// When there is something left again; `None` if there is now.
    pub(super) fn exhausted_until(&self, now: Instant) -> Option<Instant> {
        let per_period = self.per_period();
        let mut period = self.lock();
        let start = *period.start.get_or_insert(now);
        let passed = now.saturating_duration_since(start).as_nanos() / PERIOD.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            // What was not used is not kept: it is a limit, not an allowance.
            let granted = per_period.saturating_mul(i64::from(passed));
            period.left = period.left.saturating_add(granted).min(per_period);
            period.start = PERIOD
                .checked_mul(passed)
                .and_then(|passed| start.checked_add(passed));
        }
        if period.left > 0 || per_period <= 0 {
            return None;
        }
        let periods = period.left.unsigned_abs() / per_period.unsigned_abs() + 1;
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        period
            .start
            .unwrap_or(now)
            .checked_add(PERIOD.saturating_mul(periods))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Period> {
        self.period.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn what_is_used_up_comes_back_with_the_next_period() {
        let quota = Quota::new(200);
        let start = Instant::now();
        assert_eq!(quota.exhausted_until(start), None);
        quota.charge(19 * MS);
        assert_eq!(quota.exhausted_until(after(start, 19)), None);
        quota.charge(MS);
        assert_eq!(
            quota.exhausted_until(after(start, 20)),
            Some(after(start, 100))
        );
        assert_eq!(quota.exhausted_until(after(start, 100)), None);
    }

    #[test]
    fn another_limit_counts_at_once() {
        let quota = Quota::new(100);
        let start = Instant::now();
        assert_eq!(quota.exhausted_until(start), None);
        quota.charge(10 * MS);
        assert!(quota.exhausted_until(start).is_some());
        quota.set(200);
        assert_eq!(quota.exhausted_until(start), None);
        quota.charge(10 * MS);
        assert!(quota.exhausted_until(start).is_some());
        quota.set(0);
        assert!(!quota.is_set());
        assert_eq!(quota.exhausted_until(start), None);
        quota.set(100);
        assert!(
            quota.exhausted_until(start).is_some(),
            "what was owed is owed"
        );
    }

    #[test]
    fn what_was_too_much_is_owed() {
        // A millicore is a tenth of a millisecond, far less than a slice.
        let quota = Quota::new(1);
        let start = Instant::now();
        assert_eq!(quota.exhausted_until(start), None);
        quota.charge(MS);
        let again = after(start, 1000);
        assert_eq!(quota.exhausted_until(after(start, 1)), Some(again));
        assert_eq!(quota.exhausted_until(after(start, 555)), Some(again));
        assert_eq!(quota.exhausted_until(again), None);
    }

    #[test]
    fn idle_periods_are_not_saved_up() {
        let quota = Quota::new(100);
        let start = Instant::now();
        assert_eq!(quota.exhausted_until(start), None);
        let later = after(start, 100_000);
        assert_eq!(quota.exhausted_until(later), None);
        quota.charge(10 * MS);
        assert!(quota.exhausted_until(later).is_some());
    }
}
