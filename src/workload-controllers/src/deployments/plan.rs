//! How many pods which replica set should have: the arithmetic of rollouts and of scaling, without any object.

use k8s_openapi::api::apps::v1::Deployment;

use crate::replicas::{Rounding, resolve};

/// How far a deployment may be from the number of pods it wants while it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// How many pods are wanted.
    pub(super) wanted: i32,
    /// How many there may be beyond that.
    pub(super) surge: i32,
    /// How many of those wanted may be unavailable.
    pub(super) unavailable: i32,
}

/// A replica set in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// How many pods it is told to have.
    pub(super) size: i32,
    /// How many of its pods are available.
    pub(super) available: i32,
}

/// A replica set that is to get its share of a change of the deployment's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// How many pods it is told to have.
    pub(super) size: i32,
    /// How many pods the whole deployment could have when this size was set.
    pub(super) whole: i32,
}

impl Limits {
    /// The limits of `deployment`; without a rolling update nothing is above or below.
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
        if is_recreate(deployment) {
            return Self {
                wanted,
                surge: 0,
                unavailable: 0,
            };
        }
        let rolling = spec.and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
        let surge = resolve(
            rolling.and_then(|rolling| rolling.max_surge.as_ref()),
            wanted,
            Rounding::Up,
        );
        let unavailable = resolve(
            rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
            wanted,
            Rounding::Down,
        );
        Self {
            wanted,
            surge,
            // Percentages of few pods may both round to nothing, and then nothing could ever move.
            unavailable: if surge == 0 && unavailable == 0 {
                1.min(wanted)
            } else {
                unavailable.min(wanted)
            },
        }
    }

    /// How many pods there may be.
    pub(super) fn most(&self) -> i32 {
        self.wanted.saturating_add(self.surge)
    }

    /// How many pods must be available.
    pub(super) fn least(&self) -> i32 {
        self.wanted - self.unavailable
    }

    /// The next size of the new replica set, now of `size`, when there are `total` pods in all.
    pub(super) fn grow(&self, size: i32, total: i64) -> i32 {
        if size >= self.wanted {
            return self.wanted;
        }
        let room = i64::from(self.most()) - total;
        let missing = i64::from(self.wanted - size);
        size.saturating_add(narrow(room.min(missing).max(0)))
    }

    /// The next sizes of the old replica sets, oldest first: first those pods go that are no use to anybody, then as many as
    /// can be spared.
    pub(super) fn shrink(&self, new: Counted, old: &[Counted]) -> Vec<i32> {
        let mut sizes: Vec<i32> = old.iter().map(|set| set.size).collect();
        let old_total = sum(sizes.iter().copied());
        let least = i64::from(self.least());
        // Pods of the new set that are not available yet must be able to become so before anything else goes.
        let pending = i64::from(new.size) - i64::from(new.available);
        let spare = old_total + i64::from(new.size) - least - pending;
        if old_total == 0 || spare <= 0 {
            return sizes;
        }
        let unhealthy = old.iter().map(|set| set.size - set.available).collect();
        take(&mut sizes, unhealthy, spare);
        let available = sum(old.iter().map(|set| set.available)) + i64::from(new.available);
        let rest = sizes.clone();
        take(&mut sizes, rest, available - least);
        sizes
    }

    /// The sizes of replica sets that all have pods, the largest first, after the deployment's size has changed: each gets
    /// its share, and what rounding leaves over is the first one's.
    pub(super) fn proportional(&self, sets: &[Share]) -> Vec<i32> {
        let whole = if self.wanted > 0 { self.most() } else { 0 };
        let to_add = i64::from(whole) - sum(sets.iter().map(|set| set.size));
        let mut added = 0;
        let mut sizes: Vec<i32> = sets
            .iter()
            .map(|set| {
                let left = to_add - added;
                let share = self.fraction(*set);
                // Never against the direction of the whole, whatever its size is said to have been.
                let share = if to_add > 0 {
                    share.clamp(0, left)
                } else {
                    share.clamp(left, 0)
                };
                added += share;
                narrow(i64::from(set.size) + share)
            })
            .collect();
        let left = to_add - added;
        if left < 0 {
            let all = sizes.clone();
            take(&mut sizes, all, -left);
        } else if let Some(first) = sizes.first_mut() {
            *first = narrow(i64::from(*first) + left);
        }
        sizes
    }

    /// By how much a set grows (or shrinks, below zero) if it keeps its share of the whole.
    fn fraction(&self, set: Share) -> i64 {
        if self.wanted == 0 {
            return -i64::from(set.size);
        }
        if set.whole <= 0 {
            return 0;
        }
        let (size, whole) = (i64::from(set.size), i64::from(set.whole));
        // Rounded to the nearest, halves up: all are positive.
        (size * i64::from(self.most()) * 2 + whole) / (2 * whole) - size
    }
}

/// Whether all old pods must be gone before the first new one is made.
pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref()?.type_.as_deref());
    strategy == Some("Recreate")
}

/// The sum of counts, which may be more than one count can be.
pub(super) fn sum(counts: impl IntoIterator<Item = i32>) -> i64 {
    counts.into_iter().map(i64::from).sum()
}

/// A count as the API has it.
pub(super) fn narrow(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(if count < 0 { i32::MIN } else { i32::MAX })
}

/// Takes at most `most[i]` from each of `sizes`, in order, and at most `budget` from all.
fn take(sizes: &mut [i32], most: Vec<i32>, mut budget: i64) {
    for (size, most) in sizes.iter_mut().zip(most) {
        let taken = narrow(budget).clamp(0, most.min(*size).max(0));
        *size -= taken;
        budget -= i64::from(taken);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn limits(replicas: i32, surge: &Value, unavailable: &Value) -> Limits {
        let deployment = json!({
            "metadata": {},
            "spec": {
                "replicas": replicas,
                "selector": {},
                "template": {},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable },
                },
            },
        });
        Limits::of(&serde_json::from_value(deployment).unwrap())
    }

    fn of(wanted: i32, surge: i32, unavailable: i32) -> Limits {
        Limits {
            wanted,
            surge,
            unavailable,
        }
    }

    #[test]
    fn percentages_round_so_that_more_pods_stay() {
        let quarter = json!("25%");
        assert_eq!(limits(10, &quarter, &quarter), of(10, 3, 2));
        assert_eq!(limits(3, &quarter, &quarter), of(3, 1, 0));
        assert_eq!(limits(4, &json!(2), &json!(9)), of(4, 2, 4));
        assert_eq!(limits(0, &quarter, &quarter), of(0, 0, 0));
        assert_eq!(
            limits(3, &json!("0%"), &quarter),
            of(3, 0, 1),
            "something must be able to move"
        );
    }

    #[test]
    fn recreating_leaves_no_room() {
        let deployment = json!({
            "metadata": {},
            "spec": { "selector": {}, "template": {}, "strategy": { "type": "Recreate" } },
        });
        let deployment = serde_json::from_value(deployment).unwrap();
        assert_eq!(Limits::of(&deployment), of(1, 0, 0));
    }

    #[test]
    fn pods_that_are_no_use_go_first() {
        let new = Counted {
            size: 3,
            available: 0,
        };
        let old = [
            Counted {
                size: 5,
                available: 5,
            },
            Counted {
                size: 5,
                available: 1,
            },
        ];
        // 13 pods, 8 must be available, 3 are on their way: 2 may go, and only the second set has any that are no use.
        assert_eq!(of(10, 3, 2).shrink(new, &old), [5, 3]);
    }

    #[test]
    fn a_new_size_is_shared_out_by_size() {
        let share = |size| Share { size, whole: 10 };
        let shares = [share(5), share(3), share(2)];
        assert_eq!(of(20, 0, 0).proportional(&shares), [10, 6, 4]);
        assert_eq!(of(5, 0, 0).proportional(&shares), [2, 2, 1]);
        assert_eq!(of(0, 1, 0).proportional(&shares), [0, 0, 0]);
        assert_eq!(of(11, 0, 0).proportional(&shares), [6, 3, 2]);
    }

    proptest! {
        /// Whatever becomes available and when: there are never more pods than allowed, never fewer available than
        /// promised once as many were, and in the end all are new.
        #[test]
        fn a_rollout_keeps_its_limits_and_ends(
            wanted in 0..20i32,
            surge in 0..8i32,
            unavailable in 0..8i32,
            ups in prop::collection::vec(1..5i32, 1..8),
        ) {
            let limits = limits(wanted, &json!(surge), &json!(unavailable));
            let mut old = Counted { size: wanted, available: wanted };
            let mut new = Counted { size: 0, available: 0 };
            let mut steps = ups.iter().cycle();
            for _ in 0..200 {
                let total = sum([old.size, new.size]);
                let grown = limits.grow(new.size, total);
                if grown == new.size {
                    old.size = limits.shrink(new, &[old])[0];
                    old.available = old.available.min(old.size);
                }
                new.size = grown;
                prop_assert!(sum([old.size, new.size]) <= i64::from(limits.most()));
                prop_assert!(old.available + new.available >= limits.least());
                new.available = new.size.min(new.available + steps.next().unwrap());
            }
            prop_assert_eq!((old.size, new.size), (0, wanted));
        }

        /// However a change is shared out, the sum is what was asked for and no set is below zero.
        #[test]
        fn shares_add_up(
            wanted in 0..50i32,
            surge in 0..10i32,
            whole in 1..60i32,
            mut sizes in prop::collection::vec(1..20i32, 1..6),
        ) {
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            let shares: Vec<_> = sizes.iter().map(|size| Share { size: *size, whole }).collect();
            let limits = of(wanted, surge, 0);
            let shared = limits.proportional(&shares);
            prop_assert!(shared.iter().all(|size| *size >= 0));
            let expected = if wanted == 0 { 0 } else { limits.most() };
            prop_assert_eq!(sum(shared), i64::from(expected));
        }
    }
}
