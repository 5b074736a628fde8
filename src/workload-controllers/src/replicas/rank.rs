//! Which of too many replicas go first.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use vaquita_reconcile::{meta, pods};

/// Annotation by which users make a replica dearer (higher) or cheaper (lower, also negative) to give up.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts `pods` so that those to delete first come first, as every Kubernetes user expects it of scaling down:
///
/// 1. not assigned to a node before assigned;
/// 2. pending before unknown before running;
/// 3. not ready before ready;
/// 4. lower deletion cost first;
/// 5. more replicas on the same node first;
/// 6. ready for a shorter time first;
/// 7. more container restarts first;
/// 8. younger first.
///
/// Times are compared by their order of magnitude, and within one the uid decides: deletion would otherwise always hit the
/// youngest, which a load balancer or a rolling update may just have settled on.
///
/// Rule 5 counts `related`: the pods that should be spread over the nodes together with these, themselves included.
pub(crate) fn sort_for_deletion(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node = HashMap::<&str, usize>::new();
    for node in related.iter().filter_map(|pod| pods::node_name(pod)) {
        *on_node.entry(node).or_default() += 1;
    }
    let on_node: HashMap<String, usize> = on_node
        .into_iter()
        .map(|(node, count)| (node.to_owned(), count))
        .collect();
    pods.sort_by_cached_key(|pod| Rank::of(pod, &on_node, now));
}

/// A pod's place in the order; the least goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    assigned: bool,
    phase: pods::Phase,
    ready: bool,
    deletion_cost: i32,
    neighbours: Reverse<usize>,
    readiness: Age,
    restarts: Reverse<i32>,
    age: Age,
}

impl Rank {
    fn of(pod: &Pod, on_node: &HashMap<String, usize>, now: Timestamp) -> Self {
        let ready = pods::is_ready(pod);
        let node = pods::node_name(pod);
        let uid = meta::uid(pod);
        Self {
            assigned: node.is_some(),
            phase: pods::phase(pod),
            ready,
            deletion_cost: deletion_cost(pod),
            neighbours: Reverse(
                node.and_then(|node| on_node.get(node))
                    .copied()
                    .unwrap_or(0),
            ),
            readiness: Age::since(pods::ready_since(pod).filter(|_| ready), now, uid),
            restarts: Reverse(restarts(pod)),
            age: Age::since(
                pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
                now,
                uid,
            ),
        }
    }
}

/// How long something has lasted: by powers of two of seconds, then by the uid. What never began is least.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Age(Option<(u32, String)>);

impl Age {
    fn since(start: Option<Timestamp>, now: Timestamp, uid: &str) -> Self {
        Self(start.map(|start| {
            let seconds = u64::try_from(now.duration_since(start).as_secs()).unwrap_or(0);
            // 0 for less than a second, then 1, 2, 2, 3, 3, 3, 3, ...
            (u64::BITS - seconds.leading_zeros(), uid.to_owned())
        }))
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(DELETION_COST))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

/// The restarts of the container that restarted most.
fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let most = |statuses: &Option<Vec<ContainerStatus>>| {
        statuses
            .iter()
            .flatten()
            .map(|status| status.restart_count)
            .max()
            .unwrap_or(0)
    };
    most(&status.container_statuses).max(most(&status.init_container_statuses))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::ResourceExt as _;
    use proptest::prelude::*;

    use super::*;
    use vaquita_reconcile::testing::objects::{assigned, in_phase, pod, ready};

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn ago(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 - seconds).unwrap()
    }

    fn running(name: &str) -> Pod {
        in_phase(assigned(pod("shop", name), name), "Running")
    }

    fn created(mut pod: Pod, seconds_ago: i64) -> Pod {
        pod.metadata.creation_timestamp = Some(Time(ago(seconds_ago)));
        pod
    }

    fn order(pods: Vec<Pod>) -> Vec<String> {
        let mut pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let related = pods.clone();
        sort_for_deletion(&mut pods, &related, now());
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    /// Each pod differs from the next in the rule that is under test, and all weaker rules speak against it.
    #[test]
    fn stronger_rules_come_first() {
        let unassigned = ready(pod("shop", "unassigned"), ago(90_000));
        let pending = ready(assigned(pod("shop", "pending"), "n1"), ago(90_000));
        let unknown = ready(
            in_phase(assigned(pod("shop", "unknown"), "n2"), "Unknown"),
            ago(90_000),
        );
        let mut unready = running("unready");
        unready
            .annotations_mut()
            .insert(DELETION_COST.to_owned(), "100".to_owned());
        let mut cheap = ready(running("cheap"), ago(90_000));
        cheap
            .annotations_mut()
            .insert(DELETION_COST.to_owned(), "-1".to_owned());
        let crowded_a = ready(assigned(running("crowded-a"), "crowd"), ago(90_000));
        let crowded_b = ready(assigned(running("crowded-b"), "crowd"), ago(500_000));
        let fresh = ready(running("fresh"), ago(10));
        let settled = ready(running("settled"), ago(90_000));
        let mut dear = ready(running("dear"), ago(1));
        dear.annotations_mut()
            .insert(DELETION_COST.to_owned(), "7".to_owned());
        let all = vec![
            dear, settled, fresh, crowded_b, crowded_a, cheap, unready, unknown, pending,
            unassigned,
        ];
        let expected = [
            "unassigned",
            "pending",
            "unknown",
            "unready",
            "cheap",
            "crowded-a",
            "crowded-b",
            "fresh",
            "settled",
            "dear",
        ];
        assert_eq!(order(all), expected);
    }

    #[test]
    fn restarts_and_then_youth_decide_between_unready_pods() {
        let mut restarting = created(running("restarting"), 90_000);
        restarting.status.as_mut().unwrap().container_statuses = Some(vec![ContainerStatus {
            restart_count: 3,
            ..ContainerStatus::default()
        }]);
        let young = created(running("young"), 5);
        let old = created(running("old"), 90_000);
        assert_eq!(
            order(vec![old, young, restarting]),
            ["restarting", "young", "old"]
        );
    }

    #[test]
    fn ages_of_the_same_magnitude_count_as_equal() {
        let older = ready(running("a"), ago(1_100));
        let younger = ready(running("b"), ago(1_050));
        assert_eq!(
            order(vec![younger.clone(), older.clone()]),
            ["a", "b"],
            "by uid, not by age"
        );
        assert_eq!(order(vec![older, younger]), ["a", "b"]);
    }

    fn any_pod() -> impl Strategy<Value = Pod> {
        let phases = prop::sample::select(vec!["Pending", "Running", "Unknown"]);
        let node = prop::option::of(prop::sample::select(vec!["n1", "n2"]));
        let ready_since = prop::option::of(0..5_000i64);
        (phases, node, ready_since, -1..2i32, 0..3i32, 0..5_000i64).prop_map(
            |(phase, node, ready_since, cost, restarts, age)| {
                let mut made = created(in_phase(pod("shop", "x"), phase), age);
                if let Some(node) = node {
                    made = assigned(made, node);
                }
                if let Some(since) = ready_since {
                    made = ready(made, ago(since));
                }
                made.annotations_mut()
                    .insert(DELETION_COST.to_owned(), cost.to_string());
                made.status.get_or_insert_default().container_statuses =
                    Some(vec![ContainerStatus {
                        restart_count: restarts,
                        ..ContainerStatus::default()
                    }]);
                made
            },
        )
    }

    proptest! {
        /// The order is the same whatever the order before, and no stronger rule is ever broken for a weaker one.
        #[test]
        fn the_order_is_one_order(pods in prop::collection::vec(any_pod(), 0..12), turn in 0..12usize) {
            let pods: Vec<Pod> = pods
                .into_iter()
                .enumerate()
                .map(|(number, mut pod)| {
                    pod.metadata.name = Some(format!("p{number}"));
                    pod.metadata.uid = Some(format!("uid-{number}"));
                    pod
                })
                .collect();
            let mut turned = pods.clone();
            turned.rotate_left(turn % pods.len().max(1));
            turned.reverse();
            // Pods that are alike in everything may come in any order.
            let alike = |name: &String| {
                let pod = pods.iter().find(|pod| pod.name_any() == *name).unwrap();
                (pods::node_name(pod).is_some(), pods::phase(pod), pods::is_ready(pod), deletion_cost(pod))
            };
            let one: Vec<_> = order(pods.clone()).iter().map(alike).collect();
            let other: Vec<_> = order(turned).iter().map(alike).collect();
            prop_assert_eq!(&one, &other);
            prop_assert!(one.is_sorted());
        }
    }
}
