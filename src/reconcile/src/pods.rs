//! What controllers ask of a pod's status.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::meta;

/// Where a pod is in its life, in the order in which replicas are given up: the least far first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not all of its containers have been started.
    Pending,
    /// Its node has not been heard of.
    Unknown,
    /// At least one container runs or is being restarted.
    Running,
    /// All containers have ended well, for good.
    Succeeded,
    /// All containers have ended for good, at least one of them badly.
    Failed,
}

/// The pod's phase; one that says none is pending.
pub fn phase(pod: &Pod) -> Phase {
    match pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
    {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some("Unknown") => Phase::Unknown,
        // A pod without a status was created a moment ago.
        _ => Phase::Pending,
    }
}

/// Whether the pod has ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), Phase::Succeeded | Phase::Failed)
}

/// Whether the pod counts as a replica: it has not ended and nobody has asked for its end.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !meta::is_terminating(&pod.metadata)
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
}

/// Whether the pod says that it can serve.
pub fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// The pod's conditions with that which says that it is made to go, and why.
pub fn disrupted(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Vec<PodCondition> {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.clone());
    let mut conditions = conditions.unwrap_or_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
    conditions
}

/// Since when the pod has been ready, if it is and says so.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = ready_condition(pod).filter(|condition| condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How far a pod is from counting as available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Not ready.
    No,
    /// Ready, and available if it stays so for this long.
    In(Duration),
    /// Ready for long enough.
    Yes,
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::No;
    }
    let Some(wanted) = u64::try_from(min_ready_seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
    else {
        return Availability::Yes;
    };
    let wanted = Duration::from_secs(wanted);
    let Some(since) = ready_since(pod) else {
        return Availability::In(wanted);
    };
    // A clock that runs behind the node's counts as "ready since now".
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
    match wanted.checked_sub(elapsed) {
        Some(left) if !left.is_zero() => Availability::In(left),
        _ => Availability::Yes,
    }
}

/// The pod's addresses, the primary one first.
pub fn ips(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let primary = status.and_then(|status| status.pod_ip.as_deref());
    let all = status
        .and_then(|status| status.pod_ips.as_deref())
        .unwrap_or_default();
    let others = all
        .iter()
        .map(|pod_ip| pod_ip.ip.as_str())
        .filter(move |ip| Some(*ip) != primary);
    primary
        .into_iter()
        .chain(others)
        .filter(|ip| !ip.is_empty())
}

/// The node the pod is bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::objects::{pod, ready};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn availability_counts_from_the_moment_of_readiness() {
        let unready = pod("shop", "a");
        assert_eq!(availability(&unready, 0, at(0)), Availability::No);
        let ready = ready(pod("shop", "a"), at(100));
        assert_eq!(availability(&ready, 0, at(100)), Availability::Yes);
        assert_eq!(
            availability(&ready, 10, at(103)),
            Availability::In(Duration::from_secs(7))
        );
        assert_eq!(availability(&ready, 10, at(110)), Availability::Yes);
        assert_eq!(
            availability(&ready, 10, at(90)),
            Availability::In(Duration::from_secs(10)),
            "clocks differ"
        );
        assert_eq!(availability(&ready, -5, at(100)), Availability::Yes);
    }

    #[test]
    fn the_primary_address_comes_first_and_once() {
        let mut pod = pod("shop", "a");
        let status = pod.status.get_or_insert_default();
        status.pod_ip = Some("10.0.0.1".to_owned());
        let ip = |ip: &str| k8s_openapi::api::core::v1::PodIP { ip: ip.to_owned() };
        status.pod_ips = Some(vec![ip("10.0.0.1"), ip("fd00::1")]);
        assert_eq!(ips(&pod).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
    }
}
