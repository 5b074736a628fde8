//! The engine behind all kinds that keep a number of pods: no more and no fewer than wanted.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::{apps::v1::ReplicaSetStatus, core::v1::Pod};
use kube::ResourceExt;

use super::{
    ClaimError, Expectations, Hand, Owner, claim, pod_from_template, slow_start, sort_for_deletion,
    status::{next_available, status},
};
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

/// Between two looks at the same owner: a hundred pods that change at once are worth a few looks.
const PACE: Duration = Duration::from_millis(10);
/// When to look again if what was asked for is not seen: an event may have been lost.
const SECOND_LOOK: Duration = Duration::from_mins(1);

/// Why a look at an owner of pods failed.
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

/// The owner of one kind of [`Owner`].
pub(crate) struct Keeper<O> {
    context: Context,
    owners: Informer<O>,
    pods: Informer<Pod>,
    expectations: Expectations,
    recorder: Recorder,
    queue: WorkQueue<ObjectKey>,
}

impl<O: Owner> Reconciler for Keeper<O> {
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = O::CONTROLLER;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(owner) = self.owners.store().get(key) else {
            self.expectations.forget(key);
            return Ok(Next::Wait);
        };
        // Asked before the pods are read: what is struck out in between is then among them.
        let all_seen = self.expectations.are_met(key);
        let pods = self.claimed_pods(key, &owner).await?;
        let managed = if all_seen && !meta::is_terminating(owner.meta()) {
            self.adjust(key, &owner, &pods).await
        } else {
            Ok(())
        };
        let now = self.context.now();
        self.update_status(
            &owner,
            status(
                &*owner,
                &pods,
                self.terminating(&owner),
                managed.as_ref().err(),
                now,
            ),
        )
        .await?;
        managed?;
        Ok(match next_available(&*owner, &pods, now) {
            Next::Wait if !all_seen => Next::After(SECOND_LOOK),
            Next::After(delay) if !all_seen => Next::After(delay.min(SECOND_LOOK)),
            next => next,
        })
    }
}

impl<O: Owner> Keeper<O> {
    /// Runs the controller of this kind until shutdown.
    pub(crate) async fn run(context: Context) {
        let queue = WorkQueue::new(Pacing {
            interval: PACE,
            ..Pacing::default()
        });
        let keeper = Arc::new(Self {
            owners: context.informers.of(),
            pods: context.informers.of(),
            expectations: Expectations::default(),
            recorder: context.recorder(O::CONTROLLER),
            queue: queue.clone(),
            context: context.clone(),
        });
        if !(keeper.owners.synced().await && keeper.pods.synced().await) {
            return;
        }
        let listener = Arc::clone(&keeper);
        keeper
            .owners
            .subscribe(move |change| listener.queue.add(ObjectKey::of(change.object())));
        let listener = Arc::clone(&keeper);
        keeper
            .pods
            .subscribe(move |change| listener.pod_changed(change));
        context.drive(keeper, queue).await;
    }

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

    /// The owner of this kind that controls the pod, if there still is that one.
    fn controller_key(&self, pod: &Pod) -> Option<ObjectKey> {
        self.owners
            .store()
            .controlling(pod)
            .map(|owner| ObjectKey::of(&*owner))
    }

    /// Queues everybody who might adopt this pod.
    fn queue_matching(&self, pod: &Pod) {
        if meta::controller_of(pod).is_some() {
            return;
        }
        let namespace = pod.namespace().unwrap_or_default();
        for owner in self
            .owners
            .store()
            .in_namespace(&namespace, |owner| owner.selects(pod))
        {
            self.queue.add(ObjectKey::of(&*owner));
        }
    }

    async fn claimed_pods(&self, key: &ObjectKey, owner: &O) -> Result<Vec<Arc<Pod>>, SyncError> {
        let mut candidates = self.pods.store().controlled_by(meta::uid(owner));
        candidates.extend(self.pods.store().orphans(&key.namespace));
        candidates.retain(|pod| pods::is_active(pod));
        let selector = owner.selector();
        let matches = |pod: &Pod| selector.matches(pod.labels());
        Ok(claim(&self.context.client, owner, candidates, matches).await?)
    }

    /// How many of its pods have been asked to go and are not gone yet.
    fn terminating(&self, owner: &O) -> usize {
        let mut pods = self.pods.store().controlled_by(meta::uid(owner));
        let selector = owner.selector();
        pods.retain(|pod| {
            meta::is_terminating(&pod.metadata)
                && !pods::is_terminal(pod)
                && selector.matches(pod.labels())
        });
        pods.len()
    }

    /// The active pods of all owners that the same controller controls: those of one deployment, whose pods should
    /// stay spread over the nodes whichever replica set they are of. The owner's own alone if nobody controls it.
    fn siblings(&self, owner: &O, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(controller) = meta::controller_of(owner) else {
            return pods.to_vec();
        };
        let owners = self.owners.store().controlled_by(&controller.uid);
        let mut all: Vec<_> = owners
            .iter()
            .flat_map(|owner| self.pods.store().controlled_by(meta::uid(&**owner)))
            .collect();
        all.retain(|pod| pods::is_active(pod));
        all
    }

    /// Creates what is missing or deletes what is too much, up to the burst.
    async fn adjust(&self, key: &ObjectKey, owner: &O, pods: &[Arc<Pod>]) -> Result<(), SyncError> {
        let wanted = usize::try_from(owner.wanted()).unwrap_or(0);
        let burst = self.context.options.replica_burst.max(1);
        match pods.len().cmp(&wanted) {
            Ordering::Less => {
                let missing = wanted - pods.len();
                self.create(key, owner, missing.min(burst)).await
            }
            Ordering::Equal => Ok(()),
            Ordering::Greater => {
                let mut doomed = pods.to_vec();
                sort_for_deletion(&mut doomed, &self.siblings(owner, pods), self.context.now());
                doomed.truncate((pods.len() - wanted).min(burst));
                self.delete(key, owner, &doomed).await
            }
        }
    }

    async fn create(&self, key: &ObjectKey, owner: &O, count: usize) -> Result<(), SyncError> {
        let Some(template) = owner.template() else {
            return Ok(());
        };
        let pod = pod_from_template(owner, template);
        let hand = self.hand(owner);
        self.expectations.expect_creations(key, count);
        let (created, result) = slow_start(count, async || hand.create(&pod).await).await;
        self.expectations.creations_seen(key, count - created);
        result
            .or_else(|error| hand.creation_failed(error))
            .map_err(SyncError::Create)
    }

    fn hand<'a>(&'a self, owner: &'a O) -> Hand<'a, O> {
        Hand {
            client: &self.context.client,
            recorder: &self.recorder,
            owner,
        }
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        owner: &O,
        doomed: &[Arc<Pod>],
    ) -> Result<(), SyncError> {
        self.expectations
            .expect_deletions(key, doomed.iter().map(|pod| meta::uid(&**pod).to_owned()));
        let results = join_all(doomed.iter().map(|pod| self.delete_one(key, owner, pod))).await;
        results.into_iter().collect()
    }

    async fn delete_one(&self, key: &ObjectKey, owner: &O, pod: &Pod) -> Result<(), SyncError> {
        let result = self.hand(owner).delete(pod).await;
        if !matches!(result, Ok(true)) {
            self.expectations.deletion_seen(key, meta::uid(pod));
        }
        result.map(drop).map_err(SyncError::Delete)
    }

    async fn update_status(&self, owner: &O, status: ReplicaSetStatus) -> Result<(), SyncError> {
        let mut updated = owner.clone();
        updated.set_status(status);
        // Compared as the owner keeps it: not every kind has room for all of it.
        if updated.status() == owner.status() {
            return Ok(());
        }
        let written = super::write_status(&self.context.client, &updated).await;
        written.map_err(SyncError::Status)
    }
}
