//! How far and how fast a number of replicas may change: the bounds, the windows of stabilization, the policies.

use std::{collections::VecDeque, time::Duration};

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules};
use tokio::time::Instant;

/// For how long the highest recommendation holds, if nothing else is said.
pub(super) const DOWN_WINDOW: Duration = Duration::from_mins(5);
/// The longest time that a window or a period may be (the API allows no longer ones).
const LONGEST: Duration = Duration::from_hours(1);

/// A reason and a message, for a condition.
pub(super) type Said = (&'static str, &'static str);

const READY: Said = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Said = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: Said = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: Said = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const TOO_FEW: Said = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const TOO_MANY: Said = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const UP_LIMIT: Said = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const DOWN_LIMIT: Said = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

/// What was recommended and done lately for one autoscaler. It is kept in memory alone: after a restart, nothing goes
/// down before a whole window was seen.
#[derive(Debug, Default)]
pub(super) struct History {
    recommended: VecDeque<(Instant, i32)>,
    /// By how many replicas it was changed.
    up: VecDeque<(Instant, i32)>,
    down: VecDeque<(Instant, i32)>,
}

fn within(
    events: &VecDeque<(Instant, i32)>,
    now: Instant,
    window: Duration,
) -> impl Iterator<Item = i32> {
    let recent = events
        .iter()
        .filter(move |(at, _)| now.duration_since(*at) < window);
    recent.map(|(_, value)| *value)
}

impl History {
    /// Whether nothing was ever recommended.
    pub(super) fn is_new(&self) -> bool {
        self.recommended.is_empty()
    }

    /// Notes a recommendation.
    pub(super) fn recommend(&mut self, replicas: i32, now: Instant) {
        self.recommended.push_back((now, replicas));
        self.forget(now);
    }

    /// Notes a change.
    pub(super) fn scaled(&mut self, from: i32, to: i32, now: Instant) {
        if to > from {
            self.up.push_back((now, to - from));
        } else {
            self.down.push_back((now, from - to));
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        for events in [&mut self.recommended, &mut self.up, &mut self.down] {
            while events
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > LONGEST)
            {
                events.pop_front();
            }
        }
    }

    /// The number at the beginning of a policy's period.
    fn at_start(&self, current: i32, policy: &HPAScalingPolicy, now: Instant) -> i32 {
        let period = seconds(policy.period_seconds);
        let sum = |events| within(events, now, period).fold(0_i32, i32::saturating_add);
        current
            .saturating_sub(sum(&self.up))
            .saturating_add(sum(&self.down))
    }
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The bounds and rules of one autoscaler.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits<'l> {
    pub(super) min: i32,
    pub(super) max: i32,
    /// The rules for either direction, if any are given.
    pub(super) behavior: Option<(&'l HPAScalingRules, &'l HPAScalingRules)>,
}

/// What became of a recommendation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) replicas: i32,
    /// About `AbleToScale`.
    pub(super) able: Said,
    /// About `ScalingLimited`, and whether that is so.
    pub(super) limited: (bool, Said),
}

/// Applies the limits to a recommendation, which is noted.
pub(super) fn decide(
    limits: Limits<'_>,
    history: &mut History,
    current: i32,
    recommended: i32,
    now: Instant,
) -> Decision {
    let (stabilized, why) = stabilize(limits, history, current, recommended, now);
    history.recommend(recommended, now);
    let able = if stabilized == recommended {
        READY
    } else {
        why
    };
    let (replicas, said) = match limits.behavior {
        None => bounded(limits, current, stabilized),
        Some((up, down)) => paced(limits, (up, down), history, current, stabilized, now),
    };
    Decision {
        replicas,
        able,
        limited: (replicas != stabilized, said),
    }
}

/// Of the recommendations of late, the one that changes the least.
fn stabilize(
    limits: Limits<'_>,
    history: &History,
    current: i32,
    recommended: i32,
    now: Instant,
) -> (i32, Said) {
    let window = |rules: &HPAScalingRules| rules.stabilization_window_seconds.map(seconds);
    let (up, down) = match limits.behavior {
        // Without rules only the way down is slow.
        None => {
            let highest =
                within(&history.recommended, now, DOWN_WINDOW).fold(recommended, i32::max);
            return (highest, DOWN_STABILIZED);
        }
        Some((up, down)) => (
            window(up).unwrap_or_default(),
            window(down).unwrap_or(DOWN_WINDOW),
        ),
    };
    let lowest = within(&history.recommended, now, up).fold(recommended, i32::min);
    let highest = within(&history.recommended, now, down).fold(recommended, i32::max);
    let why = if recommended >= current {
        UP_STABILIZED
    } else {
        DOWN_STABILIZED
    };
    (current.max(lowest).min(highest), why)
}

/// Within the bounds, and not more than twice as many at once.
fn bounded(limits: Limits<'_>, current: i32, wanted: i32) -> (i32, Said) {
    if wanted < limits.min {
        return (limits.min, TOO_FEW);
    }
    let rate = current.saturating_mul(2).max(4);
    let (most, said) = if limits.max > rate {
        (rate, UP_LIMIT)
    } else {
        (limits.max, TOO_MANY)
    };
    if wanted > most {
        return (most, said);
    }
    (wanted, WITHIN)
}

/// Within the bounds, and as fast as the rules allow.
fn paced(
    limits: Limits<'_>,
    (up, down): (&HPAScalingRules, &HPAScalingRules),
    history: &History,
    current: i32,
    wanted: i32,
    now: Instant,
) -> (i32, Said) {
    if wanted > current {
        let rate = most(up, history, current, now).max(current);
        let (most, said) = if limits.max > rate {
            (rate, UP_LIMIT)
        } else {
            (limits.max, TOO_MANY)
        };
        if wanted > most {
            return (most, said);
        }
    } else if wanted < current {
        let rate = least(down, history, current, now).min(current);
        let (least, said) = if limits.min < rate {
            (rate, DOWN_LIMIT)
        } else {
            (limits.min, TOO_FEW)
        };
        if wanted < least {
            return (least, said);
        }
    }
    (wanted, WITHIN)
}

/// A part of `whole`, rounded as told.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the cast stops at the bounds of the type"
)]
fn part(whole: i32, percent: i32, rounding: fn(f64) -> f64) -> i32 {
    rounding(f64::from(whole) * f64::from(percent) / 100.0) as i32
}

/// The most that the rules allow to go up to.
fn most(rules: &HPAScalingRules, history: &History, current: i32, now: Instant) -> i32 {
    let allowed = rules.policies.iter().flatten().map(|policy| {
        let start = history.at_start(current, policy, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(policy.value),
            _ => part(start, policy.value.saturating_add(100), f64::ceil),
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => Some(current),
        Some("Min") => allowed.min(),
        _ => allowed.max(),
    }
    .unwrap_or(i32::MAX)
}

/// The least that the rules allow to go down to.
fn least(rules: &HPAScalingRules, history: &History, current: i32, now: Instant) -> i32 {
    let allowed = rules.policies.iter().flatten().map(|policy| {
        let start = history.at_start(current, policy, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_sub(policy.value),
            _ => part(start, 100 - policy.value.clamp(0, 100), f64::trunc),
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => Some(current),
        Some("Min") => allowed.max(),
        _ => allowed.min(),
    }
    .unwrap_or(i32::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(select: &str, window: i32, policies: &[(&str, i32, i32)]) -> HPAScalingRules {
        let policies = policies
            .iter()
            .map(|(type_, value, period_seconds)| HPAScalingPolicy {
                type_: (*type_).to_owned(),
                value: *value,
                period_seconds: *period_seconds,
            });
        HPAScalingRules {
            policies: Some(policies.collect()),
            select_policy: Some(select.to_owned()),
            stabilization_window_seconds: Some(window),
            tolerance: None,
        }
    }

    fn plain(min: i32, max: i32) -> Limits<'static> {
        Limits {
            min,
            max,
            behavior: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_highest_recommendation_of_the_last_minutes_holds() {
        let mut history = History::default();
        let mut decide =
            |recommended| decide(plain(1, 100), &mut history, 10, recommended, Instant::now());
        assert_eq!(decide(12).replicas, 12);
        let held = decide(3);
        assert_eq!((held.replicas, held.able), (12, DOWN_STABILIZED));
        tokio::time::advance(DOWN_WINDOW).await;
        let free = decide(3);
        assert_eq!((free.replicas, free.able), (3, READY));
        assert_eq!(free.limited, (false, WITHIN));
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_limit_and_say_so() {
        let now = Instant::now();
        let decide = |limits, current, recommended| {
            let decision = decide(limits, &mut History::default(), current, recommended, now);
            (decision.replicas, decision.limited)
        };
        assert_eq!(decide(plain(2, 5), 3, 1), (2, (true, TOO_FEW)));
        assert_eq!(decide(plain(2, 5), 3, 9), (5, (true, TOO_MANY)));
        assert_eq!(decide(plain(2, 50), 3, 9), (6, (true, UP_LIMIT)));
    }

    #[tokio::test(start_paused = true)]
    async fn policies_count_what_was_done_in_their_periods() {
        let up = rules("Max", 0, &[("Pods", 4, 60), ("Percent", 50, 60)]);
        let down = rules("Min", 0, &[("Pods", 2, 60), ("Percent", 50, 60)]);
        let limits = Limits {
            min: 1,
            max: 100,
            behavior: Some((&up, &down)),
        };
        let mut history = History::default();
        let decide = |current, recommended, history: &mut History| {
            let decision = decide(limits, history, current, recommended, Instant::now());
            history.scaled(current, decision.replicas, Instant::now());
            (decision.replicas, decision.limited.1)
        };
        assert_eq!(decide(10, 90, &mut history), (15, UP_LIMIT));
        assert_eq!(
            decide(15, 90, &mut history),
            (15, UP_LIMIT),
            "all of this minute's was used"
        );
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(decide(15, 90, &mut history), (23, UP_LIMIT));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(decide(23, 1, &mut history), (21, DOWN_LIMIT));
        let frozen = rules("Disabled", 0, &[("Pods", 4, 60)]);
        let limits = Limits {
            behavior: Some((&frozen, &frozen)),
            ..limits
        };
        let mut history = History::default();
        let decision = super::decide(limits, &mut history, 5, 9, Instant::now());
        assert_eq!(decision.replicas, 5);
    }

    proptest! {
        /// Whatever is recommended, the outcome is within the bounds if what is there is.
        #[test]
        fn nothing_leaves_the_bounds(
            min in 0_i32..10, span in 0_i32..20, at in 0_i32..100, recommended in 0_i32..100, ruled: bool,
        ) {
            let max = min + span;
            let current = min + part(span, at, f64::floor);
            let rules = rules("Max", 0, &[("Percent", 100, 15)]);
            let behavior = ruled.then_some((&rules, &rules));
            let limits = Limits { min, max, behavior };
            let decision = decide(limits, &mut History::default(), current, recommended, Instant::now());
            prop_assert!((min..=max).contains(&decision.replicas), "{decision:?}");
        }
    }
}
