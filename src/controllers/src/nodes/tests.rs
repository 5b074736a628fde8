use jiff::Timestamp;
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

/// A second node, which is well all the time.
fn bystander(api: &FakeApi) {
    let mut two = node("True");
    two["metadata"] = json!({ "name": "two", "uid": "two-uid" });
    api.put(NODES, &two);
    let api = api.clone();
    tokio::spawn(async move {
        for second in 0_u64.. {
            let mut renewed = lease(0);
            renewed["metadata"] = json!({ "namespace": LEASES, "name": "two" });
            let at = Timestamp::UNIX_EPOCH + Duration::from_secs(second);
            renewed["spec"]["renewTime"] =
                json!(at.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string());
            api.put(LEASE_PATH, &renewed);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    });
}

/// What was written, events aside.
fn writes(api: &FakeApi) -> Vec<String> {
    let mut writes = api.writes();
    writes.retain(|write| !write.contains("/events"));
    writes
}

fn says(api: &FakeApi, reason: &str, message: &str) -> bool {
    let events = api.objects("api/v1/events");
    events
        .iter()
        .any(|event| event["reason"] == reason && event["message"] == message)
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
    bystander(&api);
    let _running = started(&api);
    for minute in 1..20 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        api.put(LEASE_PATH, &lease(minute));
    }
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert!(writes(&api).is_empty(), "{:?}", writes(&api));

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
    for (reason, message) in [
        (
            "RegisteredNode",
            "Node one event: Registered Node one in Controller",
        ),
        ("NodeNotReady", "Node one status is now: NodeNotReady"),
        ("NodeNotReady", "Node is not ready"),
    ] {
        assert!(says(&api, reason, message), "{message}");
    }
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
    bystander(&api);
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

#[tokio::test(start_paused = true)]
async fn nobody_is_driven_off_when_no_node_is_left() {
    let api = FakeApi::new();
    api.put(NODES, &node("True"));
    api.put(LEASE_PATH, &lease(0));
    api.put(PODS, &pod());
    let _running = started(&api);
    tokio::time::sleep(Duration::from_secs(39)).await;
    let driven_off = |api: &FakeApi| {
        let node = api.object(NODES, "", "one").unwrap();
        let taints = node["spec"]["taints"].as_array().cloned();
        let mut taints = taints.into_iter().flatten();
        taints.any(|taint| taint["effect"] == "NoExecute")
    };
    api.until("one taint", |api| {
        assert!(!driven_off(api));
        taints(api) == 1
    })
    .await;
    api.settle().await;
    assert!(!driven_off(&api));
    // There is another one after all, so it is the first that is broken.
    bystander(&api);
    api.until("driven off", driven_off).await;
    api.remove(NODES, "", "two");
    api.until("taken back", |api| !driven_off(api)).await;
    let message = "Node two event: Removing Node two from Controller";
    api.until("an event", |api| says(api, "RemovingNode", message))
        .await;
}

#[tokio::test(start_paused = true)]
async fn nodes_are_given_up_one_after_the_other() {
    let api = FakeApi::new();
    bystander(&api);
    for index in 0..3 {
        let mut lost = node("False");
        lost["metadata"] = json!({ "name": format!("lost-{index}"), "uid": format!("{index}") });
        api.put(NODES, &lost);
    }
    // Half of six are lost: that is not yet much.
    for index in 0..2 {
        let mut fine = node("True");
        fine["metadata"] = json!({ "name": format!("fine-{index}"), "uid": format!("f{index}") });
        api.put(NODES, &fine);
    }
    let start = Instant::now();
    let _running = started(&api);
    let given_up = |api: &FakeApi| {
        let lost = |node: &&Value| {
            let taints = node["spec"]["taints"].as_array().cloned();
            let mut taints = taints.into_iter().flatten();
            taints.any(|taint| taint["effect"] == "NoExecute")
        };
        api.objects(NODES).iter().filter(lost).count()
    };
    for (count, seconds) in [(1, 0), (2, 10), (3, 20)] {
        api.until("one more", |api| given_up(api) == count).await;
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
}
