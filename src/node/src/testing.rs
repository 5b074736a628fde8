//! Stand-ins for tests: an API server that knows pods only, and a backend whose containers do as they are told.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use vaquita_backends::{
    Backend, Connection, ContainerConfig, Exit, ExitReason, Instance, Resources, Sandbox,
    SandboxConfig, SandboxError, StartError, Usage,
};
use vaquita_image::ImageStore;
use vaquita_logs::{LogLimits, LogStore};
use vaquita_manifest::Capacity;
use vaquita_service_proxy::ServiceLinks;
use vaquita_volumes::Store;

use crate::{
    events::{Occurrence, Recorder},
    images::Images,
    pod::{Context, Feed, Follower},
};

/// An API server with one pod.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) feed: watch::Sender<Feed>,
    /// Bodies of DELETE requests.
    pub(crate) deletions: Arc<Mutex<Vec<Value>>>,
    /// Statuses, in the order in which they were written.
    pub(crate) history: Arc<Mutex<Vec<Value>>>,
    config_maps: Arc<Mutex<Vec<Value>>>,
}

impl Api {
    pub(crate) fn new(pod: Value) -> Self {
        let pod = Arc::new(serde_json::from_value(pod).unwrap());
        Self {
            feed: watch::Sender::new(Feed {
                pod,
                is_gone: false,
            }),
            deletions: Arc::default(),
            history: Arc::default(),
            config_maps: Arc::default(),
        }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (status, answer) = api.answer(&head.method, head.uri.path(), body);
                let response = Response::builder()
                    .status(status)
                    .body(Body::from(answer.to_string()));
                Ok::<_, tower::BoxError>(response?)
            }
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let not_found = || {
            (
                StatusCode::NOT_FOUND,
                json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"}),
            )
        };
        if path.ends_with("wasmpolicies") || path.ends_with("/imagepolicies") {
            return not_found();
        }
        if path.contains("/configmaps/") {
            let maps = self.config_maps.lock().unwrap();
            let found = maps
                .iter()
                .find(|map| path.ends_with(map["metadata"]["name"].as_str().unwrap_or("?")));
            return found.map_or_else(not_found, |map| (StatusCode::OK, map.clone()));
        }
        if self.feed.borrow().is_gone {
            return not_found();
        }
        let uid = body
            .pointer("/metadata/uid")
            .or(body.pointer("/preconditions/uid"));
        if uid.and_then(Value::as_str) != self.feed.borrow().pod.metadata.uid.as_deref() {
            // A pod that the test does not look at.
            return (StatusCode::OK, json!({"metadata": {}}));
        }
        match *method {
            Method::PATCH => {
                self.change(|pod| merge(pod, &body));
                let pod = serde_json::to_value(&*self.feed.borrow().pod).unwrap();
                self.history.lock().unwrap().push(pod["status"].clone());
                (StatusCode::OK, pod)
            }
            Method::DELETE => {
                self.deletions.lock().unwrap().push(body);
                self.feed.send_modify(|feed| feed.is_gone = true);
                (
                    StatusCode::OK,
                    json!({"kind": "Status", "status": "Success"}),
                )
            }
            _ => not_found(),
        }
    }

    /// Changes the pod as somebody else would.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        self.feed.send_modify(|feed| {
            let mut pod = serde_json::to_value(&*feed.pod).unwrap();
            change(&mut pod);
            feed.pod = Arc::new(serde_json::from_value(pod).unwrap());
        });
    }

    /// Asks for the pod's deletion.
    pub(crate) fn delete(&self, grace: u32) {
        self.change(|pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        });
    }

    pub(crate) fn add_config_map(&self, map: Value) {
        self.config_maps.lock().unwrap().push(map);
    }

    pub(crate) fn status(&self) -> Value {
        let pod: Arc<Pod> = self.feed.borrow().pod.clone();
        serde_json::to_value(&pod.status).unwrap()
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.feed.subscribe();
        let waiting = async {
            loop {
                let status = self.status();
                if wanted(&status) {
                    return status;
                }
                changes.changed().await.unwrap();
            }
        };
        // In paused time, this is over as soon as nothing else is to come.
        let outcome = tokio::time::timeout(Duration::from_hours(1), waiting).await;
        outcome.unwrap_or_else(|_| panic!("{what} never came: {:#}", self.status()))
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let (Value::Object(patch), true) = (patch, target.is_object()) else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.as_object_mut().and_then(|fields| fields.remove(key))),
            value => {
                let field = &mut target[key];
                if !field.is_object() && value.is_object() {
                    *field = json!({});
                }
                merge(field, value);
            }
        }
    }
}

/// A container that was started, in the hands of a test.
pub(crate) struct Started {
    pub(crate) config: ContainerConfig,
    exit: watch::Sender<Option<Exit>>,
    orders: mpsc::UnboundedReceiver<Order>,
}

/// What a container was told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Terminate(Duration),
    Kill,
    Resize(Resources),
}

impl Started {
    pub(crate) fn exit(&self, code: i32) {
        self.exit.send_replace(Some(Exit::with_code(code)));
    }

    pub(crate) async fn order(&mut self) -> Order {
        self.orders.recv().await.unwrap()
    }
}

struct Fake {
    exit: watch::Receiver<Option<Exit>>,
    orders: mpsc::UnboundedSender<Order>,
}

#[async_trait]
impl Instance for Fake {
    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let exit = exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| exit.clone());
        exit.unwrap_or(Exit {
            code: 137,
            reason: ExitReason::Error,
            message: None,
        })
    }

    fn terminate(&self, grace: Duration) {
        let _ = self.orders.send(Order::Terminate(grace));
    }

    fn kill(&self) {
        let _ = self.orders.send(Order::Kill);
    }

    async fn resize(&self, resources: Resources) -> Result<(), String> {
        // As if it used that much.
        if resources.memory_limit.is_some_and(|limit| limit < 1 << 20) {
            return Err("more is in use".to_owned());
        }
        let _ = self.orders.send(Order::Resize(resources));
        Ok(())
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
}

/// Starts containers that tests control.
pub(crate) struct FakeBackend {
    started: mpsc::UnboundedSender<Started>,
    pub(crate) sandboxes: Mutex<Vec<SandboxConfig>>,
    /// The next starts fail so.
    pub(crate) failures: Arc<Mutex<Vec<StartError>>>,
    /// Whether ports of pods can be connected to.
    pub(crate) listens: Arc<Mutex<bool>>,
    /// Whether pods were told to refuse connections.
    pub(crate) withdrawn: watch::Sender<bool>,
}

#[async_trait]
impl Backend for FakeBackend {
    async fn sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>, SandboxError> {
        let ip = config.wanted_ip.unwrap_or(IpAddr::from([10, 244, 0, 2]));
        self.sandboxes.lock().unwrap().push(config);
        Ok(Arc::new(FakeSandbox {
            ip,
            started: self.started.clone(),
            failures: self.failures.clone(),
            listens: self.listens.clone(),
            withdrawn: self.withdrawn.clone(),
        }))
    }
}

struct FakeSandbox {
    ip: IpAddr,
    started: mpsc::UnboundedSender<Started>,
    failures: Arc<Mutex<Vec<StartError>>>,
    listens: Arc<Mutex<bool>>,
    withdrawn: watch::Sender<bool>,
}

#[async_trait]
impl Sandbox for FakeSandbox {
    fn ip(&self) -> IpAddr {
        self.ip
    }

    async fn start(&self, config: ContainerConfig) -> Result<Box<dyn Instance>, StartError> {
        if let Some(failure) = self.failures.lock().unwrap().pop() {
            return Err(failure);
        }
        let (exit, exited) = watch::channel(None);
        let (orders, ordered) = mpsc::unbounded_channel();
        let _ = self.started.send(Started {
            config,
            exit,
            orders: ordered,
        });
        Ok(Box::new(Fake {
            exit: exited,
            orders,
        }))
    }

    async fn dial(&self, _port: u16) -> io::Result<Box<dyn Connection>> {
        let listens = *self.listens.lock().unwrap();
        if listens {
            Ok(Box::new(tokio::io::duplex(1).0))
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    fn withdraw(&self) {
        self.withdrawn.send_replace(true);
    }

    async fn shutdown(&self) {}
}

/// All that a worker needs, and the test's ends of it.
pub(crate) struct Bench {
    pub(crate) api: Api,
    pub(crate) backend: Arc<FakeBackend>,
    pub(crate) started: mpsc::UnboundedReceiver<Started>,
    pub(crate) events: mpsc::Receiver<Occurrence>,
    pub(crate) context: Arc<Context>,
    pub(crate) images: ImageStore,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// A node with the image `i:v1`, and an API server with this pod.
    pub(crate) fn new(pod: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageStore::open(&dir.path().join("images")).unwrap();
        images
            .load("i:v1", &wat::parse_str("(module)").unwrap())
            .unwrap();
        let api = Api::new(pod);
        let (starts, started) = mpsc::unbounded_channel();
        let backend = Arc::new(FakeBackend {
            started: starts,
            sandboxes: Mutex::default(),
            failures: Arc::default(),
            listens: Arc::default(),
            withdrawn: watch::Sender::new(false),
        });
        let (recorder, events) = Recorder::new();
        let context = Context {
            client: api.client(),
            sources: Arc::new(api.client()),
            host_ips: vec![IpAddr::from([192, 0, 2, 1])],
            capacity: Capacity {
                cpus: 4,
                memory: 1 << 30,
                pods: 2,
            },
            backend: backend.clone(),
            images: Images::new(images.clone(), vaquita_image::Registries::default()),
            events: recorder,
            logs: LogStore::open(&dir.path().join("logs"), LogLimits::default()).unwrap(),
            services: ServiceLinks::of_nothing(),
            volumes: Store::open(dir.path().join("pods")).unwrap(),
            claims: None,
            follower: Follower::new(api.client()),
            pressure: watch::channel(crate::eviction::Pressure::default()).1,
            refused: crate::refused::Refused::default(),
            ledger: crate::pod::resize::Ledger::default(),
            toolbox: None,
        };
        Self {
            api,
            backend,
            started,
            events,
            context: Arc::new(context),
            images,
            _dir: dir,
        }
    }

    /// The next container that is started.
    pub(crate) async fn started(&mut self, name: &str) -> Started {
        let started = tokio::time::timeout(Duration::from_hours(1), self.started.recv()).await;
        let started =
            started.unwrap_or_else(|_| panic!("{name} is never started: {:#}", self.api.status()));
        let started = started.unwrap();
        assert_eq!(started.config.name, name);
        started
    }

    /// The events so far, as reason and message.
    pub(crate) fn events(&mut self) -> Vec<(&'static str, String)> {
        let mut events = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            events.push((event.reason, event.message));
        }
        events
    }
}

/// A pod of these containers.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers pass what they have just made"
)]
pub(crate) fn pod(policy: &str, containers: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "uid", "generation": 1},
        "spec": {"nodeName": "n", "restartPolicy": policy, "containers": containers},
    })
}

/// A container with the image that the bench has.
pub(crate) fn container(name: &str) -> Value {
    json!({"name": name, "image": "i:v1", "imagePullPolicy": "IfNotPresent"})
}
