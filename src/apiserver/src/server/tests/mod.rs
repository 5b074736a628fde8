//! The API as its clients see it: requests to the router, over the store that forgets.

mod access;
mod apply;
mod connections;
mod custom;
mod deletes;
mod discovery;
mod evictions;
mod hostile;
mod lists;
mod logs;
mod protobuf;
mod reviews;
mod served;
mod watches;
mod workloads;
mod writes;

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    response::Response,
};
use futures::StreamExt as _;
use http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use vaquita_store::Store;

use crate::{ApiServer, Config, User};

/// Longer than anything that works takes, so that what does not fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

pub(in crate::server) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(in crate::server) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(in crate::server) const RCS: &str = "/api/v1/namespaces/default/replicationcontrollers";
pub(in crate::server) const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
pub(in crate::server) const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// An API server and its store.
pub(in crate::server) struct Api {
    pub(in crate::server) server: ApiServer,
    pub(in crate::server) store: Arc<dyn Store>,
}

/// What came back.
pub(in crate::server) struct Reply {
    pub(in crate::server) code: u16,
    pub(in crate::server) headers: HeaderMap,
    pub(in crate::server) body: Value,
}

impl Reply {
    /// All of an answer.
    pub(in crate::server) async fn of(response: Response) -> Self {
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        let text = || String::from_utf8_lossy(&bytes).into_owned().into();
        Self {
            code,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        }
    }

    #[track_caller]
    pub(in crate::server) fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.code),
            "{} {}",
            self.code,
            self.body
        );
        self.body
    }

    /// Code, reason and message of a failure.
    #[track_caller]
    pub(in crate::server) fn refused(&self) -> (u16, &str, &str) {
        assert!(self.code >= 400, "{} {}", self.code, self.body);
        assert_eq!(self.body["code"], self.code);
        (
            self.code,
            self.body["reason"].as_str().unwrap(),
            self.body["message"].as_str().unwrap(),
        )
    }

    /// The code alone, of a failure that has no reason.
    #[track_caller]
    pub(in crate::server) fn refused_code(&self) -> u16 {
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        assert_eq!(self.body["code"], self.code);
        self.code
    }

    pub(in crate::server) fn warnings(&self) -> Vec<&str> {
        self.headers
            .get_all(header::WARNING)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect()
    }
}

impl Api {
    pub(in crate::server) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(in crate::server) async fn with(config: Config) -> Self {
        Self::over(Arc::new(vaquita_store::memory()), config).await
    }

    pub(in crate::server) async fn over(store: Arc<dyn Store>, config: Config) -> Self {
        let server = ApiServer::start(store.clone(), config).await.unwrap();
        let api = Self { server, store };
        // What a controller would make, and pods cannot be without.
        let account = json!({"metadata": {"name": "default"}});
        let made = api.post(ACCOUNTS, account).await.code;
        assert!(matches!(made, 201 | 409), "{made}");
        let settled = tokio::time::timeout(PATIENCE, api.settle()).await;
        settled.expect("the definitions that every cluster has are served");
        api
    }

    /// Waits until the definitions that every cluster has are served: from then on, only the test writes.
    async fn settle(&self) {
        loop {
            let list = self.get(DEFINITIONS).await.ok();
            let is_settled = |definition: &Value| {
                if definition["spec"]["group"] != "vaquita.dev" {
                    return true;
                }
                let conditions = definition["status"]["conditions"].as_array();
                conditions.into_iter().flatten().any(|condition| {
                    condition["type"] == "Established" && condition["status"] == "True"
                })
            };
            let definitions = list["items"].as_array();
            if definitions.is_some_and(|all| all.iter().all(is_settled)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What the handlers work on.
    pub(in crate::server) fn inner(&self) -> &super::Server {
        self.server.inner()
    }

    pub(in crate::server) async fn send(&self, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(User::in_process("tester"));
        self.send_as_is(request).await
    }

    /// The same without a user: a request has to bring its own proof.
    pub(in crate::server) async fn send_as_is(&self, request: Request<Body>) -> Response {
        tokio::time::timeout(PATIENCE, self.server.router().oneshot(request))
            .await
            .unwrap()
            .unwrap()
    }

    pub(in crate::server) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Reply::of(self.send(request.body(body).unwrap()).await).await
    }

    pub(in crate::server) async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, &[], Body::empty()).await
    }

    pub(in crate::server) async fn accept(&self, path: &str, accept: &str) -> Reply {
        self.call(Method::GET, path, &[("accept", accept)], Body::empty())
            .await
    }

    pub(in crate::server) async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(Method::POST, path, &[], Body::from(body.to_string()))
            .await
    }

    pub(in crate::server) async fn put(&self, path: &str, body: Value) -> Reply {
        self.call(Method::PUT, path, &[], Body::from(body.to_string()))
            .await
    }

    pub(in crate::server) async fn delete(&self, path: &str, options: Value) -> Reply {
        self.call(Method::DELETE, path, &[], Body::from(options.to_string()))
            .await
    }

    pub(in crate::server) async fn patch(&self, path: &str, kind: &str, body: Value) -> Reply {
        let kind = format!("application/{kind}+json");
        self.call(
            Method::PATCH,
            path,
            &[("content-type", &kind)],
            Body::from(body.to_string()),
        )
        .await
    }

    pub(in crate::server) async fn map(&self, name: &str) -> Value {
        self.post(MAPS, config_map(name, "v")).await.ok()
    }

    pub(in crate::server) async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub(in crate::server) async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request = Request::get(path)
            .header("accept", accept)
            .body(Body::empty())
            .unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events {
            body: response.into_body().into_data_stream(),
            buffer: Vec::new(),
        }
    }
}

/// The events of a watch.
pub(in crate::server) struct Events {
    body: BodyDataStream,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` at the end.
    pub(in crate::server) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(PATIENCE, self.body.next())
                .await
                .expect("no event in time")?;
            self.buffer.extend_from_slice(&chunk.unwrap());
        }
    }

    /// The next event as its type and its object's name.
    pub(in crate::server) async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch has ended");
        (
            string(&event["type"]),
            string(&event["object"]["metadata"]["name"]),
        )
    }
}

pub(in crate::server) fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(in crate::server) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

pub(in crate::server) fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| string(&item["metadata"]["name"]))
        .collect()
}

pub(in crate::server) fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

pub(in crate::server) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    })
}

pub(in crate::server) fn controller(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
        "spec": {"replicas": 2, "selector": {"app": name}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "x"}]},
        }},
    })
}
