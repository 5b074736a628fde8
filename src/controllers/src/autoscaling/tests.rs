use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Options, testing::api::FakeApi};

const AUTOSCALERS: &str = "apis/autoscaling/v2/horizontalpodautoscalers";
const DEPLOYMENTS: &str = "apis/apps/v1/deployments";
const PODS: &str = "api/v1/pods";
const METRICS: &str = "apis/metrics.k8s.io/v1beta1/pods";

fn start(api: &FakeApi) {
    let context = Context::new(api.client(), Options::default(), CancellationToken::new());
    tokio::spawn(run(context));
}

fn autoscaler(metrics: &Value) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": "web", "generation": 1 },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" },
            "minReplicas": 2, "maxReplicas": 5, "metrics": metrics,
        },
    })
}

fn cpu(percent: i32) -> Value {
    let target = json!({ "type": "Utilization", "averageUtilization": percent });
    json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }])
}

fn deployment(replicas: i32) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": "web" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } } },
        "status": { "replicas": replicas },
    })
}

fn add_pod(api: &FakeApi, name: &str, used: &str) {
    let since = "2020-01-01T00:00:00Z";
    let ready = json!([{ "type": "Ready", "status": "True", "lastTransitionTime": since }]);
    api.put(
        PODS,
        &json!({
            "metadata": { "namespace": "shop", "name": name, "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "100m" } } }] },
            "status": { "phase": "Running", "startTime": since, "conditions": ready },
        }),
    );
    measure(api, name, used);
}

fn measure(api: &FakeApi, name: &str, used: &str) {
    api.put(
        METRICS,
        &json!({
            "metadata": { "namespace": "shop", "name": name }, "timestamp": "2025-01-01T00:00:00Z", "window": "15s",
            "containers": [{ "name": "c", "usage": { "cpu": used, "memory": "1Mi" } }],
        }),
    );
}

fn condition(api: &FakeApi, type_: &str) -> (String, String, String) {
    let autoscaler = api.object(AUTOSCALERS, "shop", "web").unwrap();
    let conditions = autoscaler["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == type_);
    let text = |field: &str| {
        let found = found.and_then(|condition| condition[field].as_str());
        found.unwrap_or_default().to_owned()
    };
    (text("status"), text("reason"), text("message"))
}

fn replicas(api: &FakeApi) -> i64 {
    let deployment = api.object(DEPLOYMENTS, "shop", "web").unwrap();
    deployment["spec"]["replicas"].as_i64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn replicas_follow_the_cpu_up_at_once_and_down_when_that_lasts() {
    let api = FakeApi::new();
    api.put(DEPLOYMENTS, &deployment(2));
    api.put(AUTOSCALERS, &autoscaler(&cpu(50)));
    add_pod(&api, "a", "80m");
    add_pod(&api, "b", "70m");
    start(&api);
    api.until("three replicas", |api| replicas(api) == 3).await;
    api.until("a status", |api| {
        condition(api, "AbleToScale").1 == "SucceededRescale"
    })
    .await;
    let status = api.object(AUTOSCALERS, "shop", "web").unwrap()["status"].take();
    assert_eq!(
        status["currentMetrics"][0]["resource"]["current"],
        json!({ "averageUtilization": 75, "averageValue": "75m" })
    );
    assert_eq!(
        (&status["currentReplicas"], &status["desiredReplicas"]),
        (&json!(2), &json!(3))
    );
    let (active, reason, message) = condition(&api, "ScalingActive");
    assert_eq!((&*active, &*reason), ("True", "ValidMetricFound"));
    assert_eq!(
        message,
        "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)"
    );
    api.until("an event", |api| {
        let message =
            "New size: 3; reason: cpu resource utilization (percentage of request) above target";
        api.objects("api/v1/events")
            .iter()
            .any(|event| event["message"] == message)
    })
    .await;

    add_pod(&api, "c", "10m");
    measure(&api, "a", "10m");
    measure(&api, "b", "10m");
    tokio::time::sleep(limits::DOWN_WINDOW.saturating_sub(Duration::from_mins(1))).await;
    assert_eq!(replicas(&api), 3, "it may come back");
    assert_eq!(condition(&api, "AbleToScale").1, "ScaleDownStabilized");
    tokio::time::sleep(Duration::from_mins(2)).await;
    api.until("two replicas", |api| replicas(api) == 2).await;
    api.until("a limit", |api| {
        condition(api, "ScalingLimited").1 == "TooFewReplicas"
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_keeps_it_from_scaling_is_said() {
    let api = FakeApi::new();
    api.put(AUTOSCALERS, &autoscaler(&cpu(50)));
    start(&api);
    api.until("no target", |api| {
        let (status, reason, message) = condition(api, "AbleToScale");
        status == "False"
            && reason == "FailedGetScale"
            && message
                == "the HPA controller was unable to get the target's current scale: web not found"
    })
    .await;
    api.put(DEPLOYMENTS, &deployment(9));
    api.until("the upper bound", |api| replicas(api) == 5).await;
    api.until("no metrics", |api| {
        let (status, reason, message) = condition(api, "ScalingActive");
        status == "False"
            && reason == "FailedGetResourceMetric"
            && message
                == "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get \
                    metrics for resource cpu: no metrics returned from resource metrics API"
    })
    .await;
    assert_eq!(replicas(&api), 5);
    let metric = json!({ "name": "queue" });
    let target = json!({ "type": "AverageValue", "averageValue": "10" });
    let custom = json!([{ "type": "Pods", "pods": { "metric": metric, "target": target } }]);
    api.edit(AUTOSCALERS, "shop", "web", |autoscaler| {
        autoscaler["spec"]["metrics"] = custom;
    });
    api.until("nobody serves it", |api| {
        let (_, reason, message) = condition(api, "ScalingActive");
        reason == "FailedGetPodsMetric"
            && message.ends_with("no custom metrics API (custom.metrics.k8s.io) registered")
    })
    .await;
    api.edit(DEPLOYMENTS, "shop", "web", |deployment| {
        deployment["spec"]["replicas"] = json!(0);
    });
    api.until("switched off", |api| {
        condition(api, "ScalingActive").1 == "ScalingDisabled"
    })
    .await;
    assert_eq!(replicas(&api), 0);
}

#[tokio::test(start_paused = true)]
async fn two_autoscalers_of_the_same_pods_do_nothing() {
    let api = FakeApi::new();
    api.put(DEPLOYMENTS, &deployment(2));
    add_pod(&api, "a", "80m");
    add_pod(&api, "b", "70m");
    let mut rival = autoscaler(&cpu(90));
    rival["metadata"]["name"] = json!("rival");
    api.put(AUTOSCALERS, &rival);
    start(&api);
    api.until("the only one works", |api| {
        let rival = api.object(AUTOSCALERS, "shop", "rival").unwrap();
        rival["status"]["currentMetrics"].is_array()
    })
    .await;
    api.put(AUTOSCALERS, &autoscaler(&cpu(50)));
    api.until("a refusal", |api| {
        let (status, reason, message) = condition(api, "ScalingActive");
        status == "False"
            && reason == "AmbiguousSelector"
            && message
                == "pods by selector app=web are controlled by multiple HPAs: [shop/rival shop/web]"
    })
    .await;
    assert_eq!(replicas(&api), 2);
    api.remove(AUTOSCALERS, "shop", "rival");
    api.until("three replicas", |api| replicas(api) == 3).await;
}
