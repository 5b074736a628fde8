use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{
    Options,
    testing::{
        api::FakeApi,
        objects::{pod, ready},
    },
};

const PODS: &str = "api/v1/pods";
const CONTROLLERS: &str = "api/v1/replicationcontrollers";

fn front(replicas: i32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController",
        "metadata": { "namespace": "shop", "name": "front", "uid": "front-uid", "generation": 1 },
        "spec": {
            "replicas": replicas,
            "selector": { "app": "front" },
            "template": {
                "metadata": { "labels": { "app": "front", "tier": "web" }, "annotations": { "note": "x" } },
                "spec": { "containers": [{ "name": "main", "image": "front" }] },
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

fn active(api: &FakeApi) -> Vec<Value> {
    let mut pods = api.objects(PODS);
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

fn status_of(api: &FakeApi) -> Value {
    api.object(CONTROLLERS, "shop", "front").unwrap()["status"].clone()
}

fn creations(api: &FakeApi) -> usize {
    api.writes()
        .iter()
        .filter(|write| *write == "POST api/v1/pods")
        .count()
}

fn reasons(api: &FakeApi) -> BTreeSet<String> {
    api.objects("api/v1/events")
        .iter()
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn as_many_pods_are_created_as_are_wanted_and_none_twice() {
    let api = FakeApi::lagging(Duration::from_secs(1));
    api.put(CONTROLLERS, &front(7));
    let _running = started(&api);
    api.until("seven pods", |api| {
        active(api).len() == 7 && status_of(api)["replicas"] == 7
    })
    .await;
    api.settle().await;
    assert_eq!(creations(&api), 7);
    let pod = &active(&api)[0];
    assert_eq!(pod["metadata"]["generateName"], "front-");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({ "app": "front", "tier": "web" })
    );
    assert_eq!(pod["metadata"]["annotations"], json!({ "note": "x" }));
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], "front-uid");
    assert_eq!(
        (&owner["controller"], &owner["blockOwnerDeletion"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(status_of(&api)["fullyLabeledReplicas"], 7);
    assert_eq!(status_of(&api)["observedGeneration"], 1);
    assert!(reasons(&api).contains("SuccessfulCreate"));
}

#[tokio::test(start_paused = true)]
async fn scaling_down_deletes_the_surplus_and_a_deleted_pod_is_replaced() {
    let api = FakeApi::new();
    api.put(CONTROLLERS, &front(5));
    let _running = started(&api);
    api.until("five pods", |api| active(api).len() == 5).await;
    api.edit(CONTROLLERS, "shop", "front", |rc| {
        rc["spec"]["replicas"] = json!(2);
    });
    api.until("two pods", |api| {
        active(api).len() == 2 && status_of(api)["replicas"] == 2
    })
    .await;
    api.settle().await;
    assert_eq!(active(&api).len(), 2);
    assert!(reasons(&api).contains("SuccessfulDelete"));

    let victim = active(&api)[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    api.remove(PODS, "shop", &victim);
    api.until("a replacement", |api| active(api).len() == 2)
        .await;
    api.settle().await;
    assert_eq!(creations(&api), 6);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_going_or_has_ended_no_longer_counts() {
    let api = FakeApi::new();
    api.put(CONTROLLERS, &front(2));
    let _running = started(&api);
    api.until("two pods", |api| active(api).len() == 2).await;
    let names: Vec<_> = active(&api)
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    api.edit(PODS, "shop", &names[0], |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    });
    api.edit(PODS, "shop", &names[1], |pod| {
        pod["status"] = json!({ "phase": "Failed" });
    });
    api.until("two more", |_| creations(&api) == 4).await;
    api.settle().await;
    assert_eq!(creations(&api), 4);
}

#[tokio::test(start_paused = true)]
async fn matching_orphans_are_adopted_and_strays_released() {
    let api = FakeApi::new();
    let mut orphan = pod("shop", "orphan");
    orphan
        .labels_mut()
        .insert("app".to_owned(), "front".to_owned());
    api.put(PODS, &orphan);
    api.put(CONTROLLERS, &front(2));
    let _running = started(&api);
    api.until("the orphan and one new pod", |api| {
        active(api).len() == 2 && status_of(api)["replicas"] == 2
    })
    .await;
    assert_eq!(
        api.object(PODS, "shop", "orphan").unwrap()["metadata"]["ownerReferences"][0]["uid"],
        "front-uid"
    );
    assert_eq!(
        status_of(&api)["fullyLabeledReplicas"],
        1,
        "the orphan lacks the label tier"
    );

    api.edit(PODS, "shop", "orphan", |pod| {
        pod["metadata"]["labels"] = json!({ "app": "debug" });
    });
    api.until("a release and a replacement", |api| {
        let orphan = api.object(PODS, "shop", "orphan").unwrap();
        orphan["metadata"]["ownerReferences"]
            .as_array()
            .is_none_or(Vec::is_empty)
            && active(api).len() == 3
    })
    .await;
    api.settle().await;
    assert_eq!(
        active(&api).len(),
        3,
        "the stray lives on beside two replicas"
    );
}

#[tokio::test(start_paused = true)]
async fn readiness_and_availability_are_counted() {
    let api = FakeApi::new();
    let mut controller = front(1);
    controller["spec"]["minReadySeconds"] = json!(30);
    api.put(CONTROLLERS, &controller);
    let _running = started(&api);
    api.until("a pod", |api| active(api).len() == 1).await;
    let name = active(&api)[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let since =
        |seconds: i64| Timestamp::from_second(Timestamp::now().as_second() - seconds).unwrap();
    let status =
        |seconds: i64| serde_json::to_value(ready(Pod::default(), since(seconds)).status).unwrap();
    api.edit(PODS, "shop", &name, |pod| pod["status"] = status(1));
    api.until("ready", |api| status_of(api)["readyReplicas"] == 1)
        .await;
    assert!(status_of(&api)["availableReplicas"].is_null());
    api.edit(PODS, "shop", &name, |pod| pod["status"] = status(31));
    api.until("available", |api| status_of(api)["availableReplicas"] == 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_creation_shows_in_condition_and_event_and_is_tried_again() {
    let api = FakeApi::new();
    api.refuse_creations(PODS, 403, "Forbidden", "exceeded quota");
    api.put(CONTROLLERS, &front(100));
    let _running = started(&api);
    api.until("the condition", |api| {
        status_of(api)["conditions"][0]["type"] == replicas::REPLICA_FAILURE
    })
    .await;
    let condition = status_of(&api)["conditions"][0].clone();
    assert_eq!(
        (&condition["reason"], &condition["message"]),
        (&json!("FailedCreate"), &json!("exceeded quota"))
    );
    assert!(creations(&api) < 10, "one refusal at a time, not a hundred");
    api.until("the event", |api| reasons(api).contains("FailedCreate"))
        .await;
    api.allow_creations();
    api.until("all pods", |api| {
        active(api).len() == 100 && status_of(api)["conditions"].is_null()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_being_deleted_leaves_its_pods_alone() {
    let api = FakeApi::new();
    let mut controller = front(3);
    controller["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    controller["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    api.put(CONTROLLERS, &controller);
    let _running = started(&api);
    api.settle().await;
    assert_eq!(creations(&api), 0);
}

#[test]
fn an_empty_selector_selects_nothing() {
    let mut controller: ReplicationController = serde_json::from_value(front(1)).unwrap();
    let mut pod = pod("shop", "a");
    pod.labels_mut()
        .insert("app".to_owned(), "front".to_owned());
    assert!(controller.selects(&pod));
    controller.spec.as_mut().unwrap().selector = Some(BTreeMap::new());
    assert!(!controller.selects(&pod));
}
