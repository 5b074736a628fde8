//! Stateful sets on an API server in memory, whose pods become ready by themselves.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const PODS: &str = "api/v1/pods";
const CLAIMS: &str = "api/v1/persistentvolumeclaims";
const SETS: &str = "apis/apps/v1/statefulsets";
const REVISIONS: &str = "apis/apps/v1/controllerrevisions";
/// The image whose pods never become ready.
const BROKEN: &str = "broken";

fn db(spec: &Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "namespace": "shop", "name": "db", "uid": "db-uid", "generation": 1 },
        "spec": {
            "replicas": 3,
            "serviceName": "db",
            "selector": { "matchLabels": { "app": "db" } },
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "partition": 0, "maxUnavailable": 1 },
            },
            "template": {
                "metadata": { "labels": { "app": "db" } },
                "spec": { "containers": [{ "name": "main", "image": "v1" }] },
            },
        },
    });
    let all = set["spec"].as_object_mut().unwrap();
    all.extend(spec.as_object().unwrap().clone());
    set
}

/// The controller at work, and somebody who makes pods ready.
fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
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

fn status_of(api: &FakeApi) -> Value {
    api.object(SETS, "shop", "db").unwrap()["status"].clone()
}

fn edit(api: &FakeApi, change: impl FnOnce(&mut Value)) {
    api.edit(SETS, "shop", "db", |set| {
        change(&mut set["spec"]);
        let generation = set["metadata"]["generation"].as_i64().unwrap();
        set["metadata"]["generation"] = json!(generation + 1);
    });
}

fn set_image(api: &FakeApi, image: &str) {
    edit(api, |spec| {
        spec["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

/// The pods by name, each with its image.
fn pods(api: &FakeApi) -> Vec<(String, String)> {
    let image = |pod: &Value| {
        pod["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let all = api.objects(PODS);
    all.iter().map(|pod| (name(pod), image(pod))).collect()
}

fn is_done(api: &FakeApi, replicas: usize) -> bool {
    let set = api.object(SETS, "shop", "db").unwrap();
    let status = &set["status"];
    status["observedGeneration"] == set["metadata"]["generation"]
        && status["replicas"] == replicas
        && status["readyReplicas"].as_u64().unwrap_or(0) == replicas as u64
        && status["updatedReplicas"].as_u64().unwrap_or(0) == replicas as u64
        && status["currentRevision"] == status["updateRevision"]
}

async fn done(api: &FakeApi, replicas: usize) {
    api.until("all there", |api| is_done(api, replicas)).await;
    api.settle().await;
}

/// The pods that were created and deleted, in order.
fn steps(api: &FakeApi) -> Vec<String> {
    let writes = api.writes().into_iter();
    let of_pods = writes.filter(|write| write.contains(PODS) && !write.contains("PATCH"));
    of_pods.map(|write| write.replace("api/v1/", "")).collect()
}

#[tokio::test(start_paused = true)]
async fn pods_come_one_after_the_other_and_go_from_the_last() {
    let api = FakeApi::lagging(Duration::from_millis(300));
    api.put(SETS, &db(&json!({})));
    let _running = started(&api);
    api.until("the first", |api| api.objects(PODS).len() == 1)
        .await;
    done(&api, 3).await;
    let names: Vec<_> = pods(&api).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    let pod = api.object(PODS, "shop", "db-1").unwrap();
    assert_eq!(
        pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"],
        "1"
    );
    assert_eq!(
        pod["metadata"]["labels"]["controller-revision-hash"],
        status_of(&api)["updateRevision"]
    );
    edit(&api, |spec| spec["replicas"] = json!(1));
    done(&api, 1).await;
    let deleted: Vec<_> = steps(&api)
        .into_iter()
        .filter(|step| step.starts_with("DELETE"))
        .collect();
    assert_eq!(deleted, ["DELETE pods/db-2", "DELETE pods/db-1"]);
    assert_eq!(status_of(&api)["availableReplicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn an_update_goes_down_one_by_one_and_stops_at_what_is_broken() {
    let api = FakeApi::new();
    api.put(SETS, &db(&json!({})));
    let _running = started(&api);
    done(&api, 3).await;
    let first = status_of(&api)["currentRevision"].clone();
    set_image(&api, BROKEN);
    api.settle().await;
    let images: Vec<_> = pods(&api).into_iter().map(|(_, image)| image).collect();
    assert_eq!(images, ["v1", "v1", BROKEN]);
    let status = status_of(&api);
    assert_eq!(status["currentRevision"], first);
    assert_eq!(
        (&status["currentReplicas"], &status["updatedReplicas"]),
        (&json!(2), &json!(1))
    );
    // As everywhere, the broken pod has to be deleted by hand before an ordered set goes on.
    set_image(&api, "v2");
    api.settle().await;
    assert_eq!(pods(&api)[2].1, BROKEN);
    api.remove(PODS, "shop", "db-2");
    done(&api, 3).await;
    let images: Vec<_> = pods(&api).into_iter().map(|(_, image)| image).collect();
    assert_eq!(images, ["v2", "v2", "v2"]);
    assert_eq!(api.objects(REVISIONS).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_partition_keeps_the_lower_pods_even_when_they_are_made_anew() {
    let api = FakeApi::new();
    api.put(SETS, &db(&json!({})));
    let _running = started(&api);
    done(&api, 3).await;
    edit(&api, |spec| {
        spec["updateStrategy"]["rollingUpdate"]["partition"] = json!(2);
        spec["template"]["spec"]["containers"][0]["image"] = json!("v2");
    });
    api.until("one updated", |api| status_of(api)["updatedReplicas"] == 1)
        .await;
    api.remove(PODS, "shop", "db-0");
    api.until("it again", |api| status_of(api)["readyReplicas"] == 3)
        .await;
    api.settle().await;
    let images: Vec<_> = pods(&api).into_iter().map(|(_, image)| image).collect();
    assert_eq!(images, ["v1", "v1", "v2"]);
    edit(&api, |spec| {
        spec["updateStrategy"]["rollingUpdate"]["partition"] = json!(0);
    });
    done(&api, 3).await;
}

#[tokio::test(start_paused = true)]
async fn parallel_pods_come_at_once_and_have_claims_that_go_as_the_policy_says() {
    let api = FakeApi::lagging(Duration::from_millis(300));
    api.put(
        SETS,
        &db(&json!({
            "podManagementPolicy": "Parallel",
            "ordinals": { "start": 5 },
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Delete", "whenScaled": "Delete" },
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
        })),
    );
    let _running = started(&api);
    done(&api, 3).await;
    let claims: Vec<_> = api.objects(CLAIMS).iter().map(name).collect();
    assert_eq!(claims, ["data-db-5", "data-db-6", "data-db-7"]);
    let owner = |claim: &str| {
        let claim = api.object(CLAIMS, "shop", claim).unwrap();
        claim["metadata"]["ownerReferences"][0]["kind"].clone()
    };
    assert_eq!(owner("data-db-7"), "StatefulSet");
    edit(&api, |spec| spec["replicas"] = json!(2));
    done(&api, 2).await;
    assert_eq!(
        (owner("data-db-6"), owner("data-db-7")),
        (json!("StatefulSet"), json!("Pod"))
    );
    // The claim is the old pod's still: a new one waits until it is collected.
    edit(&api, |spec| spec["replicas"] = json!(3));
    api.settle().await;
    assert_eq!(pods(&api).len(), 2);
    api.remove(CLAIMS, "shop", "data-db-7");
    done(&api, 3).await;
    assert_eq!(owner("data-db-7"), "StatefulSet");
}

#[tokio::test(start_paused = true)]
async fn orphans_are_adopted_by_name_and_label_and_others_left_alone() {
    let api = FakeApi::new();
    let orphan = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "shop", "name": name, "labels": { "app": "db" } },
            "spec": { "containers": [{ "name": "main", "image": "v0" }] },
        })
    };
    api.put(PODS, &orphan("db-0"));
    api.put(PODS, &orphan("db-x"));
    api.put(
        SETS,
        &db(&json!({ "updateStrategy": { "type": "OnDelete" } })),
    );
    let _running = started(&api);
    api.until("three", |api| status_of(api)["readyReplicas"] == 3)
        .await;
    api.settle().await;
    let adopted = api.object(PODS, "shop", "db-0").unwrap();
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["name"], "db");
    assert_eq!(
        adopted["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"],
        "db-0"
    );
    assert_eq!(adopted["spec"]["containers"][0]["image"], "v0");
    let other = api.object(PODS, "shop", "db-x").unwrap();
    assert!(other["metadata"]["ownerReferences"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ended_is_made_anew_and_history_is_bounded() {
    let api = FakeApi::new();
    api.put(SETS, &db(&json!({ "revisionHistoryLimit": 1 })));
    let _running = started(&api);
    done(&api, 3).await;
    api.edit(PODS, "shop", "db-1", |pod| {
        pod["status"] = json!({ "phase": "Failed" });
    });
    let before = api.object(PODS, "shop", "db-1").unwrap()["metadata"]["uid"].clone();
    api.until("another", |api| {
        let pod = api.object(PODS, "shop", "db-1");
        pod.is_some_and(|pod| pod["metadata"]["uid"] != before)
    })
    .await;
    done(&api, 3).await;
    for image in ["v2", "v3", "v4"] {
        set_image(&api, image);
        done(&api, 3).await;
    }
    assert_eq!(api.objects(REVISIONS).len(), 2);
}
