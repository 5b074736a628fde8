use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const PODS: &str = "api/v1/pods";
const SERVICES: &str = "api/v1/services";
const ENDPOINTS: &str = "api/v1/endpoints";
const SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";

fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    tokio::spawn(run(Context::new(
        api.client(),
        Options::default(),
        shutdown.clone(),
    )));
    shutdown
}

fn service(spec: &Value) -> Value {
    let metadata = json!({ "namespace": "shop", "name": "front", "uid": "front-uid", "labels": { "team": "a" } });
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}

fn front() -> Value {
    service(&json!({
        "clusterIP": "10.96.0.7",
        "selector": { "app": "front" },
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": "web" }],
    }))
}

fn pod(name: &str, ip: &str, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "shop", "name": name, "uid": format!("{name}-uid"), "labels": { "app": "front" } },
        "spec": {
            "nodeName": "n1",
            "containers": [{ "name": "main", "ports": [{ "name": "web", "containerPort": 8080 }] }],
        },
        "status": { "phase": "Running", "podIP": ip, "conditions": [{ "type": "Ready", "status": status }] },
    })
}

fn addresses(api: &FakeApi, field: &str) -> Vec<String> {
    let Some(endpoints) = api.object(ENDPOINTS, "shop", "front") else {
        return Vec::new();
    };
    let subsets = endpoints["subsets"].as_array().cloned().unwrap_or_default();
    let of = |subset: &Value| subset[field].as_array().cloned().unwrap_or_default();
    subsets
        .iter()
        .flat_map(of)
        .map(|address| address["ip"].as_str().unwrap().to_owned())
        .collect()
}

/// The addresses in all slices for which `condition` holds.
fn sliced(api: &FakeApi, condition: &str) -> Vec<String> {
    let slices = api.objects(SLICES);
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().unwrap().clone());
    let holds = endpoints.filter(|endpoint| endpoint["conditions"][condition] == true);
    let mut ips: Vec<_> = holds
        .map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned())
        .collect();
    ips.sort();
    ips
}

#[tokio::test(start_paused = true)]
async fn both_kinds_follow_the_readiness_of_pods() {
    let api = FakeApi::new();
    api.put(SERVICES, &front());
    api.put(PODS, &pod("a", "10.0.0.1", true));
    api.put(PODS, &pod("b", "10.0.0.2", false));
    let _running = started(&api);
    api.until("the first state", |api| {
        sliced(api, "ready") == ["10.0.0.1"]
    })
    .await;
    api.until("the same in Endpoints", |api| {
        addresses(api, "addresses") == ["10.0.0.1"]
    })
    .await;
    assert_eq!(addresses(&api, "notReadyAddresses"), ["10.0.0.2"]);
    let slice = &api.objects(SLICES)[0];
    assert_eq!(
        slice["ports"],
        json!([{ "name": "http", "port": 8080, "protocol": "TCP" }])
    );
    assert_eq!(slice["metadata"]["labels"][slices::SERVICE_LABEL], "front");
    assert_eq!(slice["metadata"]["labels"]["team"], "a");
    assert_eq!(slice["endpoints"][0]["nodeName"], "n1");
    assert_eq!(slice["endpoints"][0]["targetRef"]["name"], "a");

    api.put(PODS, &pod("b", "10.0.0.2", true));
    api.until("b is ready", |api| {
        sliced(api, "ready") == ["10.0.0.1", "10.0.0.2"]
    })
    .await;
    api.remove(PODS, "shop", "a");
    api.until("a is gone", |api| sliced(api, "ready") == ["10.0.0.2"])
        .await;
    api.until("a is gone", |api| {
        addresses(api, "addresses") == ["10.0.0.2"]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_going_gets_nothing_new_at_once() {
    let api = FakeApi::new();
    api.put(SERVICES, &front());
    api.put(PODS, &pod("a", "10.0.0.1", true));
    let _running = started(&api);
    api.until("the first state", |api| {
        sliced(api, "ready") == ["10.0.0.1"]
    })
    .await;
    api.edit(PODS, "shop", "a", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    });
    api.until("it leaves", |api| {
        sliced(api, "ready").is_empty() && addresses(api, "addresses").is_empty()
    })
    .await;
    assert_eq!(
        sliced(&api, "terminating"),
        ["10.0.0.1"],
        "proxies may still drain it"
    );
    assert_eq!(sliced(&api, "serving"), ["10.0.0.1"]);
    assert!(addresses(&api, "notReadyAddresses").is_empty());
}

#[tokio::test(start_paused = true)]
async fn pods_that_have_ended_or_have_no_address_are_left_out() {
    let api = FakeApi::new();
    api.put(SERVICES, &front());
    let mut ended = pod("ended", "10.0.0.1", false);
    ended["status"]["phase"] = json!("Succeeded");
    api.put(PODS, &ended);
    let mut young = pod("young", "", false);
    young["status"] = json!({ "phase": "Pending" });
    api.put(PODS, &young);
    let _running = started(&api);
    api.until("an empty slice", |api| api.objects(SLICES).len() == 1)
        .await;
    assert_eq!(api.objects(SLICES)[0]["endpoints"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn not_ready_addresses_are_published_for_who_asks_for_them() {
    let api = FakeApi::new();
    let mut headless = front();
    headless["spec"]["clusterIP"] = json!("None");
    headless["spec"]["publishNotReadyAddresses"] = json!(true);
    api.put(SERVICES, &headless);
    let mut named = pod("a", "10.0.0.1", false);
    named["spec"]["hostname"] = json!("first");
    named["spec"]["subdomain"] = json!("front");
    api.put(PODS, &named);
    let _running = started(&api);
    api.until("published", |api| {
        sliced(api, "ready") == ["10.0.0.1"] && addresses(api, "addresses") == ["10.0.0.1"]
    })
    .await;
    let slice = &api.objects(SLICES)[0];
    assert_eq!(slice["endpoints"][0]["conditions"]["serving"], false);
    assert_eq!(slice["endpoints"][0]["hostname"], "first");
    assert_eq!(slice["metadata"]["labels"][slices::HEADLESS_LABEL], "");
}

#[tokio::test(start_paused = true)]
async fn services_without_a_selector_are_left_alone() {
    let api = FakeApi::new();
    api.put(SERVICES, &service(&json!({ "ports": [{ "port": 80 }] })));
    let by_hand = json!({ "metadata": { "namespace": "shop", "name": "front" }, "subsets": [] });
    api.put(ENDPOINTS, &by_hand);
    api.put(PODS, &pod("a", "10.0.0.1", true));
    let _running = started(&api);
    api.settle().await;
    assert_eq!(api.writes(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_endpoints_of_a_deleted_service_go_with_it() {
    let api = FakeApi::new();
    api.put(SERVICES, &front());
    let _running = started(&api);
    api.until("endpoints", |api| {
        api.object(ENDPOINTS, "shop", "front").is_some()
    })
    .await;
    api.remove(SERVICES, "shop", "front");
    api.until("none", |api| {
        api.object(ENDPOINTS, "shop", "front").is_none()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_others_break_is_mended() {
    let api = FakeApi::new();
    api.put(SERVICES, &front());
    api.put(PODS, &pod("a", "10.0.0.1", true));
    let _running = started(&api);
    api.until("the first state", |api| {
        sliced(api, "ready") == ["10.0.0.1"]
    })
    .await;
    let name = api.objects(SLICES)[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    api.settle().await;
    api.edit(SLICES, "shop", &name, |slice| {
        slice["endpoints"] = json!([]);
    });
    api.until("mended", |api| sliced(api, "ready") == ["10.0.0.1"])
        .await;
    api.remove(SLICES, "shop", &name);
    api.until("made anew", |api| sliced(api, "ready") == ["10.0.0.1"])
        .await;
    api.remove(ENDPOINTS, "shop", "front");
    api.until("made anew", |api| {
        addresses(api, "addresses") == ["10.0.0.1"]
    })
    .await;
}

/// The informers show every write a second late; meanwhile pods keep changing.
#[tokio::test(start_paused = true)]
async fn a_late_watch_makes_no_slice_twice() {
    let api = FakeApi::lagging(Duration::from_secs(1));
    api.put(SERVICES, &front());
    let _running = started(&api);
    for number in 1..=20 {
        api.put(
            PODS,
            &pod(&format!("p{number}"), &format!("10.0.0.{number}"), true),
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    api.until("all twenty", |api| sliced(api, "ready").len() == 20)
        .await;
    api.settle().await;
    // The first, made when there were no pods or the first few, and at most its successor with ports.
    assert_eq!(api.objects(SLICES).len(), 1);
    let conflicts = api
        .writes()
        .iter()
        .filter(|write| write.starts_with("POST") && write.contains("endpointslices"))
        .count();
    assert!(conflicts <= 2, "{:?}", api.writes());
}
