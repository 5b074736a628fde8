//! The controller on an API server in memory.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vaquita_reconcile::{Options, testing::api::FakeApi};

use super::*;

const SERVICES: &str = "api/v1/services";

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"),
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP"}]},
    });
    let all = service["spec"].as_object_mut().unwrap();
    all.extend(spec.as_object().unwrap().clone());
    service
}

fn started(api: &FakeApi, pool: &str) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
    tokio::spawn(run(context, pool.parse().unwrap()));
    shutdown
}

fn address(api: &FakeApi, name: &str) -> String {
    let service = api.object(SERVICES, "shop", name).unwrap();
    let points = &service["status"]["loadBalancer"]["ingress"];
    points[0]["ip"].as_str().unwrap_or("-").to_owned()
}

fn reasons(api: &FakeApi, name: &str) -> Vec<String> {
    let events = api.objects("api/v1/events");
    let about = events
        .iter()
        .filter(|event| event["involvedObject"]["name"] == name);
    let mut reasons: Vec<_> = about
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

#[tokio::test(start_paused = true)]
async fn a_service_gets_an_address_and_gives_it_back() {
    let api = FakeApi::new();
    let _running = started(&api, "192.0.2.1");
    api.put(SERVICES, &service("a", &json!({})));
    api.settle().await;
    let a = api.object(SERVICES, "shop", "a").unwrap();
    assert_eq!(
        a["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "192.0.2.1", "ipMode": "VIP"}])
    );
    assert_eq!(a["metadata"]["finalizers"], json!([FINALIZER]));

    // The next one has to wait, and gets it when the first becomes something else.
    api.put(SERVICES, &service("b", &json!({})));
    api.settle().await;
    assert_eq!(address(&api, "b"), "-");
    assert_eq!(reasons(&api, "b"), ["SyncLoadBalancerFailed"]);
    api.edit(SERVICES, "shop", "a", |a| {
        a["spec"]["type"] = "ClusterIP".into();
    });
    api.settle().await;
    assert_eq!(address(&api, "a"), "-");
    assert_eq!(address(&api, "b"), "192.0.2.1");
    let a = api.object(SERVICES, "shop", "a").unwrap();
    assert!(
        a["metadata"]["finalizers"]
            .as_array()
            .is_none_or(Vec::is_empty),
        "{a}"
    );
    assert_eq!(
        reasons(&api, "a"),
        [
            "DeletedLoadBalancer",
            "DeletingLoadBalancer",
            "EnsuredLoadBalancer",
            "EnsuringLoadBalancer"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_is_kept_until_its_address_is_free() {
    let api = FakeApi::new();
    let _running = started(&api, "192.0.2.1");
    api.put(SERVICES, &service("a", &json!({})));
    api.settle().await;
    api.edit(SERVICES, "shop", "a", |a| {
        a["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z".into();
    });
    api.settle().await;
    let left = api.object(SERVICES, "shop", "a");
    let finalizers = left.map(|a| a["metadata"]["finalizers"].clone());
    assert!(finalizers.is_none_or(|all| all.as_array().is_none_or(Vec::is_empty)));
    api.put(SERVICES, &service("b", &json!({})));
    api.settle().await;
    assert_eq!(address(&api, "b"), "192.0.2.1");
}

#[tokio::test(start_paused = true)]
async fn wishes_and_classes_are_heeded() {
    let api = FakeApi::new();
    let _running = started(&api, "192.0.2.1-192.0.2.9");
    api.put(
        SERVICES,
        &service("wish", &json!({"loadBalancerIP": "192.0.2.5"})),
    );
    api.put(
        SERVICES,
        &service("far", &json!({"loadBalancerIP": "10.0.0.1"})),
    );
    api.put(
        SERVICES,
        &service("ours", &json!({"loadBalancerClass": CLASS})),
    );
    api.put(
        SERVICES,
        &service("foreign", &json!({"loadBalancerClass": "x.example/lb"})),
    );
    api.put(SERVICES, &service("plain", &json!({"type": "NodePort"})));
    api.settle().await;
    assert_eq!(address(&api, "wish"), "192.0.2.5");
    assert_eq!(address(&api, "far"), "-");
    assert_eq!(reasons(&api, "far"), ["SyncLoadBalancerFailed"]);
    assert_eq!(address(&api, "ours"), "192.0.2.1");
    for name in ["foreign", "plain"] {
        let service = api.object(SERVICES, "shop", name).unwrap();
        assert!(service["metadata"]["finalizers"].is_null() && service["status"].is_null());
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_gives_nothing_twice() {
    let api = FakeApi::new();
    let first = started(&api, "192.0.2.1-192.0.2.2");
    api.put(SERVICES, &service("a", &json!({})));
    api.settle().await;
    api.put(SERVICES, &service("b", &json!({})));
    api.settle().await;
    first.cancel();
    let before = (address(&api, "a"), address(&api, "b"));
    // Made while nobody ran; and one that claims what another has.
    api.put(
        SERVICES,
        &service("c", &json!({"ports": [{"port": 443, "protocol": "TCP"}]})),
    );
    let mut liar = service("liar", &json!({}));
    liar["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z".into();
    liar["status"] = json!({"loadBalancer": {"ingress": [{"ip": before.0.clone()}]}});
    api.put(SERVICES, &liar);
    let _second = started(&api, "192.0.2.1-192.0.2.2");
    api.settle().await;
    assert_eq!((address(&api, "a"), address(&api, "b")), before);
    assert_ne!(address(&api, "c"), "-");
    assert_eq!(address(&api, "liar"), "-");
}
