use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const PODS: &str = "api/v1/pods";
const CLAIMS: &str = "apis/resource.k8s.io/v1/resourceclaims";
const TEMPLATES: &str = "apis/resource.k8s.io/v1/resourceclaimtemplates";

fn start(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
    tokio::spawn(run(context));
    shutdown
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": { "namespace": "lab", "name": name, "uid": format!("{name}-uid") },
        "spec": {
            "containers": [],
            "resourceClaims": [
                { "name": "gpu", "resourceClaimTemplateName": "one-gpu" },
                { "name": "shared", "resourceClaimName": "by-hand" },
            ],
        },
        "status": { "phase": "Pending" },
    })
}

fn template() -> Value {
    let request = json!({ "name": "r", "exactly": { "deviceClassName": "gpus" } });
    json!({
        "metadata": { "namespace": "lab", "name": "one-gpu" },
        "spec": {
            "metadata": { "labels": { "team": "a" }, "annotations": { "note": "b" } },
            "spec": { "devices": { "requests": [request] } },
        },
    })
}

/// A claim with devices, for these pods.
fn allocated(name: &str, pods: &[&str]) -> Value {
    let consumer =
        |pod: &&str| json!({ "resource": "pods", "name": pod, "uid": format!("{pod}-uid") });
    json!({
        "metadata": { "namespace": "lab", "name": name, "finalizers": [PROTECTION] },
        "spec": {},
        "status": {
            "allocation": { "devices": { "results": [] } },
            "reservedFor": pods.iter().map(consumer).collect::<Vec<_>>(),
        },
    })
}

fn noted(api: &FakeApi, pod: &str) -> Option<String> {
    let pod = api.object(PODS, "lab", pod)?;
    let name = &pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"];
    name.as_str().map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_made_from_the_template_and_goes_when_the_pod_has_ended() {
    let api = FakeApi::new();
    api.put(PODS, &pod("a"));
    let _running = start(&api);
    let says = |api: &FakeApi, text: &str| {
        let events = api.objects("api/v1/events");
        events.iter().any(|event| {
            event["reason"] == "FailedResourceClaimCreation"
                && event["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(text))
        })
    };
    api.until("an event", |api| {
        says(
            api,
            "PodResourceClaim gpu: resource claim template \"one-gpu\"",
        )
    })
    .await;
    api.put(TEMPLATES, &template());
    api.until("a name in the status", |api| noted(api, "a").is_some())
        .await;
    let name = noted(&api, "a").unwrap();
    assert!(name.starts_with("a-gpu-"), "{name}");
    let claim = api.object(CLAIMS, "lab", &name).unwrap();
    assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "a-uid");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["controller"], true);
    assert_eq!(
        claim["metadata"]["annotations"],
        json!({ "note": "b", ENTRY: "gpu" })
    );
    assert_eq!(claim["metadata"]["labels"], json!({ "team": "a" }));
    assert_eq!(claim["spec"], template()["spec"]["spec"]);
    api.settle().await;
    assert_eq!(api.objects(CLAIMS).len(), 1);

    api.edit(PODS, "lab", "a", |pod| {
        pod["status"]["phase"] = json!("Succeeded");
    });
    api.until("no claim", |api| api.objects(CLAIMS).is_empty())
        .await;
    api.settle().await;
    assert!(api.objects(CLAIMS).is_empty(), "no other is made");
}

#[tokio::test(start_paused = true)]
async fn late_watches_make_no_second_claim() {
    let api = FakeApi::unsteady(std::time::Duration::from_millis(700));
    api.put(TEMPLATES, &template());
    for name in ["a", "b", "c"] {
        api.put(PODS, &pod(name));
    }
    let first = start(&api);
    api.until("a claim", |api| !api.objects(CLAIMS).is_empty())
        .await;
    // Another process takes over.
    first.cancel();
    let _running = start(&api);
    for name in ["a", "b", "c"] {
        api.until(name, |api| noted(api, name).is_some()).await;
        api.edit(PODS, "lab", name, |pod| {
            pod["metadata"]["labels"] = json!({ "touched": "yes" });
        });
    }
    api.settle().await;
    assert_eq!(api.objects(CLAIMS).len(), 3, "{:#?}", api.writes());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_nobody_uses_any_more_gives_its_devices_back() {
    let api = FakeApi::new();
    let mut done = pod("done");
    done["status"]["phase"] = json!("Failed");
    api.put(PODS, &done);
    let mut user = pod("user");
    user["status"]["resourceClaimStatuses"] = json!([{ "name": "gpu" }]);
    api.put(PODS, &user);
    api.put(CLAIMS, &allocated("shared", &["done", "user", "gone"]));
    api.put(CLAIMS, &allocated("over", &["done"]));
    api.put(CLAIMS, &allocated("idle", &[]));
    let _running = start(&api);
    let reserved = |api: &FakeApi, name: &str| {
        let claim = api.object(CLAIMS, "lab", name).unwrap();
        claim["status"]["reservedFor"]
            .as_array()
            .map_or(0, Vec::len)
    };
    api.until("one user", |api| reserved(api, "shared") == 1)
        .await;
    api.until("devices given back", |api| {
        let over = api.object(CLAIMS, "lab", "over").unwrap();
        over["status"]["allocation"].is_null()
            && over["metadata"]["finalizers"]
                .as_array()
                .is_none_or(Vec::is_empty)
    })
    .await;
    api.settle().await;
    let held =
        |name: &str| !api.object(CLAIMS, "lab", name).unwrap()["status"]["allocation"].is_null();
    assert!(held("shared"));
    assert!(held("idle"), "it may be about to be used");
    api.remove(PODS, "lab", "user");
    api.until("nobody", |api| reserved(api, "shared") == 0)
        .await;
}
