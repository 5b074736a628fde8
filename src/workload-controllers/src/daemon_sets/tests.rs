use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const PODS: &str = "api/v1/pods";
const NODES: &str = "api/v1/nodes";
const SETS: &str = "apis/apps/v1/daemonsets";

fn agent(image: &str, rolling: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "namespace": "shop", "name": "agent", "uid": "agent-uid", "generation": 1 },
        "spec": {
            "selector": { "matchLabels": { "app": "agent" } },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": rolling },
            "template": {
                "metadata": { "labels": { "app": "agent" } },
                "spec": { "containers": [{ "name": "main", "image": image }] },
            },
        },
    })
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "namespace": "" }, "spec": {} })
}

/// The controller at work, on three nodes.
fn started(api: &FakeApi) -> CancellationToken {
    for name in ["n1", "n2", "n3"] {
        api.put(NODES, &node(name));
    }
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
    tokio::spawn(run(context));
    shutdown
}

/// Makes all pods ready but those of the image that is broken.
fn make_ready(api: &FakeApi) {
    for pod in api.objects(PODS) {
        if pod["status"].is_null() && pod["spec"]["containers"][0]["image"] != "broken" {
            api.edit(PODS, "shop", pod["metadata"]["name"].as_str().unwrap(), |pod| {
                let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z" });
                pod["status"] = json!({ "phase": "Running", "conditions": [ready] });
            });
        }
    }
}

fn keep_ready(api: &FakeApi) {
    let api = api.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            make_ready(&api);
        }
    });
}

fn status_of(api: &FakeApi) -> Value {
    api.object(SETS, "shop", "agent").unwrap()["status"].clone()
}

fn images(api: &FakeApi) -> Vec<String> {
    let pods = api.objects(PODS);
    let image = |pod: &Value| {
        pod["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut images: Vec<_> = pods.iter().map(image).collect();
    images.sort();
    images
}

fn set_image(api: &FakeApi, image: &str) {
    api.edit(SETS, "shop", "agent", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

#[tokio::test(start_paused = true)]
async fn every_node_gets_one_pod_and_loses_it_when_it_should() {
    let api = FakeApi::lagging(Duration::from_millis(300));
    api.put(SETS, &agent("v1", &json!({ "maxUnavailable": 1 })));
    let _running = started(&api);
    keep_ready(&api);
    api.until("three", |api| status_of(api)["numberAvailable"] == 3)
        .await;
    api.settle().await;
    let mut nodes: Vec<_> = api
        .objects(PODS)
        .iter()
        .map(|pod| {
            placement::node_of(&serde_json::from_value(pod.clone()).unwrap())
                .unwrap()
                .to_owned()
        })
        .collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
    api.put(NODES, &node("n4"));
    api.until("a fourth", |api| status_of(api)["numberReady"] == 4)
        .await;
    api.edit(NODES, "", "n1", |node| {
        node["spec"]["taints"] = json!([{ "key": "out", "effect": "NoExecute" }]);
    });
    api.until("one less", |api| api.objects(PODS).len() == 3)
        .await;
    api.until("the report", |api| {
        let status = status_of(api);
        status["desiredNumberScheduled"] == 3 && status["numberMisscheduled"] == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_template_replaces_pods_a_few_at_a_time() {
    let api = FakeApi::new();
    api.put(SETS, &agent("v1", &json!({ "maxUnavailable": 1 })));
    let _running = started(&api);
    keep_ready(&api);
    api.until("three", |api| status_of(api)["numberAvailable"] == 3)
        .await;
    set_image(&api, "broken");
    api.settle().await;
    assert_eq!(
        images(&api),
        ["broken", "v1", "v1"],
        "one at most is unavailable"
    );
    set_image(&api, "v2");
    api.until("all new", |api| {
        status_of(api)["updatedNumberScheduled"] == 3 && status_of(api)["numberAvailable"] == 3
    })
    .await;
    assert_eq!(images(&api), ["v2", "v2", "v2"]);
}

#[tokio::test(start_paused = true)]
async fn a_surge_keeps_the_old_pod_until_the_new_one_is_available() {
    let api = FakeApi::new();
    api.put(
        SETS,
        &agent("v1", &json!({ "maxUnavailable": 0, "maxSurge": 1 })),
    );
    let _running = started(&api);
    keep_ready(&api);
    api.until("three", |api| status_of(api)["numberAvailable"] == 3)
        .await;
    set_image(&api, "broken");
    api.settle().await;
    assert_eq!(images(&api), ["broken", "v1", "v1", "v1"]);
    set_image(&api, "v2");
    api.until("all new", |api| images(api) == ["v2", "v2", "v2"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn templates_of_the_past_are_remembered() {
    const REVISIONS: &str = "apis/apps/v1/controllerrevisions";
    let api = FakeApi::new();
    let mut set = agent("v1", &json!({ "maxUnavailable": 3 }));
    set["spec"]["revisionHistoryLimit"] = json!(1);
    api.put(SETS, &set);
    let _running = started(&api);
    keep_ready(&api);
    for image in ["v1", "v2", "v3", "v2"] {
        set_image(&api, image);
        api.until("all new", |api| images(api) == [image; 3]).await;
        api.settle().await;
    }
    let mut known: Vec<_> = api
        .objects(REVISIONS)
        .iter()
        .map(|revision| {
            let template = &revision["data"]["spec"]["template"];
            assert_eq!(template["$patch"], "replace");
            let image = template["spec"]["containers"][0]["image"].as_str().unwrap();
            (revision["revision"].as_i64().unwrap(), image.to_owned())
        })
        .collect();
    known.sort();
    assert_eq!(known, [(3, "v3".to_owned()), (4, "v2".to_owned())]);
}
