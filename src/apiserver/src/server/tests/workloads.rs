//! What the kinds of apps, batch and autoscaling need of the server besides their own rules.

use super::*;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn scalers(version: &str) -> String {
    format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers")
}

fn web() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]},
            "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}},
                "spec": {"containers": [{"name": "c", "image": "x"}]},
            },
        },
    })
}

#[tokio::test]
async fn a_deployment_is_scaled_and_printed() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, web()).await.ok();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = api.get(&path).await.ok();
    assert_eq!(scale["spec"]["replicas"], 1);
    assert_eq!(scale["status"]["selector"], "app=web,tier");
    let scaled = json!({"spec": {"replicas": 3}});
    api.patch(&path, "merge-patch", scaled).await.ok();
    let table = api.accept(&format!("{DEPLOYMENTS}/web"), TABLE).await.ok();
    let cells = &table["rows"][0]["cells"];
    assert_eq!(cells[1], "0/3");
    assert_eq!(cells[7], "app=web,tier");
    let stored = api.get(&format!("{DEPLOYMENTS}/web")).await.ok();
    assert_eq!(stored["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_job_gets_its_selector_and_leaves_its_pods() {
    let api = Api::start().await;
    let job = json!({
        "metadata": {"generateName": "once-"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}},
    });
    let job = api.post(JOBS, job).await.ok();
    let (name, uid) = (&job["metadata"]["name"], &job["metadata"]["uid"]);
    assert_eq!(
        job["spec"]["selector"]["matchLabels"],
        json!({"batch.kubernetes.io/controller-uid": uid})
    );
    assert_eq!(job["metadata"]["labels"]["job-name"], *name);
    let found = api
        .get(&format!("{JOBS}?fieldSelector=status.successful=0"))
        .await;
    assert_eq!(found.ok()["items"].as_array().unwrap().len(), 1);
    let path = format!("{JOBS}/{}", name.as_str().unwrap());
    let deleted = api.delete(&path, json!({})).await.ok();
    assert_eq!(deleted["metadata"]["finalizers"], json!(["orphan"]));
}

#[tokio::test]
async fn an_autoscaler_has_two_versions() {
    let api = Api::start().await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let scaler = json!({
        "metadata": {"name": "web"},
        "spec": {"maxReplicas": 5, "targetCPUUtilizationPercentage": 60, "scaleTargetRef": target},
    });
    api.post(&scalers("v1"), scaler).await.ok();
    let path = |version| format!("{}/web", scalers(version));
    let mut newer = api.get(&path("v2")).await.ok();
    let metric = &newer["spec"]["metrics"][0]["resource"];
    assert_eq!(metric["target"]["averageUtilization"], 60);
    newer["spec"]["metrics"].as_array_mut().unwrap().push(json!({
        "type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1k"}},
    }));
    api.put(&path("v2"), newer).await.ok();
    let older = api.get(&path("v1")).await.ok();
    let metrics = &older["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"];
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("\"targetAverageValue\":\"1k\"")
    );
    let more = json!({"spec": {"maxReplicas": 9}});
    api.patch(&path("v1"), "merge-patch", more).await.ok();
    let newer = api.get(&path("v2")).await.ok();
    assert_eq!(newer["spec"]["maxReplicas"], 9);
    assert_eq!(newer["spec"]["metrics"].as_array().unwrap().len(), 2);
    let tables = [
        api.accept(&path("v1"), TABLE).await.ok(),
        api.accept(&path("v2"), TABLE).await.ok(),
    ];
    let [one, two] = tables.map(|table| table["rows"][0]["cells"].clone());
    assert_eq!(one, two);
    assert_eq!(one[2], "<unknown>/1k, cpu: <unknown>/60%");
}

#[tokio::test]
async fn a_quota_is_kept_though_many_come_at_once() {
    let api = Api::start().await;
    let hard = json!({"count/configmaps": "3"});
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    api.post(QUOTAS, quota).await.ok();
    // What the controller would do.
    let status = json!({"status": {"hard": hard, "used": {"count/configmaps": "0"}}});
    let path = format!("{QUOTAS}/q");
    api.patch(&format!("{path}/status"), "merge-patch", status)
        .await
        .ok();
    let many = (0..8).map(|n| {
        let map = json!({"metadata": {"name": format!("map-{n}")}});
        api.post(MAPS, map)
    });
    let codes: Vec<u16> = futures::future::join_all(many)
        .await
        .iter()
        .map(|reply| reply.code)
        .collect();
    let count = |code| codes.iter().filter(|found| **found == code).count();
    assert_eq!((count(201), count(403)), (3, 5), "{codes:?}");
    let used = api.get(&path).await.ok();
    assert_eq!(used["status"]["used"], hard);
    let one_more = api.post(MAPS, json!({"metadata": {"name": "more"}})).await;
    let (_, reason, message) = one_more.refused();
    assert_eq!(reason, "Forbidden");
    assert_eq!(
        message,
        "configmaps \"more\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: \
         count/configmaps=3, limited: count/configmaps=3"
    );
}

#[tokio::test]
async fn what_is_hardly_meant_is_told_once() {
    let api = Api::start().await;
    let mut doubtful = web();
    doubtful["metadata"]["name"] = json!("web.v1");
    doubtful["spec"]["template"]["spec"]["nodeSelector"] =
        json!({"beta.kubernetes.io/os": "linux"});
    let made = api.post(DEPLOYMENTS, doubtful).await;
    assert_eq!(made.warnings().len(), 2, "{:?}", made.warnings());
    assert!(made.warnings()[0].contains("must not contain dots"));
    assert!(made.warnings()[1].contains("kubernetes.io/os"));
    let path = format!("{DEPLOYMENTS}/web.v1");
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    let labelled = api.patch(&path, "merge-patch", labelled).await;
    assert!(
        labelled.warnings().is_empty(),
        "the specification is as it was"
    );
    let endpoints = api.get("/api/v1/namespaces/default/endpoints").await;
    assert!(endpoints.warnings()[0].contains("use discovery.k8s.io/v1 EndpointSlice"));
}
