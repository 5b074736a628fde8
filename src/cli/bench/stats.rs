//! Numbers that are made from many.

use std::time::Duration;

use serde::Serialize;

/// How long each of many things took.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    pub(super) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// `None` if there is nothing to tell of.
    pub(super) fn summary(mut self) -> Option<Latency> {
        self.0.sort_unstable();
        let max = *self.0.last()?;
        let ms = |took: Duration| took.as_secs_f64() * 1000.0;
        Some(Latency {
            p50: ms(self.quantile(50)),
            p99: ms(self.quantile(99)),
            max: ms(max),
        })
    }

    /// The smallest sample that at least so many percent of the samples do not exceed. The samples are sorted, and
    /// there is one.
    fn quantile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1]
    }
}

impl Extend<Duration> for Samples {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, samples: T) {
        self.0.extend(samples);
    }
}

impl IntoIterator for Samples {
    type Item = Duration;
    type IntoIter = std::vec::IntoIter<Duration>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// How long something takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    /// The median, in milliseconds.
    #[serde(rename = "p50Ms")]
    pub(super) p50: f64,
    /// What 99 of 100 do not exceed, in milliseconds.
    #[serde(rename = "p99Ms")]
    pub(super) p99: f64,
    /// The longest, in milliseconds.
    #[serde(rename = "maxMs")]
    pub(super) max: f64,
}

/// How many a second.
pub(super) fn rate(count: usize, took: Duration) -> f64 {
    let seconds = took.as_secs_f64();
    if seconds > 0.0 {
        to_f64(count) / seconds
    } else {
        0.0
    }
}

/// A count as a number to divide. Exact up to four thousand million, which nothing here reaches.
pub(super) fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ms: impl IntoIterator<Item = u64>) -> Samples {
        Samples(ms.into_iter().map(Duration::from_millis).collect())
    }

    fn assert_summary(samples: Samples, p50: f64, p99: f64, max: f64) {
        let got = samples.summary().unwrap();
        for (got, expected) in [(got.p50, p50), (got.p99, p99), (got.max, max)] {
            assert!((got - expected).abs() < 1e-9, "{got} instead of {expected}");
        }
    }

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Samples::default().summary(), None);
    }

    #[test]
    fn one_sample_is_all_of_it() {
        assert_summary(samples([7]), 7.0, 7.0, 7.0);
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        // In any order.
        assert_summary(samples((1..=100).rev()), 50.0, 99.0, 100.0);
        assert_summary(samples(1..=101), 51.0, 100.0, 101.0);
        assert_summary(samples([1, 2]), 1.0, 2.0, 2.0);
        assert_summary(samples([3, 1, 2]), 2.0, 3.0, 3.0);
        assert_summary(
            samples(std::iter::repeat_n(1, 99).chain([1000])),
            1.0,
            1.0,
            1000.0,
        );
        assert_summary(
            samples(std::iter::repeat_n(1, 98).chain([500, 1000])),
            1.0,
            500.0,
            1000.0,
        );
    }

    #[test]
    fn rates_are_by_the_second() {
        assert!((rate(50, Duration::from_millis(250)) - 200.0).abs() < 1e-9);
        assert!(rate(50, Duration::ZERO).abs() < 1e-9);
    }
}
