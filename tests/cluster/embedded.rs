//! A whole cluster inside the caller's process, without `kubectl` and without a socket in between.

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::{Api, ResourceExt, api::PostParams, runtime::wait::await_condition};
use serde_json::json;
use vaquita::{Cluster, ClusterConfig, StartError};

use crate::harness::{PATIENCE, guest_file};

fn config(dir: &tempfile::TempDir) -> ClusterConfig {
    let mut config = ClusterConfig::new(dir.path());
    config.listen = "127.0.0.1:0".parse().expect("an address");
    "embedded".clone_into(&mut config.node_name);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_works_and_stops_within_a_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut steps = Vec::new();
    let cluster = Cluster::start_reporting(config(&dir), |step| steps.push(step.name))
        .await
        .expect("it starts");
    assert_eq!(steps.first().copied(), Some("store"));
    assert_eq!(steps.last().copied(), Some("node"));

    let nodes = Api::<Node>::all(cluster.client())
        .list(&kube::api::ListParams::default())
        .await
        .expect("a list");
    assert_eq!(
        nodes
            .items
            .iter()
            .map(ResourceExt::name_any)
            .collect::<Vec<_>>(),
        ["embedded"]
    );

    let wasm = std::fs::read(guest_file("hello")).expect("the guest");
    cluster
        .images()
        .load("localhost/hello:v1", &wasm)
        .expect("an image");
    let pods = Api::<Pod>::default_namespaced(cluster.client());
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "web", "image": "localhost/hello:v1"}]},
    });
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    pods.create(&PostParams::default(), &pod)
        .await
        .expect("it is created");
    let running = await_condition(pods, "web", kube::runtime::conditions::is_pod_running());
    tokio::time::timeout(PATIENCE, running)
        .await
        .expect("in time")
        .expect("a watch");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_there_after_a_restart_in_the_same_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(config(&dir)).await.expect("it starts");
    let refused = Cluster::start(config(&dir)).await;
    assert!(
        matches!(refused, Err(StartError::InUse { .. })),
        "one cluster for each directory"
    );
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "kept"}})).expect("a map");
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let made = maps
        .create(&PostParams::default(), &map)
        .await
        .expect("it is created");
    cluster.stop().await;

    let cluster = Cluster::start(config(&dir)).await.expect("it starts again");
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let kept = maps.get("kept").await.expect("it is there");
    assert_eq!(
        (kept.uid(), kept.resource_version()),
        (made.uid(), made.resource_version())
    );
    cluster.stop().await;
}
