//! Stateful sets: pods with numbers, names and claims of their own, made and given up in order.
//!
//! [`identity`] says who a pod is, [`plan`] what the next step is, `hand` takes it. A pod's name is what keeps it from being
//! made twice, and its uid from being given up twice, so nothing needs to be remembered between looks.

mod hand;
mod identity;
mod plan;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus},
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::ResourceExt as _;
use vaquita_api::selector::LabelSelector as Selector;

use self::{hand::Hand, plan::View};
use crate::{
    ClaimError,
    history::{self, History, HistoryError},
    replicas,
};
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

/// Between two looks at the same set: pods change in bursts.
const PACE: Duration = Duration::from_millis(10);
/// The label by which a revision carries its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// Why a look at a stateful set failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Whose pods and revisions are whose could not be settled.
    #[error("claiming pods and revisions")]
    Claim(#[from] ClaimError),
    /// The history of templates could not be brought up to date.
    #[error("keeping the history")]
    History(#[from] HistoryError),
    /// A missing pod could not be created.
    #[error("creating the pod {name}")]
    Create {
        /// The pod.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The name of a pod is taken by somebody else's.
    #[error("the name {0} is taken by a pod of somebody else")]
    Taken(String),
    /// A pod that should not be there could not be deleted.
    #[error("deleting the pod {name}")]
    Delete {
        /// The pod.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The labels that say who a pod is could not be put on it.
    #[error("labelling a pod")]
    Label(#[source] kube::Error),
    /// The claim of a pod could not be created.
    #[error("creating the claim {name}")]
    CreateClaim {
        /// The claim.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// It could not be written down with whom a claim ends.
    #[error("updating the owners of a claim")]
    ClaimOwners(#[source] kube::Error),
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
        pods: context.informers.of(),
        revisions: context.informers.of(),
        claims: context.informers.of(),
        recorder: context.recorder("statefulset-controller"),
        queue: queue.clone(),
        context: context.clone(),
    });
    let synced = controller.sets.synced().await
        && controller.pods.synced().await
        && controller.revisions.synced().await
        && controller.claims.synced().await;
    if !synced {
        return;
    }
    let listener = Arc::clone(&controller);
    controller
        .sets
        .subscribe(move |change| listener.queue.add(ObjectKey::of(change.object())));
    let listener = Arc::clone(&controller);
    controller
        .pods
        .subscribe(move |change| listener.pod_changed(change));
    let listener = Arc::clone(&controller);
    controller
        .claims
        .subscribe(move |change| listener.claim_changed(change));
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    claims: Informer<PersistentVolumeClaim>,
    recorder: Recorder,
    queue: WorkQueue<ObjectKey>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "statefulset-controller";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(set) = self.sets.store().get(key) else {
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
        set: &StatefulSet,
        spec: &StatefulSetSpec,
    ) -> Result<Next, SyncError> {
        let pods = self.claimed_pods(key, set).await?;
        if meta::is_terminating(&set.metadata) {
            return Ok(Next::Wait);
        }
        let history = History {
            client: &self.context.client,
            owner: set,
            hash_label: HASH_LABEL,
            known: self.claimed_revisions(set).await?,
        };
        let reported = set.status.clone().unwrap_or_default();
        let collisions = reported.collision_count.unwrap_or(0);
        let latest = history.settle(&spec.template, collisions).await?;
        let current = match reported.current_revision.as_deref() {
            None | Some("") => None,
            Some(name) => history.find(name).await?,
        };
        let current = current.unwrap_or_else(|| Arc::clone(&latest.revision));
        let view = View::new(
            set,
            spec,
            &pods,
            current.name_any(),
            latest.revision.name_any(),
            self.context.now(),
        );
        let before = StatefulSetSpec {
            template: history::template(&current).unwrap_or_else(|| spec.template.clone()),
            ..spec.clone()
        };
        let hand = Hand {
            client: &self.context.client,
            recorder: &self.recorder,
            claims: self.claims.store(),
            set,
            spec,
            before: &before,
        };
        let burst = self.context.options.replica_burst.max(1);
        let acted = hand.act(&view, burst).await;
        let status = view.status(latest.collisions);
        self.update_status(set, status).await?;
        acted?;
        let limit = spec.revision_history_limit.unwrap_or(10);
        history.truncate(&view.live_revisions(), limit).await?;
        Ok(view.next().map_or(Next::Wait, Next::After))
    }

    /// Queues whoever this pod may concern.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        if let Some(set) = self.sets.store().controlling(pod) {
            self.queue.add(ObjectKey::of(&*set));
        } else if meta::controller_of(pod).is_none() {
            let namespace = pod.namespace().unwrap_or_default();
            let matching = |set: &StatefulSet| {
                identity::ordinal(set, pod).is_some() && selector(set).matches(pod.labels())
            };
            for set in self.sets.store().in_namespace(&namespace, matching) {
                self.queue.add(ObjectKey::of(&*set));
            }
        }
        if let Change::Modified { old, .. } = change
            && meta::controller_of(&***old) != meta::controller_of(pod)
            && let Some(set) = self.sets.store().controlling(&***old)
        {
            self.queue.add(ObjectKey::of(&*set));
        }
    }

    /// A pod may wait for the claim of the pod before it to be gone.
    fn claim_changed(&self, change: &Change<'_, PersistentVolumeClaim>) {
        if !matches!(change, Change::Deleted(_)) {
            return;
        }
        let namespace = change.object().namespace().unwrap_or_default();
        let with_claims = |set: &StatefulSet| {
            let spec = set.spec.as_ref();
            spec.is_some_and(|spec| spec.volume_claim_templates.is_some())
        };
        for set in self.sets.store().in_namespace(&namespace, with_claims) {
            self.queue.add(ObjectKey::of(&*set));
        }
    }

    async fn claimed_pods(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
    ) -> Result<Vec<Arc<Pod>>, SyncError> {
        let mut candidates = self.pods.store().controlled_by(meta::uid(set));
        candidates.extend(self.pods.store().orphans(&key.namespace));
        candidates.retain(|pod| identity::ordinal(set, pod).is_some());
        let selector = selector(set);
        let matches = |pod: &Pod| selector.matches(pod.labels());
        Ok(replicas::claim(&self.context.client, set, candidates, matches).await?)
    }

    async fn claimed_revisions(
        &self,
        set: &StatefulSet,
    ) -> Result<Vec<Arc<ControllerRevision>>, SyncError> {
        let (client, known) = (&self.context.client, self.revisions.store());
        Ok(replicas::dependents(client, set, known, &selector(set)).await?)
    }

    async fn update_status(
        &self,
        set: &StatefulSet,
        status: StatefulSetStatus,
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

fn selector(set: &StatefulSet) -> Selector {
    replicas::selector(set.spec.as_ref().map(|spec| &spec.selector))
}

#[cfg(test)]
mod tests;
