//! Deployments beside the controller of replica sets, on an API server in memory whose pods become ready by themselves.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{replica_sets, replicas::template};
use vaquita_reconcile::{Options, testing::api::FakeApi};

const PODS: &str = "api/v1/pods";
const SETS: &str = "apis/apps/v1/replicasets";
const DEPLOYMENTS: &str = "apis/apps/v1/deployments";
/// The image whose pods never become ready.
const BROKEN: &str = "broken";

fn web(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "namespace": "shop", "name": "web", "uid": "web-uid", "generation": 1 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" },
            },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "main", "image": image }] },
            },
        },
    })
}

/// Both controllers at work, and somebody who makes pods ready.
fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
    tokio::spawn(replica_sets::run(context.clone()));
    tokio::spawn(run(context));
    let api = api.clone();
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            make_ready(&api);
        }
    }));
    shutdown
}

fn make_ready(api: &FakeApi) {
    for pod in api.objects(PODS) {
        let image = &pod["spec"]["containers"][0]["image"];
        if pod["status"].is_null() && image != BROKEN {
            api.edit(PODS, "shop", pod["metadata"]["name"].as_str().unwrap(), |pod| {
                let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z" });
                pod["status"] = json!({ "phase": "Running", "conditions": [ready] });
            });
        }
    }
}

fn deployment(api: &FakeApi) -> Value {
    api.object(DEPLOYMENTS, "shop", "web").unwrap()
}

fn edit(api: &FakeApi, change: impl FnOnce(&mut Value)) {
    api.edit(DEPLOYMENTS, "shop", "web", |deployment| {
        change(&mut deployment["spec"]);
        let generation = deployment["metadata"]["generation"].as_i64().unwrap();
        deployment["metadata"]["generation"] = json!(generation + 1);
    });
}

fn set_image(api: &FakeApi, image: &str) {
    edit(api, |spec| {
        spec["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

/// The replica set of an image.
fn set_of(api: &FakeApi, image: &str) -> Option<Value> {
    api.objects(SETS)
        .into_iter()
        .find(|set| set["spec"]["template"]["spec"]["containers"][0]["image"] == image)
}

fn size_of(api: &FakeApi, image: &str) -> i64 {
    set_of(api, image).map_or(0, |set| set["spec"]["replicas"].as_i64().unwrap())
}

fn progress(api: &FakeApi) -> Value {
    let conditions = deployment(api)["status"]["conditions"].clone();
    let all = conditions.as_array().cloned().unwrap_or_default();
    let progress = all
        .into_iter()
        .find(|condition| condition["type"] == "Progressing");
    progress.unwrap_or_default()["reason"].clone()
}

fn is_done(api: &FakeApi, image: &str) -> bool {
    let deployment = deployment(api);
    let status = &deployment["status"];
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && status["updatedReplicas"] == deployment["spec"]["replicas"]
        && status["availableReplicas"] == deployment["spec"]["replicas"]
        && status["replicas"] == deployment["spec"]["replicas"]
        && size_of(api, image) == deployment["spec"]["replicas"].as_i64().unwrap()
        && progress(api) == "NewReplicaSetAvailable"
}

async fn done(api: &FakeApi, image: &str) {
    api.until(&format!("a rollout to {image}"), |api| is_done(api, image))
        .await;
    api.settle().await;
}

fn messages(api: &FakeApi) -> BTreeSet<String> {
    let events = api.objects("api/v1/events");
    let messages = events
        .iter()
        .filter(|event| event["reason"] == "ScalingReplicaSet");
    messages
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect()
}

fn annotation(object: &Value, key: &str) -> String {
    object["metadata"]["annotations"][key]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_deployment_gets_a_replica_set_and_tells_when_it_is_there() {
    let api = FakeApi::lagging(Duration::from_millis(300));
    api.put(DEPLOYMENTS, &web(3, "v1"));
    let _running = started(&api);
    done(&api, "v1").await;
    assert_eq!(api.objects(SETS).len(), 1);
    let set = set_of(&api, "v1").unwrap();
    let hash = set["metadata"]["labels"]["pod-template-hash"]
        .as_str()
        .unwrap();
    let name = format!("web-{hash}");
    assert_eq!(set["metadata"]["name"], name);
    assert_eq!(
        set["spec"]["selector"]["matchLabels"]["pod-template-hash"],
        hash
    );
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"]["pod-template-hash"],
        hash
    );
    assert_eq!(
        annotation(&set, "deployment.kubernetes.io/desired-replicas"),
        "3"
    );
    assert_eq!(
        annotation(&set, "deployment.kubernetes.io/max-replicas"),
        "4"
    );
    assert_eq!(annotation(&deployment(&api), revisions::REVISION), "1");
    let status = deployment(&api)["status"].clone();
    assert_eq!(
        status["conditions"][0]["reason"],
        "MinimumReplicasAvailable"
    );
    let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
    assert_eq!(status["conditions"][1]["message"], message);
    assert!(status["unavailableReplicas"].is_null());
    assert_eq!(
        messages(&api),
        BTreeSet::from([format!("Scaled up replica set {name} from 0 to 3")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_image_is_rolled_out_and_an_old_one_comes_back_as_a_new_revision() {
    let api = FakeApi::new();
    api.put(DEPLOYMENTS, &web(4, "v1"));
    let _running = started(&api);
    done(&api, "v1").await;
    set_image(&api, "v2");
    done(&api, "v2").await;
    assert_eq!(size_of(&api, "v1"), 0);
    assert_eq!(
        annotation(&set_of(&api, "v2").unwrap(), revisions::REVISION),
        "2"
    );
    set_image(&api, "v1");
    done(&api, "v1").await;
    let back = set_of(&api, "v1").unwrap();
    assert_eq!(annotation(&back, revisions::REVISION), "3");
    assert_eq!(
        annotation(&back, "deployment.kubernetes.io/revision-history"),
        "1"
    );
    assert_eq!(annotation(&deployment(&api), revisions::REVISION), "3");
    assert_eq!(api.objects(SETS).len(), 2);
    assert_eq!(api.objects(PODS).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_broken_image_stops_halfway_and_a_new_size_is_shared_out() {
    let api = FakeApi::new();
    api.put(DEPLOYMENTS, &web(10, "v1"));
    let _running = started(&api);
    done(&api, "v1").await;
    set_image(&api, BROKEN);
    api.settle().await;
    // Three more than ten at most, two less than ten available at least.
    assert_eq!((size_of(&api, "v1"), size_of(&api, BROKEN)), (8, 5));
    edit(&api, |spec| spec["replicas"] = json!(20));
    api.settle().await;
    assert_eq!((size_of(&api, "v1"), size_of(&api, BROKEN)), (15, 10));
    assert_eq!(deployment(&api)["status"]["availableReplicas"], 15);

    let long_ago = json!("2020-01-01T00:00:00Z");
    api.edit(DEPLOYMENTS, "shop", "web", |deployment| {
        for condition in deployment["status"]["conditions"].as_array_mut().unwrap() {
            condition["lastUpdateTime"] = long_ago.clone();
        }
    });
    api.until("the deadline", |api| {
        progress(api) == "ProgressDeadlineExceeded"
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_the_rollout_but_not_the_scaling() {
    let api = FakeApi::new();
    api.put(DEPLOYMENTS, &web(2, "v1"));
    let _running = started(&api);
    done(&api, "v1").await;
    edit(&api, |spec| spec["paused"] = json!(true));
    set_image(&api, "v2");
    edit(&api, |spec| spec["replicas"] = json!(3));
    api.until("the old set scaled", |api| size_of(api, "v1") == 3)
        .await;
    api.settle().await;
    assert!(set_of(&api, "v2").is_none());
    assert_eq!(progress(&api), "DeploymentPaused");
    edit(&api, |spec| spec["paused"] = json!(false));
    done(&api, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn recreating_waits_for_the_last_old_pod() {
    let api = FakeApi::new();
    let mut deployment = web(3, "v1");
    deployment["spec"]["strategy"] = json!({ "type": "Recreate" });
    api.put(DEPLOYMENTS, &deployment);
    let _running = started(&api);
    done(&api, "v1").await;
    let slow = api.objects(PODS)[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    api.edit(PODS, "shop", &slow, |pod| {
        pod["metadata"]["finalizers"] = json!(["test/slow"]);
    });
    set_image(&api, "v2");
    api.until("one old pod left", |api| api.objects(PODS).len() == 1)
        .await;
    api.settle().await;
    assert!(set_of(&api, "v2").is_none());
    api.remove(PODS, "shop", &slow);
    done(&api, "v2").await;
}

#[tokio::test(start_paused = true)]
async fn only_so_many_old_sets_are_kept() {
    let api = FakeApi::new();
    let mut deployment = web(1, "v1");
    deployment["spec"]["revisionHistoryLimit"] = json!(1);
    api.put(DEPLOYMENTS, &deployment);
    let _running = started(&api);
    for image in ["v1", "v2", "v3"] {
        set_image(&api, image);
        done(&api, image).await;
    }
    assert_eq!(api.objects(SETS).len(), 2);
    assert!(set_of(&api, "v1").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_evaded() {
    let api = FakeApi::new();
    let wanted: Deployment = serde_json::from_value(web(1, "v1")).unwrap();
    let hash = template::hash(&wanted.spec.unwrap().template, None);
    api.put(
        SETS,
        &json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "namespace": "shop", "name": format!("web-{hash}") },
            "spec": { "replicas": 0, "selector": { "matchLabels": { "app": "other" } } },
        }),
    );
    api.put(DEPLOYMENTS, &web(1, "v1"));
    let _running = started(&api);
    done(&api, "v1").await;
    assert_eq!(deployment(&api)["status"]["collisionCount"], 1);
    assert_ne!(
        set_of(&api, "v1").unwrap()["metadata"]["labels"]["pod-template-hash"],
        hash
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_replica_set_shows_and_is_tried_again() {
    let api = FakeApi::new();
    api.refuse_creations(SETS, 403, "Forbidden", "exceeded quota");
    api.put(DEPLOYMENTS, &web(1, "v1"));
    let _running = started(&api);
    api.until("the condition", |api| {
        progress(api) == "ReplicaSetCreateError"
    })
    .await;
    api.allow_creations();
    done(&api, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_is_being_deleted_starts_nothing() {
    let api = FakeApi::new();
    let mut going = web(1, "v1");
    going["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    going["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    api.put(DEPLOYMENTS, &going);
    let _running = started(&api);
    api.until("a status", |api| {
        !deployment(api)["status"]["observedGeneration"].is_null()
    })
    .await;
    api.settle().await;
    assert!(api.objects(SETS).is_empty());
}
