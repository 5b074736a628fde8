//! Which nodes can take a pod, and the sentence that says why none can.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::{
    cluster::{Cluster, Facts, Held, NodeIx},
    plan::Plan,
    pod::{HostPort, Needs, PodInfo},
    profile::{Plugin, PluginSet},
    selector::node_matches,
};

/// Why a node cannot take a pod. Displayed in the words of upstream's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal<'a> {
    /// It is cordoned.
    Unschedulable,
    /// It has a taint that the pod does not tolerate.
    Taint,
    /// The pod does not select it.
    NotSelected,
    /// It does not run images of this kind.
    WrongKind,
    /// Another pod has a port of the host that this one wants.
    PortTaken,
    /// It has as many pods as it can have.
    TooManyPods,
    /// Not enough is left of this resource; or, if so said, there never is.
    Insufficient(&'a str, Ever),
    /// Another pod has a claim that no two may have.
    ClaimTaken,
    /// It can have no more volumes.
    TooManyVolumes,
    /// A claim is bound to a volume that does not exist.
    VolumeGone,
    /// A volume cannot be reached from it.
    VolumeElsewhere,
    /// There is no volume for a claim that could be reached from it.
    NoVolume,
    /// A volume is in another zone.
    OtherZone,
    /// It lacks a label by which the pod spreads.
    NoDomain,
    /// There would be too many of the pod's peers in its domain.
    Uneven,
    /// Those whom the pod must be with are not near it.
    Lonely,
    /// Somebody is near whom the pod must not be with.
    BadCompany,
    /// Somebody is near who must not be with the pod.
    Unwelcome,
    /// Devices that the pod's claims have cannot be reached from it.
    DevicesElsewhere,
    /// It has not the devices that the pod's claims ask for.
    NoDevices,
    /// Nobody knows whether it has them, for this reason.
    DeviceFault(&'a str),
}

/// Whether more of a resource can become free than is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ever {
    Maybe,
    Never,
}

impl Refusal<'_> {
    /// Whose refusal it is.
    pub(crate) fn plugin(self) -> Plugin {
        match self {
            Self::Unschedulable => Plugin::NodeUnschedulable,
            Self::Taint => Plugin::TaintToleration,
            Self::NotSelected => Plugin::NodeAffinity,
            Self::WrongKind => Plugin::ImageKind,
            Self::PortTaken => Plugin::NodePorts,
            Self::TooManyPods | Self::Insufficient(..) => Plugin::NodeResourcesFit,
            Self::ClaimTaken => Plugin::VolumeRestrictions,
            Self::TooManyVolumes => Plugin::NodeVolumeLimits,
            Self::VolumeGone | Self::VolumeElsewhere | Self::NoVolume => Plugin::VolumeBinding,
            Self::OtherZone => Plugin::VolumeZone,
            Self::NoDomain | Self::Uneven => Plugin::PodTopologySpread,
            Self::Lonely | Self::BadCompany | Self::Unwelcome => Plugin::InterPodAffinity,
            Self::DevicesElsewhere | Self::NoDevices | Self::DeviceFault(_) => {
                Plugin::DynamicResources
            }
        }
    }

    /// Whether it would be another matter if pods went away.
    pub(crate) fn may_pass(self) -> bool {
        match self {
            Self::PortTaken
            | Self::TooManyPods
            | Self::Insufficient(_, Ever::Maybe)
            | Self::ClaimTaken
            | Self::TooManyVolumes
            | Self::Uneven
            | Self::BadCompany
            | Self::Unwelcome => true,
            Self::Unschedulable
            | Self::Taint
            | Self::NotSelected
            | Self::WrongKind
            | Self::Insufficient(_, Ever::Never)
            | Self::VolumeGone
            | Self::VolumeElsewhere
            | Self::NoVolume
            | Self::OtherZone
            | Self::NoDomain
            | Self::Lonely
            | Self::DevicesElsewhere
            | Self::NoDevices
            | Self::DeviceFault(_) => false,
        }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Taint => "node(s) had untolerated taint(s)",
            Self::NotSelected => "node(s) didn't match Pod's node affinity/selector",
            Self::WrongKind => "node(s) didn't run the pod's kind of image",
            Self::PortTaken => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(resource, _) => return write!(f, "Insufficient {resource}"),
            Self::ClaimTaken => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            }
            Self::TooManyVolumes => "node(s) exceed max volume count",
            Self::VolumeGone => {
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
            }
            Self::VolumeElsewhere => "node(s) didn't match PersistentVolume's node affinity",
            Self::NoVolume => "node(s) didn't find available persistent volumes to bind",
            Self::OtherZone => "node(s) had no available volume zone",
            Self::NoDomain => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::Uneven => "node(s) didn't match pod topology spread constraints",
            Self::Lonely => "node(s) didn't match pod affinity rules",
            Self::BadCompany => "node(s) didn't match pod anti-affinity rules",
            Self::Unwelcome => "node(s) didn't satisfy existing pods anti-affinity rules",
            Self::DevicesElsewhere => "resourceclaim not available on the node",
            Self::NoDevices => "cannot allocate all claims",
            Self::DeviceFault(why) => why,
        })
    }
}

/// A node as it is, or as it would be with other pods on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) node: NodeIx,
    pub(crate) facts: &'a Facts,
    pub(crate) held: &'a Held,
}

impl<'a> Site<'a> {
    pub(crate) fn of(cluster: &'a Cluster, node: NodeIx) -> Self {
        let info = cluster.node(node);
        Self {
            node,
            facts: &info.facts,
            held: &info.held,
        }
    }
}

/// Whether the node can take the pod, also once those are there for whom room is being made and who are no less
/// important.
pub(crate) fn fits(plan: &Plan<'_>, cluster: &Cluster, node: NodeIx) -> bool {
    let site = Site::of(cluster, node);
    let fits = refusals(plan, cluster, site).next().is_none();
    fits && crowded(plan, cluster, site).is_none_or(|(plan, held)| {
        let held = &held;
        refusals(&plan, cluster, Site { held, ..site })
            .next()
            .is_none()
    })
}

/// How the node would be with those on it for whom room is being made, and who are no less important than the pod.
fn crowded<'a>(plan: &Plan<'a>, cluster: &Cluster, site: Site<'_>) -> Option<(Plan<'a>, Held)> {
    let comes_first = |rival: &&Arc<PodInfo>| {
        rival.needs.priority >= plan.needs.priority && rival.key != *plan.key
    };
    let mut rivals = cluster
        .nominated_on(site.node)
        .iter()
        .filter(comes_first)
        .peekable();
    rivals.peek()?;
    let (mut plan, mut held) = (plan.clone(), site.held.clone());
    for rival in rivals {
        held.take(&rival.needs);
        plan.shift(cluster, &rival.needs, site.node, 1);
    }
    Some((plan, held))
}

/// Everything that keeps the pod off a node; nothing if it fits. Checks after the first that fails are left out,
/// except for resources, where all that lack are named.
pub(crate) fn refusals<'a>(
    plan: &'a Plan<'_>,
    cluster: &'a Cluster,
    site: Site<'a>,
) -> impl Iterator<Item = Refusal<'a>> {
    let before = before_resources(plan, site);
    let resources = before.is_none().then(|| lacking(plan, site));
    let mut resources = resources.into_iter().flatten().peekable();
    let after = if before.is_none() && resources.peek().is_none() {
        after_resources(plan, cluster, site)
    } else {
        None
    };
    before.into_iter().chain(resources).chain(after)
}

fn before_resources<'a>(plan: &Plan<'_>, site: Site<'_>) -> Option<Refusal<'a>> {
    let (needs, facts) = (plan.needs, site.facts);
    let uses = |plugin| plan.profile.filters.has(plugin);
    if uses(Plugin::NodeUnschedulable) && facts.unschedulable && !tolerates_cordon(needs) {
        return Some(Refusal::Unschedulable);
    }
    if uses(Plugin::TaintToleration) && untolerated(needs, facts).is_some() {
        return Some(Refusal::Taint);
    }
    if uses(Plugin::NodeAffinity) && !(is_selected(needs, facts) && is_added(plan, facts)) {
        return Some(Refusal::NotSelected);
    }
    if plan
        .image_kinds
        .is_some_and(|kinds| !facts.runs.covers(kinds))
    {
        return Some(Refusal::WrongKind);
    }
    let is_taken = |port: &HostPort| site.held.ports.iter().any(|held| held.conflicts(port));
    let taken = uses(Plugin::NodePorts) && needs.host_ports.iter().any(is_taken);
    taken.then_some(Refusal::PortTaken)
}

fn lacking<'a>(plan: &'a Plan<'_>, site: Site<'a>) -> impl Iterator<Item = Refusal<'a>> {
    let (facts, held) = (site.facts, site.held);
    let uses = plan.profile.filters.has(Plugin::NodeResourcesFit);
    let too_many = (held.pods >= facts.max_pods).then_some(Refusal::TooManyPods);
    let wanted = &plan.needs.requested;
    let names = facts.allocatable.lacking(&held.requested, wanted);
    let lack = move |name: &'a str| {
        let ever = if wanted.get(name) > facts.allocatable.get(name) {
            Ever::Never
        } else {
            Ever::Maybe
        };
        Refusal::Insufficient(name, ever)
    };
    let counted = names.filter(|name| !plan.profile.ignores(name));
    let all = too_many.into_iter().chain(counted.map(lack));
    all.filter(move |_| uses)
}

fn after_resources<'a>(
    plan: &'a Plan<'_>,
    cluster: &Cluster,
    site: Site<'_>,
) -> Option<Refusal<'a>> {
    let (facts, node) = (site.facts, site.node);
    let uses = |plugin| plan.profile.filters.has(plugin);
    if !plan.wanted.is_nothing() {
        let volumes = &cluster.volumes;
        if uses(Plugin::VolumeRestrictions) && plan.wanted.taken {
            return Some(Refusal::ClaimTaken);
        }
        let there = cluster.pods_of(node).map(|pod| &*pod.needs);
        if uses(Plugin::NodeVolumeLimits) && volumes.exceeds_limits(&plan.wanted, facts, there) {
            return Some(Refusal::TooManyVolumes);
        }
        if let Some(refusal) = volumes.refusal(&plan.wanted, facts) {
            return Some(refusal);
        }
        if uses(Plugin::VolumeZone) && volumes.in_other_zone(&plan.wanted, facts) {
            return Some(Refusal::OtherZone);
        }
    }
    for skew in &plan.skews {
        match skew.with_pod_on(node) {
            None => return Some(Refusal::NoDomain),
            Some(uneven) if uneven > skew.constraint.max_skew => return Some(Refusal::Uneven),
            Some(_) => {}
        }
    }
    if !plan.nearness.has_required(node) {
        return Some(Refusal::Lonely);
    }
    if plan.nearness.has_forbidden(node) {
        return Some(Refusal::BadCompany);
    }
    if plan.nearness.is_forbidden(node) {
        return Some(Refusal::Unwelcome);
    }
    let devices = plan.devices.as_ref()?;
    cluster.devices.refusal(devices, facts)
}

/// Why a pod fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Diagnosis {
    /// Whose refusals they are.
    pub(crate) plugins: PluginSet,
    /// The sentence that says so, ending with a full stop.
    pub(crate) message: String,
    /// Nodes that would be another matter if pods went away.
    pub(crate) hopeful: Vec<NodeIx>,
}

/// Looks at every node again and tells what keeps the pod off it.
pub(crate) fn diagnose(plan: &Plan<'_>, cluster: &Cluster) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let mut counts = Reasons::default();
    for node in cluster.nodes() {
        let mut hopeful = true;
        let mut note = |refusal: Refusal<'_>| {
            hopeful &= refusal.may_pass();
            diagnosis.plugins.insert(refusal.plugin());
            counts.add(refusal.to_string());
        };
        let site = Site::of(cluster, *node);
        let mut refused = refusals(plan, cluster, site).peekable();
        if refused.peek().is_some() {
            refused.for_each(&mut note);
        } else if let Some((plan, held)) = crowded(plan, cluster, site) {
            let held = &held;
            refusals(&plan, cluster, Site { held, ..site }).for_each(&mut note);
        }
        if hopeful {
            diagnosis.hopeful.push(*node);
        }
    }
    diagnosis.message = counts.sentence(cluster.nodes().len());
    diagnosis
}

/// Reasons, and how many nodes each is true of.
#[derive(Debug, Default)]
pub(crate) struct Reasons(BTreeMap<String, usize>);

impl Reasons {
    pub(crate) fn add(&mut self, reason: String) {
        self.add_many(reason, 1);
    }

    pub(crate) fn add_many(&mut self, reason: String, nodes: usize) {
        if nodes > 0 {
            *self.0.entry(reason).or_default() += nodes;
        }
    }

    /// `0/N nodes are available: 1 Insufficient cpu, 2 ....`
    pub(crate) fn sentence(&self, nodes: usize) -> String {
        let mut reasons: Vec<_> = self
            .0
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        reasons.sort();
        if reasons.is_empty() {
            return format!("0/{nodes} nodes are available:");
        }
        format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
    }
}

/// What cordoning stands for, so that a toleration can name it.
fn tolerates_cordon(needs: &Needs) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    needs.tolerations.iter().any(|it| tolerates(it, &taint))
}

/// The first taint that keeps the pod off.
pub(crate) fn untolerated<'n>(needs: &Needs, node: &'n Facts) -> Option<&'n Taint> {
    node.taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !needs.tolerations.iter().any(|it| tolerates(it, taint)))
}

/// Whether `toleration` covers `taint`. An empty effect covers all effects; an empty key with `Exists` all taints.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().filter(|it| !it.is_empty());
    let key = toleration.key.as_deref().filter(|it| !it.is_empty());
    if effect.is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default();
    let has = taint.value.as_deref().unwrap_or_default();
    let numbers = || Some((has.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    match key {
        None => exists,
        Some(key) if key != taint.key => false,
        Some(_) => match toleration.operator.as_deref() {
            Some("Exists") => true,
            Some("Gt") => numbers().is_some_and(|(has, bound)| has > bound),
            Some("Lt") => numbers().is_some_and(|(has, bound)| has < bound),
            _ => value == has,
        },
    }
}

/// Whether the pod selects the node.
pub(crate) fn is_selected(needs: &Needs, node: &Facts) -> bool {
    needs
        .node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value))
        && needs
            .required
            .as_ref()
            .is_none_or(|selector| node_matches(selector, &node.name, &node.labels))
}

/// Whether the profile's own affinity selects the node.
fn is_added(plan: &Plan<'_>, node: &Facts) -> bool {
    let added = plan.profile.added_affinity.as_ref();
    let required = added.and_then(|it| {
        it.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|selector| node_matches(selector, &node.name, &node.labels))
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
