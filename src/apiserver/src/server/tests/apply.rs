//! Server-side apply, and who owns which fields after any write.

use super::*;

const YAML: [(&str, &str); 1] = [("content-type", "application/apply-patch+yaml")];

async fn apply(api: &Api, path: &str, body: Value) -> Reply {
    api.call(Method::PATCH, path, &YAML, Body::from(body.to_string()))
        .await
}

/// The managers of an object: name, operation and the data keys that they own.
fn owners(object: &Value) -> Vec<(String, String, Vec<String>)> {
    let managers = object["metadata"]["managedFields"].as_array();
    let managers = managers.into_iter().flatten().map(|manager| {
        let data = manager["fieldsV1"]["f:data"].as_object();
        let keys = data.into_iter().flat_map(|data| data.keys());
        let keys = keys.filter(|key| key.as_str() != ".").cloned().collect();
        (
            string(&manager["manager"]),
            string(&manager["operation"]),
            keys,
        )
    });
    managers.collect()
}

fn owner(manager: &str, operation: &str, keys: &[&str]) -> (String, String, Vec<String>) {
    let keys = keys.iter().map(|key| format!("f:{key}")).collect();
    (manager.to_owned(), operation.to_owned(), keys)
}

#[allow(clippy::needless_pass_by_value, reason = "callers make it on the spot")]
fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

#[tokio::test]
async fn an_apply_creates_changes_and_takes_back() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a?fieldManager=one");
    let created = apply(&api, &path, map(json!({"x": "1", "y": "1"}))).await;
    assert_eq!(created.code, 201, "{}", created.body);
    assert_eq!(owners(&created.body), [owner("one", "Apply", &["x", "y"])]);
    let again = apply(&api, &path, map(json!({"x": "1", "y": "1"}))).await;
    assert_eq!((again.code, &again.body), (200, &created.body));
    let less = apply(&api, &path, map(json!({"x": "2"}))).await.ok();
    assert_eq!(less["data"], json!({"x": "2"}));
    assert_eq!(owners(&less), [owner("one", "Apply", &["x"])]);
}

#[tokio::test]
async fn who_wants_another_value_has_to_insist() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a");
    apply(
        &api,
        &format!("{path}?fieldManager=one"),
        map(json!({"x": "1"})),
    )
    .await
    .ok();
    let two = format!("{path}?fieldManager=two");
    let refused = apply(&api, &two, map(json!({"x": "2", "z": "2"}))).await;
    let message = "Apply failed with 1 conflict: conflict with \"one\": .data.x";
    assert_eq!(refused.refused(), (409, "Conflict", message));
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.x"}])
    );
    let rehearsed = apply(
        &api,
        &format!("{two}&force=true&dryRun=All"),
        map(json!({"x": "2"})),
    )
    .await
    .ok();
    assert_eq!(rehearsed["data"]["x"], "2");
    let forced = apply(&api, &format!("{two}&force=true"), map(json!({"x": "2"})))
        .await
        .ok();
    assert_eq!(forced["data"]["x"], "2");
    assert_eq!(owners(&forced), [owner("two", "Apply", &["x"])]);
}

#[tokio::test]
async fn every_write_says_whose_it_is() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a");
    let agent = [("user-agent", "tool/1.0 (linux)")];
    let body = Body::from(map(json!({"x": "1"})).to_string());
    let created = api.call(Method::POST, MAPS, &agent, body).await.ok();
    assert_eq!(owners(&created), [owner("tool", "Update", &["x"])]);
    let patched = api
        .patch(
            &format!("{path}?fieldManager=other"),
            "merge-patch",
            json!({"data": {"y": "1"}}),
        )
        .await
        .ok();
    let both = [
        owner("tool", "Update", &["x"]),
        owner("other", "Update", &["y"]),
    ];
    let mut found = owners(&patched);
    found.sort_by_key(|(name, ..)| std::cmp::Reverse(name.clone()));
    assert_eq!(found, both);
    // A client that does not know of them takes nothing away by leaving them out.
    let mut body = patched.clone();
    body["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("managedFields");
    let same = api.put(&path, body).await.ok();
    assert_eq!(same, patched);
}

#[tokio::test]
async fn the_status_is_owned_apart() {
    let api = Api::start().await;
    let mut object = api.post(RCS, controller("web")).await.ok();
    object["status"] = json!({"replicas": 2});
    let path = format!("{RCS}/web/status?fieldManager=counter");
    let counted = api.put(&path, object).await.ok();
    let managers = counted["metadata"]["managedFields"].as_array().unwrap();
    let counter = managers.iter().find(|one| one["manager"] == "counter");
    let counter = counter.unwrap();
    assert_eq!(counter["subresource"], "status");
    let fields = counter["fieldsV1"].as_object().unwrap();
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["f:status"]);
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a?fieldManager=one");
    let nobody = apply(&api, &format!("{MAPS}/a"), map(json!({}))).await;
    let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
    assert_eq!(nobody.refused(), (422, "Invalid", message));
    let cbor = [("content-type", "application/apply-patch+cbor")];
    let refused = api
        .call(Method::PATCH, &path, &cbor, Body::from("{}"))
        .await;
    assert_eq!(refused.refused().0, 415);
    for (body, code) in [
        (json!({"apiVersion": "v2", "kind": "ConfigMap"}), 400),
        (json!([]), 400),
        (map(json!({"x": {}})), 500),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}),
            400,
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "7"}}),
            400,
        ),
    ] {
        let reply = apply(&api, &path, body.clone()).await;
        assert_eq!(reply.code, code, "{body} {}", reply.body);
    }
    let unread = api
        .call(Method::PATCH, &path, &YAML, Body::from("a: ["))
        .await;
    assert!(unread.refused().2.starts_with("error decoding YAML: "));
    assert_eq!(api.get(&format!("{MAPS}/a")).await.refused().0, 404);
}

#[tokio::test]
async fn a_scale_is_applied_to_what_it_scales() {
    let api = Api::start().await;
    let rcs = "/api/v1/namespaces/default/replicationcontrollers";
    api.post(rcs, controller("web")).await.ok();
    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": replicas}});
    let path = format!("{rcs}/web/scale?fieldManager=scaler");
    let taken = apply(&api, &path, scale(3)).await;
    assert_eq!(
        taken.code, 409,
        "the creator owns the number: {}",
        taken.body
    );
    let scaled = apply(&api, &format!("{path}&force=true"), scale(3))
        .await
        .ok();
    assert_eq!(scaled["spec"]["replicas"], 3);
    let stored = api.get(&format!("{rcs}/web")).await.ok();
    assert_eq!(stored["spec"]["replicas"], 3);
    let managers = stored["metadata"]["managedFields"].as_array().unwrap();
    let scaler = managers
        .iter()
        .find(|manager| manager["manager"] == "scaler")
        .unwrap();
    assert_eq!(scaler["subresource"], "scale");
    assert_eq!(scaler["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(
        apply(&api, &path, scale(5)).await.ok()["spec"]["replicas"],
        5
    );
    assert_eq!(apply(&api, &path, scale(-1)).await.code, 422);
}
