//! The scheduler's picture of the cluster: nodes, and what the pods on them hold.
//!
//! Kept up by events, so that no decision looks at pods one by one. A pod that was given a node counts there at once
//! (it is *assumed*), long before the API server's event about it comes back.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node as NodeObject, Taint};

use crate::{
    budgets::Budgets,
    census::Census,
    devices::Devices,
    images::{self, ImageKind, Runs},
    pod::{HostPort, Needs, PodInfo, PodKey},
    resources::Resources,
    selector::Labels,
    services::Services,
    topology::Topology,
    volumes::Volumes,
};

/// Stands for a node as long as it exists or has pods; then for another.
pub(crate) type NodeIx = usize;

/// How many topologies are kept up. When pods ask for more, those that are there are made anew as they are needed.
const TOPOLOGIES: usize = 64;
/// Of how many images it is remembered that nodes refused them.
const REFUSED_IMAGES: usize = 10_000;

/// What a node is, apart from its pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    /// Most pods at a time.
    pub(crate) max_pods: i64,
    /// The images that are there, with their sizes in bytes.
    pub(crate) images: HashMap<String, i64>,
    pub(crate) runs: Runs,
    pub(crate) refused: Vec<(String, ImageKind)>,
}

impl Facts {
    fn of(node: &NodeObject) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let amounts = status.and_then(|it| it.allocatable.as_ref().or(it.capacity.as_ref()));
        let allocatable = Resources::of(amounts);
        let labels = node.metadata.labels.clone().unwrap_or_default();
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            runs: Runs::of(&labels),
            labels,
            taints: spec
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            max_pods: allocatable.get("pods"),
            allocatable,
            images: images::of_node(node),
            refused: images::refused_by(node),
        }
    }
}

/// What the pods of a node hold together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) pods: i64,
    pub(crate) requested: Resources,
    pub(crate) weighed: Resources,
    pub(crate) ports: Vec<HostPort>,
}

impl Held {
    pub(crate) fn take(&mut self, needs: &Needs) {
        self.pods += 1;
        self.requested.add(&needs.requested);
        self.weighed.add(&needs.weighed);
        self.ports.extend(needs.host_ports.iter().cloned());
    }

    pub(crate) fn give_back(&mut self, needs: &Needs) {
        self.pods -= 1;
        self.requested.subtract(&needs.requested);
        self.weighed.subtract(&needs.weighed);
        for port in &needs.host_ports {
            if let Some(index) = self.ports.iter().position(|held| held == port) {
                self.ports.swap_remove(index);
            }
        }
    }
}

/// A node and its pods.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) facts: Arc<Facts>,
    pub(crate) held: Held,
    pub(crate) pods: Vec<PodKey>,
    exists: bool,
}

/// A pod that has a node.
#[derive(Debug)]
struct Placed {
    node: NodeIx,
    info: Arc<PodInfo>,
}

/// All nodes, where each placed pod is, and whatever else decisions are made by.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    slots: Vec<Node>,
    free: Vec<NodeIx>,
    by_name: HashMap<String, NodeIx>,
    /// Nodes that exist, in the order of their names: decisions and messages do not depend on the order of events.
    order: Vec<NodeIx>,
    /// Every placed pod, also those on nodes that are not known (yet, or any more).
    placed: HashMap<PodKey, Placed>,
    /// Pods for which room is being made, by node.
    nominated: BTreeMap<String, Vec<Arc<PodInfo>>>,
    topologies: RefCell<HashMap<String, Arc<Topology>>>,
    /// On how many nodes each image is.
    image_nodes: HashMap<String, usize>,
    /// Kinds of images as nodes told them that could not run them.
    image_kinds: HashMap<String, ImageKind>,
    pub(crate) census: Census,
    pub(crate) volumes: Volumes,
    pub(crate) devices: Devices,
    pub(crate) services: Services,
    pub(crate) budgets: Budgets,
}

impl Cluster {
    /// Every node that exists, in the order of their names.
    pub(crate) fn nodes(&self) -> &[NodeIx] {
        &self.order
    }

    pub(crate) fn node(&self, node: NodeIx) -> &Node {
        // Indexes come from here and are used before the next change.
        &self.slots[node]
    }

    /// The node of this name, if it exists.
    pub(crate) fn node_named(&self, name: &str) -> Option<NodeIx> {
        let node = *self.by_name.get(name)?;
        self.slots[node].exists.then_some(node)
    }

    /// Takes a node's new state. Says which node it is, and whether anything that could let a pod in has changed.
    pub(crate) fn set_node(&mut self, node: &NodeObject) -> (NodeIx, bool) {
        let facts = Facts::of(node);
        let slot = self.slot(&facts.name);
        for (image, kind) in &facts.refused {
            if self.image_kinds.len() < REFUSED_IMAGES {
                self.image_kinds.insert(image.clone(), *kind);
            }
        }
        let existed = self.slots[slot].exists;
        if existed && *self.slots[slot].facts == facts {
            return (slot, false);
        }
        self.count_images(slot, false);
        for (key, topology) in self.topologies.get_mut() {
            Arc::make_mut(topology).set(slot, facts.labels.get(key));
        }
        self.slots[slot].facts = Arc::new(facts);
        self.slots[slot].exists = true;
        self.count_images(slot, true);
        if !existed {
            let at = self.place_in_order(slot);
            self.order.insert(at, slot);
        }
        (slot, true)
    }

    /// The node is gone. Its pods are still known, should it come back.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(node) = self.node_named(name) else {
            return;
        };
        self.count_images(node, false);
        for topology in self.topologies.get_mut().values_mut() {
            Arc::make_mut(topology).set(node, None);
        }
        let at = self.place_in_order(node);
        self.order.remove(at);
        self.slots[node].exists = false;
        self.free_slot(node);
    }

    /// Keeps only the nodes that `exists` says yes to.
    pub(crate) fn retain_nodes(&mut self, exists: impl Fn(&str) -> bool) {
        let names = self.order.iter().map(|node| &self.slots[*node].facts.name);
        let gone: Vec<_> = names.filter(|name| !exists(name)).cloned().collect();
        for name in gone {
            self.remove_node(&name);
        }
    }

    /// Whether the pod counts on a node.
    pub(crate) fn is_placed(&self, pod: &PodKey) -> bool {
        self.placed.contains_key(pod)
    }

    /// A placed pod.
    pub(crate) fn pod(&self, pod: &PodKey) -> Option<&Arc<PodInfo>> {
        self.placed.get(pod).map(|placed| &placed.info)
    }

    /// The pods of a node.
    pub(crate) fn pods_of(&self, node: NodeIx) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.slots[node].pods.iter().filter_map(|key| self.pod(key))
    }

    /// The pod counts on `node` from now on, wherever it was before. Says where that is.
    pub(crate) fn place(&mut self, pod: Arc<PodInfo>, node: &str) -> NodeIx {
        let slot = self.slot(node);
        if let Some(placed) = self.placed.get_mut(&pod.key)
            && placed.node == slot
            && placed.info.needs == pod.needs
        {
            placed.info = pod;
            return slot;
        }
        self.remove(&pod.key);
        // It may just have been given away.
        let slot = self.slot(node);
        let needs = &pod.needs;
        self.slots[slot].held.take(needs);
        self.slots[slot].pods.push(pod.key.clone());
        self.census.add(&needs.identity, &needs.company, slot);
        self.volumes.use_claims(&pod);
        self.placed.insert(
            pod.key.clone(),
            Placed {
                node: slot,
                info: pod,
            },
        );
        slot
    }

    /// The pod holds nothing any more. Says where it did.
    pub(crate) fn remove(&mut self, pod: &PodKey) -> Option<NodeIx> {
        let Placed { node, info } = self.placed.remove(pod)?;
        let slot = &mut self.slots[node];
        slot.held.give_back(&info.needs);
        if let Some(index) = slot.pods.iter().position(|key| key == pod) {
            slot.pods.swap_remove(index);
        }
        let needs = &info.needs;
        self.census.remove(&needs.identity, &needs.company, node);
        self.volumes.leave_claims(&info);
        self.free_slot(node);
        Some(node)
    }

    /// Every placed pod.
    pub(crate) fn placed(&self) -> impl Iterator<Item = &PodKey> {
        self.placed.keys()
    }

    /// Room is being made for the pod on `node`, and nowhere else.
    pub(crate) fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.withdraw(&pod.key);
        self.nominated.entry(node.to_owned()).or_default().push(pod);
    }

    /// No room is kept for the pod any more. Says whether there was.
    pub(crate) fn withdraw(&mut self, pod: &PodKey) -> bool {
        if self.nominated.is_empty() {
            return false;
        }
        let mut found = false;
        self.nominated.retain(|_, pods| {
            let before = pods.len();
            pods.retain(|nominated| nominated.key != *pod);
            found |= pods.len() < before;
            !pods.is_empty()
        });
        found
    }

    /// The node on which room is being made for the pod.
    pub(crate) fn nomination_of(&self, pod: &PodKey) -> Option<&str> {
        let has = |pods: &[Arc<PodInfo>]| pods.iter().any(|nominated| nominated.key == *pod);
        let mut nodes = self.nominated.iter();
        nodes
            .find(|(_, pods)| has(pods))
            .map(|(node, _)| node.as_str())
    }

    /// The pods for which room is being made on a node.
    pub(crate) fn nominated_on(&self, node: NodeIx) -> &[Arc<PodInfo>] {
        if self.nominated.is_empty() {
            return &[];
        }
        let pods = self.nominated.get(&self.slots[node].facts.name);
        pods.map_or(&[], Vec::as_slice)
    }

    /// The domains of a label.
    pub(crate) fn topology(&self, key: &str) -> Arc<Topology> {
        let mut known = self.topologies.borrow_mut();
        if let Some(topology) = known.get(key) {
            return Arc::clone(topology);
        }
        let mut topology = Topology::default();
        for node in &self.order {
            topology.set(*node, self.slots[*node].facts.labels.get(key));
        }
        if known.len() >= TOPOLOGIES {
            known.clear();
        }
        let topology = Arc::new(topology);
        known.insert(key.to_owned(), Arc::clone(&topology));
        topology
    }

    /// On how many nodes the image is.
    pub(crate) fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// What a node must run for a pod's images, as far as anybody knows: both, if the pod has both.
    pub(crate) fn image_kinds(&self, needs: &Needs) -> Option<Runs> {
        let images = needs.images.iter();
        let known = images.filter_map(|image| self.image_kinds.get(image).copied());
        let kinds = needs.image_kind.into_iter().chain(known);
        kinds.map(Runs::only).reduce(Runs::with)
    }

    fn slot(&mut self, name: &str) -> NodeIx {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let new = Node {
            facts: Arc::new(Facts {
                name: name.to_owned(),
                ..Facts::default()
            }),
            ..Node::default()
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot] = new;
            slot
        } else {
            self.slots.push(new);
            self.slots.len() - 1
        };
        self.by_name.insert(name.to_owned(), slot);
        slot
    }

    fn free_slot(&mut self, slot: NodeIx) {
        let node = &self.slots[slot];
        if !node.exists && node.pods.is_empty() {
            self.by_name.remove(&node.facts.name);
            self.free.push(slot);
        }
    }

    /// Where a node is, or belongs, among those that exist.
    fn place_in_order(&self, node: NodeIx) -> usize {
        let name = &self.slots[node].facts.name;
        self.order
            .partition_point(|other| self.slots[*other].facts.name < *name)
    }

    fn count_images(&mut self, node: NodeIx, come: bool) {
        let facts = Arc::clone(&self.slots[node].facts);
        if !self.slots[node].exists {
            return;
        }
        for image in facts.images.keys() {
            if come {
                *self.image_nodes.entry(image.clone()).or_default() += 1;
            } else if let Some(count) = self.image_nodes.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    self.image_nodes.remove(image);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
pub(crate) mod tests;
