//! What clients read before they ask for anything: discovery, documents, probes.

use super::*;

#[tokio::test]
async fn discovery_lists_what_the_registry_has() {
    let api = Api::start().await;
    assert_eq!(api.get("/api").await.ok()["versions"], json!(["v1"]));
    let groups = api.get("/apis").await.ok();
    let names: Vec<&str> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"coordination.k8s.io") && !names.contains(&""),
        "{names:?}"
    );
    let core = api.get("/api/v1").await.ok();
    let find = |name: &str| {
        core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|own| own["name"] == name)
            .cloned()
    };
    assert_eq!(find("pods").unwrap()["shortNames"], json!(["po"]));
    assert_eq!(
        find("replicationcontrollers/scale").unwrap()["group"],
        "autoscaling"
    );
    assert_eq!(find("pods/binding").unwrap()["verbs"], json!(["create"]));
    assert_eq!(
        api.get("/apis/coordination.k8s.io").await.ok()["preferredVersion"]["version"],
        "v1"
    );
    for unknown in [
        "/apis/nope",
        "/apis/apps/v9",
        "/api/v2",
        "/nope",
        "/api/v1/nopes",
        "/apis/nope/v1/things",
    ] {
        assert_eq!(api.get(unknown).await.refused().0, 404, "{unknown}");
    }
}

#[tokio::test]
async fn aggregated_discovery_says_the_same() {
    let api = Api::start().await;
    let wanted =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let reply = api.accept("/api", wanted).await;
    assert_eq!(
        reply.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let resources = &reply.ok()["items"][0]["versions"][0]["resources"];
    let pods = resources
        .as_array()
        .unwrap()
        .iter()
        .find(|own| own["resource"] == "pods")
        .unwrap();
    assert_eq!(
        (&pods["scope"], &pods["responseKind"]["kind"]),
        (&json!("Namespaced"), &json!("Pod"))
    );
    let apis = api.accept("/apis", wanted).await.ok();
    assert!(
        apis["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|group| group["metadata"]["name"].is_string())
    );
}

#[tokio::test]
async fn openapi_lets_kubectl_leave_validation_to_the_server() {
    let api = Api::start().await;
    let index = api.get("/openapi/v3").await.ok();
    let url = string(&index["paths"]["api/v1"]["serverRelativeURL"]);
    let document = api.get(&url).await.ok();
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"]["kind"],
        "ConfigMap"
    );
    let takes = |name: &str| {
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|own| own["name"] == name && own["in"] == "query")
    };
    assert!(takes("fieldValidation") && takes("dryRun"));
    assert_eq!(api.get("/openapi/v2").await.ok()["swagger"], "2.0");
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let reply = api.accept("/openapi/v2", protobuf).await;
    assert_eq!(
        (reply.code, &reply.headers["content-type"]),
        (
            200,
            &http::HeaderValue::from_static(vaquita_openapi::MEDIA_TYPE_V2)
        )
    );
    assert_eq!(
        api.accept("/openapi/v2", "text/html").await.refused().0,
        406
    );
    let old = format!("{url}x");
    let moved = api.get(&old).await;
    assert_eq!(
        (moved.code, &moved.headers["location"]),
        (301, &http::HeaderValue::from_str(&url).unwrap())
    );
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.core.v1.ConfigMap"]["properties"]["data"]["type"],
        "object"
    );
}

#[tokio::test]
async fn probes_and_version() {
    let api = Api::start().await;
    assert_eq!(api.get("/healthz").await.ok(), "ok");
    assert!(
        api.get("/livez?verbose")
            .await
            .ok()
            .as_str()
            .unwrap()
            .ends_with("livez check passed\n")
    );
    assert_eq!(api.get("/readyz/nope").await.code, 404);
    assert_eq!(api.get("/version").await.ok()["minor"], "36");
    assert!(
        api.get("/metrics")
            .await
            .ok()
            .as_str()
            .unwrap()
            .contains("apiserver_resource_objects")
    );
    api.server.shutdown().await;
    assert_eq!(api.get("/readyz").await.code, 500);
    assert_eq!(api.get("/livez").await.code, 200);
}

#[tokio::test]
async fn methods_that_a_resource_does_not_have() {
    let api = Api::start().await;
    let refused = api
        .call(Method::DELETE, "/api/v1/namespaces", &[], Body::empty())
        .await;
    assert_eq!(
        (refused.refused().0, refused.refused().1),
        (405, "MethodNotAllowed")
    );
    for (method, path) in [
        (Method::POST, format!("{MAPS}/a")),
        (Method::PUT, MAPS.to_owned()),
        (Method::PATCH, MAPS.to_owned()),
    ] {
        assert_eq!(
            api.call(method.clone(), &path, &[], Body::from("{}"))
                .await
                .refused()
                .0,
            405,
            "{method} {path}"
        );
    }
    assert_eq!(
        api.call(Method::OPTIONS, MAPS, &[], Body::empty())
            .await
            .refused()
            .0,
        405
    );
    assert_eq!(
        api.call(Method::POST, "/version", &[], Body::empty())
            .await
            .refused()
            .0,
        405
    );
    // A namespace where there is none, and none where there is one.
    assert_eq!(
        api.get("/api/v1/namespaces/default/nodes")
            .await
            .refused()
            .0,
        404
    );
    assert_eq!(api.get("/api/v1/pods/p").await.refused().0, 404);
}
