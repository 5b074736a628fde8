//! Thresholds that may be crossed for a while, as a kubelet's `--eviction-soft` has them. Pure.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::thresholds::{Crossed, EvictionThresholds, Signal, ThresholdError};

/// Below what the node is under pressure, and ends pods if that lasts. They get time to end. The default is no threshold at
/// all, as upstream's is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftEviction {
    thresholds: EvictionThresholds,
    /// How long each may be crossed.
    periods: BTreeMap<Signal, Duration>,
    /// The most time that a pod gets to end.
    max_pod_grace: Duration,
}

impl Default for SoftEviction {
    fn default() -> Self {
        Self {
            thresholds: EvictionThresholds::none(),
            periods: BTreeMap::new(),
            max_pod_grace: Duration::ZERO,
        }
    }
}

impl SoftEviction {
    /// `periods` says for each signal of a threshold how long that may be crossed. A pod that is ended gets its own grace
    /// period, but not more than `max_pod_grace`.
    ///
    /// Errors: a threshold without a period, a period without a threshold, or two for one.
    pub fn new(
        thresholds: EvictionThresholds,
        periods: &[(String, Duration)],
        max_pod_grace: Duration,
    ) -> Result<Self, ThresholdError> {
        let mut known = BTreeMap::new();
        for (name, period) in periods {
            let signal = Signal::named(name)?;
            if !thresholds.signals().any(|has| has == signal) {
                return Err(ThresholdError::NoThreshold(name.clone()));
            }
            if known.insert(signal, *period).is_some() {
                return Err(ThresholdError::Twice(name.clone()));
            }
        }
        let lacking = thresholds
            .signals()
            .find(|signal| !known.contains_key(signal));
        if let Some(signal) = lacking {
            return Err(ThresholdError::NoPeriod(signal.as_str()));
        }
        Ok(Self {
            thresholds,
            periods: known,
            max_pod_grace,
        })
    }

    pub(super) fn thresholds(&self) -> &EvictionThresholds {
        &self.thresholds
    }

    /// What a pod gets to end that would take so long by itself.
    pub(super) fn grace(&self, own: Duration) -> Duration {
        own.min(self.max_pod_grace)
    }
}

/// Since when each soft threshold is crossed without a break.
#[derive(Debug, Default)]
pub(super) struct Since(BTreeMap<Signal, Instant>);

impl Since {
    /// Those of the crossed thresholds that have been so for longer than they may.
    pub(super) fn overdue(
        &mut self,
        now: Instant,
        soft: &SoftEviction,
        crossed: Vec<Crossed>,
    ) -> Vec<Crossed> {
        self.0
            .retain(|signal, _| crossed.iter().any(|one| one.signal == *signal));
        let is_overdue = |one: &Crossed| {
            let since = *self.0.entry(one.signal).or_insert(now);
            let period = soft.periods.get(&one.signal).copied();
            now.duration_since(since) >= period.unwrap_or_default()
        };
        crossed.into_iter().filter(is_overdue).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soft(thresholds: &str, periods: &[(&str, u64)]) -> Result<SoftEviction, ThresholdError> {
        let periods: Vec<_> = periods
            .iter()
            .map(|(name, seconds)| ((*name).to_owned(), Duration::from_secs(*seconds)))
            .collect();
        SoftEviction::new(
            thresholds.parse().unwrap(),
            &periods,
            Duration::from_secs(10),
        )
    }

    #[test]
    fn each_threshold_has_one_period() {
        let memory = ("memory.available", 30);
        assert!(soft("memory.available<1Gi", &[memory]).is_ok());
        for (thresholds, periods, part) in [
            ("memory.available<1Gi", &[][..], "no grace period"),
            ("", &[memory], "no soft threshold"),
            ("memory.available<1Gi", &[memory, memory], "two"),
            ("memory.available<1Gi", &[("memory", 1)], "no signal"),
        ] {
            let error = soft(thresholds, periods).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_crossed_for_long_enough_is_overdue() {
        let soft = soft("memory.available<1Gi", &[("memory.available", 30)]).unwrap();
        let crossed = Crossed {
            signal: Signal::Memory,
            least: 1 << 30,
            available: 0,
        };
        let (mut since, start) = (Since::default(), Instant::now());
        let mut at = |seconds, is_crossed: bool| {
            let crossed = is_crossed.then_some(crossed).into_iter().collect();
            let now = start + Duration::from_secs(seconds);
            !since.overdue(now, &soft, crossed).is_empty()
        };
        assert!(!at(0, true) && !at(29, true) && at(30, true));
        // From the beginning again.
        assert!(!at(40, false) && !at(50, true) && at(80, true));
    }

    #[test]
    fn a_pod_gets_its_own_grace_but_not_more_than_is_left() {
        let soft = soft("", &[]).unwrap();
        assert_eq!(soft.grace(Duration::from_secs(5)), Duration::from_secs(5));
        assert_eq!(soft.grace(Duration::from_secs(30)), Duration::from_secs(10));
    }
}
