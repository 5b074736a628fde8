//! Kinds that are declared while the server runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Api, Reply};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const MERGE: &str = "application/merge-patch+json";

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [
            {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
        ],
        "selectableFields": [{"jsonPath": ".spec.color"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "required": ["color"],
                "properties": {
                    "color": {"type": "string", "enum": ["red", "blue"]},
                    "replicas": {"type": "integer", "default": 1, "minimum": 0},
                    "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                        "items": {"type": "object", "required": ["port"], "properties": {
                            "port": {"type": "integer"}, "name": {"type": "string"}}}},
                },
                "x-kubernetes-validations": [
                    {"rule": "self.replicas <= 10", "message": "at most ten"},
                    {"rule": "self.color == oldSelf.color", "message": "the color stays", "fieldPath": ".color"},
                ]},
            "status": {"type": "object", "properties": {
                "replicas": {"type": "integer"}, "selector": {"type": "string"}}},
        }}},
    })
}

fn definition(versions: &[Value]) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wi"], "categories": ["all"]}},
    })
}

fn widget(name: &str, color: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"color": color}})
}

async fn until(api: &Api, path: &str, done: impl Fn(&Reply) -> bool) -> Reply {
    for _ in 0..1000 {
        let reply = api.get(path).await;
        if done(&reply) {
            return reply;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} never got there: {}", api.get(path).await.body);
}

fn has(reply: &Reply, condition: &str, status: &str) -> bool {
    let conditions = reply.body["status"]["conditions"].as_array();
    conditions.is_some_and(|list| {
        list.iter()
            .any(|found| found["type"] == condition && found["status"] == status)
    })
}

async fn declared(api: &Api, versions: &[Value]) {
    api.post(CRDS, definition(versions)).await.ok();
    until(api, &format!("{CRDS}/widgets.example.com"), |reply| {
        has(reply, "Established", "True")
    })
    .await;
}

async fn patched(api: &Api, path: &str, ty: &str, body: Value) -> Reply {
    let headers = [("content-type", ty)];
    api.call(Method::PATCH, path, &headers, Body::from(body.to_string()))
        .await
}

#[tokio::test]
async fn a_declared_kind_is_served_as_soon_as_it_is_established() {
    let api = Api::start().await;
    assert_eq!(api.get(WIDGETS).await.code, 404);
    declared(&api, &[version("v1", true)]).await;
    let made = api.post(WIDGETS, widget("a", "red")).await.ok();
    assert_eq!(made["spec"], json!({"color": "red", "replicas": 1}));
    assert_eq!(made["metadata"]["generation"], 1);
    let found = api.get("/apis/example.com/v1").await.ok();
    let names: Vec<&str> = found["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| resource["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    let crd = api.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "WidgetList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_validated() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true)]).await;
    let mut value = widget("a", "green");
    value["spec"]["size"] = 1.into();
    let reply = api.post(WIDGETS, value.clone()).await;
    assert_eq!(
        reply.refused().2,
        "Widget.example.com \"a\" is invalid: [spec.color: Unsupported value: \"green\": supported values: \"red\", \
         \"blue\", <nil>: Invalid value: \"null\": some validation rules were not checked because the object was invalid; \
         correct the existing errors to complete validation]"
    );
    value["spec"]["color"] = "red".into();
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let refused = api.post(&strict, value.clone()).await;
    assert!(
        refused
            .refused()
            .2
            .ends_with("strict decoding error: unknown field \"spec.size\"")
    );
    let made = api.post(WIDGETS, value).await;
    assert_eq!(made.warnings().len(), 1);
    assert_eq!(made.ok()["spec"], json!({"color": "red", "replicas": 1}));
    let many = json!({"spec": {"replicas": 11}});
    let reply = patched(&api, &format!("{WIDGETS}/a"), MERGE, many).await;
    assert_eq!(
        reply.refused().2,
        "Widget.example.com \"a\" is invalid: spec: Invalid value: \"object\": at most ten"
    );
    let other = json!({"spec": {"color": "blue"}});
    let reply = patched(&api, &format!("{WIDGETS}/a"), MERGE, other).await;
    assert_eq!(
        reply.refused().2,
        "Widget.example.com \"a\" is invalid: spec.color: Invalid value: \"object\": the color stays"
    );
    let strategic = "application/strategic-merge-patch+json";
    let reply = patched(&api, &format!("{WIDGETS}/a"), strategic, json!({})).await;
    assert_eq!(reply.code, 415);
}

#[tokio::test]
async fn status_and_scale_are_written_apart() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true)]).await;
    let mut value = widget("a", "red");
    value["status"] = json!({"replicas": 9});
    assert_eq!(api.post(WIDGETS, value).await.ok().get("status"), None);
    let path = format!("{WIDGETS}/a");
    let status = json!({"spec": {"replicas": 5}, "status": {"replicas": 2, "selector": "a=b"}});
    let object = patched(&api, &format!("{path}/status"), MERGE, status)
        .await
        .ok();
    assert_eq!(object["spec"]["replicas"], 1);
    assert_eq!(object["metadata"]["generation"], 1);
    let scale = api.get(&format!("{path}/scale")).await.ok();
    assert_eq!(scale["spec"]["replicas"], 1);
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
    let scale = json!({"spec": {"replicas": 3}});
    patched(&api, &format!("{path}/scale"), MERGE, scale)
        .await
        .ok();
    let object = api.get(&path).await.ok();
    assert_eq!(object["spec"]["replicas"], 3);
    assert_eq!(object["metadata"]["generation"], 2);
}

#[tokio::test]
async fn tables_and_selectors_know_declared_fields() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true)]).await;
    api.post(WIDGETS, widget("a", "red")).await.ok();
    api.post(WIDGETS, widget("b", "blue")).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let selected = format!("{WIDGETS}?fieldSelector=spec.color%3Dblue");
    let table = api.accept(&selected, accept).await.ok();
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Color", "Replicas"]);
    assert_eq!(table["rows"].as_array().unwrap().len(), 1);
    assert_eq!(table["rows"][0]["cells"], json!(["b", "blue", 1]));
}

#[tokio::test]
async fn configurations_are_applied_by_the_declared_lists() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true)]).await;
    let ports = |manager: &str, port: u16| {
        let path = format!("{WIDGETS}/a?fieldManager={manager}");
        let mut value = widget("a", "red");
        value["spec"]["ports"] = json!([{"port": port, "name": manager}]);
        (path, value)
    };
    for (manager, port) in [("one", 80), ("two", 81)] {
        let (path, value) = ports(manager, port);
        patched(&api, &path, "application/apply-patch+yaml", value)
            .await
            .ok();
    }
    let object = api.get(&format!("{WIDGETS}/a")).await.ok();
    assert_eq!(
        object["spec"]["ports"],
        json!([{"port": 80, "name": "one"}, {"port": 81, "name": "two"}])
    );
}

#[tokio::test]
async fn every_version_shows_every_object() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true), version("v2", false)]).await;
    api.post(WIDGETS, widget("a", "red")).await.ok();
    let others = WIDGETS.replace("v1", "v2");
    let shown = api.get(&format!("{others}/a")).await.ok();
    assert_eq!(shown["apiVersion"], "example.com/v2");
    let mut second = widget("b", "blue");
    second["apiVersion"] = "example.com/v2".into();
    api.post(&others, second).await.ok();
    let list = api.get(WIDGETS).await.ok();
    let versions: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["apiVersion"])
        .collect();
    assert_eq!(versions, ["example.com/v1", "example.com/v1"]);
}

#[tokio::test]
async fn a_changed_definition_is_served_as_it_is_now() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true)]).await;
    api.post(WIDGETS, widget("a", "red")).await.ok();
    let path = format!("{CRDS}/widgets.example.com");
    let mut changed = version("v1", true);
    let spec = &mut changed["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["size"] = json!({"type": "string", "default": "small"});
    patched(&api, &path, MERGE, json!({"spec": {"versions": [changed]}}))
        .await
        .ok();
    let found = until(&api, &format!("{WIDGETS}/a"), |reply| {
        reply.body["spec"]["size"] == "small"
    })
    .await;
    assert_eq!(found.body["spec"]["replicas"], 1);
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true)]).await;
    let mut kept = widget("a", "red");
    kept["metadata"]["finalizers"] = json!(["example.com/mine"]);
    api.post(WIDGETS, kept).await.ok();
    api.post(WIDGETS, widget("b", "blue")).await.ok();
    let path = format!("{CRDS}/widgets.example.com");
    let headers = [("content-type", "application/json")];
    api.call(Method::DELETE, &path, &headers, Body::empty())
        .await
        .ok();
    until(&api, &format!("{WIDGETS}/b"), |reply| reply.code == 404).await;
    let waiting = until(&api, &path, |reply| has(reply, "Terminating", "True")).await;
    assert_eq!(
        waiting.body["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    assert_eq!(api.post(WIDGETS, widget("c", "red")).await.code, 405);
    let object = format!("{WIDGETS}/a");
    let free = json!({"metadata": {"finalizers": null}});
    patched(&api, &object, MERGE, free).await.ok();
    until(&api, &path, |reply| reply.code == 404).await;
    until(&api, WIDGETS, |reply| reply.code == 404).await;
}

#[tokio::test]
async fn names_are_given_out_once() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true)]).await;
    let mut other = definition(&[version("v1", true)]);
    other["metadata"]["name"] = "gadgets.example.com".into();
    other["spec"]["names"] = json!({"plural": "gadgets", "kind": "Widget"});
    api.post(CRDS, other).await.ok();
    let path = format!("{CRDS}/gadgets.example.com");
    let refused = until(&api, &path, |reply| has(reply, "NamesAccepted", "False")).await;
    assert!(has(&refused, "Established", "False"));
    assert_eq!(
        refused.body["status"]["conditions"][0]["message"],
        "\"WidgetList\" is already in use"
    );
    assert_eq!(
        api.get("/apis/example.com/v1/namespaces/default/gadgets")
            .await
            .code,
        404
    );
}

#[tokio::test]
async fn declared_kinds_are_there_again_after_a_restart() {
    let api = Api::start().await;
    declared(&api, &[version("v1", true)]).await;
    api.post(WIDGETS, widget("a", "red")).await.ok();
    let store = Arc::clone(&api.store);
    api.server.shutdown().await;
    let again = Api::over(store, crate::Config::default()).await;
    let object = again.get(&format!("{WIDGETS}/a")).await.ok();
    assert_eq!(object["spec"]["color"], "red");
}

/// Serves a conversion webhook for as long as the test runs. Gives its URL, its certificate, and how often it was asked.
async fn webhook() -> (String, String, Arc<AtomicUsize>) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}/convert",
        listener.local_addr().unwrap().port()
    );
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let count = count.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                count.fetch_add(1, Ordering::Relaxed);
                converted(request)
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    (url, certified.cert.pem(), asked)
}

/// Converts objects as the test's kind wants it: the second version has seven replicas.
async fn converted(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let bytes = request.into_body().collect().await?.to_bytes();
    let mut review: Value = serde_json::from_slice(&bytes).unwrap();
    let wanted = review["request"]["desiredAPIVersion"].clone();
    let mut objects = review["request"]["objects"].take();
    for object in objects.as_array_mut().unwrap() {
        object["apiVersion"] = wanted.clone();
        if wanted == "example.com/v2" {
            object["spec"]["replicas"] = 7.into();
        }
        // Nobody but the API server says what an object is called.
        object["metadata"]["labels"] = json!({"converted": "yes"});
    }
    review["response"] = json!({
        "uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
    Ok(Response::new(Body::from(review.to_string())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_converts_objects_and_is_asked_once() {
    let (url, certificate, asked) = webhook().await;
    let api = Api::start().await;
    let mut value = definition(&[version("v1", true), version("v2", false)]);
    value["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "clientConfig": {"url": url, "caBundle": STANDARD.encode(certificate)},
        "conversionReviewVersions": ["v1"]}});
    api.post(CRDS, value).await.ok();
    until(&api, &format!("{CRDS}/widgets.example.com"), |reply| {
        has(reply, "Established", "True")
    })
    .await;
    api.post(WIDGETS, widget("a", "red")).await.ok();
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let path = format!("{}/a", WIDGETS.replace("v1", "v2"));
    for _ in 0..2 {
        let shown = api.get(&path).await.ok();
        assert_eq!(shown["apiVersion"], "example.com/v2");
        assert_eq!(shown["spec"]["replicas"], 7);
        assert_eq!(shown["metadata"]["labels"], json!({"converted": "yes"}));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(
        api.get(&format!("{WIDGETS}/a")).await.ok()["spec"]["replicas"],
        1
    );
    for name in ["b", "c", "d"] {
        api.post(WIDGETS, widget(name, "red")).await.ok();
    }
    let list = api.get(&WIDGETS.replace("v1", "v2")).await.ok();
    let shown = list["items"].as_array().unwrap();
    assert_eq!(shown.len(), 4);
    assert!(shown.iter().all(|object| object["spec"]["replicas"] == 7));
    assert_eq!(asked.load(Ordering::Relaxed), 2, "the new ones together");
}
