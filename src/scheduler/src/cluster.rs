//! The scheduler's picture of the cluster: nodes, and what the pods on them hold.
//!
//! Kept up by events, so that no decision looks at pods one by one. A pod that was given a node counts there at once
//! (it is *assumed*), long before the API server's event about it comes back.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{
    pod::{HostPort, Needs, PodKey},
    resources::Resources,
};

/// A node and what is taken of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeInfo {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    /// Most pods at a time.
    pub(crate) max_pods: i64,
    pub(crate) held: Held,
}

/// What the pods of a node hold together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) pods: i64,
    pub(crate) requested: Resources,
    pub(crate) weighed: Resources,
    pub(crate) ports: Vec<HostPort>,
    /// How many pods of each controller there are, by its uid.
    siblings: HashMap<String, i64>,
}

impl Held {
    fn take(&mut self, needs: &Needs) {
        self.pods += 1;
        self.requested.add(&needs.requested);
        self.weighed.add(&needs.weighed);
        self.ports.extend(needs.host_ports.iter().cloned());
        if let Some(siblings) = &needs.siblings {
            *self.siblings.entry(siblings.clone()).or_default() += 1;
        }
    }

    /// How many of a pod's siblings there are.
    pub(crate) fn siblings_of(&self, needs: &Needs) -> i64 {
        needs
            .siblings
            .as_ref()
            .and_then(|siblings| self.siblings.get(siblings))
            .copied()
            .unwrap_or(0)
    }

    fn give_back(&mut self, needs: &Needs) {
        self.pods -= 1;
        self.requested.subtract(&needs.requested);
        self.weighed.subtract(&needs.weighed);
        for port in &needs.host_ports {
            if let Some(index) = self.ports.iter().position(|held| held == port) {
                self.ports.swap_remove(index);
            }
        }
        if let Some(siblings) = &needs.siblings
            && let Some(count) = self.siblings.get_mut(siblings)
        {
            *count -= 1;
            if *count == 0 {
                self.siblings.remove(siblings);
            }
        }
    }
}

/// All nodes, and where each placed pod is.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Those that exist, by name: decisions and messages do not depend on the order of events.
    nodes: BTreeMap<String, NodeInfo>,
    /// Every placed pod, also those on nodes that are not known (yet, or any more).
    placed: HashMap<PodKey, (String, Arc<Needs>)>,
}

impl Cluster {
    /// Every node, in the order of their names.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeInfo> + Clone {
        self.nodes.values()
    }

    /// Takes a node's new state. Says whether anything that could let a pod in has changed.
    pub(crate) fn set_node(&mut self, node: &Node) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable =
            Resources::of(status.and_then(|it| it.allocatable.as_ref().or(it.capacity.as_ref())));
        let mut new = NodeInfo {
            max_pods: allocatable.get("pods"),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable,
            held: Held::default(),
            name: name.clone(),
        };
        if let Some(old) = self.nodes.get_mut(&name) {
            let changed = old.labels != new.labels
                || old.taints != new.taints
                || old.unschedulable != new.unschedulable
                || old.allocatable != new.allocatable;
            new.held = std::mem::take(&mut old.held);
            *old = new;
            return changed;
        }
        for (_, needs) in self.placed.values().filter(|(node, _)| *node == name) {
            new.held.take(needs);
        }
        self.nodes.insert(name, new);
        true
    }

    /// The node is gone. Its pods are still known, should it come back.
    pub(crate) fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Keeps only the nodes that `exists` says yes to.
    pub(crate) fn retain_nodes(&mut self, exists: impl Fn(&str) -> bool) {
        self.nodes.retain(|name, _| exists(name));
    }

    /// Whether the pod counts on a node.
    pub(crate) fn is_placed(&self, pod: &PodKey) -> bool {
        self.placed.contains_key(pod)
    }

    /// The pod counts on `node` from now on, wherever it was before.
    pub(crate) fn place(&mut self, pod: PodKey, node: &str, needs: Arc<Needs>) {
        if self
            .placed
            .get(&pod)
            .is_some_and(|(at, held)| at == node && *held == needs)
        {
            return;
        }
        self.remove(&pod);
        if let Some(info) = self.nodes.get_mut(node) {
            info.held.take(&needs);
        }
        self.placed.insert(pod, (node.to_owned(), needs));
    }

    /// The pod holds nothing any more. Says whether it did.
    pub(crate) fn remove(&mut self, pod: &PodKey) -> bool {
        let Some((node, needs)) = self.placed.remove(pod) else {
            return false;
        };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.held.give_back(&needs);
        }
        true
    }

    /// Every placed pod.
    pub(crate) fn placed(&self) -> impl Iterator<Item = &PodKey> {
        self.placed.keys()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::{
        api::core::v1::{NodeSpec, NodeStatus},
        apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
    };
    use proptest::prelude::*;

    use super::*;

    /// A node with so many millicores and room for so many pods.
    pub(crate) fn node(name: &str, cpu: u32, pods: u32) -> Node {
        let amounts = BTreeMap::from([
            ("cpu".to_owned(), Quantity(format!("{cpu}m"))),
            ("memory".to_owned(), Quantity("8Gi".to_owned())),
            ("pods".to_owned(), Quantity(pods.to_string())),
        ]);
        Node {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec::default()),
            status: Some(NodeStatus {
                allocatable: Some(amounts),
                ..NodeStatus::default()
            }),
        }
    }

    pub(crate) fn needs(cpu: u32) -> Needs {
        let requested = Resources::of(Some(&BTreeMap::from([(
            "cpu".to_owned(),
            Quantity(format!("{cpu}m")),
        )])));
        Needs {
            weighed: requested.clone(),
            requested,
            ..Needs::default()
        }
    }

    pub(crate) fn key(name: &str) -> PodKey {
        PodKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        }
    }

    #[test]
    fn a_node_that_comes_after_its_pods_counts_them() {
        let mut cluster = Cluster::default();
        cluster.place(key("a"), "n", Arc::new(needs(300)));
        assert!(cluster.set_node(&node("n", 1000, 10)));
        let held = &cluster.nodes().next().unwrap().held;
        assert_eq!((held.pods, held.requested.get("cpu")), (1, 300));
        assert!(!cluster.set_node(&node("n", 1000, 10)), "nothing changed");
        assert!(cluster.set_node(&node("n", 2000, 10)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Place { pod: u8, node: u8, cpu: u32 },
        Remove(u8),
        SetNode(u8),
        RemoveNode(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..8u8, 0..3u8, 0..500u32).prop_map(|(pod, node, cpu)| Step::Place { pod, node, cpu }),
            (0..8u8).prop_map(Step::Remove),
            (0..3u8).prop_map(Step::SetNode),
            (0..3u8).prop_map(Step::RemoveNode),
        ]
    }

    proptest! {
        /// However events come, a node holds the sum of the pods that are on it.
        #[test]
        fn accounts_are_always_even(steps in prop::collection::vec(step(), 0..60)) {
            let mut cluster = Cluster::default();
            for step in steps {
                match step {
                    Step::Place { pod, node, cpu } => cluster.place(key(&pod.to_string()), &node.to_string(), Arc::new(needs(cpu))),
                    Step::Remove(pod) => { cluster.remove(&key(&pod.to_string())); }
                    Step::SetNode(name) => { cluster.set_node(&node(&name.to_string(), 1000, 10)); }
                    Step::RemoveNode(name) => cluster.remove_node(&name.to_string()),
                }
                for info in cluster.nodes() {
                    let here: Vec<_> = cluster.placed.values().filter(|(node, _)| *node == info.name).collect();
                    let cpu: i64 = here.iter().map(|(_, needs)| needs.requested.get("cpu")).sum();
                    prop_assert_eq!(info.held.pods, i64::try_from(here.len()).unwrap());
                    prop_assert_eq!(info.held.requested.get("cpu"), cpu);
                }
            }
        }
    }
}
