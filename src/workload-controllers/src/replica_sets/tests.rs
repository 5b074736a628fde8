//! What differs from replication controllers, whose tests hold for the engine that both share.

use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{
    Options,
    testing::{
        api::FakeApi,
        objects::{assigned, in_phase, pod, ready},
    },
};

const PODS: &str = "api/v1/pods";
const SETS: &str = "apis/apps/v1/replicasets";

fn set(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "namespace": "shop", "name": name, "uid": format!("{name}-uid"), "generation": 4 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchExpressions": [
                { "key": "app", "operator": "In", "values": [name, "spare"] },
                { "key": "canary", "operator": "DoesNotExist" },
            ] },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "main", "image": "x" }] },
            },
        },
    })
}

/// The controller at work on an API server in memory.
fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    tokio::spawn(run(Context::new(
        api.client(),
        Options::default(),
        shutdown.clone(),
    )));
    shutdown
}

fn status_of(api: &FakeApi, name: &str) -> Value {
    api.object(SETS, "shop", name).unwrap()["status"].clone()
}

#[tokio::test(start_paused = true)]
async fn the_selector_says_whom_to_adopt_and_whom_to_leave() {
    let api = FakeApi::new();
    for (name, labels) in [
        ("spare", json!({ "app": "spare" })),
        ("canary", json!({ "app": "web", "canary": "1" })),
    ] {
        let mut orphan = serde_json::to_value(pod("shop", name)).unwrap();
        orphan["metadata"]["labels"] = labels;
        api.put(PODS, &orphan);
    }
    api.put(SETS, &set("web", 2));
    let _running = started(&api);
    api.until("two replicas", |api| status_of(api, "web")["replicas"] == 2)
        .await;
    api.settle().await;
    let owner = |name: &str| {
        api.object(PODS, "shop", name).unwrap()["metadata"]["ownerReferences"][0].clone()
    };
    assert_eq!(owner("spare")["kind"], "ReplicaSet");
    assert_eq!(owner("spare")["apiVersion"], "apps/v1");
    assert!(owner("canary").is_null());
    assert_eq!(api.objects(PODS).len(), 3);
    assert_eq!(status_of(&api, "web")["fullyLabeledReplicas"], 1);
    assert_eq!(status_of(&api, "web")["observedGeneration"], 4);
}

#[tokio::test(start_paused = true)]
async fn pods_on_their_way_out_are_counted_apart() {
    let api = FakeApi::new();
    api.put(SETS, &set("web", 1));
    let _running = started(&api);
    api.until("a replica", |api| status_of(api, "web")["replicas"] == 1)
        .await;
    let name = api.objects(PODS)[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    api.edit(PODS, "shop", &name, |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    });
    api.until("one going", |api| {
        let status = status_of(api, "web");
        status["terminatingReplicas"] == 1 && status["replicas"] == 1
    })
    .await;
    api.remove(PODS, "shop", &name);
    api.until("none going", |api| {
        status_of(api, "web")["terminatingReplicas"] == 0
    })
    .await;
}

/// Of two pods alike, the one goes that shares its node with a pod of the other replica set of the deployment.
#[tokio::test(start_paused = true)]
async fn the_pods_of_one_deployment_are_spread_together() {
    let api = FakeApi::new();
    let reference = json!([{
        "apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d-uid", "controller": true,
    }]);
    for (name, replicas) in [("old", 1), ("new", 1)] {
        let mut set = set(name, replicas);
        set["metadata"]["ownerReferences"] = reference.clone();
        api.put(SETS, &set);
    }
    for (name, owner, node) in [
        ("old-1", "old", "n1"),
        ("new-1", "new", "n1"),
        ("new-2", "new", "n2"),
    ] {
        let running = in_phase(assigned(pod("shop", name), node), "Running");
        let mut pod = ready(running, Timestamp::UNIX_EPOCH);
        pod.labels_mut().insert("app".to_owned(), owner.to_owned());
        let mut pod = serde_json::to_value(pod).unwrap();
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": format!("{owner}-uid"),
            "controller": true,
        }]);
        api.put(PODS, &pod);
    }
    let _running = started(&api);
    api.until("one of each", |api| api.objects(PODS).len() == 2)
        .await;
    assert!(api.object(PODS, "shop", "new-2").is_some());
}
