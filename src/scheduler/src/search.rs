//! The search for a pod's node: all that is known put together.

use std::fmt::Write as _;

use crate::{
    bind::Preparations,
    cluster::{Cluster, NodeIx},
    devices::Grant,
    filter::{self, Diagnosis},
    plan::Plan,
    pod::PodInfo,
    preempt::{self, Room, Search},
    profile::{Plugin, PluginSet, Profile},
    score,
};

/// Of clusters of at most so many nodes all are looked at; of larger ones, a share that shrinks with the size.
const ALL_NODES: usize = 100;

/// What is to become of a pod.
pub(crate) enum Decision {
    /// It goes to this node, once this is done.
    Take { node: NodeIx, first: Preparations },
    /// It goes nowhere for now.
    Nothing {
        refused_by: PluginSet,
        message: String,
        room: ForPod,
    },
}

/// Whether room is made for a pod that goes nowhere.
pub(crate) enum ForPod {
    Room(Room),
    BeingMade,
    /// This claim, which only this pod may use, gives its devices back: there may be others where there is room.
    GivenBack(Grant),
    Nothing,
}

/// The search for a pod's node.
pub(crate) struct NodeSearch<'c> {
    pub(crate) cluster: &'c Cluster,
    /// Of how many percent of the nodes it is enough to know that they fit.
    pub(crate) share: Option<usize>,
    /// Which decision it is.
    pub(crate) turn: usize,
    /// Where the search begins in a large cluster, and then where it ended.
    pub(crate) next_node: usize,
}

impl NodeSearch<'_> {
    /// Decides where a pod goes.
    pub(crate) fn decide(&mut self, pod: &PodInfo, profile: &Profile) -> Decision {
        let total = self.cluster.nodes().len();
        if total == 0 {
            return Decision::Nothing {
                refused_by: PluginSet::default(),
                message: "no nodes available to schedule pods".to_owned(),
                room: ForPod::Nothing,
            };
        }
        let plan = match Plan::new(self.cluster, pod, profile) {
            Ok(plan) => plan,
            Err((plugin, why)) => {
                let mut message = format!("0/{total} nodes are available: {why}.");
                if profile.preempts {
                    let useless = "Preemption is not helpful for scheduling";
                    let _ = write!(
                        message,
                        " preemption: 0/{total} nodes are available: {total} {useless}."
                    );
                }
                return Decision::Nothing {
                    refused_by: [plugin].into_iter().collect(),
                    message,
                    room: ForPod::Nothing,
                };
            }
        };
        if let Some(node) = self.choose(&plan, pod)
            && let Some(first) = self.prepare(&plan, node)
        {
            return Decision::Take { node, first };
        }
        let diagnosis = filter::diagnose(&plan, self.cluster);
        self.look_for_room(&plan, pod, &diagnosis)
    }

    /// What is to be done before the pod can be bound to the node; `None` if the devices that it was to have are not to be
    /// had after all.
    fn prepare(&self, plan: &Plan<'_>, node: NodeIx) -> Option<Preparations> {
        let facts = &self.cluster.node(node).facts;
        let steps = self.cluster.volumes.steps(&plan.wanted, facts);
        let grants = match &plan.devices {
            None => Vec::new(),
            Some(devices) => self.cluster.devices.grants(devices, facts)?,
        };
        Some(Preparations {
            steps: steps.unwrap_or_default(),
            grants,
        })
    }

    fn look_for_room(&self, plan: &Plan<'_>, pod: &PodInfo, diagnosis: &Diagnosis) -> Decision {
        let mut message = diagnosis.message.clone();
        let room = if plan.profile.preempts {
            match preempt::search(plan, self.cluster, pod, diagnosis, self.turn) {
                Search::Found(room) => ForPod::Room(room),
                Search::BeingMade(why) => {
                    let _ = write!(message, " preemption: {why}");
                    ForPod::BeingMade
                }
                Search::Nothing(why) => {
                    let _ = write!(message, " preemption: {why}");
                    ForPod::Nothing
                }
            }
        } else {
            ForPod::Nothing
        };
        let elsewhere = plan.devices.as_ref();
        let elsewhere = elsewhere.filter(|_| diagnosis.plugins.has(Plugin::DynamicResources));
        let room = match (room, elsewhere.and_then(|devices| devices.own(&pod.key))) {
            (ForPod::Nothing, Some(claim)) => ForPod::GivenBack(claim),
            (room, _) => room,
        };
        Decision::Nothing {
            refused_by: diagnosis.plugins,
            message,
            room,
        }
    }

    /// The best node among enough that fit. In a large cluster each search goes on where the last one ended, so that
    /// all nodes get their share. Where room was made for the pod, it goes if it can.
    fn choose(&mut self, plan: &Plan<'_>, pod: &PodInfo) -> Option<NodeIx> {
        let cluster = self.cluster;
        let nominated = cluster.nomination_of(&pod.key);
        if let Some(node) = nominated.and_then(|name| cluster.node_named(name))
            && filter::fits(plan, cluster, node)
        {
            return Some(node);
        }
        let nodes = cluster.nodes();
        let enough = enough(nodes.len(), self.share);
        let start = if nodes.len() > enough {
            self.next_node % nodes.len()
        } else {
            0
        };
        let (before, after) = nodes.split_at(start);
        let mut looked_at = 0;
        let mut fitting = Vec::with_capacity(enough.min(nodes.len()));
        for node in after.iter().chain(before) {
            looked_at += 1;
            if filter::fits(plan, cluster, *node) {
                fitting.push(*node);
                if fitting.len() >= enough {
                    break;
                }
            }
        }
        self.next_node = start + looked_at;
        score::best(plan, cluster, &fitting, self.turn)
    }
}

/// How many nodes that fit are enough to choose from: `share` percent of them, or else half of them, less for each 125
/// nodes more, but at least 5 %; and [`ALL_NODES`] in any case.
fn enough(nodes: usize, share: Option<usize>) -> usize {
    let percent = share.unwrap_or_else(|| 50_usize.saturating_sub(nodes / 125).max(5));
    (nodes * percent / 100).max(ALL_NODES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_are_looked_at_whole_and_large_ones_in_part() {
        assert_eq!(enough(1, None), 100);
        assert_eq!(enough(100, None), 100);
        assert_eq!(enough(1000, None), 420);
        assert_eq!(enough(10_000, None), 500);
        assert_eq!(enough(10_000, Some(100)), 10_000);
    }
}
