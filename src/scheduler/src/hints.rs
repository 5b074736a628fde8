//! Whether what has changed may help a pod that fitted nowhere.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    cluster::{Cluster, NodeIx},
    filter,
    plan::Plan,
    pod::PodInfo,
    profile::{Plugin, PluginSet, Profile},
    selector::Term,
};

/// Of how many changed nodes or pods each is looked at. When more have changed, it is assumed that they help.
const LOOKED_AT: usize = 64;

/// The plugins that go by claims and volumes.
const STORAGE: [Plugin; 4] = [
    Plugin::VolumeRestrictions,
    Plugin::NodeVolumeLimits,
    Plugin::VolumeBinding,
    Plugin::VolumeZone,
];

/// What has changed since the stuck were asked last.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Nodes that came or changed, or have more room than they had.
    nodes: BTreeSet<NodeIx>,
    /// Pods that came to a node, or left one.
    pods: Vec<Arc<PodInfo>>,
    too_many_pods: bool,
    /// What those plugins go by that are about neither nodes nor pods.
    about: PluginSet,
    /// Something that may matter to anybody.
    everything: bool,
}

impl News {
    pub(crate) fn node_changed(&mut self, node: NodeIx) {
        self.nodes.insert(node);
    }

    pub(crate) fn pod_came(&mut self, pod: Arc<PodInfo>) {
        if self.pods.len() < LOOKED_AT {
            self.pods.push(pod);
        } else {
            self.too_many_pods = true;
        }
    }

    pub(crate) fn pod_left(&mut self, pod: Arc<PodInfo>, node: NodeIx) {
        self.node_changed(node);
        self.pod_came(pod);
    }

    pub(crate) fn storage_changed(&mut self) {
        self.about.insert_all(&STORAGE);
    }

    pub(crate) fn devices_changed(&mut self) {
        self.about.insert(Plugin::DynamicResources);
    }

    pub(crate) fn everything_changed(&mut self) {
        self.everything = true;
    }

    /// Whether it may help the pod, which these plugins kept off the nodes.
    pub(crate) fn may_help(
        &self,
        cluster: &Cluster,
        profile: &Profile,
        pod: &PodInfo,
        refused_by: PluginSet,
    ) -> bool {
        let is_about = |plugins: &[Plugin]| plugins.iter().any(|it| refused_by.has(*it));
        if self.everything || refused_by.meets(self.about) {
            return true;
        }
        let others = is_about(&[
            Plugin::InterPodAffinity,
            Plugin::PodTopologySpread,
            Plugin::VolumeRestrictions,
        ]);
        if others && (self.too_many_pods || self.pods.iter().any(|it| concerns(cluster, pod, it))) {
            return true;
        }
        let spreads = refused_by.has(Plugin::PodTopologySpread);
        let namespace = &pod.needs.identity.namespace;
        let is_near = |other: &Arc<PodInfo>| other.needs.identity.namespace == *namespace;
        if self.nodes.len() > LOOKED_AT || (spreads && self.pods.iter().any(is_near)) {
            return true;
        }
        if self.nodes.is_empty() {
            return false;
        }
        // New nodes may make a domain of their own.
        spreads
            || Plan::new(cluster, pod, profile).is_ok_and(|plan| {
                let fits = |node: &NodeIx| filter::fits(&plan, cluster, *node);
                self.nodes.iter().any(fits)
            })
    }
}

/// Whether one pod's coming or going can matter to another by what they are to each other.
fn concerns(cluster: &Cluster, pod: &PodInfo, other: &PodInfo) -> bool {
    let (mine, others) = (&pod.needs, &other.needs);
    let picks = |term: &Term| cluster.census.picks(&term.target, other.identity());
    let shares = mine.identity.namespace == others.identity.namespace
        && mine
            .claims
            .iter()
            .any(|claim| others.claims.contains(claim));
    shares
        || mine.company.required.iter().any(picks)
        || mine.company.forbidden.iter().any(picks)
        || others
            .company
            .forbidden
            .iter()
            .any(|term| cluster.census.picks(&term.target, pod.identity()))
}
