//! A small API server in memory behind a [`kube::Client`]: enough of the real one's manners for control loops.
//!
//! It keeps objects as JSON and knows discovery, CRUD, merge patches, the `status`, `scale` and `finalize` subresources, optimistic
//! locking, preconditions, finalizers, propagation policies, watches from a revision, and metadata-only answers. It
//! neither validates nor sets defaults.

mod route;
mod state;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::{
    route::{Route, query},
    state::{Failure, State},
};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<u64>,
    lag: Duration,
    /// Whether watches tell all twice and end every now and then.
    unsteady: bool,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeApi {
    /// One that is empty and answers at once.
    pub fn new() -> Self {
        Self::lagging(Duration::ZERO)
    }

    /// A server whose watches tell everything this much too late.
    pub fn lagging(lag: Duration) -> Self {
        Self {
            state: Arc::default(),
            revision: watch::Sender::new(0),
            lag,
            unsteady: false,
        }
    }

    /// A server whose watches tell everything twice and too late, and end after a few events.
    pub fn unsteady(lag: Duration) -> Self {
        Self {
            unsteady: true,
            ..Self::lagging(lag)
        }
    }

    /// A client of this server.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Stores `object` as it is, a uid and a resourceVersion aside. `path` is that of its collection: `api/v1/pods`.
    pub fn put(&self, path: &str, object: &impl Serialize) -> Value {
        let object = serde_json::to_value(object).unwrap();
        let stored = self.lock().put(path, object);
        self.publish();
        stored
    }

    /// Changes the object `namespace/name` of a collection.
    pub fn edit(&self, path: &str, namespace: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut object = self.object(path, namespace, name).unwrap();
        edit(&mut object);
        self.put(path, &object);
    }

    /// Removes an object at once, whatever its finalizers.
    pub fn remove(&self, path: &str, namespace: &str, name: &str) {
        self.lock().remove(path, namespace, name);
        self.publish();
    }

    /// What is stored under this name, if anything is.
    pub fn object(&self, path: &str, namespace: &str, name: &str) -> Option<Value> {
        self.lock().get(path, namespace, name).cloned()
    }

    /// All objects of a collection.
    pub fn objects(&self, path: &str) -> Vec<Value> {
        self.lock().list(path, None).cloned().collect()
    }

    /// Every write that was asked for, as `METHOD path`.
    pub fn writes(&self) -> Vec<String> {
        self.lock().writes.clone()
    }

    /// From now on, creations in this collection are refused with this status code, reason and message.
    pub fn refuse_creations(
        &self,
        path: &str,
        code: u16,
        reason: &'static str,
        message: &'static str,
    ) {
        self.lock()
            .refused
            .insert(path.to_owned(), (code, reason, message));
    }

    /// Takes all refusals back.
    pub fn allow_creations(&self) {
        self.lock().refused.clear();
    }

    /// Waits until `holds` does, and panics if that takes longer than a minute of the test's (paused) time.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut revision = self.revision.subscribe();
        let waiting = async {
            while !holds(self) {
                revision.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_mins(1), waiting)
            .await
            .is_err()
        {
            panic!("{what}: never came true; writes: {:#?}", self.writes());
        }
    }

    /// Lets everything that is under way come to rest. On paused time, nothing is left to do after that.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn publish(&self) {
        let revision = self.lock().revision;
        self.revision
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap()
        };
        let metadata_only = parts.headers.get("accept").is_some_and(|accept| {
            accept
                .to_str()
                .unwrap()
                .contains("as=PartialObjectMetadata")
        });
        let Some(route) = Route::parse(parts.uri.path()) else {
            return json_answer(&discovery(parts.uri.path()));
        };
        let watching = query(&parts.uri, "watch").is_some_and(|watch| watch == "true");
        if watching {
            let after = query(&parts.uri, "resourceVersion")
                .and_then(|version| version.parse().ok())
                .unwrap_or(0);
            return self.watch(route, after, metadata_only);
        }
        let result = self.lock().handle(&parts.method, &route, &body);
        self.publish();
        match result {
            Ok(mut value) => {
                if metadata_only {
                    reduce(&mut value);
                }
                json_answer(&value)
            }
            Err(failure) => failure_answer(&failure),
        }
    }

    fn watch(&self, route: Route, after: u64, metadata_only: bool) -> Answer {
        let api = self.clone();
        let events = stream::unfold(
            (after, self.revision.subscribe()),
            move |(after, mut revision)| {
                let (api, route) = (api.clone(), route.clone());
                async move {
                    loop {
                        let (events, now) = api.lock().events(&route, after);
                        if !events.is_empty() {
                            tokio::time::sleep(api.lag).await;
                            return Some((events, (now, revision)));
                        }
                        revision.changed().await.ok()?;
                    }
                }
            },
        );
        let (times, batches) = if self.unsteady {
            (2, 7)
        } else {
            (1, usize::MAX)
        };
        let lines = events.take(batches).map(move |events| {
            let mut lines = Vec::new();
            let all = events.into_iter();
            let all = all.flat_map(|event| std::iter::repeat_n(event, times));
            for (kind, mut object) in all {
                if metadata_only {
                    reduce(&mut object);
                }
                serde_json::to_writer(&mut lines, &json!({ "type": kind, "object": object }))
                    .unwrap();
                lines.push(b'\n');
            }
            Ok(Frame::data(Bytes::from(lines)))
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

/// Leaves of an object, or of each object of a list, only what partial object metadata has.
fn reduce(value: &mut Value) {
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(reduce);
        return;
    }
    *value = json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": value["metadata"].take(),
    });
}

fn json_answer(value: &Value) -> Answer {
    Response::new(Full::from(serde_json::to_vec(value).unwrap()).boxed_unsync())
}

fn failure_answer(failure: &Failure) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": failure.code, "reason": failure.reason, "message": failure.message,
    });
    let mut answer = json_answer(&status);
    *answer.status_mut() = StatusCode::from_u16(failure.code).unwrap();
    answer
}

/// The kinds that are served: group version, plural, kind, namespaced.
const KINDS: &[(&str, &str, &str, bool)] = &[
    ("v1", "configmaps", "ConfigMap", true),
    ("v1", "endpoints", "Endpoints", true),
    ("v1", "events", "Event", true),
    ("v1", "namespaces", "Namespace", false),
    ("v1", "nodes", "Node", false),
    ("v1", "pods", "Pod", true),
    (
        "v1",
        "replicationcontrollers",
        "ReplicationController",
        true,
    ),
    ("v1", "serviceaccounts", "ServiceAccount", true),
    ("v1", "services", "Service", true),
    ("apps/v1", "deployments", "Deployment", true),
    ("apps/v1", "replicasets", "ReplicaSet", true),
    ("coordination.k8s.io/v1", "leases", "Lease", true),
    (
        "discovery.k8s.io/v1",
        "endpointslices",
        "EndpointSlice",
        true,
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "clusterroles",
        "ClusterRole",
        false,
    ),
];

/// Those of them whose objects have a scale.
const SCALED: &[&str] = &["deployments", "replicasets", "replicationcontrollers"];

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

fn discovery(path: &str) -> Value {
    let group = |name: &str| {
        let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
        json!({ "name": name, "versions": [version], "preferredVersion": version })
    };
    match path {
        "/api" => {
            json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
        }
        "/apis" => json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": [group("apps"), group("coordination.k8s.io"), group("discovery.k8s.io"), group("rbac.authorization.k8s.io")],
        }),
        _ => {
            let wanted = path
                .trim_start_matches("/apis/")
                .trim_start_matches("/api/");
            let resources: Vec<_> = KINDS
                .iter()
                .filter(|(version, ..)| *version == wanted)
                .flat_map(|(_, plural, kind, namespaced)| {
                    let of = |name: String, verbs: &[&str]| {
                        json!({ "name": name, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs })
                    };
                    let part = &["get", "patch", "update"];
                    let mut named = vec![of((*plural).to_owned(), VERBS), of(format!("{plural}/status"), part)];
                    if SCALED.contains(plural) {
                        named.push(of(format!("{plural}/scale"), part));
                    }
                    named
                })
                .collect();
            json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": wanted, "resources": resources })
        }
    }
}
