use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const RCS: &str = "api/v1/replicationcontrollers";
const PODS: &str = "api/v1/pods";
const MAPS: &str = "api/v1/configmaps";

/// The collector at work on an API server in memory, once it knows everything.
async fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
    tokio::spawn(run(context, Departures::default()));
    api.settle().await;
    shutdown
}

fn object(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": { "namespace": "shop", "name": name, "uid": format!("{name}-uid") },
    })
}

/// `object`, owned by the replication controller `owner`.
fn owned(mut object: Value, owners: &[&str]) -> Value {
    let reference = |owner: &&str| {
        json!({
            "apiVersion": "v1", "kind": "ReplicationController", "name": owner,
            "uid": format!("{owner}-uid"), "blockOwnerDeletion": true,
        })
    };
    object["metadata"]["ownerReferences"] = owners.iter().map(reference).collect();
    object
}

fn going(mut object: Value, finalizer: &str) -> Value {
    object["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    object["metadata"]["finalizers"] = json!([finalizer]);
    object
}

fn owners_of(api: &FakeApi, path: &str, name: &str) -> Vec<String> {
    let object = api.object(path, "shop", name).unwrap();
    let owners = object["metadata"]["ownerReferences"].as_array().cloned();
    let name = |owner: &Value| owner["name"].as_str().unwrap().to_owned();
    owners.unwrap_or_default().iter().map(name).collect()
}

/// What is held from its end by somebody else.
const HELD: &str = "example.com/held";

#[tokio::test(start_paused = true)]
async fn what_is_owned_goes_with_its_last_owner() {
    let api = FakeApi::new();
    api.put(RCS, &object("ReplicationController", "front"));
    api.put(RCS, &object("ReplicationController", "back"));
    for name in ["a", "b", "c"] {
        api.put(PODS, &owned(object("Pod", name), &["front"]));
    }
    api.put(PODS, &owned(object("Pod", "shared"), &["front", "back"]));
    api.put(PODS, &object("Pod", "free"));
    let _running = started(&api).await;
    assert!(api.writes().is_empty(), "{:?}", api.writes());

    api.remove(RCS, "shop", "front");
    api.until("its pods gone", |api| api.objects(PODS).len() == 2)
        .await;
    api.until("the other let go", |api| {
        owners_of(api, PODS, "shared") == ["back"]
    })
    .await;
    api.settle().await;
    assert_eq!(api.writes().len(), 4, "{:?}", api.writes());

    api.remove(RCS, "shop", "back");
    api.until("the last gone", |api| {
        api.object(PODS, "shop", "shared").is_none()
    })
    .await;
    assert!(api.object(PODS, "shop", "free").is_some());
}

#[tokio::test(start_paused = true)]
async fn what_lost_its_owner_before_the_start_is_collected_too() {
    let api = FakeApi::new();
    api.put(PODS, &owned(object("Pod", "a"), &["front"]));
    let mut namesake = object("ReplicationController", "back");
    namesake["metadata"]["uid"] = json!("another");
    api.put(RCS, &namesake);
    api.put(PODS, &owned(object("Pod", "b"), &["back"]));
    let _running = started(&api).await;
    api.until("both gone", |api| api.objects(PODS).is_empty())
        .await;
    assert_eq!(api.objects(RCS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_owner_in_another_namespace_is_none() {
    let api = FakeApi::new();
    let mut elsewhere = object("ReplicationController", "front");
    elsewhere["metadata"]["namespace"] = json!("office");
    api.put(RCS, &elsewhere);
    api.put(PODS, &owned(object("Pod", "a"), &["front"]));
    let _running = started(&api).await;
    api.until("it gone", |api| api.objects(PODS).is_empty())
        .await;
    assert_eq!(api.objects(RCS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_a_kind_that_nobody_serves_is_left_alone() {
    let api = FakeApi::new();
    let mut pod = owned(object("Pod", "a"), &["front"]);
    pod["metadata"]["ownerReferences"][0]["kind"] = json!("Wonder");
    api.put(PODS, &pod);
    let _running = started(&api).await;
    api.settle().await;
    assert!(api.writes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_not_watched_is_asked_for_now_and_then() {
    let api = FakeApi::new();
    let leases = "apis/coordination.k8s.io/v1/leases";
    api.put(leases, &object("Lease", "leader"));
    let mut map = owned(object("ConfigMap", "a"), &["leader"]);
    map["metadata"]["ownerReferences"][0]["kind"] = json!("Lease");
    map["metadata"]["ownerReferences"][0]["apiVersion"] = json!("coordination.k8s.io/v1");
    api.put(MAPS, &map);
    let _running = started(&api).await;
    assert!(api.writes().is_empty());
    api.remove(leases, "shop", "leader");
    tokio::time::sleep(ASK_AGAIN).await;
    api.until("it gone", |api| api.objects(MAPS).is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn foreground_deletion_goes_from_the_leaves_to_the_root() {
    let api = FakeApi::new();
    api.put(RCS, &object("ReplicationController", "front"));
    let mut held = owned(object("Pod", "held"), &["front"]);
    held["metadata"]["finalizers"] = json!([HELD]);
    api.put(PODS, &held);
    api.put(PODS, &owned(object("Pod", "free"), &["front"]));
    let _running = started(&api).await;

    let front = going(
        object("ReplicationController", "front"),
        "foregroundDeletion",
    );
    api.put(RCS, &front);
    api.until("the free one gone", |api| {
        api.object(PODS, "shop", "free").is_none()
    })
    .await;
    api.settle().await;
    let waiting = api.object(RCS, "shop", "front").unwrap();
    assert_eq!(
        waiting["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    let held = api.object(PODS, "shop", "held").unwrap();
    assert!(!held["metadata"]["deletionTimestamp"].is_null());

    api.remove(PODS, "shop", "held");
    api.until("the owner gone", |api| api.objects(RCS).is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn objects_that_own_each_other_do_not_wait_for_ever() {
    let api = FakeApi::new();
    api.put(RCS, &owned(object("ReplicationController", "a"), &["b"]));
    api.put(RCS, &owned(object("ReplicationController", "b"), &["a"]));
    let _running = started(&api).await;
    assert!(api.writes().is_empty(), "{:?}", api.writes());
    let first = owned(object("ReplicationController", "a"), &["b"]);
    api.put(RCS, &going(first, "foregroundDeletion"));
    api.until("both gone", |api| api.objects(RCS).is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn orphans_keep_their_other_owners_and_stay() {
    let api = FakeApi::new();
    for name in ["front", "back"] {
        api.put(RCS, &object("ReplicationController", name));
    }
    api.put(PODS, &owned(object("Pod", "a"), &["front"]));
    api.put(PODS, &owned(object("Pod", "b"), &["back", "front"]));
    let _running = started(&api).await;
    let front = object("ReplicationController", "front");
    api.put(RCS, &going(front, "orphan"));
    api.until("the owner gone", |api| {
        api.object(RCS, "shop", "front").is_none()
    })
    .await;
    api.settle().await;
    assert!(owners_of(&api, PODS, "a").is_empty());
    assert_eq!(owners_of(&api, PODS, "b"), ["back"]);
}

#[tokio::test(start_paused = true)]
async fn a_late_graph_deletes_nothing_that_was_adopted_meanwhile() {
    let api = FakeApi::new();
    api.put(RCS, &object("ReplicationController", "back"));
    api.put(PODS, &owned(object("Pod", "a"), &["back"]));
    let collector = Collector {
        shared: Arc::default(),
        remote: Remote::new(api.client()),
    };
    let survey = vaquita_reconcile::served::survey(&api.client())
        .await
        .unwrap();
    let kinds = survey.resources.into_iter().map(|served| {
        let kind = (served.api.group.clone(), served.api.kind.clone());
        (kind, Arc::new(served))
    });
    collector.shared.set_kinds(kinds.collect());
    // The graph still believes that the pod has no owner but one that never was.
    let mut stale = owned(object("Pod", "a"), &["front"]);
    let mut meta: ObjectMeta = serde_json::from_value(stale["metadata"].take()).unwrap();
    meta.resource_version = Some("0".to_owned());
    let pods = Arc::clone(&collector.shared.kinds()[&(String::new(), "Pod".to_owned())]);
    let stale = Object::new(pods, meta).unwrap();
    collector.examine(Arc::new(stale)).await.unwrap();
    assert_eq!(owners_of(&api, PODS, "a"), ["back"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_while_nothing_happens() {
    let api = FakeApi::new();
    api.put(RCS, &object("ReplicationController", "front"));
    api.put(PODS, &owned(object("Pod", "a"), &["front"]));
    let _running = started(&api).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(api.writes().is_empty());
}
