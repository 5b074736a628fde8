use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const NODES: &str = "api/v1/nodes";
const PODS: &str = "api/v1/pods";
const LEASE_PATH: &str = "apis/coordination.k8s.io/v1/leases";

fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
    tokio::spawn(run(context));
    shutdown
}

fn node(ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "one", "uid": "one-uid" },
        "status": { "conditions": [{ "type": "Ready", "status": ready, "reason": "KubeletReady" }] },
    })
}

fn lease(renewed: u64) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "namespace": LEASES, "name": "one",
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "one", "uid": "one-uid" }],
        },
        "spec": { "renewTime": format!("2020-01-01T00:{renewed:02}:00.000000Z") },
    })
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "shop", "name": "a", "uid": "a-uid" },
        "spec": { "nodeName": "one", "containers": [] },
        "status": { "phase": "Running", "conditions": [
            { "type": "PodScheduled", "status": "True" }, { "type": "Ready", "status": "True" },
        ] },
    })
}

fn condition(object: &Value, type_: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == type_);
    found.cloned().unwrap()
}

fn taints(api: &FakeApi) -> usize {
    let node = api.object(NODES, "", "one").unwrap();
    node["spec"]["taints"].as_array().map_or(0, Vec::len)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_lost_until_it_speaks() {
    let api = FakeApi::new();
    api.put(NODES, &node("True"));
    api.put(LEASE_PATH, &lease(0));
    api.put(PODS, &pod());
    let _running = started(&api);
    for minute in 1..20 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        api.put(LEASE_PATH, &lease(minute));
    }
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert!(api.writes().is_empty(), "{:?}", api.writes());

    api.until("two taints", |api| taints(api) == 2).await;
    let lost = api.object(NODES, "", "one").unwrap();
    let ready = condition(&lost, "Ready");
    assert_eq!(ready["status"], "Unknown");
    assert_eq!(ready["reason"], "NodeStatusUnknown");
    assert_eq!(ready["message"], "Kubelet stopped posting node status.");
    assert_eq!(
        condition(&lost, "DiskPressure")["reason"],
        "NodeStatusNeverUpdated"
    );
    api.until("its pod not ready", |api| {
        let pod = api.object(PODS, "shop", "a").unwrap();
        condition(&pod, "Ready")["status"] == "False"
            && condition(&pod, "PodScheduled")["status"] == "True"
    })
    .await;
    api.settle().await;
    let told = api.writes().len();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(api.writes().len(), told, "said once is enough");

    // The kubelet is back and says so.
    api.put(LEASE_PATH, &lease(30));
    api.edit(NODES, "", "one", |node| {
        node["status"]["conditions"] = json!([{
            "type": "Ready", "status": "True", "lastHeartbeatTime": "2020-01-01T00:00:00Z",
        }]);
    });
    api.until("no taints", |api| taints(api) == 0).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(taints(&api), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_it_is_not_ready_is_tainted_at_once() {
    let api = FakeApi::new();
    api.put(NODES, &node("False"));
    api.put(PODS, &pod());
    let _running = started(&api);
    api.until("two taints", |api| taints(api) == 2).await;
    api.until("its pod not ready", |api| {
        let pod = api.object(PODS, "shop", "a").unwrap();
        condition(&pod, "Ready")["status"] == "False"
    })
    .await;
    let node = api.object(NODES, "", "one").unwrap();
    assert_eq!(
        condition(&node, "Ready")["reason"],
        "KubeletReady",
        "its own words stay"
    );
}
