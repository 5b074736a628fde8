use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const NAMESPACES: &str = "api/v1/namespaces";
const PODS: &str = "api/v1/pods";
const MAPS: &str = "api/v1/configmaps";

fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
    tokio::spawn(run(context));
    shutdown
}

fn namespace(name: &str, going: bool) -> Value {
    let mut namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "uid": format!("{name}-uid") },
        "spec": { "finalizers": ["kubernetes"] },
    });
    if going {
        namespace["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    }
    namespace
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": { "namespace": namespace, "name": name },
    })
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_with_all_that_is_in_it_and_nothing_else() {
    let api = FakeApi::new();
    for name in ["shop", "office"] {
        api.put(NAMESPACES, &namespace(name, false));
        api.put(PODS, &object("Pod", name, "a"));
        api.put(MAPS, &object("ConfigMap", name, "b"));
    }
    let _running = started(&api);
    api.settle().await;
    assert!(api.writes().is_empty());
    api.put(NAMESPACES, &namespace("shop", true));
    api.until("the namespace gone", |api| {
        api.object(NAMESPACES, "", "shop").is_none()
    })
    .await;
    for path in [PODS, MAPS] {
        let left = api.objects(path);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0]["metadata"]["namespace"], "office");
    }
    let writes = api.writes();
    assert_eq!(
        writes,
        [
            "DELETE api/v1/pods",
            "DELETE api/v1/configmaps",
            "PUT api/v1/namespaces/shop/finalize"
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn pods_end_before_anything_they_may_need() {
    let api = FakeApi::new();
    let mut pod = object("Pod", "shop", "a");
    pod["metadata"]["finalizers"] = json!(["example.com/held"]);
    api.put(PODS, &pod);
    api.put(MAPS, &object("ConfigMap", "shop", "b"));
    api.put(NAMESPACES, &namespace("shop", true));
    let _running = started(&api);
    api.settle().await;
    assert_eq!(api.objects(MAPS).len(), 1);
    let waiting = api.object(NAMESPACES, "", "shop").unwrap();
    let conditions = waiting["status"]["conditions"].as_array().unwrap();
    let trues: Vec<_> = conditions
        .iter()
        .filter(|condition| condition["status"] == "True")
        .map(|condition| condition["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        trues,
        ["NamespaceContentRemaining", "NamespaceFinalizersRemaining"]
    );
    let told = api.writes().len();
    api.settle().await;
    assert_eq!(api.writes().len(), told, "nothing new, nothing written");

    api.remove(PODS, "shop", "a");
    api.until("the namespace gone", |api| {
        api.objects(NAMESPACES).is_empty()
    })
    .await;
    assert!(api.objects(MAPS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_others_hold_keeps_their_finalizers() {
    let api = FakeApi::new();
    let mut held = namespace("shop", true);
    held["spec"]["finalizers"] = json!(["example.com/ours", "kubernetes"]);
    api.put(NAMESPACES, &held);
    let _running = started(&api);
    api.settle().await;
    let left = api.object(NAMESPACES, "", "shop").unwrap();
    assert_eq!(left["spec"]["finalizers"], json!(["example.com/ours"]));
}
