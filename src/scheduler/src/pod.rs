//! What the scheduler keeps of a pod: its name, where it is, and what it needs of a node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, Pod, PodSpec, PreferredSchedulingTerm, Toleration,
};

use crate::resources::{self, Resources};

/// Names one incarnation of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Where a pod is on its way to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for a node, and for us to find it.
    Waiting,
    /// It may not be scheduled yet, or another scheduler takes care of it.
    NotOurs,
    /// It holds its resources on this node.
    Placed(String),
    /// It runs no more, or is on its way out without ever having had a node.
    Done,
}

/// A port of the host that a pod takes for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) protocol: String,
    /// Empty or `0.0.0.0` for all addresses.
    pub(crate) address: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |address: &str| address.is_empty() || address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || any(&self.address) || any(&other.address))
    }
}

/// What decides on which node a pod can be and should be.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Needs {
    pub(crate) priority: i32,
    pub(crate) requested: Resources,
    pub(crate) weighed: Resources,
    pub(crate) node_selector: Vec<(String, String)>,
    pub(crate) required: Option<NodeSelector>,
    pub(crate) preferred: Vec<PreferredSchedulingTerm>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) host_ports: Vec<HostPort>,
    /// The uid of what controls the pod: its siblings have the same, and should be elsewhere.
    pub(crate) siblings: Option<String>,
}

/// A pod as the scheduler sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodInfo {
    pub(crate) key: PodKey,
    pub(crate) stage: Stage,
    pub(crate) needs: Arc<Needs>,
}

impl PodInfo {
    /// Reads `pod`; `scheduler` is the name under which we are asked for.
    pub(crate) fn of(pod: &Pod, scheduler: &str) -> Self {
        let spec = pod.spec.as_ref();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Self {
            key: PodKey {
                namespace: text(&pod.metadata.namespace),
                name: text(&pod.metadata.name),
                uid: text(&pod.metadata.uid),
            },
            stage: stage(pod, scheduler),
            needs: Arc::new(
                spec.map(|spec| needs(spec, controller(pod)))
                    .unwrap_or_default(),
            ),
        }
    }
}

fn stage(pod: &Pod, scheduler: &str) -> Stage {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let Some(spec) = pod.spec.as_ref() else {
        return Stage::NotOurs;
    };
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Stage::Done;
    }
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Stage::Placed(node.to_owned());
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Stage::Done;
    }
    let gated = spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty());
    let asked_for = spec
        .scheduler_name
        .as_deref()
        .unwrap_or(crate::DEFAULT_NAME);
    if gated || asked_for != scheduler {
        Stage::NotOurs
    } else {
        Stage::Waiting
    }
}

fn controller(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.as_ref()?;
    owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.clone())
}

fn needs(spec: &PodSpec, siblings: Option<String>) -> Needs {
    let node_affinity = spec
        .affinity
        .as_ref()
        .and_then(|Affinity { node_affinity, .. }| node_affinity.as_ref());
    Needs {
        priority: spec.priority.unwrap_or(0),
        requested: resources::requested(spec),
        weighed: resources::weighed(spec),
        node_selector: spec
            .node_selector
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        required: node_affinity.and_then(|it| {
            it.required_during_scheduling_ignored_during_execution
                .clone()
        }),
        preferred: node_affinity
            .and_then(|it| {
                it.preferred_during_scheduling_ignored_during_execution
                    .clone()
            })
            .unwrap_or_default(),
        tolerations: spec.tolerations.clone().unwrap_or_default(),
        host_ports: host_ports(spec),
        siblings,
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    spec.containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: port.host_ip.clone().unwrap_or_default(),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSchedulingGate, PodStatus};

    use super::*;

    fn pod(spec: PodSpec, phase: &str) -> Pod {
        Pod {
            spec: Some(spec),
            status: Some(PodStatus {
                phase: Some(phase.to_owned()),
                ..PodStatus::default()
            }),
            ..Pod::default()
        }
    }

    #[test]
    fn stages_follow_the_pods_life() {
        let ours = |pod: &Pod| stage(pod, crate::DEFAULT_NAME);
        assert_eq!(ours(&pod(PodSpec::default(), "Pending")), Stage::Waiting);
        let placed = PodSpec {
            node_name: Some("n".to_owned()),
            ..PodSpec::default()
        };
        assert_eq!(
            ours(&pod(placed.clone(), "Running")),
            Stage::Placed("n".to_owned())
        );
        assert_eq!(ours(&pod(placed, "Succeeded")), Stage::Done);
        let gated = PodSpec {
            scheduling_gates: Some(vec![PodSchedulingGate {
                name: "wait".to_owned(),
            }]),
            ..PodSpec::default()
        };
        assert_eq!(ours(&pod(gated, "Pending")), Stage::NotOurs);
        let foreign = PodSpec {
            scheduler_name: Some("other".to_owned()),
            ..PodSpec::default()
        };
        assert_eq!(ours(&pod(foreign.clone(), "Pending")), Stage::NotOurs);
        assert_eq!(stage(&pod(foreign, "Pending"), "other"), Stage::Waiting);
    }

    #[test]
    fn host_ports_conflict_on_the_same_or_on_any_address() {
        let port = |address: &str, protocol: &str| HostPort {
            protocol: protocol.to_owned(),
            address: address.to_owned(),
            port: 80,
        };
        assert!(port("", "TCP").conflicts(&port("127.0.0.1", "TCP")));
        assert!(port("127.0.0.1", "TCP").conflicts(&port("127.0.0.1", "TCP")));
        assert!(!port("127.0.0.1", "TCP").conflicts(&port("127.0.0.2", "TCP")));
        assert!(!port("", "TCP").conflicts(&port("", "UDP")));
    }
}
