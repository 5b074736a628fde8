//! Create, update, patch, their options and their errors; subresources.

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;

#[tokio::test]
async fn what_was_created_is_there_with_what_the_server_adds() {
    let api = Api::start().await;
    let created = api.map("a").await;
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(!string(&created["metadata"]["uid"]).is_empty());
    assert_eq!(api.get(&format!("{MAPS}/a")).await.ok(), created);
    assert_eq!(version(&created), api.store.revision());
}

#[tokio::test]
async fn a_name_is_given_once() {
    let api = Api::start().await;
    api.map("a").await;
    let again = api.post(MAPS, config_map("a", "w")).await;
    assert_eq!(
        again.refused(),
        (409, "AlreadyExists", "configmaps \"a\" already exists")
    );
    let missing = api.get(&format!("{MAPS}/b")).await;
    assert_eq!(
        missing.refused(),
        (404, "NotFound", "configmaps \"b\" not found")
    );
    assert_eq!(
        missing.body["details"],
        json!({"name": "b", "kind": "configmaps"})
    );
}

#[tokio::test]
async fn generated_names_differ() {
    let api = Api::start().await;
    let template = json!({"metadata": {"generateName": "a-"}});
    let first = api.post(MAPS, template.clone()).await.ok();
    let second = api.post(MAPS, template).await.ok();
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    assert!(string(&first["metadata"]["name"]).starts_with("a-"));
}

#[tokio::test]
async fn a_write_at_an_old_version_conflicts() {
    let api = Api::start().await;
    let mut object = api.map("a").await;
    let path = format!("{MAPS}/a");
    object["data"]["k"] = "w".into();
    let updated = api.put(&path, object.clone()).await.ok();
    assert!(version(&updated) > version(&object));
    let stale = api.put(&path, object.clone()).await;
    assert_eq!((stale.refused().0, stale.refused().1), (409, "Conflict"));
    // Without a version, the last writer wins.
    object["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    object["data"]["k"] = "x".into();
    assert_eq!(api.put(&path, object).await.ok()["data"]["k"], "x");
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let api = Api::start().await;
    let object = api.map("a").await;
    let revision = api.store.revision();
    assert_eq!(
        api.put(&format!("{MAPS}/a"), object.clone()).await.ok(),
        object
    );
    let patched = api
        .patch(
            &format!("{MAPS}/a"),
            "merge-patch",
            json!({"data": {"k": "v"}}),
        )
        .await
        .ok();
    assert_eq!(patched, object);
    assert_eq!(api.store.revision(), revision);
}

#[tokio::test]
async fn the_body_must_be_about_the_path() {
    let api = Api::start().await;
    api.map("a").await;
    let other = api.put(&format!("{MAPS}/a"), config_map("b", "v")).await;
    let message = "the name of the object (b) does not match the name on the URL (a)";
    assert_eq!(other.refused(), (400, "BadRequest", message));
    let nameless = api.put(&format!("{MAPS}/a"), json!({"data": {}})).await;
    let message =
        "the name of the object (a based on URL) was undeterminable: name must be provided";
    assert_eq!(nameless.refused(), (400, "BadRequest", message));
    let mut moved = config_map("a", "v");
    moved["metadata"]["namespace"] = "kube-system".into();
    let moved = api.put(&format!("{MAPS}/a"), moved).await;
    let message = "the namespace of the object (kube-system) does not match the namespace on the request (default)";
    assert_eq!(moved.refused(), (400, "BadRequest", message));
    let kind = api.post(MAPS, pod("p")).await;
    assert_eq!((kind.refused().0, kind.refused().1), (400, "BadRequest"));
    let mut elsewhere = config_map("c", "v");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    assert_eq!(api.post(MAPS, elsewhere).await.refused().0, 400);
}

#[tokio::test]
async fn all_three_patches() {
    let api = Api::start().await;
    api.post(RCS, controller("web")).await.ok();
    let path = format!("{RCS}/web");
    let merged = api
        .patch(
            &path,
            "merge-patch",
            json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await
        .ok();
    assert_eq!(merged["metadata"]["labels"]["a"], "b");
    let tested = json!([
        {"op": "test", "path": "/spec/replicas", "value": 2},
        {"op": "replace", "path": "/spec/replicas", "value": 3},
    ]);
    assert_eq!(
        api.patch(&path, "json-patch", tested.clone()).await.ok()["spec"]["replicas"],
        3
    );
    assert_eq!(
        api.patch(&path, "json-patch", tested).await.refused().0,
        422
    );
    let containers =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "y"}]}}}});
    let patched = api
        .patch(&path, "strategic-merge-patch", containers)
        .await
        .ok();
    assert_eq!(
        patched["spec"]["template"]["spec"]["containers"][0]["image"],
        "y"
    );
    let absent = api
        .patch(&format!("{RCS}/nope"), "merge-patch", json!({}))
        .await;
    assert_eq!(absent.refused().0, 404);
}

#[tokio::test]
async fn a_patch_for_an_old_version_conflicts() {
    let api = Api::start().await;
    let object = api.map("a").await;
    let path = format!("{MAPS}/a");
    api.patch(&path, "merge-patch", json!({"data": {"k": "w"}}))
        .await
        .ok();
    let old = json!({"metadata": {"resourceVersion": object["metadata"]["resourceVersion"]}, "data": {"k": "x"}});
    assert_eq!(api.patch(&path, "merge-patch", old).await.refused().0, 409);
}

#[tokio::test]
async fn concurrent_patches_are_all_applied() {
    let api = Arc::new(Api::start().await);
    api.map("a").await;
    let patches = (0..16).map(|n| {
        let api = api.clone();
        tokio::spawn(async move {
            api.patch(
                &format!("{MAPS}/a"),
                "merge-patch",
                json!({"data": {format!("k{n}"): "v"}}),
            )
            .await
            .ok()
        })
    });
    for patch in patches.collect::<Vec<_>>() {
        patch.await.unwrap();
    }
    assert_eq!(
        api.get(&format!("{MAPS}/a")).await.ok()["data"]
            .as_object()
            .unwrap()
            .len(),
        17
    );
}

#[tokio::test]
async fn unknown_fields_are_warned_of_refused_or_ignored() {
    let api = Api::start().await;
    let odd = |name: &str| {
        format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"a":"1","a":"2"}},"dada":{{}}}}"#)
    };
    let post = async |name: &str, how: &str| {
        api.call(
            Method::POST,
            &format!("{MAPS}?fieldValidation={how}"),
            &[],
            Body::from(odd(name)),
        )
        .await
    };
    let warned = post("a", "Warn").await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warned.warnings(),
        [
            r#"299 - "duplicate field \"data.a\"""#,
            r#"299 - "unknown field \"dada\"""#
        ]
    );
    assert_eq!(warned.body["data"]["a"], "2");
    let strict = post("b", "Strict").await;
    let message = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
                   duplicate field \"data.a\", unknown field \"dada\"";
    assert_eq!(strict.refused(), (400, "BadRequest", message));
    assert!(post("c", "Ignore").await.warnings().is_empty());
    assert_eq!(post("d", "Sometimes").await.refused().0, 422);
}

#[tokio::test]
async fn a_dry_run_answers_like_the_real_one_and_does_nothing() {
    let api = Api::start().await;
    let revision = api.store.revision();
    let created = api
        .post(&format!("{MAPS}?dryRun=All"), config_map("a", "v"))
        .await
        .ok();
    assert_eq!(created["data"]["k"], "v");
    assert!(created["metadata"].get("resourceVersion").is_none());
    assert_eq!(api.store.revision(), revision);
    let object = api.map("a").await;
    let path = format!("{MAPS}/a?dryRun=All");
    let patched = api
        .patch(&path, "merge-patch", json!({"data": {"k": "w"}}))
        .await
        .ok();
    assert_eq!(
        (patched["data"]["k"].as_str(), version(&patched)),
        (Some("w"), version(&object))
    );
    api.delete(&path, json!({})).await.ok();
    assert_eq!(api.get(&format!("{MAPS}/a")).await.ok(), object);
    assert_eq!(
        api.post(&format!("{MAPS}?dryRun=All"), config_map("a", "v"))
            .await
            .refused()
            .0,
        409
    );
    // A rehearsed Service gives its port back.
    let service = json!({
        "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80, "nodePort": 30080}]},
    });
    api.post(&format!("{SERVICES}?dryRun=All"), service.clone())
        .await
        .ok();
    api.post(SERVICES, service).await.ok();
}

#[tokio::test]
async fn yaml_is_read_and_written() {
    let api = Api::start().await;
    let yaml = [
        ("content-type", "application/yaml"),
        ("accept", "application/yaml"),
    ];
    let body = Body::from("metadata:\n  name: a\ndata:\n  k: v\n");
    let created = api.call(Method::POST, MAPS, &yaml, body).await;
    assert_eq!(created.headers["content-type"], "application/yaml");
    assert!(created.ok().as_str().unwrap().contains("kind: ConfigMap\n"));
    for (media_type, code, reason) in [
        ("application/cbor", 415, "UnsupportedMediaType"),
        ("application/vnd.kubernetes.protobuf", 400, "BadRequest"),
    ] {
        let content = [("content-type", media_type)];
        let refused = api
            .call(Method::POST, MAPS, &content, Body::from("no such thing"))
            .await;
        assert_eq!(
            (refused.refused().0, refused.refused().1),
            (code, reason),
            "{media_type}"
        );
    }
}

#[tokio::test]
async fn large_and_malformed_bodies_are_refused() {
    let api = Api::with(Config {
        body_limit: 20_000,
        ..Config::default()
    })
    .await;
    let large = api.post(MAPS, config_map("a", &"x".repeat(20_000))).await;
    assert_eq!(
        (large.refused().0, large.refused().1),
        (413, "RequestEntityTooLarge")
    );
    for body in ["", "{", "[]", "null", "{\"metadata\":{\"name\":[]}}"] {
        let reply = api.call(Method::POST, MAPS, &[], Body::from(body)).await;
        assert_eq!(
            (reply.refused().0, reply.refused().1),
            (400, "BadRequest"),
            "{body}"
        );
    }
    let nameless = api.post(MAPS, json!({})).await;
    assert_eq!(
        (nameless.refused().0, nameless.refused().1),
        (422, "Invalid")
    );
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_not_there_or_ends() {
    let api = Api::start().await;
    let nowhere = api
        .post("/api/v1/namespaces/nope/configmaps", config_map("a", "v"))
        .await;
    assert_eq!(
        nowhere.refused(),
        (404, "NotFound", "namespaces \"nope\" not found")
    );
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "old"}}))
        .await
        .ok();
    api.delete("/api/v1/namespaces/old", json!({})).await.ok();
    let ending = api
        .post("/api/v1/namespaces/old/configmaps", config_map("a", "v"))
        .await;
    let message = "configmaps \"a\" is forbidden: unable to create new content in namespace old because it is being terminated";
    assert_eq!(ending.refused(), (403, "Forbidden", message));
}

#[tokio::test]
async fn status_and_the_rest_are_written_apart() {
    let api = Api::start().await;
    let mut object = api.post(RCS, controller("web")).await.ok();
    let path = format!("{RCS}/web");
    object["status"] = json!({"replicas": 2});
    object["spec"]["replicas"] = 9.into();
    let status = api
        .put(&format!("{path}/status"), object.clone())
        .await
        .ok();
    assert_eq!(
        (&status["status"]["replicas"], &status["spec"]["replicas"]),
        (&json!(2), &json!(2))
    );
    object["status"]["replicas"] = 7.into();
    object["metadata"]["resourceVersion"] = status["metadata"]["resourceVersion"].clone();
    let main = api.put(&path, object).await.ok();
    assert_eq!(
        (&main["status"]["replicas"], &main["spec"]["replicas"]),
        (&json!(2), &json!(9))
    );
    assert_eq!(main["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_scale_is_a_view_of_replicas() {
    let api = Api::start().await;
    api.post(RCS, controller("web")).await.ok();
    let path = format!("{RCS}/web/scale");
    let mut scale = api.get(&path).await.ok();
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(2), &json!("app=web"))
    );
    let patched = api
        .patch(&path, "merge-patch", json!({"spec": {"replicas": 5}}))
        .await
        .ok();
    assert_eq!(patched["spec"]["replicas"], 5);
    assert_eq!(api.put(&path, scale.clone()).await.refused().0, 409);
    scale["metadata"]["resourceVersion"] = patched["metadata"]["resourceVersion"].clone();
    scale["spec"]["replicas"] = 0.into();
    api.put(&path, scale.clone()).await.ok();
    assert_eq!(
        api.get(&format!("{RCS}/web")).await.ok()["spec"]["replicas"],
        0
    );
    let negative = api
        .patch(&path, "merge-patch", json!({"spec": {"replicas": -1}}))
        .await;
    assert_eq!(negative.refused().0, 422);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.ok();
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let path = format!("{PODS}/p/binding");
    let bound = api.post(&path, binding.clone()).await;
    assert_eq!(
        (bound.code, &bound.body["status"]),
        (201, &json!("Success"))
    );
    assert_eq!(
        api.get(&format!("{PODS}/p")).await.ok()["spec"]["nodeName"],
        "n"
    );
    assert_eq!(api.post(&path, binding).await.refused().0, 409);
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let api = Api::start().await;
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80, "nodePort": 30500}]}});
    let first = api.post(SERVICES, service("a")).await.ok();
    assert!(string(&first["spec"]["clusterIP"]).starts_with("10."));
    let taken = api.post(SERVICES, service("b")).await;
    let message = "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30500: provided port is already allocated";
    assert_eq!(taken.refused(), (422, "Invalid", message));
    api.delete(&format!("{SERVICES}/a"), json!({})).await.ok();
    api.post(SERVICES, service("b")).await.ok();
}

#[tokio::test]
async fn what_services_have_is_known_after_a_restart() {
    let store: Arc<dyn Store> = Arc::new(vaquita_store::memory());
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80, "nodePort": 30600}]}});
    let first = Api::over(store.clone(), Config::default()).await;
    let map = first.map("kept").await;
    first.post(SERVICES, service("a")).await.ok();
    first.server.shutdown().await;
    let second = Api::over(store, Config::default()).await;
    assert_eq!(second.get(&format!("{MAPS}/kept")).await.ok(), map);
    assert_eq!(second.post(SERVICES, service("b")).await.refused().0, 422);
}

#[tokio::test]
async fn too_many_requests_at_a_time_are_told_to_come_again() {
    let api = Api::with(Config {
        max_writes_in_flight: 1,
        ..Config::default()
    })
    .await;
    // Holds its place as long as its body does not end.
    let slow = Body::from_stream(futures::stream::pending::<
        Result<bytes::Bytes, std::convert::Infallible>,
    >());
    let mut request = Request::post(MAPS).body(slow).unwrap();
    request.extensions_mut().insert(User::in_process("slow"));
    let router = api.server.router();
    let waiting = tokio::spawn(router.oneshot(request));
    let refused = loop {
        let reply = api.delete(&format!("{MAPS}/nope"), json!({})).await;
        if reply.code != 404 {
            break reply;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (refused.refused().0, refused.refused().1),
        (429, "TooManyRequests")
    );
    assert_eq!(refused.headers["retry-after"], "1");
    waiting.abort();
}

#[tokio::test]
async fn strangers_are_kept_out() {
    let api = Api::start().await;
    let anonymous = async |path: &str, token: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = api
            .server
            .router()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let code = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        (
            code,
            serde_json::from_slice::<Value>(&bytes).unwrap_or_default(),
        )
    };
    assert_eq!(anonymous("/readyz", None).await.0, StatusCode::OK);
    assert_eq!(anonymous("/version", None).await.0, StatusCode::OK);
    let (code, status) = anonymous(MAPS, None).await;
    assert_eq!(
        (code, &status["reason"]),
        (StatusCode::FORBIDDEN, &json!("Forbidden"))
    );
    assert_eq!(
        status["message"],
        "configmaps is forbidden: User \"system:anonymous\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let (code, status) = anonymous("/version", Some("guessed")).await;
    assert_eq!(
        (code, &status["reason"]),
        (StatusCode::UNAUTHORIZED, &json!("Unauthorized"))
    );
}

#[tokio::test(start_paused = true)]
async fn what_every_cluster_has_comes_back() {
    let api = Api::start().await;
    let path = format!("{SERVICES}/kubernetes");
    let ip = api.get(&path).await.ok()["spec"]["clusterIP"].clone();
    api.delete(&path, json!({})).await.ok();
    assert_eq!(api.get(&path).await.refused().0, 404);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(api.get(&path).await.ok()["spec"]["clusterIP"], ip);
}
