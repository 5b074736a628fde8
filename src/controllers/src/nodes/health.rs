//! What a node's conditions mean for its taints, and what silence means for its conditions.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// The condition by which a node says that it takes pods.
pub(super) const READY: &str = "Ready";

/// The conditions that say nothing any more when a node has gone silent.
const FROM_THE_NODE: &[&str] = &[READY, "MemoryPressure", "DiskPressure", "PIDPressure"];

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that taint a node when they are `True`.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// The node's condition of this type.
pub(super) fn condition<'n>(node: &'n Node, type_: &str) -> Option<&'n NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == type_)
}

/// The status of the node's condition `Ready`, if it has one.
pub(super) fn readiness(node: &Node) -> Option<&str> {
    condition(node, READY).map(|ready| ready.status.as_str())
}

/// The conditions of a node that has gone silent, or nothing if they say so already.
pub(super) fn unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut changed = false;
    for type_ in FROM_THE_NODE {
        let condition = match conditions
            .iter_mut()
            .find(|condition| condition.type_ == *type_)
        {
            Some(condition) if condition.status == "Unknown" => continue,
            Some(condition) => {
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition
            }
            None => {
                conditions.push(NodeCondition {
                    type_: (*type_).to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    ..NodeCondition::default()
                });
                let Some(condition) = conditions.last_mut() else {
                    continue;
                };
                condition
            }
        };
        "Unknown".clone_into(&mut condition.status);
        condition.last_transition_time = Some(Time(now));
        changed = true;
    }
    changed.then_some(conditions)
}

/// Whether the taint that drives pods off a lost node is to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driving {
    On,
    Off,
}

/// Whether the node says that it is not ready, or says nothing any more. One that has only just registered is not lost.
pub(super) fn is_lost(node: &Node) -> bool {
    readiness(node).is_some_and(|ready| ready != "True")
}

/// Whether the node has a taint by which its pods are driven off for its health.
pub(super) fn is_driving(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    taints.unwrap_or_default().iter().any(|taint| {
        taint.effect == Effect::NoExecute.name()
            && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str())
    })
}

/// The taints that the node should have, or nothing if it has them. Those that are not about a node's health are kept.
pub(super) fn taints(node: &Node, driving: Driving, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let present = spec
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let mut wanted = wanted_taints(node, driving);
    let mut changed = false;
    let mut taints = Vec::new();
    for taint in present {
        let is_this =
            |(key, effect): &(&str, Effect)| taint.key == *key && taint.effect == effect.name();
        match wanted.iter().position(is_this) {
            Some(at) => {
                wanted.remove(at);
                taints.push(taint.clone());
            }
            None if is_about_health(taint) => changed = true,
            None => taints.push(taint.clone()),
        }
    }
    changed |= !wanted.is_empty();
    taints.extend(wanted.into_iter().map(|(key, effect)| Taint {
        key: key.to_owned(),
        effect: effect.name().to_owned(),
        value: None,
        time_added: Some(Time(now)),
    }));
    changed.then_some(taints)
}

#[derive(Debug, Clone, Copy)]
enum Effect {
    NoSchedule,
    NoExecute,
}

impl Effect {
    fn name(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

fn wanted_taints(node: &Node, driving: Driving) -> Vec<(&'static str, Effect)> {
    let key = match readiness(node) {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        // One without readiness has just registered: nothing should start there.
        Some(_) | None => Some(NOT_READY),
    };
    let mut wanted = Vec::new();
    wanted.extend(key.map(|key| (key, Effect::NoSchedule)));
    if driving == Driving::On {
        wanted.extend(key.map(|key| (key, Effect::NoExecute)));
    }
    let pressing =
        |type_: &str| condition(node, type_).is_some_and(|condition| condition.status == "True");
    let pressures = PRESSURES.iter().filter(|(type_, _)| pressing(type_));
    wanted.extend(pressures.map(|(_, key)| (*key, Effect::NoSchedule)));
    if node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true))
    {
        wanted.push((UNSCHEDULABLE, Effect::NoSchedule));
    }
    wanted
}

/// Whether this controller decides about the taint.
fn is_about_health(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    match taint.effect.as_str() {
        "NoSchedule" => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
                || PRESSURES.iter().any(|(_, known)| *known == key)
        }
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&key),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    use super::*;

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let condition = |(type_, status): &(&str, &str)| NodeCondition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            ..NodeCondition::default()
        };
        let taint = |(key, effect): &(&str, &str)| Taint {
            key: (*key).to_owned(),
            effect: (*effect).to_owned(),
            ..Taint::default()
        };
        Node {
            spec: Some(NodeSpec {
                taints: Some(taints.iter().map(taint).collect()),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                conditions: Some(conditions.iter().map(condition).collect()),
                ..NodeStatus::default()
            }),
            ..Node::default()
        }
    }

    fn tainted(node: &Node) -> Option<Vec<(String, String)>> {
        let driving = if is_lost(node) {
            Driving::On
        } else {
            Driving::Off
        };
        tainted_so(node, driving)
    }

    fn tainted_so(node: &Node, driving: Driving) -> Option<Vec<(String, String)>> {
        let taints = taints(node, driving, Timestamp::UNIX_EPOCH)?;
        Some(
            taints
                .into_iter()
                .map(|taint| (taint.key, taint.effect))
                .collect(),
        )
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, effect)| ((*key).to_owned(), (*effect).to_owned()))
            .collect()
    }

    #[test]
    fn taints_follow_readiness() {
        let both = |key| [(key, "NoSchedule"), (key, "NoExecute")];
        assert_eq!(
            tainted(&node(&[("Ready", "False")], &[])),
            Some(pairs(&both(NOT_READY)))
        );
        assert_eq!(
            tainted(&node(&[("Ready", "Unknown")], &both(NOT_READY))),
            Some(pairs(&both(UNREACHABLE)))
        );
        assert_eq!(
            tainted(&node(&[("Ready", "True")], &both(UNREACHABLE))),
            Some(pairs(&[]))
        );
        assert_eq!(
            tainted(&node(&[("Ready", "True")], &[])),
            None,
            "nothing to do"
        );
        assert_eq!(
            tainted(&node(&[("Ready", "False")], &both(NOT_READY))),
            None
        );
        assert_eq!(
            tainted(&node(&[], &[])),
            Some(pairs(&[(NOT_READY, "NoSchedule")]))
        );
        let spared = node(&[("Ready", "False")], &both(NOT_READY));
        assert_eq!(
            tainted_so(&spared, Driving::Off),
            Some(pairs(&[(NOT_READY, "NoSchedule")]))
        );
        assert!(is_driving(&spared) && !is_driving(&node(&[], &[("team", "NoExecute")])));
    }

    #[test]
    fn pressure_and_cordoning_taint_and_foreign_taints_stay() {
        let mut node = node(
            &[("Ready", "True"), ("DiskPressure", "True")],
            &[("team", "NoExecute")],
        );
        node.spec.as_mut().unwrap().unschedulable = Some(true);
        let expected = [
            ("team", "NoExecute"),
            ("node.kubernetes.io/disk-pressure", "NoSchedule"),
            (UNSCHEDULABLE, "NoSchedule"),
        ];
        assert_eq!(tainted(&node), Some(pairs(&expected)));
    }

    #[test]
    fn silence_makes_everything_unknown_once() {
        let mut node = node(&[("Ready", "True"), ("Custom", "True")], &[]);
        let conditions = unknown(&node, Timestamp::UNIX_EPOCH).unwrap();
        let status_of = |type_: &str| {
            let condition = conditions
                .iter()
                .find(|condition| condition.type_ == type_)
                .unwrap();
            (condition.status.as_str(), condition.reason.as_deref())
        };
        assert_eq!(status_of("Ready"), ("Unknown", Some("NodeStatusUnknown")));
        assert_eq!(
            status_of("PIDPressure"),
            ("Unknown", Some("NodeStatusNeverUpdated"))
        );
        assert_eq!(status_of("Custom"), ("True", None));
        node.status.as_mut().unwrap().conditions = Some(conditions);
        assert!(unknown(&node, Timestamp::UNIX_EPOCH).is_none());
    }
}
