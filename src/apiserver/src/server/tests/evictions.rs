//! `pods/eviction`, and the budgets that it asks.

use super::*;

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A pod of application `web`, as its node reports it.
async fn running(api: &Api, name: &str, phase: &str, ready: bool) {
    let mut pod = pod(name);
    pod["metadata"]["labels"] = json!({"app": "web"});
    pod["spec"]["nodeName"] = "one".into();
    let mut pod = api.post(PODS, pod).await.ok();
    let status = if ready { "True" } else { "False" };
    pod["status"] = json!({"phase": phase, "conditions": [{"type": "Ready", "status": status}]});
    api.put(&format!("{PODS}/{name}/status"), pod).await.ok();
}

/// A budget over `web`, as its controller reports it.
async fn budget(api: &Api, name: &str, spec: Value, status: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec,
    });
    let mut budget = api.post(BUDGETS, budget).await.ok();
    budget["status"] = status;
    api.put(&format!("{BUDGETS}/{name}/status"), budget)
        .await
        .ok()
}

fn status(allowed: i32, needs: i32, has: i32) -> Value {
    json!({
        "observedGeneration": 1, "disruptionsAllowed": allowed, "desiredHealthy": needs, "currentHealthy": has,
        "expectedPods": has,
    })
}

async fn evict(api: &Api, name: &str, query: &str) -> Reply {
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    api.post(&format!("{PODS}/{name}/eviction{query}"), eviction)
        .await
}

#[tokio::test]
async fn a_disruption_is_spent_once() {
    let api = Api::start().await;
    for name in ["a", "b"] {
        running(&api, name, "Running", true).await;
    }
    budget(&api, "web", json!({"minAvailable": 1}), status(1, 1, 2)).await;
    let path = format!("{BUDGETS}/web");

    let rehearsed = evict(&api, "a", "?dryRun=All").await.ok();
    assert_eq!(rehearsed["status"], "Success");
    assert_eq!(api.get(&path).await.ok()["status"]["disruptionsAllowed"], 1);

    let evicted = evict(&api, "a", "").await;
    assert_eq!(
        (evicted.code, &evicted.body["status"]),
        (201, &json!("Success"))
    );
    let spent = api.get(&path).await.ok()["status"].take();
    assert_eq!(spent["disruptionsAllowed"], 0);
    assert!(spent["disruptedPods"]["a"].is_string(), "{spent}");
    let condition = &spent["conditions"][0];
    assert_eq!(
        (&condition["reason"], &condition["status"]),
        (&json!("InsufficientPods"), &json!("False"))
    );

    let leaving = api.get(&format!("{PODS}/a")).await.ok();
    assert!(leaving["metadata"]["deletionTimestamp"].is_string());
    let conditions = leaving["status"]["conditions"].as_array().unwrap();
    let target = conditions
        .iter()
        .find(|condition| condition["type"] == "DisruptionTarget");
    assert_eq!(target.unwrap()["reason"], "EvictionByEvictionAPI");

    let refused = evict(&api, "b", "").await;
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert_eq!(refused.refused(), (429, "TooManyRequests", message));
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{"reason": "DisruptionBudget", "message": "The disruption budget web does not allow evicting pods currently"}])
    );
    // Who leaves already needs no further permission.
    assert_eq!(evict(&api, "a", "").await.code, 201);
}

#[tokio::test]
async fn pods_that_do_not_run_are_not_guarded() {
    let api = Api::start().await;
    budget(&api, "web", json!({"minAvailable": 1}), status(0, 1, 1)).await;
    for (name, phase) in [
        ("new", "Pending"),
        ("done", "Succeeded"),
        ("dead", "Failed"),
    ] {
        running(&api, name, phase, false).await;
        assert_eq!(evict(&api, name, "").await.code, 201, "{phase}");
    }
    running(&api, "up", "Running", true).await;
    assert_eq!(evict(&api, "up", "").await.code, 429);
    assert_eq!(evict(&api, "none", "").await.refused().0, 404);
}

#[tokio::test]
async fn a_budget_that_nobody_has_looked_at_asks_for_patience() {
    let api = Api::start().await;
    running(&api, "a", "Running", true).await;
    let unseen = json!({"disruptionsAllowed": 3, "desiredHealthy": 0, "currentHealthy": 3, "expectedPods": 3});
    budget(&api, "web", json!({}), unseen).await;
    let refused = evict(&api, "a", "").await;
    assert_eq!(refused.refused().0, 429);
    assert_eq!(refused.headers["retry-after"], "10");
    assert_eq!(
        refused.body["details"]["causes"][0]["message"],
        "The disruption budget web is still being processed by the server."
    );
}

#[tokio::test]
async fn two_budgets_are_one_too_many() {
    let api = Api::start().await;
    running(&api, "a", "Running", true).await;
    for name in ["web", "also"] {
        budget(&api, name, json!({}), status(1, 0, 1)).await;
    }
    let refused = evict(&api, "a", "").await;
    assert_eq!(
        (refused.code, &refused.body["message"]),
        (
            500,
            &json!(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            )
        )
    );
}

#[tokio::test]
async fn unhealthy_pods_go_when_the_application_does_not_need_them() {
    let api = Api::start().await;
    running(&api, "sick", "Running", false).await;
    // The application is disrupted already: even a pod that is not ready may be about to help.
    let short = budget(&api, "web", json!({"minAvailable": 2}), status(0, 2, 1)).await;
    let refused = evict(&api, "sick", "").await;
    assert_eq!(refused.refused().0, 429);
    assert_eq!(
        refused.body["details"]["causes"][0]["message"],
        "The disruption budget web needs 2 healthy pods and has 1 currently"
    );
    let mut enough = short.clone();
    enough["status"] = status(0, 2, 2);
    let enough = api.put(&format!("{BUDGETS}/web/status"), enough).await.ok();
    assert_eq!(evict(&api, "sick", "?dryRun=All").await.code, 201);
    assert_eq!(enough["status"]["disruptionsAllowed"], 0);
    let mut always = short;
    always["metadata"]["resourceVersion"] = enough["metadata"]["resourceVersion"].clone();
    always["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
    api.put(&format!("{BUDGETS}/web"), always).await.ok();
    assert_eq!(evict(&api, "sick", "").await.code, 201);
    let untouched = api.get(&format!("{BUDGETS}/web")).await.ok();
    assert!(untouched["status"]["disruptedPods"].is_null());
}
