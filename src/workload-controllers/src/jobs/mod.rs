//! Jobs: pods that run to their end, as many as are wanted, tried again as often as is allowed.
//!
//! [`status`] counts who has ended and says whether the job has, by what [`policy`] says of failures and [`retries`] of single
//! indexes; [`look`](look::Look) acts on it.

mod indexes;
mod look;
mod policy;
mod retries;
mod status;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Api, Resource, ResourceExt, api::PatchParams};
use serde_json::json;

use self::look::Look;
use crate::{ClaimError, Expectations, replicas};
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

/// Between two looks at the same job: pods end in bursts.
const PACE: Duration = Duration::from_millis(10);
/// Who else may be in charge of a job instead of this controller is named in `spec.managedBy`; this is this controller.
const MANAGER: &str = "kubernetes.io/job-controller";

/// Why a look at a job failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Whose pods are whose could not be settled.
    #[error("claiming pods")]
    Claim(#[from] ClaimError),
    /// A pod that was adopted could not be marked as one that is to be counted.
    #[error("tracking a pod")]
    Track(#[source] kube::Error),
    /// A pod could not be created.
    #[error("creating a pod")]
    Create(#[source] kube::Error),
    /// A pod that is too much could not be deleted.
    #[error("deleting a pod")]
    Delete(#[source] kube::Error),
    /// A pod that is counted could not be let go.
    #[error("letting a pod go")]
    Release(#[source] kube::Error),
    /// It could not be found out whether the job of a pod still is there.
    #[error("looking for the job of a pod")]
    Owner(#[source] kube::Error),
    /// The status could not be written.
    #[error("updating the status")]
    Status(#[source] kube::Error),
    /// A job that has been over for long enough could not be deleted.
    #[error("deleting the job")]
    Expire(#[source] kube::Error),
}

/// What there is to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Job(ObjectKey),
    /// A pod of a job that is no more, which nobody will count.
    Stray(ObjectKey),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(key) => write!(f, "{key}"),
            Self::Stray(key) => write!(f, "pod {key}"),
        }
    }
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing {
        interval: PACE,
        ..Pacing::default()
    });
    let controller = Arc::new(Controller {
        jobs: context.informers.of(),
        pods: context.informers.of(),
        expectations: Expectations::default(),
        written: Mutex::default(),
        recorder: context.recorder("job-controller"),
        queue: queue.clone(),
        context: context.clone(),
    });
    if !(controller.jobs.synced().await && controller.pods.synced().await) {
        return;
    }
    let listener = Arc::clone(&controller);
    controller
        .jobs
        .subscribe(move |change| listener.job_changed(change));
    let listener = Arc::clone(&controller);
    controller
        .pods
        .subscribe(move |change| listener.pod_changed(change));
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    expectations: Expectations,
    /// The version that each job has since its status was last written. Until the local copy shows that one, the pods in
    /// it may have been counted already.
    written: Mutex<HashMap<ObjectKey, u64>>,
    recorder: Recorder,
    queue: WorkQueue<Key>,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = SyncError;
    const NAME: &'static str = "job-controller";

    async fn reconcile(&self, key: &Key) -> Result<Next, SyncError> {
        let key = match key {
            Key::Job(key) => key,
            Key::Stray(key) => return self.let_stray_go(key).await.map(|()| Next::Wait),
        };
        let Some(job) = self.jobs.store().get(key) else {
            self.expectations.forget(key);
            self.written().remove(key);
            return Ok(Next::Wait);
        };
        let manager = job
            .spec
            .as_ref()
            .and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != MANAGER) || self.is_behind(key, &job) {
            return Ok(Next::Wait);
        }
        // Asked before the pods are read: what is struck out in between is then among them.
        let all_seen = self.expectations.are_met(key);
        let pods = self.claimed_pods(key, &job).await?;
        // On the heap: a job is a large object, and a look holds several.
        Box::pin(Look::new(self, key, &job, pods).advance(all_seen)).await
    }
}

impl Controller {
    fn job_changed(&self, change: &Change<'_, Job>) {
        let job = change.object();
        self.queue.add(Key::Job(ObjectKey::of(job)));
        if let Change::Deleted(job) = change {
            for pod in self.pods.store().controlled_by(meta::uid(&***job)) {
                self.queue.add(Key::Stray(ObjectKey::of(&*pod)));
            }
        }
    }

    /// Strikes out what was expected and queues the pod's job, or the pod if there is none.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let Some(key) = self.controller_key(pod) else {
            if status::is_tracked(pod) {
                self.queue.add(Key::Stray(ObjectKey::of(pod)));
            }
            if meta::controller_of(pod).is_none() && !matches!(change, Change::Deleted(_)) {
                self.queue_matching(pod);
            }
            return;
        };
        match change {
            Change::Added(_) => self.expectations.creation_seen(&key),
            Change::Modified { new, .. } if !meta::is_terminating(&new.metadata) => {}
            Change::Modified { .. } | Change::Deleted(_) => {
                self.expectations.deletion_seen(&key, meta::uid(pod));
            }
        }
        self.queue.add(Key::Job(key));
    }

    /// The pods of the job, those that have ended included. Orphans that it selects are adopted, and tracked from then on.
    async fn claimed_pods(&self, key: &ObjectKey, job: &Job) -> Result<Vec<Arc<Pod>>, SyncError> {
        let mut candidates = self.pods.store().controlled_by(meta::uid(job));
        let Some(selector) = job.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else {
            return Ok(candidates);
        };
        let selector = replicas::selector(Some(selector));
        let orphans = self.pods.store().orphans(&key.namespace);
        candidates.extend(orphans.into_iter().filter(|pod| pods::is_active(pod)));
        let matches = |pod: &Pod| selector.matches(pod.labels());
        let mut claimed = replicas::claim(&self.context.client, job, candidates, matches).await?;
        let over = job.status.as_ref().is_some_and(status::is_finished);
        for pod in &mut claimed {
            if !over && pods::is_active(pod) && !status::is_tracked(pod) {
                *pod = Arc::new(self.track(pod).await?);
            }
        }
        Ok(claimed)
    }

    /// Queues everybody who might adopt this pod.
    fn queue_matching(&self, pod: &Pod) {
        let namespace = pod.namespace().unwrap_or_default();
        let matching = |job: &Job| {
            let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            replicas::selector(selector).matches(pod.labels())
        };
        for job in self.jobs.store().in_namespace(&namespace, matching) {
            self.queue.add(Key::Job(ObjectKey::of(&*job)));
        }
    }

    /// The job that controls the pod, if there still is that one.
    fn controller_key(&self, pod: &Pod) -> Option<ObjectKey> {
        self.jobs
            .store()
            .controlling(pod)
            .map(|job| ObjectKey::of(&*job))
    }

    /// Takes the finalizer from a pod whose job is gone: nothing counts it any more, and it could not go.
    async fn let_stray_go(&self, key: &ObjectKey) -> Result<(), SyncError> {
        let Some(pod) = self.pods.store().get(key) else {
            return Ok(());
        };
        if !status::is_tracked(&pod) || self.controller_key(&pod).is_some() {
            return Ok(());
        }
        if let Some(owner) = owner(&pod) {
            // Our copy of the jobs may be the one that is late.
            let api = Api::<Job>::namespaced(self.context.client.clone(), &key.namespace);
            let live = api.get_opt(&owner.name).await.map_err(SyncError::Owner)?;
            if live.is_some_and(|job| meta::uid(&job) == owner.uid) {
                return Ok(());
            }
        }
        self.release(&pod).await
    }

    /// Puts the finalizer on a pod, so that it stays until it is counted.
    async fn track(&self, pod: &Pod) -> Result<Pod, SyncError> {
        let mut finalizers = pod.finalizers().to_vec();
        finalizers.push(status::FINALIZER.to_owned());
        let patch = meta::guarded_patch(&pod.metadata, json!({ "finalizers": finalizers }));
        let namespace = pod.namespace().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &namespace);
        let patch = kube::api::Patch::Merge(patch);
        let params = PatchParams::default();
        let tracked = api.patch(&pod.name_any(), &params, &patch).await;
        tracked.map_err(SyncError::Track)
    }

    /// Takes the finalizer from a pod.
    async fn release(&self, pod: &Pod) -> Result<(), SyncError> {
        let mut finalizers = pod.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != status::FINALIZER);
        let patch = meta::guarded_patch(&pod.metadata, json!({ "finalizers": finalizers }));
        let namespace = pod.namespace().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &namespace);
        let patch = kube::api::Patch::Merge(patch);
        match api
            .patch(&pod.name_any(), &PatchParams::default(), &patch)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if meta::is_not_found(&error) => Ok(()),
            Err(error) => Err(SyncError::Release(error)),
        }
    }

    /// Whether the local copy of the job is older than what was last written.
    fn is_behind(&self, key: &ObjectKey, job: &Job) -> bool {
        let written = self.written().get(key).copied();
        written
            .zip(version(job))
            .is_some_and(|(written, known)| known < written)
    }

    fn note_written(&self, key: &ObjectKey, job: &Job) {
        if let Some(version) = version(job) {
            self.written().insert(key.clone(), version);
        }
    }

    fn written(&self) -> MutexGuard<'_, HashMap<ObjectKey, u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The job that the pod says controls it.
fn owner(pod: &Pod) -> Option<&OwnerReference> {
    meta::controller_of(pod).filter(|owner| owner.kind == Job::kind(&()))
}

/// The resource version as the number that it is; versions of one kind rise.
fn version(job: &Job) -> Option<u64> {
    job.metadata.resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests;
