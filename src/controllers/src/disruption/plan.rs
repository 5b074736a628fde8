//! What a budget allows, from what is there: no request, no clock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt as _;

use vaquita_reconcile::{meta, pods};

/// How long an evicted pod may take to be deleted. After that the eviction is taken for one that did not happen.
pub(super) const DELETION_TIMEOUT: Duration = Duration::from_mins(2);

/// The type of the one condition that a budget has.
const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// A limit that is neither a number nor a percentage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for IntOrString: invalid type: string is not a percentage")]
pub struct InvalidLimit;

/// The number that a limit stands for, rounded up if it is a part of `whole`.
fn number(limit: &IntOrString, whole: i32) -> Result<i32, InvalidLimit> {
    match limit {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').ok_or(InvalidLimit)?;
            let percent: u32 = percent.parse().map_err(|_| InvalidLimit)?;
            let parts = i64::from(percent) * i64::from(whole);
            Ok(i32::try_from((parts + 99) / 100).unwrap_or(i32::MAX))
        }
    }
}

/// How many pods the application is to have, and how many of them must be healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Needs {
    pub(super) expected: i32,
    pub(super) healthy: i32,
}

/// Whether the owners of the pods have to be asked how many there are to be.
pub(super) fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// What `spec` asks for when it selects `present` pods, whose owners together want `scale`.
pub(super) fn needs(
    spec: &PodDisruptionBudgetSpec,
    present: i32,
    scale: i32,
) -> Result<Needs, InvalidLimit> {
    if let Some(limit) = &spec.max_unavailable {
        let healthy = scale.saturating_sub(number(limit, scale)?).max(0);
        return Ok(Needs {
            expected: scale,
            healthy,
        });
    }
    Ok(match &spec.min_available {
        Some(IntOrString::Int(number)) => Needs {
            expected: present,
            healthy: *number,
        },
        Some(share) => Needs {
            expected: scale,
            healthy: number(share, scale)?,
        },
        None => Needs::default(),
    })
}

/// The pods of a budget that were evicted a moment ago and are still there.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Disrupted {
    /// By name, with the time of the eviction.
    pub(super) pods: BTreeMap<String, Time>,
    /// When the first of them will have taken too long.
    pub(super) recheck: Option<Duration>,
    /// Those which have.
    pub(super) overdue: Vec<String>,
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}

/// Of the pods that the budget's status names, those which are still to go.
pub(super) fn disrupted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Disrupted {
    let mut found = Disrupted::default();
    let status = budget.status.as_ref();
    let Some(named) = status.and_then(|status| status.disrupted_pods.as_ref()) else {
        return found;
    };
    for pod in pods {
        let name = pod.name_any();
        let Some(since) = named.get(&name) else {
            continue;
        };
        if meta::is_terminating(&pod.metadata) {
            continue;
        }
        match DELETION_TIMEOUT.checked_sub(age(since.0, now)) {
            Some(left) if !left.is_zero() => {
                found.pods.insert(name, since.clone());
                found.recheck = Some(found.recheck.map_or(left, |recheck| recheck.min(left)));
            }
            _ => found.overdue.push(name),
        }
    }
    found
}

/// How many pods serve and are not about to go.
pub(super) fn healthy(pods: &[Arc<Pod>], disrupted: &Disrupted) -> i32 {
    let healthy = pods.iter().filter(|pod| {
        !meta::is_terminating(&pod.metadata)
            && !disrupted.pods.contains_key(&pod.name_any())
            && pods::is_ready(pod)
    });
    count(healthy.count())
}

pub(super) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The status of `budget` with these counts. Nothing is allowed as long as no pod is expected: a budget that selects
/// nothing yet must not let the first pods go before they were counted.
pub(super) fn status(
    budget: &PodDisruptionBudget,
    needs: Needs,
    healthy: i32,
    disrupted: Disrupted,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let allowed = if needs.expected > 0 {
        healthy.saturating_sub(needs.healthy).max(0)
    } else {
        0
    };
    let old = budget.status.clone().unwrap_or_default();
    let generation = budget.metadata.generation;
    let reason = if allowed > 0 {
        "SufficientPods"
    } else {
        "InsufficientPods"
    };
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.to_owned(),
        status: if allowed > 0 { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    PodDisruptionBudgetStatus {
        conditions: Some(with_condition(old.conditions, condition)),
        current_healthy: Some(healthy),
        desired_healthy: Some(needs.healthy),
        disrupted_pods: Some(disrupted.pods).filter(|pods| !pods.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(needs.expected),
        observed_generation: generation,
    }
}

/// The status of a budget about which nothing could be found out: what it says stays, but it allows nothing.
pub(super) fn failed(
    budget: &PodDisruptionBudget,
    why: String,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.to_owned(),
        status: "False".to_owned(),
        reason: "SyncFailed".to_owned(),
        message: why,
        observed_generation: status.observed_generation,
        last_transition_time: Time(now),
    };
    status.disruptions_allowed = Some(0);
    status.conditions = Some(with_condition(status.conditions.take(), condition));
    status
}

/// Puts a condition in place of the one of its type. The time of the transition stays as long as the status does.
fn with_condition(conditions: Option<Vec<Condition>>, mut condition: Condition) -> Vec<Condition> {
    let mut conditions = conditions.unwrap_or_default();
    match conditions
        .iter_mut()
        .find(|known| known.type_ == condition.type_)
    {
        Some(known) => {
            if known.status == condition.status {
                condition.last_transition_time = known.last_transition_time.clone();
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
    conditions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(share: u32) -> IntOrString {
        IntOrString::String(format!("{share}%"))
    }

    fn spec(min: Option<IntOrString>, max: Option<IntOrString>) -> PodDisruptionBudgetSpec {
        PodDisruptionBudgetSpec {
            min_available: min,
            max_unavailable: max,
            ..PodDisruptionBudgetSpec::default()
        }
    }

    fn of(expected: i32, healthy: i32) -> Needs {
        Needs { expected, healthy }
    }

    #[test]
    fn numbers_count_the_pods_that_are_there_and_shares_those_that_should_be() {
        let min = |limit| needs(&spec(Some(limit), None), 3, 5);
        assert_eq!(min(IntOrString::Int(2)), Ok(of(3, 2)));
        assert_eq!(min(percent(50)), Ok(of(5, 3)));
        let max = |limit| needs(&spec(None, Some(limit)), 3, 5);
        assert_eq!(max(IntOrString::Int(2)), Ok(of(5, 3)));
        assert_eq!(max(IntOrString::Int(9)), Ok(of(5, 0)));
        assert_eq!(max(percent(50)), Ok(of(5, 2)));
        assert_eq!(needs(&spec(None, None), 3, 5), Ok(of(0, 0)));
        let nonsense = IntOrString::String("half".to_owned());
        assert_eq!(min(nonsense), Err(InvalidLimit));
    }

    proptest! {
        /// Whatever the limits, as many stay healthy as the budget needs after all that it allows.
        #[test]
        fn what_is_allowed_can_be_spared(
            share in 0_u32..=100, expected in 0_i32..2000, healthy in 0_i32..2000, as_max: bool,
        ) {
            let spec = if as_max { spec(None, Some(percent(share))) } else { spec(Some(percent(share)), None) };
            let needs = needs(&spec, expected, expected).unwrap();
            let budget = PodDisruptionBudget::default();
            let status = status(&budget, needs, healthy, Disrupted::default(), Timestamp::UNIX_EPOCH);
            let allowed = status.disruptions_allowed.unwrap();
            prop_assert!(allowed >= 0);
            prop_assert!(allowed == 0 || healthy - allowed >= needs.healthy);
            prop_assert!(needs.healthy <= needs.expected.max(0));
            let says = &status.conditions.unwrap()[0];
            prop_assert_eq!(says.status == "True", allowed > 0);
        }
    }
}
