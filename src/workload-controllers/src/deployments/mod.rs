//! Deployments: a replica set for each version of the pod template, and pods moved from the old ones to the new.
//!
//! Pods are left to the controller of replica sets; this one creates, sizes and deletes replica sets. [`plan`] says how
//! many pods which set should have, [`rollout`] makes it so, [`status`] tells about it.

mod plan;
mod revisions;
mod rollout;
mod status;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::ResourceExt as _;
use vaquita_api::selector::LabelSelector as Selector;

use self::rollout::Rollout;
use crate::replicas::{self, ClaimError};
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

/// Between two looks at the same deployment: pods become ready in bursts.
const PACE: Duration = Duration::from_millis(10);

/// Why a look at a deployment failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Whose replica sets are whose could not be settled.
    #[error("claiming replica sets")]
    Claim(#[from] ClaimError),
    /// The replica set of the new template could not be created.
    #[error("creating a replica set")]
    Create(#[source] kube::Error),
    /// The name of the new replica set is taken by another one; the next look tries another name.
    #[error("the name {0} is taken by a replica set of another template")]
    Collision(String),
    /// A replica set could not be sized or annotated.
    #[error("updating a replica set")]
    Update(#[source] kube::Error),
    /// A replica set of the past could not be deleted.
    #[error("deleting a replica set")]
    Delete(#[source] kube::Error),
    /// The revision could not be written into the deployment.
    #[error("updating the revision")]
    Revision(#[source] kube::Error),
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
        deployments: context.informers.of(),
        sets: context.informers.of(),
        pods: context.informers.of(),
        recorder: context.recorder("deployment-controller"),
        queue: queue.clone(),
        context: context.clone(),
    });
    let synced = controller.deployments.synced().await
        && controller.sets.synced().await
        && controller.pods.synced().await;
    if !synced {
        return;
    }
    let listener = Arc::clone(&controller);
    controller
        .deployments
        .subscribe(move |change| listener.queue.add(ObjectKey::of(change.object())));
    let listener = Arc::clone(&controller);
    controller
        .sets
        .subscribe(move |change| listener.set_changed(change));
    let listener = Arc::clone(&controller);
    controller.pods.subscribe(move |change| {
        if let Change::Deleted(pod) = change {
            listener.pod_gone(pod);
        }
    });
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: Recorder,
    queue: WorkQueue<ObjectKey>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "deployment-controller";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(deployment) = self.deployments.store().get(key) else {
            return Ok(Next::Wait);
        };
        let (client, known) = (&self.context.client, self.sets.store());
        let selector = selector(&deployment);
        let sets = replicas::dependents(client, &*deployment, known, &selector).await?;
        let deployment = Deployment::clone(&deployment);
        // On the heap: a deployment is a large object, and a look holds several.
        Box::pin(Rollout::new(self, deployment, sets, self.context.now()).advance()).await
    }
}

impl Controller {
    /// Queues whoever a replica set concerns: those who control it, and those who might adopt it.
    fn set_changed(&self, change: &Change<'_, ReplicaSet>) {
        let set = change.object();
        let moved = match change {
            Change::Modified { old, new } => {
                let moved = meta::controller_of(&***old) != meta::controller_of(&***new);
                if moved && let Some(key) = self.controller_key(old) {
                    self.queue.add(key);
                }
                moved || old.metadata.labels != new.metadata.labels
            }
            Change::Added(_) => true,
            Change::Deleted(_) => false,
        };
        if let Some(key) = self.controller_key(set) {
            self.queue.add(key);
        } else if moved && meta::controller_of(set).is_none() {
            let namespace = set.namespace().unwrap_or_default();
            let matching = |deployment: &Deployment| selector(deployment).matches(set.labels());
            for deployment in self.deployments.store().in_namespace(&namespace, matching) {
                self.queue.add(ObjectKey::of(&*deployment));
            }
        }
    }

    /// A deployment that makes all pods anew waits for the last old one to be gone.
    fn pod_gone(&self, pod: &Pod) {
        let set = self.sets.store().controlling(pod);
        if let Some(key) = set.and_then(|set| self.controller_key(&set))
            && let Some(deployment) = self.deployments.store().get(&key)
            && plan::is_recreate(&deployment)
        {
            self.queue.add(key);
        }
    }

    /// The deployment that controls the replica set, if there still is that one.
    fn controller_key(&self, set: &ReplicaSet) -> Option<ObjectKey> {
        let deployment = self.deployments.store().controlling(set)?;
        Some(ObjectKey::of(&*deployment))
    }
}

fn selector(deployment: &Deployment) -> Selector {
    replicas::selector(deployment.spec.as_ref().map(|spec| &spec.selector))
}

#[cfg(test)]
mod tests;
