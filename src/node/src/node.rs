//! Puts the parts of a node together.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vaquita_backends::{Backend, DockerBackend, WasmBackend};
use vaquita_logs::{LogLimits, LogStore};
use vaquita_volumes::{Store, claims::Claims};

use crate::{
    Containers, NodeConfig, StartError,
    connections::Connections,
    events,
    eviction::{Evictor, Pressure},
    exec::Executor,
    host, http,
    images::{
        Images, compile,
        gc::{self, Gc},
    },
    persistent,
    pod::{Context, Follower, resize::Ledger},
    pods::{Manager, Registry},
    refused::Refused,
    registration::{Machine, Registration},
    stats,
};

/// How soon images are given up that could not be before.
const TIDY_AGAIN: Duration = Duration::from_mins(5);

/// A node of a cluster: registers itself, runs the pods that are bound to it, and gives them the cluster's Services.
///
/// It knows the cluster only by its client. While the API server cannot be reached, what runs goes on running, and the
/// node keeps trying.
///
/// Cheap to clone; clones are the same node.
#[derive(Clone)]
pub struct Node {
    name: String,
    registry: Registry,
    logs: LogStore,
    connections: Connections,
    executor: Executor,
    machine: stats::Machine,
    registered: watch::Receiver<bool>,
    tasks: TaskTracker,
}

impl Node {
    /// Starts a node, in the background: [`ready`](Self::ready) tells when the cluster knows it. It ends when
    /// `shutdown` is cancelled: its pods' processes are cut off, their objects stay, and a node of the same name starts
    /// them again.
    ///
    /// Must be called within a tokio runtime, which then runs the node.
    pub async fn start(
        client: Client,
        config: NodeConfig,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        config.check()?;
        let logs = open_logs(config.log_dir.clone(), config.log_limits.clone()).await?;
        let volumes = Store::open(&config.pods_dir).map_err(|source| StartError::PodsDir {
            path: config.pods_dir.clone(),
            source,
        })?;

        let tasks = TaskTracker::new();
        let (events, writer) = events::channel(client.clone(), config.name.clone());
        tasks.spawn(writer.run(shutdown.clone()));
        let services =
            vaquita_service_proxy::start(&client, &config.fabric, &config.name, &tasks, &shutdown);
        let registries = config.registries.clone();
        let registries = registries.with_linux(config.containers.is_some());
        let images = Images::new(config.images.clone(), registries);
        tasks.spawn(images.clone().watch(shutdown.clone()));

        let registry = Registry::default();
        let claims = keep_claims(&client, &config, &registry, &tasks, &shutdown);
        let refused = Refused::default();
        let (pressure, is_pressed) = watch::channel(Pressure::default());
        let modules = modules(&config);
        compile_ahead(&modules, &images, &tasks, &shutdown);
        let (unused_images, requests) = gc::Requests::new();
        let gc = gc(&config, &images, &registry, &events, requests);
        tasks.spawn(gc.run(shutdown.clone()));
        let context = Arc::new(Context {
            sources: Arc::new(client.clone()),
            client: client.clone(),
            host_ips: config.addresses.clone(),
            capacity: config.capacity.clone(),
            backend: backend(&config, modules),
            images: images.clone(),
            events: events.clone(),
            logs: logs.clone(),
            services,
            volumes,
            claims: Some(claims.clone()),
            follower: Follower::new(client.clone()),
            pressure: is_pressed.clone(),
            refused: refused.clone(),
            ledger: Ledger::default(),
            toolbox: config.toolbox.clone(),
        });
        tasks.spawn(tidy_images(
            context.backend.clone(),
            images.clone(),
            shutdown.clone(),
        ));
        let (registered, is_registered) = watch::channel(false);
        // First things first: with a thousand pods to start, the node's own report would be one of thousands of writes.
        let executor = Executor {
            context: context.clone(),
        };
        let evictor = Evictor {
            context: context.clone(),
            registry: registry.clone(),
            thresholds: config.eviction.clone(),
            soft: config.soft_eviction.clone(),
            unused_images,
            pods_dir: config.pods_dir.clone(),
            images_dir: config.images.dir().to_owned(),
            pressure,
        };
        tasks.spawn(evictor.run(shutdown.clone()));
        let backend = context.backend.clone();
        let manager = Manager::new(context, config.name.clone(), registry.clone());
        let first = is_registered.clone();
        tasks.spawn(run_pods(manager, backend, first, shutdown.clone()));
        let engine = config.containers.as_ref();
        let engine = engine.map(|containers| containers.shim.engine().clone());
        let registration = Registration {
            client,
            machine: machine(&config),
            images,
            pressure: is_pressed,
            refused,
            log_dir: logs.dir().to_owned(),
            engine,
            heartbeat: config.heartbeat,
            registered,
        };
        let connections = Connections::new(config.fabric, shutdown.clone());
        tasks.spawn(registration.run(shutdown));
        events.normal(&about(&config.name), "Starting", "Starting kubelet.");
        tasks.close();
        Ok(Self {
            machine: stats::Machine::new(
                config.name.clone(),
                logs.dir().to_owned(),
                config.images.dir().to_owned(),
            ),
            name: config.name,
            registry,
            logs,
            connections,
            executor,
            registered: is_registered,
            tasks,
        })
    }

    /// Name of its Node object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the API server asks a node for, at the kubelet's paths: `/containerLogs/{namespace}/{pod}/{container}`,
    /// `/portForward/{namespace}/{pod}`, `/attach/...`, `/exec/...`, `/pods`, `/stats/summary`, `/metrics/resource`,
    /// `/metrics/cadvisor` and `/healthz`. It checks no credentials:
    /// whoever may reach it may read every log and connect to every pod.
    pub fn router(&self) -> Router {
        http::router(http::Kubelet {
            registry: self.registry.clone(),
            logs: self.logs.clone(),
            connections: self.connections.clone(),
            executor: self.executor.clone(),
            machine: self.machine.clone(),
            disks: stats::disk::Disks::default(),
        })
    }

    /// Waits until this process has reported the node as Ready. (What the Node object says may be left from a process
    /// before.) Returns false if the node was shut down before.
    pub async fn ready(&self) -> bool {
        let mut registered = self.registered.clone();
        registered.wait_for(|registered| *registered).await.is_ok()
    }

    /// Waits until the node has ended, after its shutdown.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// Makes and removes volumes that outlive pods.
fn keep_claims(
    client: &Client,
    config: &NodeConfig,
    registry: &Registry,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Claims {
    let (name, dir) = (config.name.clone(), config.storage_dir.clone());
    let claims = Claims::new(client.clone(), name, dir);
    tasks.spawn(persistent::run(
        client.clone(),
        claims.clone(),
        registry.clone(),
        shutdown.clone(),
    ));
    claims
}

/// What the node says of itself.
fn machine(config: &NodeConfig) -> Machine {
    let engine = config.containers.as_ref();
    let engine = engine.map(|containers| containers.shim.engine());
    Machine {
        name: config.name.clone(),
        addresses: config.addresses.clone(),
        capacity: config.capacity.clone(),
        labels: config.labels.clone(),
        info: host::system_info(),
        engine: engine.map(|engine| format!("Docker {}", engine.version())),
        kernel_network: config.kernel_network.clone(),
    }
}

/// Compiles what comes before somebody waits for it.
fn compile_ahead(
    modules: &WasmBackend,
    images: &Images,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let modules = modules.clone();
    let prepare = move |image| {
        let modules = modules.clone();
        async move { modules.prepare(image).await }
    };
    tasks.spawn(compile::run(images.clone(), prepare, shutdown.clone()));
}

/// What runs modules.
fn modules(config: &NodeConfig) -> WasmBackend {
    WasmBackend::new(
        config.fabric.clone(),
        config.runtime.clone(),
        config.images.clone(),
    )
}

/// What removes images that nobody needs.
fn gc(
    config: &NodeConfig,
    images: &Images,
    registry: &Registry,
    events: &events::Recorder,
    requests: mpsc::Receiver<oneshot::Sender<()>>,
) -> Gc {
    Gc {
        images: images.clone(),
        registry: registry.clone(),
        events: events.clone(),
        about: about(&config.name),
        config: config.image_gc.clone(),
        requests,
    }
}

/// Has what runs containers give up images when the store does.
async fn tidy_images(backend: Arc<dyn Backend>, images: Images, shutdown: CancellationToken) {
    let mut changes = images.changes();
    let work = async {
        loop {
            backend.tidy_images().await;
            // What was in use may not be by then.
            tokio::select! {
                more = changes.changed() => if more.is_err() {
                    return;
                },
                () = tokio::time::sleep(TIDY_AGAIN) => {}
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Runs the node's pods from its registration to its end.
async fn run_pods(
    manager: Manager,
    backend: Arc<dyn Backend>,
    mut registered: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    // Without registration, the node is ending.
    if registered.wait_for(|registered| *registered).await.is_ok() {
        manager.run(shutdown).await;
    }
    // In good order, nothing is left; after a crash, what runs is found again.
    backend.close().await;
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What runs containers: modules, and Linux images where there is an engine.
fn backend(config: &NodeConfig, modules: WasmBackend) -> Arc<dyn Backend> {
    match &config.containers {
        Some(Containers { shim, dns }) => Arc::new(DockerBackend::new(shim.clone(), modules, *dns)),
        None => Arc::new(modules),
    }
}

/// Opens the store of logs, which may have to read much.
async fn open_logs(path: PathBuf, limits: LogLimits) -> Result<LogStore, StartError> {
    let dir = path.clone();
    let opened = tokio::task::spawn_blocking(move || LogStore::open(&dir, limits)).await;
    let opened = opened.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    opened.map_err(|source| StartError::LogDir { path, source })
}

/// What events about the node are about. Upstream's kubelet uses the name as uid, too: `kubectl describe` looks for it.
fn about(name: &str) -> Arc<ObjectReference> {
    Arc::new(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    })
}
