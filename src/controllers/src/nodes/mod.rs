//! Node lifecycle: a node that says nothing for too long is taken for lost.
//!
//! Nodes renew a Lease in `kube-node-lease`. When that stops, this controller sets the node's conditions to `Unknown`,
//! taints the node so that nothing new is scheduled there, and takes its pods out of service. It never declares a node
//! healthy: that is for the node itself to say.
//!
//! The taint that drives pods off ([`evictions`](crate::evictions)) comes to one node after the other, at the pace of their
//! zone (`zones`), and not at all while no node is ready.

mod health;
mod heartbeat;
mod zones;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use self::{
    health::Driving,
    heartbeat::{Heartbeats, Sign},
    zones::{News, Turn, Zones},
};
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

/// The namespace of the Leases by which nodes say that they are alive.
const LEASES: &str = "kube-node-lease";
/// How many pods of a lost node are updated at the same time.
const PODS_AT_ONCE: usize = 16;

/// Why a look at a node failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The node's Lease could not be read.
    #[error("reading the lease")]
    ReadLease(#[source] kube::Error),
    /// The node's conditions could not be written.
    #[error("updating the conditions")]
    Conditions(#[source] kube::Error),
    /// The node's taints could not be written.
    #[error("updating the taints")]
    Taints(#[source] kube::Error),
    /// A pod of the node could not be marked as not ready.
    #[error("marking pod {0} as not ready")]
    MarkPod(String, #[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing::default());
    let controller = Arc::new(Controller {
        nodes: context.informers.of(),
        leases: context.informers.of(),
        pods: context.informers.of(),
        heartbeats: Heartbeats::default(),
        zones: Zones::new(context.options.node_loss.clone()),
        recorder: context.recorder("node-controller"),
        queue: queue.clone(),
        context: context.clone(),
    });
    let synced = controller.nodes.synced().await
        && controller.leases.synced().await
        && controller.pods.synced().await;
    if !synced {
        return;
    }
    controller.listen();
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    heartbeats: Heartbeats,
    zones: Zones,
    recorder: Recorder,
    /// The names of nodes to look at.
    queue: WorkQueue<String>,
}

impl Reconciler for Controller {
    /// The node's name.
    type Key = String;
    type Error = SyncError;
    const NAME: &'static str = "node-lifecycle";

    async fn reconcile(&self, name: &String) -> Result<Next, SyncError> {
        let Some(node) = self.nodes.store().get(&ObjectKey::new("", name)) else {
            self.heartbeats.forget(name);
            return Ok(Next::Wait);
        };
        let silence = self.silence(name).await?;
        let left = self
            .context
            .options
            .node_loss
            .grace
            .checked_sub(silence)
            .filter(|left| !left.is_zero());
        let node = if left.is_some() {
            Node::clone(&node)
        } else {
            let lost = self.declare_lost(&node).await?;
            // The watch tells it later; by then the last node of all may have been given up.
            self.take_note(self.zones.count(&lost));
            lost
        };
        let turn = self.update_taints(&node).await?;
        if health::readiness(&node).is_some_and(|ready| ready != "True") {
            self.take_pods_out_of_service(name).await?;
        }
        // A lost node is looked at again when it posts its status.
        let next = [left, turn].into_iter().flatten().min();
        Ok(next.map_or(Next::Wait, Next::After))
    }
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let listener = Arc::clone(self);
        self.nodes.subscribe(move |change| {
            let node = change.object();
            listener.node_changed(change);
            let heartbeat = health::condition(node, health::READY)
                .and_then(|ready| ready.last_heartbeat_time.as_ref());
            if let Some(heartbeat) = heartbeat {
                listener.heartbeats.sign(
                    &node.name_any(),
                    Sign::Status(heartbeat.0),
                    Instant::now(),
                );
            }
            listener.queue.add(node.name_any());
        });
        let listener = Arc::clone(self);
        self.leases
            .subscribe(move |change| listener.lease_changed(change));
        let listener = Arc::clone(self);
        self.pods
            .subscribe(move |change| listener.pod_changed(change));
    }

    /// Says who came and went, and counts who is ready.
    fn node_changed(&self, change: &Change<'_, Node>) {
        let node = change.object();
        let name = node.name_any();
        let news = match change {
            Change::Deleted(_) => {
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                self.recorder.normal(node, "RemovingNode", message);
                self.zones.forget(&name)
            }
            Change::Added(_) => {
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.recorder.normal(node, "RegisteredNode", message);
                self.zones.count(node)
            }
            Change::Modified { .. } => self.zones.count(node),
        };
        self.take_note(news);
    }

    /// Has all nodes looked at when the pace of evictions is another.
    fn take_note(&self, news: News) {
        if news == News::BackAgain {
            self.heartbeats.forgive(Instant::now());
        }
        if news != News::Nothing {
            for node in self.nodes.store().all() {
                self.queue.add(node.name_any());
            }
        }
    }

    fn lease_changed(&self, change: &Change<'_, Lease>) {
        let lease = change.object();
        let is_of_node =
            lease.namespace().as_deref() == Some(LEASES) && !matches!(change, Change::Deleted(_));
        if let Some(sign) = renewal(lease).filter(|_| is_of_node) {
            self.heartbeats
                .sign(&lease.name_any(), sign, Instant::now());
        }
    }

    /// A pod that turns up on a lost node is out of service like the others.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let (Change::Added(pod) | Change::Modified { new: pod, .. }) = change else {
            return;
        };
        let Some(name) = pods::node_name(pod).filter(|_| pods::is_ready(pod)) else {
            return;
        };
        let node = self.nodes.store().get(&ObjectKey::new("", name));
        if node.is_some_and(|node| health::readiness(&node) == Some("Unknown")) {
            self.queue.add(name.to_owned());
        }
    }

    /// How long the node has said nothing. Before that is longer than allowed, the API server itself is asked: watch
    /// events may be late, above all after this process was stopped for a while.
    async fn silence(&self, name: &str) -> Result<Duration, SyncError> {
        let silence = self.heartbeats.silence(name, Instant::now());
        if silence < self.context.options.node_loss.grace {
            return Ok(silence);
        }
        let api = Api::<Lease>::namespaced(self.context.client.clone(), LEASES);
        let lease = api.get_opt(name).await.map_err(SyncError::ReadLease)?;
        if let Some(sign) = lease.as_ref().and_then(renewal) {
            self.heartbeats.sign(name, sign, Instant::now());
        }
        Ok(self.heartbeats.silence(name, Instant::now()))
    }

    async fn declare_lost(&self, node: &Node) -> Result<Node, SyncError> {
        let Some(conditions) = health::unknown(node, self.context.now()) else {
            return Ok(node.clone());
        };
        let name = node.name_any();
        let message = format!("Node {name} status is now: NodeNotReady");
        self.recorder.normal(node, "NodeNotReady", message);
        let patch = guarded(node, "status", json!({ "conditions": conditions }));
        let api = Api::<Node>::all(self.context.client.clone());
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(SyncError::Conditions)
    }

    /// Gives the node the taints that it should have. If it has to wait for one of them, tells for how long.
    async fn update_taints(&self, node: &Node) -> Result<Option<Duration>, SyncError> {
        let (driving, wait) = if self.zones.all_lost() || !health::is_lost(node) {
            (Driving::Off, None)
        } else if health::is_driving(node) {
            // Which of the two taints it is may change at any time.
            (Driving::On, None)
        } else {
            match self.zones.turn(node, Instant::now()) {
                Turn::Now => (Driving::On, None),
                Turn::In(left) => (Driving::Off, Some(left)),
                Turn::NotNow => (Driving::Off, None),
            }
        };
        let Some(taints) = health::taints(node, driving, self.context.now()) else {
            return Ok(wait);
        };
        let patch = guarded(node, "spec", json!({ "taints": taints }));
        let api = Api::<Node>::all(self.context.client.clone());
        let patched = api
            .patch(
                &node.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await;
        patched.map(|_| wait).map_err(SyncError::Taints)
    }

    /// Services must not send anybody to pods of which nothing is known.
    async fn take_pods_out_of_service(&self, node: &str) -> Result<(), SyncError> {
        let there = self.pods.store().on_node(node);
        let marking = there
            .into_iter()
            .filter(|pod| pods::is_ready(pod))
            .map(|pod| async move { self.mark_not_ready(&pod).await });
        stream::iter(marking)
            .buffer_unordered(PODS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), SyncError> {
        let mut conditions = pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        for ready in conditions
            .iter_mut()
            .filter(|condition| condition.type_ == health::READY)
        {
            "False".clone_into(&mut ready.status);
            ready.last_transition_time = Some(Time(self.context.now()));
        }
        let mut patch = meta::guarded_patch(&pod.metadata, json!({}));
        patch["status"] = json!({ "conditions": conditions });
        let api = Api::<Pod>::namespaced(
            self.context.client.clone(),
            &pod.namespace().unwrap_or_default(),
        );
        match api
            .patch_status(
                &pod.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
        {
            Ok(_) => {
                let message = "Node is not ready".to_owned();
                self.recorder.warning(pod, "NodeNotReady", message);
                Ok(())
            }
            Err(error) if meta::is_not_found(&error) => Ok(()),
            Err(error) => Err(SyncError::MarkPod(pod.name_any(), error)),
        }
    }
}

/// Whether the node says that it is ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    health::readiness(node) == Some("True")
}

fn renewal(lease: &Lease) -> Option<Sign> {
    Some(Sign::Lease(lease.spec.as_ref()?.renew_time.as_ref()?.0))
}

fn guarded(node: &Node, part: &str, content: serde_json::Value) -> serde_json::Value {
    let mut patch = meta::guarded_patch(&node.metadata, json!({}));
    patch[part] = content;
    patch
}

#[cfg(test)]
mod tests;
