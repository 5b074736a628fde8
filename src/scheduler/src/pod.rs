//! What the scheduler keeps of a pod: its name, where it is, and what it needs of a node.

use std::{
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelector, Pod, PodResourceClaim, PodSpec, PreferredSchedulingTerm,
    Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use crate::{
    images::{self, ImageKind},
    profile::Profile,
    resources::{self, Resources},
    selector::{Labels, Selector, Term},
};

/// Names one incarnation of a pod. Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodKey(Arc<PodName>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodKey {
    pub(crate) fn new(namespace: String, name: String, uid: String) -> Self {
        Self(Arc::new(PodName {
            namespace,
            name,
            uid,
        }))
    }

    /// The key of a pod as the API has it.
    pub(crate) fn of(pod: &Pod) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let metadata = &pod.metadata;
        Self::new(
            text(&metadata.namespace),
            text(&metadata.name),
            text(&metadata.uid),
        )
    }
}

impl Deref for PodKey {
    type Target = PodName;

    fn deref(&self) -> &PodName {
        &self.0
    }
}

impl Hash for PodKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // It tells pods apart by itself.
        self.0.uid.hash(state);
    }
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

/// What selectors of pods see of a pod. Pods of which all of this is the same are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    /// The uid of what controls the pod.
    pub(crate) controller: Option<String>,
    /// It has been deleted and is on its way out.
    pub(crate) terminating: bool,
}

/// A constraint by which pods spread over the domains of a topology.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spread {
    pub(crate) topology_key: String,
    pub(crate) max_skew: i64,
    /// `DoNotSchedule` rather than `ScheduleAnyway`.
    pub(crate) hard: bool,
    pub(crate) selector: Selector,
    pub(crate) min_domains: Option<i64>,
    /// Whether only nodes that the pod selects count.
    pub(crate) honours_affinity: bool,
    /// Whether only nodes whose taints the pod tolerates count.
    pub(crate) honours_taints: bool,
}

/// The pods that a pod wants to be with, and those that it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub(crate) struct Company {
    pub(crate) required: Vec<Term>,
    pub(crate) forbidden: Vec<Term>,
    /// With weights; negative ones are for pods that it would rather not be with.
    pub(crate) preferred: Vec<(i64, Term)>,
}

/// What decides on which node a pod can be and should be.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Needs {
    pub(crate) identity: Arc<Identity>,
    pub(crate) priority: i32,
    /// It waits for room rather than to take it from others.
    pub(crate) never_preempts: bool,
    /// Which of the profiles places it.
    pub(crate) profile: usize,
    pub(crate) requested: Resources,
    pub(crate) weighed: Resources,
    pub(crate) node_selector: Vec<(String, String)>,
    pub(crate) required: Option<NodeSelector>,
    pub(crate) preferred: Vec<PreferredSchedulingTerm>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) company: Company,
    pub(crate) spread: Vec<Spread>,
    /// The claims of its volumes, and whether each is made for it alone.
    pub(crate) claims: Vec<(String, ClaimOrigin)>,
    /// Its claims of devices.
    pub(crate) device_claims: Vec<DeviceClaimName>,
    /// With a tag or a digest each.
    pub(crate) images: Vec<String>,
    /// How many containers it has.
    pub(crate) containers: usize,
    /// What kind of images it has, if it says so.
    pub(crate) image_kind: Option<ImageKind>,
}

/// Who makes the claim of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimOrigin {
    /// The user.
    Given,
    /// A controller, for this pod: an ephemeral volume.
    Ephemeral,
}

/// A claim of devices, as far as the pod tells which one it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeviceClaimName {
    /// One that was there.
    Given(String),
    /// One that was made for this pod.
    Made(String),
    /// One that is still to be made for it.
    NotMade,
}

/// A pod as the scheduler sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodInfo {
    pub(crate) key: PodKey,
    pub(crate) stage: Stage,
    pub(crate) needs: Arc<Needs>,
    /// When it began to run; of victims that are equal otherwise, the youngest goes first.
    pub(crate) started: Option<Timestamp>,
    /// The node on which room was made for it.
    pub(crate) nominated: Option<String>,
}

impl PodInfo {
    /// Reads `pod`, which is ours if it names one of `profiles`.
    pub(crate) fn of(pod: &Pod, profiles: &[Profile]) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let profile = spec.and_then(|spec| profile_of(spec, profiles));
        Self {
            key: PodKey::of(pod),
            stage: stage(pod, profile.is_some()),
            needs: Arc::new(
                spec.map(|spec| needs(pod, spec, profile.unwrap_or_default()))
                    .unwrap_or_default(),
            ),
            started: status.and_then(|status| status.start_time.as_ref().map(|time| time.0)),
            nominated: status
                .and_then(|status| status.nominated_node_name.clone())
                .filter(|node| !node.is_empty()),
        }
    }

    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.needs.identity
    }
}

fn profile_of(spec: &PodSpec, profiles: &[Profile]) -> Option<usize> {
    let name = spec.scheduler_name.as_deref();
    let name = name.unwrap_or(crate::DEFAULT_NAME);
    profiles.iter().position(|it| it.scheduler_name == name)
}

fn stage(pod: &Pod, is_ours: bool) -> Stage {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
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
    let gates = spec.scheduling_gates.as_ref();
    if gates.is_some_and(|gates| !gates.is_empty()) || !is_ours {
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

fn needs(pod: &Pod, spec: &PodSpec, profile: usize) -> Needs {
    let identity = Identity {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        controller: controller(pod),
        terminating: pod.metadata.deletion_timestamp.is_some(),
    };
    let affinity = spec.affinity.as_ref();
    let (required, preferred) =
        node_affinity(affinity.and_then(|affinity| affinity.node_affinity.as_ref()));
    Needs {
        priority: spec.priority.unwrap_or(0),
        never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        profile,
        requested: resources::requested(spec),
        weighed: resources::weighed(spec),
        node_selector: spec
            .node_selector
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        required,
        preferred,
        tolerations: spec.tolerations.clone().unwrap_or_default(),
        host_ports: host_ports(spec),
        company: company(spec, &identity),
        spread: spread(spec, &identity),
        claims: claims(pod, spec),
        device_claims: device_claims(pod, spec),
        images: images::named_by(spec),
        containers: spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len),
        image_kind: images::stated_by(pod, spec),
        identity: Arc::new(identity),
    }
}

pub(crate) fn node_affinity(
    affinity: Option<&NodeAffinity>,
) -> (Option<NodeSelector>, Vec<PreferredSchedulingTerm>) {
    let required = affinity.and_then(|it| {
        it.required_during_scheduling_ignored_during_execution
            .clone()
    });
    let preferred = affinity.and_then(|it| {
        it.preferred_during_scheduling_ignored_during_execution
            .clone()
    });
    (required, preferred.unwrap_or_default())
}

fn company(spec: &PodSpec, own: &Identity) -> Company {
    let affinity = spec.affinity.as_ref();
    let with = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let without = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let term = |term: &_| Term::of(term, &own.namespace, &own.labels);
    let weighted = |sign: i64, terms: Option<&Vec<WeightedPodAffinityTerm>>| {
        let one = |it: &WeightedPodAffinityTerm| {
            (sign * i64::from(it.weight), term(&it.pod_affinity_term))
        };
        terms.into_iter().flatten().map(one).collect::<Vec<_>>()
    };
    let mut preferred = weighted(
        1,
        with.and_then(|it| {
            it.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        }),
    );
    preferred.extend(weighted(
        -1,
        without.and_then(|it| {
            it.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        }),
    ));
    let required = with.and_then(|it| {
        it.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let forbidden = without.and_then(|it| {
        it.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    Company {
        required: required.into_iter().flatten().map(term).collect(),
        forbidden: forbidden.into_iter().flatten().map(term).collect(),
        preferred,
    }
}

fn spread(spec: &PodSpec, own: &Identity) -> Vec<Spread> {
    let constraints = spec.topology_spread_constraints.iter().flatten();
    let one = |it: &TopologySpreadConstraint| Spread {
        topology_key: it.topology_key.clone(),
        max_skew: i64::from(it.max_skew),
        hard: it.when_unsatisfiable == "DoNotSchedule",
        selector: Selector::of(it.label_selector.as_ref())
            .alike(&own.labels, it.match_label_keys.as_ref()),
        min_domains: it.min_domains.map(i64::from),
        honours_affinity: it.node_affinity_policy.as_deref() != Some("Ignore"),
        honours_taints: it.node_taints_policy.as_deref() == Some("Honor"),
    };
    constraints.map(one).collect()
}

fn claims(pod: &Pod, spec: &PodSpec) -> Vec<(String, ClaimOrigin)> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = spec.volumes.iter().flatten();
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| {
        if let Some(source) = &volume.persistent_volume_claim {
            return Some((source.claim_name.clone(), ClaimOrigin::Given));
        }
        let name = format!("{pod_name}-{}", volume.name);
        volume
            .ephemeral
            .as_ref()
            .map(|_| (name, ClaimOrigin::Ephemeral))
    };
    volumes.filter_map(claim).collect()
}

fn device_claims(pod: &Pod, spec: &PodSpec) -> Vec<DeviceClaimName> {
    let status = pod.status.as_ref();
    let made = status.and_then(|status| status.resource_claim_statuses.as_deref());
    let made = made.unwrap_or_default();
    let claim = |entry: &PodResourceClaim| {
        if let Some(name) = &entry.resource_claim_name {
            return Some(DeviceClaimName::Given(name.clone()));
        }
        match made.iter().find(|status| status.name == entry.name) {
            None => Some(DeviceClaimName::NotMade),
            // Without a name, the pod needs none after all.
            Some(status) => status
                .resource_claim_name
                .clone()
                .map(DeviceClaimName::Made),
        }
    };
    spec.resource_claims
        .iter()
        .flatten()
        .filter_map(claim)
        .collect()
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    // A sidecar keeps its ports as long as the pod runs.
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
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
        let profiles = [
            Profile::named(crate::DEFAULT_NAME),
            Profile::named("packing"),
        ];
        let ours = |pod: &Pod| PodInfo::of(pod, &profiles).stage;
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
        let named = |name: &str| PodSpec {
            scheduler_name: Some(name.to_owned()),
            ..PodSpec::default()
        };
        assert_eq!(ours(&pod(named("other"), "Pending")), Stage::NotOurs);
        let packing = PodInfo::of(&pod(named("packing"), "Pending"), &profiles);
        assert_eq!((packing.stage, packing.needs.profile), (Stage::Waiting, 1));
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
