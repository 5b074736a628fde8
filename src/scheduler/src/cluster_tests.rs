//! Nodes and pods for tests, and the laws of the accounts.

use k8s_openapi::{
    api::core::v1::{NodeSpec, NodeStatus, Pod},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    pod::{Identity, Stage},
    profile::Profile,
};

/// A node with so many millicores and room for so many pods.
pub(crate) fn node(name: &str, cpu: u32, pods: u32) -> NodeObject {
    let amounts = BTreeMap::from([
        ("cpu".to_owned(), Quantity(format!("{cpu}m"))),
        ("memory".to_owned(), Quantity("8Gi".to_owned())),
        ("pods".to_owned(), Quantity(pods.to_string())),
    ]);
    NodeObject {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(Labels::from([(
                "kubernetes.io/hostname".to_owned(),
                name.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            allocatable: Some(amounts),
            ..NodeStatus::default()
        }),
    }
}

/// The same in a zone.
pub(crate) fn node_in(zone: &str, name: &str, cpu: u32, pods: u32) -> NodeObject {
    let mut node = node(name, cpu, pods);
    let labels = node.metadata.labels.get_or_insert_default();
    labels.insert("zone".to_owned(), zone.to_owned());
    node
}

pub(crate) fn needs(cpu: u32) -> Needs {
    let requested = Resources::of(Some(&BTreeMap::from([(
        "cpu".to_owned(),
        Quantity(format!("{cpu}m")),
    )])));
    Needs {
        weighed: requested.clone(),
        requested,
        identity: Arc::new(Identity {
            namespace: "default".to_owned(),
            ..Identity::default()
        }),
        ..Needs::default()
    }
}

pub(crate) fn key(name: &str) -> PodKey {
    PodKey::new("default".to_owned(), name.to_owned(), format!("uid-{name}"))
}

/// A pod with these needs.
pub(crate) fn info(name: &str, needs: Needs) -> Arc<PodInfo> {
    Arc::new(PodInfo {
        key: key(name),
        stage: Stage::Waiting,
        needs: Arc::new(needs),
        started: None,
        nominated: None,
    })
}

/// A pod of the namespace `default` as the API has it: labels, and fields of its specification.
#[expect(clippy::needless_pass_by_value, reason = "callers make it in place")]
pub(crate) fn pod(name: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": labels},
        "spec": spec,
    });
    if object["spec"]["containers"].is_null() {
        object["spec"]["containers"] = json!([]);
    }
    let object: Pod = serde_json::from_value(object).unwrap();
    Arc::new(PodInfo::of(&object, &[Profile::named(crate::DEFAULT_NAME)]))
}

pub(crate) fn cluster(nodes: &[NodeObject]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.set_node(node);
    }
    cluster
}

#[test]
fn a_node_that_comes_after_its_pods_counts_them() {
    let mut cluster = Cluster::default();
    cluster.place(info("a", needs(300)), "n");
    assert!(cluster.nodes().is_empty());
    assert!(cluster.set_node(&node("n", 1000, 10)).1);
    let held = &cluster.node(cluster.nodes()[0]).held;
    assert_eq!((held.pods, held.requested.get("cpu")), (1, 300));
    assert!(!cluster.set_node(&node("n", 1000, 10)).1, "nothing changed");
    assert!(cluster.set_node(&node("n", 2000, 10)).1);
}

#[test]
fn nodes_are_in_the_order_of_their_names_whatever_the_order_of_events() {
    let mut cluster = cluster(&[node("c", 1, 1), node("a", 1, 1), node("b", 1, 1)]);
    cluster.remove_node("b");
    cluster.set_node(&node("aa", 1, 1));
    let names: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| cluster.node(*node).facts.name.clone())
        .collect();
    assert_eq!(names, ["a", "aa", "c"]);
}

#[test]
fn topologies_follow_the_labels_of_nodes() {
    let mut cluster = cluster(&[
        node_in("x", "a", 1, 1),
        node_in("x", "b", 1, 1),
        node("c", 1, 1),
    ]);
    let domain = |cluster: &Cluster, name: &str| {
        cluster
            .topology("zone")
            .domain(cluster.node_named(name).unwrap())
    };
    assert!(domain(&cluster, "a").is_some());
    assert_eq!(domain(&cluster, "a"), domain(&cluster, "b"));
    assert_eq!(domain(&cluster, "c"), None);
    cluster.set_node(&node_in("y", "b", 1, 1));
    assert_ne!(domain(&cluster, "a"), domain(&cluster, "b"));
}

#[test]
fn room_is_kept_in_one_place_only() {
    let mut cluster = cluster(&[node("a", 1, 1), node("b", 1, 1)]);
    cluster.nominate(info("p", needs(1)), "a");
    cluster.nominate(info("p", needs(1)), "b");
    let on = |cluster: &Cluster, name| {
        cluster
            .nominated_on(cluster.node_named(name).unwrap())
            .len()
    };
    assert_eq!((on(&cluster, "a"), on(&cluster, "b")), (0, 1));
    assert_eq!(cluster.nomination_of(&key("p")), Some("b"));
    assert!(cluster.withdraw(&key("p")));
    assert!(!cluster.withdraw(&key("p")));
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
    /// However events come, a node holds the sum of the pods that are on it, and the census counts each of them once.
    #[test]
    fn accounts_are_always_even(steps in prop::collection::vec(step(), 0..60)) {
        let mut cluster = Cluster::default();
        for step in steps {
            match step {
                Step::Place { pod, node, cpu } => {
                    cluster.place(info(&pod.to_string(), needs(cpu)), &node.to_string());
                }
                Step::Remove(pod) => { cluster.remove(&key(&pod.to_string())); }
                Step::SetNode(name) => { cluster.set_node(&node(&name.to_string(), 1000, 10)); }
                Step::RemoveNode(name) => cluster.remove_node(&name.to_string()),
            }
            for node in cluster.nodes() {
                let info = cluster.node(*node);
                let here: Vec<_> = cluster.placed.values().filter(|placed| placed.node == *node).collect();
                let cpu: i64 = here.iter().map(|placed| placed.info.needs.requested.get("cpu")).sum();
                prop_assert_eq!(info.held.pods, i64::try_from(here.len()).unwrap());
                prop_assert_eq!(info.pods.len(), here.len());
                prop_assert_eq!(info.held.requested.get("cpu"), cpu);
            }
            let counted: u32 = cluster.census.sorts("default").flat_map(|(_, on)| on.values()).sum();
            prop_assert_eq!(counted as usize, cluster.placed.len());
        }
    }
}
