//! The node's place in the cluster: its Node object, its lease, and the heartbeat that keeps both fresh.
//!
//! The Lease says that the node lives, every ten seconds; the Node's status is written only when it has changed, or
//! every five minutes, because it is large and everybody watches it. A Node object that somebody deleted comes back.

mod object;

use std::{path::PathBuf, time::Duration};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use vaquita_docker::Engine;

use crate::{
    eviction::Pressure,
    host,
    images::Images,
    refused::{self, Refused},
};
pub(crate) use object::Machine;
use object::{Measures, says_the_same};

/// Where leases of nodes are.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// A node whose lease is older than this is taken for dead. Upstream's default.
const LEASE_SECONDS: i32 = 40;
/// How long a Docker engine may take to say that it is there.
const ENGINE_PATIENCE: Duration = Duration::from_secs(3);
/// How often the status is written when nothing has changed. Upstream's default.
const STATUS_EVERY: Duration = Duration::from_mins(5);
/// How soon a failed heartbeat is tried again at first; then twice as long each time, up to the heartbeat itself.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Keeps the Node object and its lease.
pub(crate) struct Registration {
    pub(crate) client: Client,
    pub(crate) machine: Machine,
    pub(crate) images: Images,
    /// What the node is short of.
    pub(crate) pressure: watch::Receiver<Pressure>,
    pub(crate) refused: Refused,
    pub(crate) log_dir: PathBuf,
    /// What runs Linux images, if anything does.
    pub(crate) engine: Option<Engine>,
    pub(crate) heartbeat: Duration,
    /// Becomes true when the node has reported itself for the first time.
    pub(crate) registered: watch::Sender<bool>,
}

impl Registration {
    /// Registers the node, and keeps it registered until told to stop.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let own = watcher::watch_object(nodes, &self.machine.name).default_backoff();
        // Only its absence is of interest, and errors repeat by themselves.
        let mut deleted = Box::pin(own.filter(|seen| std::future::ready(matches!(seen, Ok(None)))));
        let mut status_written = None;
        let mut retry = FIRST_RETRY;
        let mut refused = self.refused.changes();
        let mut pressure = self.pressure.clone();
        loop {
            let pause = match self.beat(&mut status_written).await {
                Ok(()) => {
                    self.registered.send_replace(true);
                    retry = FIRST_RETRY;
                    self.heartbeat
                }
                Err(error) => {
                    tracing::warn!(node = self.machine.name, %error, "cannot report the node's status");
                    let pause = retry;
                    retry = (retry * 2).min(self.heartbeat);
                    pause
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                // Those who wait for another node should not wait long.
                Ok(()) = refused.changed() => {}
                Ok(()) = pressure.changed() => {}
                Some(_) = deleted.next() => tracing::debug!("the Node object is absent"),
            }
        }
    }

    async fn beat(&self, status_written: &mut Option<Instant>) -> kube::Result<()> {
        let (node, created) = self.ensure_node().await?;
        if created {
            *status_written = None;
        }
        let measures = self.measure().await;
        let status = self
            .machine
            .status(&measures, node.status.as_ref(), Timestamp::now());
        let same = node
            .status
            .as_ref()
            .is_some_and(|old| says_the_same(old, &status));
        let fresh = status_written.is_some_and(|at| at.elapsed() < STATUS_EVERY);
        if !(same && fresh) {
            let nodes: Api<Node> = Api::all(self.client.clone());
            let patch = Patch::Merge(json!({ "status": status }));
            nodes
                .patch_status(&self.machine.name, &PatchParams::default(), &patch)
                .await?;
            *status_written = Some(Instant::now());
        }
        self.renew_lease(&node).await
    }

    /// The Node object, created if there is none, and whether it was.
    async fn ensure_node(&self) -> kube::Result<(Node, bool)> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        if let Some(node) = nodes.get_opt(&self.machine.name).await? {
            let wanted = self.machine.labels();
            let refused = self.refused.text();
            let is_labelled = wanted
                .iter()
                .all(|(key, value)| node.labels().get(key) == Some(value));
            if is_labelled && node.annotations().get(refused::ANNOTATION) == refused.as_ref() {
                return Ok((node, false));
            }
            let annotations = json!({ refused::ANNOTATION: refused });
            let patch = Patch::Merge(
                json!({ "metadata": { "labels": wanted, "annotations": annotations } }),
            );
            let node = nodes
                .patch(&self.machine.name, &PatchParams::default(), &patch)
                .await?;
            return Ok((node, false));
        }
        let node = nodes
            .create(&PostParams::default(), &self.machine.node())
            .await?;
        tracing::info!(node = self.machine.name, "registered");
        Ok((node, true))
    }

    async fn measure(&self) -> Measures {
        let images = self.images.list().await;
        let (log_dir, pressure) = (self.log_dir.clone(), *self.pressure.borrow());
        let engine_problem = self.engine_problem().await;
        let measure = move || Measures {
            pressure,
            disk: host::disk(&log_dir),
            images,
            engine_problem,
        };
        // Blocking work can only fail by a panic, which has been reported.
        tokio::task::spawn_blocking(measure)
            .await
            .unwrap_or_default()
    }

    /// Why the engine does not answer, if there is one and it does not.
    async fn engine_problem(&self) -> Option<String> {
        let engine = self.engine.as_ref()?;
        match timeout(ENGINE_PATIENCE, engine.answers()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the Docker engine does not answer in time".to_owned()),
        }
    }

    async fn renew_lease(&self, node: &Node) -> kube::Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let renew_time = MicroTime(Timestamp::now());
        let patch = Patch::Merge(json!({ "spec": {
            "holderIdentity": self.machine.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": renew_time,
        }}));
        match leases
            .patch(&self.machine.name, &PatchParams::default(), &patch)
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            renewed => return renewed.map(drop),
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.machine.name.clone()),
                namespace: Some(LEASE_NAMESPACE.to_owned()),
                owner_references: node.uid().map(|uid| {
                    vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Node".to_owned(),
                        name: self.machine.name.clone(),
                        uid,
                        ..OwnerReference::default()
                    }]
                }),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.machine.name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(renew_time),
                ..LeaseSpec::default()
            }),
        };
        leases
            .create(&PostParams::default(), &lease)
            .await
            .map(drop)
    }
}
