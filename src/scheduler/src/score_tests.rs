use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerImage, Node as NodeObject};
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::tests::{cluster, info, key, needs, node, node_in, pod},
    pod::{Identity, PodInfo},
};

fn pick_by(profile: &Profile, cluster: &Cluster, pod: &PodInfo, turn: usize) -> String {
    let plan = Plan::new(cluster, pod, profile).unwrap();
    let node = best(&plan, cluster, cluster.nodes(), turn).unwrap();
    cluster.node(node).facts.name.clone()
}

fn pick(cluster: &Cluster, pod: &PodInfo, turn: usize) -> String {
    pick_by(&Profile::named(crate::DEFAULT_NAME), cluster, pod, turn)
}

fn nodes(names: &[&str]) -> Cluster {
    let all: Vec<_> = names.iter().map(|name| node(name, 1000, 10)).collect();
    cluster(&all)
}

#[test]
fn the_emptiest_node_wins_and_equal_ones_take_turns() {
    let mut cluster = nodes(&["a", "b", "c"]);
    let small = info("p", needs(100));
    let turns: Vec<_> = (0..3).map(|turn| pick(&cluster, &small, turn)).collect();
    assert_eq!(turns, ["a", "b", "c"]);
    cluster.place(info("one", needs(500)), "a");
    cluster.place(info("two", needs(500)), "c");
    assert_eq!(pick(&cluster, &small, 7), "b");
}

#[test]
fn a_packing_profile_fills_nodes() {
    let mut cluster = nodes(&["a", "b", "c"]);
    cluster.place(info("one", needs(500)), "b");
    let mut packing = Profile::named("packing");
    packing.fit = FitStrategy::MostAllocated;
    packing
        .scores
        .retain(|plugin, _| *plugin == Plugin::NodeResourcesFit);
    assert_eq!(pick_by(&packing, &cluster, &info("p", needs(100)), 0), "b");
    packing.fit = FitStrategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]);
    assert_eq!(pick_by(&packing, &cluster, &info("p", needs(100)), 0), "b");
    packing.fit = FitStrategy::RequestedToCapacityRatio(vec![(0, 10), (100, 0)]);
    assert_ne!(pick_by(&packing, &cluster, &info("p", needs(100)), 0), "b");
}

#[test]
fn a_shape_is_a_line_through_its_points() {
    let shape = [(20, 0), (60, 10), (100, 5)];
    let points: Vec<_> = [0, 20, 40, 60, 80, 100].map(|at| along(&shape, at)).into();
    assert_eq!(points, [0, 0, 50, 100, 75, 50]);
}

#[test]
fn a_preference_outweighs_a_little_load() {
    let mut cluster = nodes(&["a", "b"]);
    cluster.place(info("one", needs(300)), "b");
    let mut likes_b = needs(100);
    likes_b.preferred = serde_json::from_value(json!([{"weight": 10, "preference": {
        "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}],
    }}]))
    .unwrap();
    assert_eq!(pick(&cluster, &info("p", likes_b), 0), "b");
}

#[test]
fn soft_taints_repel() {
    let mut tainted = node("a", 1000, 10);
    tainted.spec.as_mut().unwrap().taints =
        serde_json::from_value(json!([{"key": "k", "effect": "PreferNoSchedule"}])).unwrap();
    let mut cluster = cluster(&[tainted, node("b", 1000, 10)]);
    cluster.place(info("one", needs(500)), "b");
    assert_eq!(pick(&cluster, &info("p", needs(100)), 0), "b");
}

#[test]
fn siblings_keep_apart() {
    let mut cluster = nodes(&["a", "b"]);
    let sibling = |name: &str| {
        let mut needs = needs(10);
        needs.identity = Arc::new(Identity {
            namespace: "default".to_owned(),
            controller: Some("rc".to_owned()),
            ..Identity::default()
        });
        info(name, needs)
    };
    cluster.place(sibling("one"), "a");
    cluster.place(info("loaded", needs(300)), "b");
    assert_eq!(pick(&cluster, &sibling("two"), 0), "b");
    assert_eq!(pick(&cluster, &info("p", needs(10)), 0), "a");
    cluster.remove(&key("one"));
    assert_eq!(
        pick(&cluster, &sibling("two"), 0),
        "a",
        "it is forgotten with the pod"
    );
}

#[test]
fn pods_of_one_service_spread_over_zones() {
    let mut cluster = cluster(&[
        node_in("x", "x1", 1000, 10),
        node_in("x", "x2", 1000, 10),
        node_in("y", "y1", 1000, 10),
    ]);
    cluster.services.set(
        &serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}},
        }))
        .unwrap(),
    );
    let mut profile = Profile::named(crate::DEFAULT_NAME);
    profile.default_spread[1].topology_key = "zone".to_owned();
    let web = |name: &str| pod(name, json!({"app": "web"}), json!({}));
    cluster.place(web("a"), "x1");
    assert_eq!(pick_by(&profile, &cluster, &web("b"), 0), "y1");
}

fn liking(kind: &str, app: &str) -> Value {
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 50,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": app}},
        },
    }]}}})
}

#[test]
fn pods_go_to_whom_they_like_and_to_who_likes_them() {
    let mut cluster = nodes(&["a", "b", "c"]);
    cluster.place(pod("db", json!({"app": "db"}), json!({})), "b");
    let friend = pod("f", json!({"app": "web"}), liking("podAffinity", "db"));
    assert_eq!(pick(&cluster, &friend, 0), "b");
    cluster.place(pod("fan", json!({}), liking("podAffinity", "web")), "c");
    assert_eq!(
        pick(&cluster, &pod("w", json!({"app": "web"}), json!({})), 0),
        "c"
    );
    let shy = pod("s", json!({"app": "web"}), liking("podAntiAffinity", "db"));
    assert_ne!(pick(&cluster, &shy, 0), "b");
}

#[test]
fn large_images_draw_pods_to_where_they_are() {
    let with_image = |name: &str| {
        let mut node: NodeObject = node(name, 1000, 10);
        node.status.as_mut().unwrap().images = Some(vec![ContainerImage {
            names: Some(vec!["big:latest".to_owned()]),
            size_bytes: Some(900 * 1024 * 1024),
        }]);
        node
    };
    let cluster = cluster(&[node("a", 1000, 10), with_image("b"), node("c", 1000, 10)]);
    let big = pod(
        "p",
        json!({}),
        json!({"containers": [{"name": "c", "image": "big"}]}),
    );
    assert_eq!(pick(&cluster, &big, 0), "b");
}

#[test]
fn images_of_unknown_kind_go_where_any_runs() {
    let mut both = node("b", 1000, 10);
    both.metadata.labels.get_or_insert_default().extend([
        ("vaquita.dev/wasm".to_owned(), "true".to_owned()),
        ("vaquita.dev/containers".to_owned(), "true".to_owned()),
    ]);
    let mut cluster = cluster(&[node("a", 1000, 10), both]);
    cluster.place(info("one", needs(700)), "b");
    assert_eq!(pick(&cluster, &info("p", needs(100)), 0), "b");
}
