//! Replication controllers: as many pods as `spec.replicas` says, no more and no fewer.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    pods::{self, Availability},
    queue::{Pacing, WorkQueue},
    replicas::{self, ClaimError, Expectations},
};

/// The kind as owner references name it.
const KIND: &str = "ReplicationController";
/// The condition of a replication controller that can't create or delete its pods.
const REPLICA_FAILURE: &str = "ReplicaFailure";
/// Between two looks at the same controller: a hundred pods that change at once are worth a few looks.
const PACE: Duration = Duration::from_millis(10);
/// When to look again if what was asked for is not seen: an event may have been lost.
const SECOND_LOOK: Duration = Duration::from_mins(1);

/// Why a look at a replication controller failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Whose pods are whose could not be settled.
    #[error("claiming pods")]
    Claim(#[from] ClaimError),
    /// A missing pod could not be created.
    #[error("creating a pod")]
    Create(#[source] kube::Error),
    /// A superfluous pod could not be deleted.
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
        controllers: context.informers.of(),
        pods: context.informers.of(),
        expectations: Expectations::default(),
        recorder: context.recorder("replication-controller"),
        queue: queue.clone(),
        context: context.clone(),
    });
    if !(controller.controllers.synced().await && controller.pods.synced().await) {
        return;
    }
    let listener = Arc::clone(&controller);
    controller
        .controllers
        .subscribe(move |change| listener.queue.add(ObjectKey::of(change.object())));
    let listener = Arc::clone(&controller);
    controller
        .pods
        .subscribe(move |change| listener.pod_changed(change));
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    controllers: Informer<ReplicationController>,
    pods: Informer<Pod>,
    expectations: Expectations,
    recorder: Recorder,
    queue: WorkQueue<ObjectKey>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "replication-controller";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(controller) = self.controllers.store().get(key) else {
            self.expectations.forget(key);
            return Ok(Next::Wait);
        };
        // Asked before the pods are read: what is struck out in between is then among them.
        let all_seen = self.expectations.are_met(key);
        let pods = self.claimed_pods(key, &controller).await?;
        let managed = if all_seen && !meta::is_terminating(&controller.metadata) {
            self.adjust(key, &controller, &pods).await
        } else {
            Ok(())
        };
        let now = Timestamp::now();
        self.update_status(
            key,
            &controller,
            status(&controller, &pods, managed.as_ref().err(), now),
        )
        .await?;
        managed?;
        Ok(next_look(&controller, &pods, all_seen, now))
    }
}

impl Controller {
    /// Strikes out what was expected and queues whoever this pod may concern.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        match change {
            Change::Added(pod) if meta::is_terminating(&pod.metadata) => self.pod_gone(pod),
            Change::Added(pod) => match self.controller_key(pod) {
                Some(key) => {
                    self.expectations.creation_seen(&key);
                    self.queue.add(key);
                }
                None => self.queue_matching(pod),
            },
            Change::Modified { old, new } => self.pod_modified(old, new),
            Change::Deleted(pod) => self.pod_gone(pod),
        }
    }

    fn pod_modified(&self, old: &Pod, new: &Pod) {
        if meta::is_terminating(&new.metadata) {
            self.pod_gone(new);
        }
        let moved = meta::controller_of(old) != meta::controller_of(new);
        if moved && let Some(key) = self.controller_key(old) {
            self.queue.add(key);
        }
        if let Some(key) = self.controller_key(new) {
            self.queue.add(key);
        } else if moved || old.metadata.labels != new.metadata.labels {
            self.queue_matching(new);
        }
    }

    /// The pod is gone or going: it no longer counts.
    fn pod_gone(&self, pod: &Pod) {
        if let Some(key) = self.controller_key(pod) {
            self.expectations.deletion_seen(&key, meta::uid(pod));
            self.queue.add(key);
        }
    }

    /// The replication controller that controls the pod, if there still is that one.
    fn controller_key(&self, pod: &Pod) -> Option<ObjectKey> {
        let owner = meta::controller_of(pod).filter(|owner| owner.kind == KIND)?;
        let key = ObjectKey::new(pod.namespace()?, &owner.name);
        let controller = self.controllers.store().get(&key)?;
        (meta::uid(&*controller) == owner.uid).then_some(key)
    }

    /// Queues everybody who might adopt this pod.
    fn queue_matching(&self, pod: &Pod) {
        if meta::controller_of(pod).is_some() {
            return;
        }
        let namespace = pod.namespace().unwrap_or_default();
        for controller in self
            .controllers
            .store()
            .in_namespace(&namespace, |controller| selects(controller, pod))
        {
            self.queue.add(ObjectKey::of(&*controller));
        }
    }

    async fn claimed_pods(
        &self,
        key: &ObjectKey,
        controller: &ReplicationController,
    ) -> Result<Vec<Arc<Pod>>, SyncError> {
        let mut candidates = self.pods.store().controlled_by(meta::uid(controller));
        candidates.extend(self.pods.store().orphans(&key.namespace));
        candidates.retain(|pod| pods::is_active(pod));
        Ok(
            replicas::claim(&self.context.client, controller, candidates, |pod| {
                selects(controller, pod)
            })
            .await?,
        )
    }

    /// Creates what is missing or deletes what is too much, up to the burst.
    async fn adjust(
        &self,
        key: &ObjectKey,
        controller: &ReplicationController,
        pods: &[Arc<Pod>],
    ) -> Result<(), SyncError> {
        let wanted = usize::try_from(wanted(controller)).unwrap_or(0);
        let burst = self.context.options.replica_burst.max(1);
        match pods.len().cmp(&wanted) {
            Ordering::Less => {
                let missing = wanted - pods.len();
                self.create(key, controller, missing.min(burst)).await
            }
            Ordering::Equal => Ok(()),
            Ordering::Greater => {
                let mut doomed = pods.to_vec();
                replicas::sort_for_deletion(&mut doomed, Timestamp::now());
                doomed.truncate((pods.len() - wanted).min(burst));
                self.delete(key, controller, &doomed).await
            }
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        controller: &ReplicationController,
        count: usize,
    ) -> Result<(), SyncError> {
        let Some(template) = controller
            .spec
            .as_ref()
            .and_then(|spec| spec.template.as_ref())
        else {
            return Ok(());
        };
        let pod = replicas::pod_from_template(controller, template);
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        self.expectations.expect_creations(key, count);
        let (created, result) = replicas::slow_start(count, async || {
            match api.create(&PostParams::default(), &pod).await {
                Ok(created) => {
                    let message = format!("Created pod: {}", created.name_any());
                    self.recorder
                        .normal(controller, "SuccessfulCreate", message);
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })
        .await;
        self.expectations.creations_seen(key, count - created);
        match result {
            // Nothing will come of it, however often it is tried, and the whole namespace is going anyway.
            Err(error) if meta::is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {}", meta::message(&error));
                self.recorder.warning(controller, "FailedCreate", message);
                Err(SyncError::Create(error))
            }
            Ok(()) => Ok(()),
        }
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        controller: &ReplicationController,
        doomed: &[Arc<Pod>],
    ) -> Result<(), SyncError> {
        self.expectations
            .expect_deletions(key, doomed.iter().map(|pod| meta::uid(&**pod).to_owned()));
        let results = join_all(
            doomed
                .iter()
                .map(|pod| self.delete_one(key, controller, pod)),
        )
        .await;
        results.into_iter().collect()
    }

    async fn delete_one(
        &self,
        key: &ObjectKey,
        controller: &ReplicationController,
        pod: &Pod,
    ) -> Result<(), SyncError> {
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        let this_one = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        match api
            .delete(
                &pod.name_any(),
                &DeleteParams::default().preconditions(this_one),
            )
            .await
        {
            Ok(_) => {
                let message = format!("Deleted pod: {}", pod.name_any());
                self.recorder
                    .normal(controller, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                self.expectations.deletion_seen(key, meta::uid(pod));
                if meta::is_not_found(&error) || meta::is_conflict(&error) {
                    return Ok(());
                }
                let message = format!("Error deleting: {}", meta::message(&error));
                self.recorder.warning(controller, "FailedDelete", message);
                Err(SyncError::Delete(error))
            }
        }
    }

    async fn update_status(
        &self,
        key: &ObjectKey,
        controller: &ReplicationController,
        status: ReplicationControllerStatus,
    ) -> Result<(), SyncError> {
        if controller.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut updated = controller.clone();
        updated.status = Some(status);
        let api =
            Api::<ReplicationController>::namespaced(self.context.client.clone(), &key.namespace);
        match api
            .replace_status(&key.name, &PostParams::default(), &updated)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if meta::is_not_found(&error) => Ok(()),
            Err(error) => Err(SyncError::Status(error)),
        }
    }
}

fn wanted(controller: &ReplicationController) -> i32 {
    controller
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
        .max(0)
}

fn min_ready_seconds(controller: &ReplicationController) -> i32 {
    controller
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0)
}

fn selects(controller: &ReplicationController, pod: &Pod) -> bool {
    let selector = controller
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    // An empty selector would take in the whole namespace; nobody ever means that.
    selector.is_some_and(|selector| !selector.is_empty() && has_all(pod.labels(), selector))
}

/// Whether `labels` has all of `wanted`.
fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn status(
    controller: &ReplicationController,
    pods: &[Arc<Pod>],
    failure: Option<&SyncError>,
    now: Timestamp,
) -> ReplicationControllerStatus {
    let template = controller
        .spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref());
    let template = template
        .and_then(|template| template.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let min_ready = min_ready_seconds(controller);
    let tally = |counts: &dyn Fn(&Pod) -> bool| {
        replicas::count(pods.iter().filter(|pod| counts(pod)).count())
    };
    // Counts of nothing are left out, as they are when a client reads them back.
    let optional = |count: i32| Some(count).filter(|count| *count != 0);
    ReplicationControllerStatus {
        replicas: replicas::count(pods.len()),
        fully_labeled_replicas: optional(tally(&|pod| has_all(pod.labels(), &template))),
        ready_replicas: optional(tally(&pods::is_ready)),
        available_replicas: optional(tally(&|pod| {
            pods::availability(pod, min_ready, now) == Availability::Yes
        })),
        observed_generation: controller.metadata.generation,
        conditions: conditions(controller, failure, now),
    }
}

/// The conditions there are, with [`REPLICA_FAILURE`] as it is now.
fn conditions(
    controller: &ReplicationController,
    failure: Option<&SyncError>,
    now: Timestamp,
) -> Option<Vec<ReplicationControllerCondition>> {
    let known = controller
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let (failures, mut conditions): (Vec<_>, Vec<_>) = known
        .into_iter()
        .partition(|condition| condition.type_ == REPLICA_FAILURE);
    let (reason, error) = match failure {
        Some(SyncError::Create(error)) => ("FailedCreate", error),
        Some(SyncError::Delete(error)) => ("FailedDelete", error),
        _ => return Some(conditions).filter(|conditions| !conditions.is_empty()),
    };
    let since = failures
        .into_iter()
        .next()
        .and_then(|condition| condition.last_transition_time);
    conditions.push(ReplicationControllerCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(meta::message(error)),
        last_transition_time: since.or(Some(Time(now))),
    });
    Some(conditions)
}

/// When something will be different without any event: the next pod becomes available.
fn next_look(
    controller: &ReplicationController,
    pods: &[Arc<Pod>],
    all_seen: bool,
    now: Timestamp,
) -> Next {
    let min_ready = min_ready_seconds(controller);
    let becoming_available =
        pods.iter()
            .filter_map(|pod| match pods::availability(pod, min_ready, now) {
                Availability::In(left) => Some(left),
                Availability::No | Availability::Yes => None,
            });
    becoming_available
        .chain((!all_seen).then_some(SECOND_LOOK))
        .min()
        .map_or(Next::Wait, Next::After)
}

#[cfg(test)]
mod tests;
