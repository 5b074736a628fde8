//! Daemon sets: one pod on every node that it belongs on.
//!
//! [`placement`] says which nodes those are, [`plan`] what is missing, too much or out of date on each of them. Templates of
//! the past are kept as controller revisions.

mod placement;
mod plan;

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus},
    core::v1::{Node, Pod},
};
use kube::ResourceExt as _;
use vaquita_api::selector::LabelSelector as Selector;

use self::plan::{HASH_LABEL, View};
use crate::{
    ClaimError, Expectations,
    history::{self, History, HistoryError},
    replicas::{self, Hand, template},
};
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    pods::{self, Phase},
    queue::{Pacing, WorkQueue},
};

/// Between two looks at the same daemon set: nodes come in bursts.
const PACE: Duration = Duration::from_millis(10);
/// When to look again if what was asked for is not seen: an event may have been lost.
const SECOND_LOOK: Duration = Duration::from_mins(1);

/// Why a look at a daemon set failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Whose pods and revisions are whose could not be settled.
    #[error("claiming pods and revisions")]
    Claim(#[from] ClaimError),
    /// The history of templates could not be brought up to date.
    #[error("keeping the history")]
    History(#[from] HistoryError),
    /// A missing pod could not be created.
    #[error("creating a pod")]
    Create(#[source] kube::Error),
    /// A pod that should not be there could not be deleted.
    #[error("deleting a pod")]
    Delete(#[source] kube::Error),
    /// The status could not be written.
    #[error("updating the status")]
    Status(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing {
        interval: PACE,
        ..Pacing::default()
    });
    let controller = Arc::new(Controller {
        sets: context.informers.of(),
        nodes: context.informers.of(),
        pods: context.informers.of(),
        revisions: context.informers.of(),
        expectations: Expectations::default(),
        recorder: context.recorder("daemonset-controller"),
        queue: queue.clone(),
        context: context.clone(),
    });
    let synced = controller.sets.synced().await
        && controller.nodes.synced().await
        && controller.pods.synced().await
        && controller.revisions.synced().await;
    if !synced {
        return;
    }
    let listener = Arc::clone(&controller);
    controller
        .sets
        .subscribe(move |change| listener.queue.add(ObjectKey::of(change.object())));
    let listener = Arc::clone(&controller);
    controller
        .nodes
        .subscribe(move |change| listener.node_changed(change));
    let listener = Arc::clone(&controller);
    controller
        .pods
        .subscribe(move |change| listener.pod_changed(change));
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    expectations: Expectations,
    recorder: Recorder,
    queue: WorkQueue<ObjectKey>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "daemonset-controller";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(set) = self.sets.store().get(key) else {
            self.expectations.forget(key);
            return Ok(Next::Wait);
        };
        let Some(spec) = &set.spec else {
            return Ok(Next::Wait);
        };
        // On the heap: a set is a large object, and a look holds several.
        Box::pin(self.look(key, &set, spec)).await
    }
}

impl Controller {
    async fn look(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        spec: &DaemonSetSpec,
    ) -> Result<Next, SyncError> {
        // Asked before the pods are read: what is struck out in between is then among them.
        let all_seen = self.expectations.are_met(key);
        let pods = self.claimed_pods(set).await?;
        let going = meta::is_terminating(&set.metadata);
        let history = History {
            client: &self.context.client,
            owner: set,
            hash_label: HASH_LABEL,
            known: self.claimed_revisions(set).await?,
        };
        let reported = set.status.as_ref();
        let mut collisions = reported.and_then(|status| status.collision_count);
        let hash = if going {
            template::hash(&spec.template, collisions.filter(|count| *count > 0))
        } else {
            let latest = history
                .settle(&spec.template, collisions.unwrap_or(0))
                .await?;
            collisions = Some(latest.collisions).filter(|count| *count > 0);
            history::hash(&latest.revision, HASH_LABEL)
        };
        let nodes = self.nodes.store().all();
        let view = View::new(set, spec, &hash, &nodes, &pods, self.context.now());
        let acted = if all_seen && !going {
            self.act(key, set, &hash, view.plan()).await
        } else {
            Ok(())
        };
        let status = DaemonSetStatus {
            collision_count: collisions,
            ..view.status()
        };
        self.update_status(set, status).await?;
        acted?;
        if !going {
            let limit = spec.revision_history_limit.unwrap_or(10);
            let live = live_revisions(set, &hash, &pods);
            history.truncate(&live, limit).await?;
        }
        let second_look = (!all_seen).then_some(SECOND_LOOK);
        let next = view.next().into_iter().chain(second_look).min();
        Ok(next.map_or(Next::Wait, Next::After))
    }

    /// A node's labels and taints decide for every daemon set.
    fn node_changed(&self, change: &Change<'_, Node>) {
        if let Change::Modified { old, new } = change {
            let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
            if old.metadata.labels == new.metadata.labels && taints(old) == taints(new) {
                return;
            }
        }
        for set in self.sets.store().all() {
            self.queue.add(ObjectKey::of(&*set));
        }
    }

    /// Strikes out what was expected and queues whoever this pod may concern.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let Some(set) = self.sets.store().controlling(pod) else {
            if meta::controller_of(pod).is_none() && !matches!(change, Change::Deleted(_)) {
                self.queue_matching(pod);
            }
            return;
        };
        let key = ObjectKey::of(&*set);
        match change {
            Change::Added(_) => self.expectations.creation_seen(&key),
            Change::Modified { new, .. } if !meta::is_terminating(&new.metadata) => {}
            Change::Modified { .. } | Change::Deleted(_) => {
                self.expectations.deletion_seen(&key, meta::uid(pod));
            }
        }
        self.queue.add(key);
    }

    /// Queues everybody who might adopt this pod.
    fn queue_matching(&self, pod: &Pod) {
        let namespace = pod.namespace().unwrap_or_default();
        let matching = |set: &DaemonSet| selector(set).matches(pod.labels());
        for set in self.sets.store().in_namespace(&namespace, matching) {
            self.queue.add(ObjectKey::of(&*set));
        }
    }

    async fn claimed_pods(&self, set: &DaemonSet) -> Result<Vec<Arc<Pod>>, SyncError> {
        let (client, known) = (&self.context.client, self.pods.store());
        Ok(replicas::dependents(client, set, known, &selector(set)).await?)
    }

    async fn claimed_revisions(
        &self,
        set: &DaemonSet,
    ) -> Result<Vec<Arc<ControllerRevision>>, SyncError> {
        let (client, known) = (&self.context.client, self.revisions.store());
        Ok(replicas::dependents(client, set, known, &selector(set)).await?)
    }

    /// Gives up what should not be there; only when there is no such pod (or the next time), starts what is missing.
    async fn act(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        plan: plan::Plan,
    ) -> Result<(), SyncError> {
        let burst = self.context.options.replica_burst.max(1);
        let hand = Hand {
            client: &self.context.client,
            recorder: &self.recorder,
            owner: set,
        };
        let (mut give_up, mut start) = (plan.give_up, plan.start);
        give_up.truncate(burst);
        start.truncate(burst);
        if !give_up.is_empty() {
            let uids = give_up.iter().map(|pod| meta::uid(&**pod).to_owned());
            self.expectations.expect_deletions(key, uids);
            for pod in &give_up {
                self.tell_of_end(set, pod);
            }
            let each = give_up.iter().map(|pod| async {
                let result = hand.delete(pod).await;
                if !matches!(result, Ok(true)) {
                    self.expectations.deletion_seen(key, meta::uid(&**pod));
                }
                result.map(drop).map_err(SyncError::Delete)
            });
            return join_all(each).await.into_iter().collect();
        }
        if start.is_empty() {
            return Ok(());
        }
        let count = start.len();
        self.expectations.expect_creations(key, count);
        let mut models = start.iter().map(|node| model(set, hash, node));
        let (created, result) = replicas::slow_start(count, || {
            let (model, hand) = (models.next(), &hand);
            async move {
                match model {
                    Some(model) => hand.create(&model).await,
                    None => Ok(()),
                }
            }
        })
        .await;
        self.expectations.creations_seen(key, count - created);
        result
            .or_else(|error| hand.creation_failed(error))
            .map_err(SyncError::Create)
    }

    /// Daemons should not end: those that did are worth an event before they go.
    fn tell_of_end(&self, set: &DaemonSet, pod: &Pod) {
        let node = placement::node_of(pod).unwrap_or_default();
        let who = format!("{} on node {node}", ObjectKey::of(pod));
        match pods::phase(pod) {
            Phase::Failed => {
                let message = format!("Found failed daemon pod {who}, will try to kill it");
                self.recorder.warning(set, "FailedDaemonPod", message);
            }
            Phase::Succeeded => {
                let message = format!("Found succeeded daemon pod {who}, will try to delete it");
                self.recorder.normal(set, "SucceededDaemonPod", message);
            }
            Phase::Pending | Phase::Unknown | Phase::Running => {}
        }
    }

    async fn update_status(
        &self,
        set: &DaemonSet,
        status: DaemonSetStatus,
    ) -> Result<(), SyncError> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut updated = set.clone();
        updated.status = Some(status);
        let written = replicas::write_status(&self.context.client, &updated).await;
        written.map_err(SyncError::Status)
    }
}

fn selector(set: &DaemonSet) -> Selector {
    replicas::selector(set.spec.as_ref().map(|spec| &spec.selector))
}

/// The names of the revisions that pods are of, and of that of now.
fn live_revisions(set: &DaemonSet, hash: &str, pods: &[Arc<Pod>]) -> HashSet<String> {
    let of_pods = pods.iter().filter_map(|pod| pod.labels().get(HASH_LABEL));
    let hashes = of_pods.map(String::as_str).chain([hash]);
    let name = set.name_any();
    hashes.map(|hash| template::set_name(&name, hash)).collect()
}

/// A new pod for a node.
fn model(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone());
    let mut pod = replicas::pod_from_template(set, &template.unwrap_or_default());
    pod.labels_mut()
        .insert(HASH_LABEL.to_owned(), hash.to_owned());
    placement::pin(pod.spec.get_or_insert_default(), node);
    pod
}

#[cfg(test)]
mod tests;
