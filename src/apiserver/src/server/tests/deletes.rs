//! Deletion: preconditions, finalizers, grace periods, propagation, namespaces.

use super::*;

#[tokio::test]
async fn a_deletion_is_answered_with_what_was_deleted() {
    let api = Api::start().await;
    let object = api.map("a").await;
    let path = format!("{MAPS}/a");
    let status = api
        .delete(&path, json!({"kind": "DeleteOptions", "apiVersion": "v1"}))
        .await
        .ok();
    assert_eq!(
        (&status["kind"], &status["status"]),
        (&json!("Status"), &json!("Success"))
    );
    assert_eq!(status["details"]["uid"], object["metadata"]["uid"]);
    assert_eq!(api.delete(&path, json!({})).await.refused().0, 404);
}

#[tokio::test]
async fn preconditions_protect() {
    let api = Api::start().await;
    let object = api.map("a").await;
    let path = format!("{MAPS}/a");
    let other = api
        .delete(&path, json!({"preconditions": {"uid": "other"}}))
        .await;
    let (code, reason, message) = other.refused();
    assert_eq!((code, reason), (409, "Conflict"));
    assert!(
        message.contains("the UID in the precondition (other) does not match the UID in record"),
        "{message}"
    );
    let old = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(api.delete(&path, old).await.refused().0, 409);
    let right = json!({"preconditions": {"uid": object["metadata"]["uid"], "resourceVersion": object["metadata"]["resourceVersion"]}});
    api.delete(&path, right).await.ok();
}

#[tokio::test]
async fn an_object_waits_for_its_finalizers() {
    let api = Api::start().await;
    let mut object = config_map("a", "v");
    object["metadata"]["finalizers"] = json!(["example.com/mine"]);
    api.post(MAPS, object).await.ok();
    let path = format!("{MAPS}/a");
    let marked = api.delete(&path, json!({})).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let again = api.delete(&path, json!({})).await.ok();
    assert_eq!(again, marked);
    let removed = api
        .patch(
            &path,
            "merge-patch",
            json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    assert_eq!(removed["metadata"]["name"], "a");
    assert_eq!(api.get(&path).await.refused().0, 404);
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let api = Api::start().await;
    let finalizers = async |name: &str, options: Value| {
        api.post(RCS, controller(name)).await.ok();
        let reply = api.delete(&format!("{RCS}/{name}"), options).await.ok();
        reply["metadata"]["finalizers"].clone()
    };
    assert_eq!(
        finalizers("a", json!({"propagationPolicy": "Orphan"})).await,
        json!(["orphan"])
    );
    assert_eq!(
        finalizers("b", json!({"propagationPolicy": "Foreground"})).await,
        json!(["foregroundDeletion"])
    );
    assert_eq!(
        finalizers("c", json!({"propagationPolicy": "Background"})).await,
        Value::Null
    );
    assert_eq!(
        finalizers("d", json!({"orphanDependents": true})).await,
        json!(["orphan"])
    );
    // As for ever, of this one kind the pods stay unless somebody says otherwise.
    assert_eq!(finalizers("e", json!({})).await, json!(["orphan"]));
    let path = format!("{MAPS}/x");
    api.map("x").await;
    assert_eq!(
        api.delete(&path, json!({"propagationPolicy": "Sideways"}))
            .await
            .refused()
            .0,
        422
    );
}

#[tokio::test]
async fn a_pod_that_runs_gets_its_time_and_one_that_does_not_goes_at_once() {
    let api = Api::start().await;
    api.post(PODS, pod("idle")).await.ok();
    api.delete(&format!("{PODS}/idle"), json!({})).await.ok();
    assert_eq!(api.get(&format!("{PODS}/idle")).await.refused().0, 404);

    let mut running = pod("busy");
    running["spec"]["nodeName"] = "n".into();
    api.post(PODS, running).await.ok();
    let path = format!("{PODS}/busy");
    let marked = api.delete(&path, json!({})).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    // A second thought may make it shorter, not longer.
    let longer = api
        .delete(&path, json!({"gracePeriodSeconds": 90}))
        .await
        .ok();
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = api
        .delete(&path, json!({"gracePeriodSeconds": 5}))
        .await
        .ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!(api.get(&path).await.code, 200);
    api.delete(&path, json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    assert_eq!(api.get(&path).await.refused().0, 404);
}

#[tokio::test]
async fn an_eviction_is_a_deletion() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.ok();
    let eviction =
        json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"}});
    assert_eq!(
        api.post(&format!("{PODS}/p/eviction"), eviction).await.code,
        201
    );
    assert_eq!(api.get(&format!("{PODS}/p")).await.refused().0, 404);
}

#[tokio::test]
async fn a_collection_goes_by_selector() {
    let api = Api::start().await;
    for name in ["a", "b"] {
        api.post(PODS, pod(name)).await.ok();
    }
    let list = api
        .delete(&format!("{PODS}?labelSelector=app%3Da"), json!({}))
        .await
        .ok();
    assert_eq!(names(&list), ["a"]);
    assert_eq!(names(&api.get(PODS).await.ok()), ["b"]);
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let api = Api::start().await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "old"}}))
        .await
        .ok();
    let path = "/api/v1/namespaces/old";
    let mut marked = api.delete(path, json!({})).await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    marked["spec"] = json!({});
    api.put(&format!("{path}/finalize"), marked).await.ok();
    assert_eq!(api.get(path).await.refused().0, 404);
    let protected = api.delete("/api/v1/namespaces/default", json!({})).await;
    assert_eq!(
        protected.refused(),
        (
            403,
            "Forbidden",
            "namespaces \"default\" is forbidden: this namespace may not be deleted"
        )
    );
}
