//! How many replicas a metric asks for: arithmetic over what pods use and are to use.
//!
//! All amounts are in thousandths, so that cores, bytes and custom values are treated alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use vaquita_api::quantity::Quantity;

use vaquita_reconcile::{
    meta,
    pods::{self, Phase},
};

/// How long after its start a pod's use of the CPU may be that of starting.
const CPU_INITIALIZATION: Duration = Duration::from_mins(5);
/// How long after its start a pod may become ready for the first time.
const INITIAL_READINESS: Duration = Duration::from_secs(30);

/// Why a metric asks for no number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CalculationError {
    #[error("no pods returned by selector while calculating replica count")]
    NoPods,
    #[error("did not receive metrics for targeted pods (pods might be unready)")]
    NoMetrics,
    #[error("no metrics returned matched known pods")]
    Unmatched,
    #[error("missing request for {resource} in container {container} of Pod {pod}")]
    NoRequest {
        resource: String,
        container: String,
        pod: String,
    },
}

/// What a pod uses of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PodMetric {
    pub(super) value: i64,
    pub(super) time: Timestamp,
    pub(super) window: Duration,
}

/// By the pod's name.
pub(super) type PodMetrics = BTreeMap<String, PodMetric>;

/// How far from its target a metric may be without anything being done about it: 0.1 is a tenth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerances {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerances {
    fn cover(self, ratio: f64) -> bool {
        ratio >= 1.0 - self.down && ratio <= 1.0 + self.up
    }
}

/// What a metric is to be for each pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'t> {
    /// The resource that is measured, if it is one.
    pub(super) resource: Option<&'t str>,
    /// The container that alone counts.
    pub(super) container: Option<&'t str>,
    pub(super) aim: Aim,
}

/// How much that is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aim {
    /// This part, in percent, of what is requested.
    Utilization(i32),
    /// This much.
    Average(i64),
}

/// A number of replicas, and what it was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// In percent of what is requested, for targets of that form.
    pub(super) utilization: Option<i32>,
    /// For each pod.
    pub(super) average: i64,
}

/// The pods, sorted by what their metrics are good for.
#[derive(Debug, Default)]
struct Groups {
    ready: i32,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn groups(pods: &[Arc<Pod>], metrics: &PodMetrics, of_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name_any();
        let phase = pods::phase(pod);
        if meta::is_terminating(&pod.metadata) || phase == Phase::Failed {
            groups.ignored.insert(name);
        } else if phase == Phase::Pending {
            groups.unready.insert(name);
        } else {
            match metrics.get(&name) {
                None => {
                    groups.missing.insert(name);
                }
                Some(metric) if of_cpu && is_starting(pod, metric, now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether what the pod uses of the CPU is not yet what it will use in the long run.
fn is_starting(pod: &Pod, metric: &PodMetric, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let ready = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let started = status.and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready, started) else {
        return true;
    };
    let not_ready = ready.status == "False";
    let changed = ready
        .last_transition_time
        .as_ref()
        .map_or(started.0, |at| at.0);
    if started.0 + CPU_INITIALIZATION > now {
        return not_ready || metric.time < changed + metric.window;
    }
    not_ready && started.0 + INITIAL_READINESS > changed
}

/// What the pod's containers request of a resource.
fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, CalculationError> {
    let Some(spec) = &pod.spec else {
        return Ok(0);
    };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let counted = spec.containers.iter().chain(sidecars);
    let mut sum = 0_i64;
    for own in counted.filter(|own| container.is_none_or(|wanted| own.name == wanted)) {
        let requests = own.resources.as_ref().and_then(|own| own.requests.as_ref());
        let amount = requests
            .and_then(|requests| requests.get(resource))
            .and_then(|amount| amount.0.parse::<Quantity>().ok());
        let amount = amount.ok_or_else(|| CalculationError::NoRequest {
            resource: resource.to_owned(),
            container: own.name.clone(),
            pod: pod.name_any(),
        })?;
        sum = sum.saturating_add(amount.milli_value());
    }
    Ok(sum)
}

/// A metric of each pod against its target.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    to_target: f64,
    utilization: Option<i32>,
    average: i64,
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "ratios need no more than 53 bits, and percentages are small"
)]
fn ratio(
    metrics: &PodMetrics,
    aim: Aim,
    requests: &BTreeMap<String, i64>,
) -> Result<Ratio, CalculationError> {
    let (mut used, mut requested, mut count) = (0_i128, 0_i128, 0_i128);
    for (pod, metric) in metrics {
        if let Some(request) = requests.get(pod) {
            used += i128::from(metric.value);
            requested += i128::from(*request);
            count += 1;
        }
    }
    if count == 0 {
        return Err(CalculationError::Unmatched);
    }
    let average = i64::try_from(used / count).unwrap_or(i64::MAX);
    Ok(match aim {
        Aim::Utilization(_) if requested == 0 => return Err(CalculationError::Unmatched),
        Aim::Utilization(percent) => {
            let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
            Ratio {
                to_target: f64::from(utilization) / f64::from(percent.max(1)),
                utilization: Some(utilization),
                average,
            }
        }
        Aim::Average(wanted) => Ratio {
            to_target: average as f64 / wanted.max(1) as f64,
            utilization: None,
            average,
        },
    })
}

/// `ratio * count`, rounded up.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the cast stops at the bounds of the type"
)]
fn replicas(ratio: f64, count: i32) -> i32 {
    // What is more than a whole number by no more than the error of the multiplication is that number.
    ((ratio * f64::from(count)) - 1e-9).ceil().max(0.0) as i32
}

/// How many replicas `pods` should become for each to be at `target`, by what is known of them.
///
/// Pods of which nothing is known, and those which are starting, are counted in the way that changes the least.
pub(super) fn of_pods(
    current: i32,
    pods: &[Arc<Pod>],
    mut metrics: PodMetrics,
    target: Target<'_>,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Proposal, CalculationError> {
    if pods.is_empty() {
        return Err(CalculationError::NoPods);
    }
    let groups = groups(pods, &metrics, target.resource == Some("cpu"), now);
    metrics.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if metrics.is_empty() {
        return Err(CalculationError::NoMetrics);
    }
    let mut requests = BTreeMap::new();
    for pod in pods {
        let requested = match (target.aim, target.resource) {
            (Aim::Utilization(_), Some(resource)) => request(pod, resource, target.container)?,
            _ => 0,
        };
        requests.insert(pod.name_any(), requested);
    }
    let measured = ratio(&metrics, target.aim, &requests)?;
    let proposal = |replicas| Proposal {
        replicas,
        utilization: measured.utilization,
        average: measured.average,
    };
    let up = measured.to_target > 1.0;
    let up_with_unready = up && !groups.unready.is_empty();
    if !up_with_unready && groups.missing.is_empty() {
        let covered = tolerances.cover(measured.to_target);
        return Ok(proposal(if covered {
            current
        } else {
            replicas(measured.to_target, groups.ready)
        }));
    }
    let mut assume = |pod: &String, value| {
        let metric = PodMetric {
            value,
            time: now,
            window: Duration::ZERO,
        };
        metrics.insert(pod.clone(), metric);
    };
    for pod in &groups.missing {
        if up {
            assume(pod, 0);
        } else if measured.to_target < 1.0 {
            assume(
                pod,
                full(target.aim, requests.get(pod).copied().unwrap_or(0)),
            );
        }
    }
    if up_with_unready {
        groups.unready.iter().for_each(|pod| assume(pod, 0));
    }
    let corrected = ratio(&metrics, target.aim, &requests)?.to_target;
    let turned = measured.to_target < 1.0 && corrected > 1.0 || up && corrected < 1.0;
    if turned || tolerances.cover(corrected) {
        return Ok(proposal(current));
    }
    let wanted = replicas(corrected, i32::try_from(metrics.len()).unwrap_or(i32::MAX));
    let against = corrected < 1.0 && wanted > current || corrected > 1.0 && wanted < current;
    Ok(proposal(if against { current } else { wanted }))
}

/// What a pod uses, for all we know, when it is as busy as it should be at most.
fn full(aim: Aim, requested: i64) -> i64 {
    match aim {
        Aim::Utilization(percent) => requested.saturating_mul(i64::from(percent.max(100))) / 100,
        Aim::Average(average) => average,
    }
}

/// How many replicas bring one value, which all pods work on together, to `target`.
#[allow(
    clippy::cast_precision_loss,
    reason = "ratios need no more than 53 bits"
)]
pub(super) fn of_value(
    current: i32,
    pods: &[Arc<Pod>],
    (value, target): (i64, i64),
    tolerances: Tolerances,
) -> Result<i32, CalculationError> {
    let ratio = value as f64 / target.max(1) as f64;
    if current == 0 {
        return Ok(replicas(ratio, 1));
    }
    if tolerances.cover(ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        return Err(CalculationError::NoPods);
    }
    let serves = |pod: &&Arc<Pod>| pods::phase(pod) == Phase::Running && pods::is_ready(pod);
    let ready = pods.iter().filter(serves).count();
    Ok(replicas(ratio, i32::try_from(ready).unwrap_or(i32::MAX)))
}

/// How many replicas there must be for one value to be `target` for each of them, and what it is now.
#[allow(
    clippy::cast_precision_loss,
    reason = "ratios need no more than 53 bits"
)]
pub(super) fn of_shares(
    present: i32,
    (value, target): (i64, i64),
    tolerances: Tolerances,
) -> (i32, i64) {
    let target = target.max(1);
    let ratio = value as f64 / (target as f64 * f64::from(present));
    let wanted = if present > 0 && tolerances.cover(ratio) {
        present
    } else {
        replicas(value as f64 / target as f64, 1)
    };
    let count = i64::from(present.max(1));
    (wanted, value.saturating_add(count - 1) / count)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOLERANCES: Tolerances = Tolerances { up: 0.1, down: 0.1 };

    fn now() -> Timestamp {
        "2030-01-01T01:00:00Z".parse().unwrap()
    }

    fn pod(name: &str, status: &Value) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "namespace": "shop", "name": name },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
            "status": status,
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn ready(name: &str) -> Arc<Pod> {
        let since = "2030-01-01T00:00:00Z";
        pod(
            name,
            &json!({
                "phase": "Running", "startTime": since,
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": since }],
            }),
        )
    }

    fn used(values: &[(&str, i64)]) -> PodMetrics {
        let metric = |value| PodMetric {
            value,
            time: now(),
            window: Duration::from_secs(15),
        };
        let values = values.iter();
        values
            .map(|(name, value)| ((*name).to_owned(), metric(*value)))
            .collect()
    }

    fn at(percent: i32) -> Target<'static> {
        Target {
            resource: Some("cpu"),
            container: None,
            aim: Aim::Utilization(percent),
        }
    }

    fn wanted(pods: &[Arc<Pod>], metrics: &[(&str, i64)], percent: i32) -> i32 {
        let current = i32::try_from(pods.len()).unwrap();
        let proposal = of_pods(current, pods, used(metrics), at(percent), TOLERANCES, now());
        proposal.unwrap().replicas
    }

    #[test]
    fn replicas_follow_the_ratio_unless_it_is_close() {
        let pods = [ready("a"), ready("b"), ready("c")];
        assert_eq!(wanted(&pods, &[("a", 900), ("b", 900), ("c", 900)], 30), 9);
        assert_eq!(wanted(&pods, &[("a", 300), ("b", 500), ("c", 700)], 47), 3);
        assert_eq!(wanted(&pods, &[("a", 100), ("b", 100), ("c", 100)], 50), 1);
        let all = of_pods(
            3,
            &pods,
            used(&[("a", 500), ("b", 1000), ("c", 600)]),
            at(10),
            TOLERANCES,
            now(),
        )
        .unwrap();
        assert_eq!(
            (all.utilization, all.average, all.replicas),
            (Some(70), 700, 21)
        );
    }

    #[test]
    fn pods_of_which_little_is_known_slow_changes_down() {
        let pods = [ready("a"), ready("b"), ready("c")];
        // Going up, the third counts as idle; going down, as fully used.
        assert_eq!(wanted(&pods, &[("a", 900), ("b", 900)], 30), 6);
        assert_eq!(wanted(&pods, &[("a", 100), ("b", 100)], 50), 3);
        let starting = pod("c", &json!({ "phase": "Pending" }));
        let pods = [ready("a"), ready("b"), starting];
        assert_eq!(wanted(&pods, &[("a", 900), ("b", 900)], 30), 6);
        assert_eq!(
            wanted(&pods, &[("a", 100), ("b", 100)], 50),
            1,
            "those that start do not count"
        );
        let lost = pod("c", &json!({ "phase": "Failed" }));
        let pods = [ready("a"), ready("b"), lost];
        assert_eq!(wanted(&pods, &[("a", 600), ("b", 600), ("c", 9000)], 30), 4);
    }

    #[test]
    fn the_first_minutes_of_a_pod_are_not_its_use() {
        let young = |ready: &str| {
            pod(
                "b",
                &json!({
                    "phase": "Running", "startTime": "2030-01-01T00:59:00Z",
                    "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": "2030-01-01T00:59:10Z" }],
                }),
            )
        };
        let both = [("a", 300), ("b", 9000)];
        assert_eq!(wanted(&[ready("a"), young("False")], &both, 30), 2);
        assert_eq!(wanted(&[ready("a"), young("True")], &both, 30), 31);
    }

    #[test]
    fn what_cannot_be_known_is_said() {
        let error = |pods: &[Arc<Pod>], metrics: &[(&str, i64)]| {
            let proposal = of_pods(1, pods, used(metrics), at(50), TOLERANCES, now());
            proposal.unwrap_err().to_string()
        };
        assert_eq!(
            error(&[], &[("a", 1)]),
            "no pods returned by selector while calculating replica count"
        );
        assert_eq!(
            error(&[ready("a")], &[]),
            "did not receive metrics for targeted pods (pods might be unready)"
        );
        assert_eq!(
            error(&[ready("a")], &[("b", 1)]),
            "no metrics returned matched known pods"
        );
        let mut greedy = Pod::clone(&ready("a"));
        greedy.spec.as_mut().unwrap().containers[0].resources = None;
        assert_eq!(
            error(&[Arc::new(greedy)], &[("a", 1)]),
            "missing request for cpu in container c of Pod a"
        );
    }

    #[test]
    fn values_of_all_pods_together() {
        let pods = [ready("a"), ready("b")];
        assert_eq!(of_value(2, &pods, (20_000, 10_000), TOLERANCES), Ok(4));
        assert_eq!(of_value(2, &pods, (10_500, 10_000), TOLERANCES), Ok(2));
        assert_eq!(of_value(0, &[], (25_000, 10_000), TOLERANCES), Ok(3));
        assert_eq!(of_shares(4, (50_000, 10_000), TOLERANCES), (5, 12_500));
        assert_eq!(of_shares(4, (42_000, 10_000), TOLERANCES), (4, 10_500));
        assert_eq!(of_shares(0, (5_000, 10_000), TOLERANCES), (1, 5_000));
    }
}
