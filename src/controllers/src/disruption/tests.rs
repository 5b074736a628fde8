use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const BUDGETS: &str = "apis/policy/v1/poddisruptionbudgets";
const PODS: &str = "api/v1/pods";
const CONTROLLERS: &str = "api/v1/replicationcontrollers";

fn start(api: &FakeApi) {
    let context = Context::new(api.client(), Options::default(), CancellationToken::new());
    tokio::spawn(run(context));
}

fn budget(spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["selector"] = json!({ "matchLabels": { "app": "web" } });
    json!({ "metadata": { "namespace": "shop", "name": "web", "generation": 1 }, "spec": spec })
}

fn pod(name: &str, ready: &str) -> Value {
    let owner = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "web-uid", "controller": true,
    });
    json!({
        "metadata": {
            "namespace": "shop", "name": name, "labels": { "app": "web" }, "ownerReferences": [owner],
        },
        "spec": { "containers": [] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] },
    })
}

fn controller(replicas: i32) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": "web", "uid": "web-uid" },
        "spec": { "replicas": replicas, "selector": { "app": "web" } },
    })
}

fn status(api: &FakeApi) -> Value {
    api.object(BUDGETS, "shop", "web").unwrap()["status"].take()
}

/// allowed, healthy, needed, expected; and the condition's reason.
fn told(api: &FakeApi) -> (Value, String) {
    let status = status(api);
    let counts = json!([
        status["disruptionsAllowed"],
        status["currentHealthy"],
        status["desiredHealthy"],
        status["expectedPods"]
    ]);
    let reason = status["conditions"][0]["reason"].as_str();
    (counts, reason.unwrap_or_default().to_owned())
}

async fn until(api: &FakeApi, counts: Value, reason: &str) {
    let what = format!("{counts} {reason}");
    let wanted = (counts, reason.to_owned());
    api.until(&what, |api| told(api) == wanted).await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_follows_the_readiness_of_its_pods_and_the_size_of_their_owner() {
    let api = FakeApi::new();
    api.put(CONTROLLERS, &controller(4));
    api.put(BUDGETS, &budget(&json!({ "maxUnavailable": "25%" })));
    for name in ["a", "b", "c"] {
        api.put(PODS, &pod(name, "True"));
    }
    api.put(PODS, &pod("d", "False"));
    start(&api);
    until(&api, json!([0, 3, 3, 4]), "InsufficientPods").await;
    api.put(PODS, &pod("d", "True"));
    until(&api, json!([1, 4, 3, 4]), "SufficientPods").await;
    assert_eq!(status(&api)["observedGeneration"], 1);
    api.put(CONTROLLERS, &controller(8));
    until(&api, json!([0, 4, 6, 8]), "InsufficientPods").await;
}

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_counts_as_gone_until_it_is_or_takes_too_long() {
    let api = FakeApi::new();
    for name in ["a", "b", "c"] {
        api.put(PODS, &pod(name, "True"));
    }
    api.put(BUDGETS, &budget(&json!({ "minAvailable": 2 })));
    start(&api);
    until(&api, json!([1, 3, 2, 3]), "SufficientPods").await;
    let evict = |pod: &str, at: Timestamp| {
        let pod = pod.to_owned();
        move |budget: &mut Value| {
            budget["status"]["disruptionsAllowed"] = json!(0);
            budget["status"]["disruptedPods"] = json!({ pod: at });
        }
    };
    api.edit(BUDGETS, "shop", "web", evict("a", Timestamp::now()));
    until(&api, json!([0, 2, 2, 3]), "InsufficientPods").await;
    assert_eq!(status(&api)["disruptedPods"].as_object().unwrap().len(), 1);
    api.remove(PODS, "shop", "a");
    until(&api, json!([0, 2, 2, 2]), "InsufficientPods").await;
    assert!(status(&api)["disruptedPods"].is_null());

    // This one was never deleted.
    let long_ago = Timestamp::now() - plan::DELETION_TIMEOUT;
    api.put(PODS, &pod("d", "True"));
    until(&api, json!([1, 3, 2, 3]), "SufficientPods").await;
    api.edit(BUDGETS, "shop", "web", evict("d", long_ago));
    until(&api, json!([1, 3, 2, 3]), "SufficientPods").await;
    api.until("an event", |api| {
        let events = api.objects("api/v1/events");
        events.iter().any(|event| event["reason"] == "NotDeleted")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_whose_owners_are_unknown_allows_nothing() {
    let api = FakeApi::new();
    api.put(PODS, &pod("a", "True"));
    api.put(BUDGETS, &budget(&json!({ "maxUnavailable": 1 })));
    start(&api);
    api.until("a failure", |api| {
        let condition = &status(api)["conditions"][0];
        condition["reason"] == "SyncFailed"
            && condition["message"] == "found no controllers for pod \"a\""
    })
    .await;
    assert_eq!(status(&api)["disruptionsAllowed"], 0);
    // The owner turns up.
    api.put(CONTROLLERS, &controller(1));
    until(&api, json!([1, 1, 0, 1]), "SufficientPods").await;
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_came_to_nothing_is_taken_back() {
    let api = FakeApi::new();
    let mut marked = pod("a", "True");
    let long_ago = Timestamp::now() - Duration::from_mins(3);
    let mark = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": long_ago,
    });
    marked["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(mark);
    api.put(PODS, &marked);
    start(&api);
    api.until("no mark", |api| {
        let pod = api.object(PODS, "shop", "a").unwrap();
        pod["status"]["conditions"][1]["status"] == "False"
    })
    .await;
}
