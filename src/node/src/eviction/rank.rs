//! Which pod goes first, and what it is told: upstream's rules and words. Pure.

use std::{cmp::Reverse, fmt::Write as _, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod};
use vaquita_api::quantity::Quantity;

use super::thresholds::{Crossed, Signal};
use crate::pod::board::Verdict;

/// The reason of pods that were ended for want of something.
pub(crate) const EVICTED: &str = "Evicted";
/// What a pod gets to end. Upstream's, for thresholds that are hard.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// Pods of at least this priority keep the node going: they are not ended. Upstream's `system-cluster-critical`.
const CRITICAL: i32 = 2_000_000_000;

/// A pod that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate<T> {
    pub(super) pod: T,
    pub(super) priority: i32,
    /// Of what is short.
    pub(super) usage: u64,
    pub(super) request: u64,
}

/// Puts those first that use more than they requested, then those that matter least, then those that use most beyond it.
pub(super) fn rank<T>(candidates: &mut [Candidate<T>]) {
    candidates.sort_by_key(|one| {
        let beyond = i128::from(one.usage) - i128::from(one.request);
        (beyond <= 0, one.priority, Reverse(beyond))
    });
}

/// Whether a pod stays whatever happens.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    priority(pod) >= CRITICAL
}

pub(super) fn priority(pod: &Pod) -> i32 {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    priority.unwrap_or_default()
}

/// Whether no container of a pod says anything about what it needs.
pub(crate) fn is_best_effort(pod: &Pod) -> bool {
    let says = |container: &Container| {
        let resources = container.resources.as_ref();
        let amounts = resources.into_iter().flat_map(|all| {
            let all = [all.requests.as_ref(), all.limits.as_ref()];
            all.into_iter().flatten()
        });
        let mut names = amounts.flat_map(std::collections::BTreeMap::keys);
        names.any(|name| name == "cpu" || name == "memory")
    };
    let spec = pod.spec.iter();
    let init = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    !spec.flat_map(|spec| &spec.containers).chain(init).any(says)
}

/// Of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    Request,
    Limit,
}

/// What a container says it needs or may have of something.
pub(super) fn amount(container: &Container, which: Amount, name: &str) -> Option<u64> {
    let resources = container.resources.as_ref()?;
    let all = match which {
        Amount::Request => resources.requests.as_ref(),
        Amount::Limit => resources.limits.as_ref(),
    };
    let quantity: Quantity = all?.get(name)?.0.parse().ok()?;
    u64::try_from(quantity.value()).ok()
}

/// What all containers request together.
pub(super) fn request(pod: &Pod, name: &str) -> u64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let requests = containers.filter_map(|container| amount(container, Amount::Request, name));
    requests.fold(0, u64::saturating_add)
}

/// Why a pod goes, within that time. `used` is what its containers use, by name.
pub(super) fn verdict(
    pod: &Pod,
    crossed: Crossed,
    used: &[(String, u64)],
    grace: Duration,
) -> Verdict {
    let signal = crossed.signal;
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        signal.resource(),
        signal.show(crossed.least),
        signal.show(crossed.available)
    );
    let name = match signal {
        Signal::Memory => "memory",
        _ => "ephemeral-storage",
    };
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let used = used.iter().find(|(known, _)| *known == container.name);
        let request = amount(container, Amount::Request, name).unwrap_or_default();
        if let Some((container, used)) = used.filter(|(_, used)| *used > request) {
            // Writing to a string cannot fail.
            let _ = write!(
                message,
                "Container {container} was using {}, request is {}, has larger consumption of {name}. ",
                signal.show(*used),
                signal.show(request)
            );
        }
    }
    evicted(message, grace)
}

/// The end of a pod for the reason that is said, within that time.
pub(super) fn evicted(message: String, grace: Duration) -> Verdict {
    Verdict {
        reason: EVICTED,
        message,
        grace: Some(grace),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_least_important_of_the_greedy_goes_first() {
        let candidate = |pod, priority, usage, request| Candidate {
            pod,
            priority,
            usage,
            request,
        };
        let mut all = [
            candidate("modest", 0, 10, 20),
            candidate("important", 10, 100, 0),
            candidate("greedy", 0, 50, 0),
            candidate("greedier", 0, 80, 10),
        ];
        rank(&mut all);
        assert_eq!(
            all.map(|one| one.pod),
            ["greedier", "greedy", "important", "modest"]
        );
    }

    #[test]
    fn the_message_says_what_was_short_and_who_had_it() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"memory": "1Mi"}}}, {"name": "b"},
            ]},
        }))
        .unwrap();
        let crossed = Crossed {
            signal: Signal::Memory,
            least: 100 << 20,
            available: 50 << 20,
        };
        let used = [("a".to_owned(), 1 << 20), ("b".to_owned(), 3 << 20)];
        let verdict = verdict(&pod, crossed, &used, GRACE);
        assert_eq!(
            verdict.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container b was using 3Mi, request is 0, has larger consumption of memory. "
        );
        assert_eq!(verdict.reason, "Evicted");
    }

    #[test]
    fn pods_that_say_nothing_are_best_effort() {
        let pod = |resources| -> Pod {
            let containers = json!([{"name": "a", "resources": resources}]);
            serde_json::from_value(
                json!({"spec": {"containers": containers, "priority": 2_000_000_000}}),
            )
            .unwrap()
        };
        assert!(is_best_effort(&pod(json!({}))));
        assert!(is_best_effort(&pod(
            json!({"limits": {"ephemeral-storage": "1Mi"}})
        )));
        assert!(!is_best_effort(&pod(json!({"requests": {"cpu": "1m"}}))));
        assert!(is_critical(&pod(json!({}))) && !is_critical(&Pod::default()));
    }
}
