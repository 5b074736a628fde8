//! The garbage collector: what is owned goes when its last owner has gone.
//!
//! Every resource that can be listed, watched and deleted is watched for its metadata only ([`monitors`]), whatever
//! serves it; new ones are found by discovery. The [`graph`] keeps who owns whom and says whose situation has changed;
//! each of those gets a look, which ends in one of three ways:
//!
//! - *background*: the object's owners are all gone, so it is deleted too;
//! - *foreground*: the object is to go after its dependents, so they are deleted, and the object's finalizer
//!   `foregroundDeletion` is taken away when none is left that blocks it;
//! - *orphan*: the object is to go without its dependents, so it is taken out of their owner references, and then its
//!   finalizer `orphan` is taken away.
//!
//! Nothing is deleted because an owner merely has not been seen: it was seen to go, or the API server says that it
//! isn't there. Every write names the uid and the version of the object that the decision was made about.
//!
//! ```text
//! discovery ──▶ monitors ──metadata──▶ graph ──uids──▶ queue ──▶ look ──▶ DELETE, PATCH
//! ```
//!
//! Enter at [`run`].

mod graph;
mod monitors;
mod remote;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{TryStreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::sync::watch;

use self::{
    graph::{Cascade, Graph, Knowledge, Object, ResourceKey, Task, Uid},
    monitors::Monitors,
    remote::Remote,
    verdict::{Standing, Verdict, decide},
};
use crate::departures::Departures;
use vaquita_reconcile::{
    Context,
    drive::{Next, Reconciler, drive},
    meta,
    queue::{Pacing, WorkQueue},
    served::Served,
};

/// Looks for each worker that other controllers have: nearly all of a deletion is waiting for the store, which commits
/// what waits together.
const PARALLELISM: usize = 4;
/// How many dependents are orphaned at the same time.
const ORPHANED_AT_ONCE: usize = 16;
/// How often a look is repeated at once because the object has changed in between.
const ATTEMPTS: usize = 4;
/// When to ask again about an owner that only the API server can tell of, as it isn't watched or not seen yet.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// Why a look at an object failed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The API server did not say whether an owner is there.
    #[error("looking for the owner {owner}")]
    FindOwner {
        /// Kind and name.
        owner: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The object changed while it was looked at, and could not be read again.
    #[error("reading {object}")]
    Read {
        /// Resource, namespace and name.
        object: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The object could not be deleted.
    #[error("deleting {object}")]
    Delete {
        /// Resource, namespace and name.
        object: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The object's owner references could not be changed.
    #[error("changing the owners of {object}")]
    ChangeOwners {
        /// Resource, namespace and name.
        object: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The dependents are dealt with, but the finalizer that stood for that could not be taken away.
    #[error("removing the finalizer of {object}")]
    RemoveFinalizer {
        /// Resource, namespace and name.
        object: String,
        /// What the API server said.
        source: kube::Error,
    },
}

impl CollectError {
    /// Whether the decision was made about another version of the object than that which there is.
    fn is_outdated(&self) -> bool {
        match self {
            Self::Delete { source, .. } | Self::ChangeOwners { source, .. } => {
                meta::is_conflict(source)
            }
            Self::FindOwner { .. } | Self::Read { .. } | Self::RemoveFinalizer { .. } => false,
        }
    }
}

/// Runs the controller until shutdown. `departures` hears of every object in a namespace that goes.
pub async fn run(context: Context, departures: Departures) {
    let shared = Arc::new(Shared::default());
    let collector = Collector {
        shared: Arc::clone(&shared),
        remote: Remote::new(context.client.clone()),
    };
    let workers = context.options.workers_of(Collector::NAME) * PARALLELISM;
    let looks = drive(
        Arc::new(collector),
        shared.queue.clone(),
        workers,
        context.shutdown.clone(),
    );
    let monitors = Monitors::new(Arc::clone(&shared), &context, departures);
    tokio::join!(monitors.run(), looks);
}

/// What the watches write and the workers read.
struct Shared {
    graph: Mutex<Graph>,
    kinds: Mutex<Arc<Kinds>>,
    queue: WorkQueue<Uid>,
    /// The resources whose first list has not arrived yet.
    unsynced: watch::Sender<HashSet<ResourceKey>>,
}

/// The resource behind a group and a kind.
type Kinds = HashMap<(String, String), Arc<Served>>;

impl Default for Shared {
    fn default() -> Self {
        Self {
            graph: Mutex::default(),
            kinds: Mutex::default(),
            queue: WorkQueue::new(Pacing::default()),
            unsynced: watch::Sender::default(),
        }
    }
}

impl Shared {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the graph and queues everybody whose situation this changes.
    fn update(&self, change: impl FnOnce(&mut Graph) -> Vec<Uid>) {
        let looks = change(&mut self.graph());
        for uid in looks {
            self.queue.add(uid);
        }
    }

    fn kinds(&self) -> Arc<Kinds> {
        Arc::clone(&self.kinds.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_kinds(&self, kinds: Kinds) {
        *self.kinds.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(kinds);
    }

    /// Waits until every watched resource is known: before that, dependents may be missing from the graph.
    async fn synced(&self) {
        let mut unsynced = self.unsynced.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let _ = unsynced.wait_for(HashSet::is_empty).await;
    }
}

struct Collector {
    shared: Arc<Shared>,
    remote: Remote,
}

impl Reconciler for Collector {
    type Key = Uid;
    type Error = CollectError;
    const NAME: &'static str = "garbage-collector";

    async fn reconcile(&self, uid: &Uid) -> Result<Next, CollectError> {
        self.shared.synced().await;
        let task = self.shared.graph().task(uid);
        match task {
            None => Ok(Next::Wait),
            Some(Task::Examine(object)) => self.examine(object).await,
            Some(Task::Orphan { object, dependents }) => {
                self.orphan(&object, dependents).await?;
                self.remote.release(&object, Cascade::Orphan).await?;
                Ok(Next::Wait)
            }
            Some(Task::DeleteDependents { object, blocking }) if blocking.is_empty() => {
                self.remote.release(&object, Cascade::Foreground).await?;
                Ok(Next::Wait)
            }
            Some(Task::DeleteDependents { blocking, .. }) => {
                // Each of them brings its owner back here when it has gone.
                for dependent in blocking {
                    self.shared.queue.add(dependent);
                }
                Ok(Next::Wait)
            }
        }
    }
}

impl Collector {
    /// Sees whether an object's owners still want it, and acts on that.
    async fn examine(&self, mut object: Arc<Object>) -> Result<Next, CollectError> {
        let mut attempts = 1;
        loop {
            match self.settle(&object).await {
                Err(error) if error.is_outdated() && attempts < ATTEMPTS => attempts += 1,
                settled => return settled,
            }
            match self.remote.current(&object).await? {
                Some(fresh) if !fresh.deleting => object = Arc::new(fresh),
                _ => return Ok(Next::Wait),
            }
        }
    }

    async fn settle(&self, object: &Object) -> Result<Next, CollectError> {
        let mut standings = Vec::with_capacity(object.owners.len());
        for owner in &object.owners {
            standings.push(self.standing(object, owner).await?);
        }
        let (has_dependents, in_circle) = {
            let graph = self.shared.graph();
            (
                graph.has_dependents(&object.uid),
                graph.may_be_in_a_circle(&object.uid),
            )
        };
        match decide(object, &standings, has_dependents) {
            Verdict::Keep => Ok(Next::Wait),
            Verdict::AskAgain => Ok(Next::After(ASK_AGAIN)),
            Verdict::Release { keep } => {
                self.remote.set_owners(object, &keep).await?;
                Ok(Next::Wait)
            }
            Verdict::DeleteAfterDependents if in_circle => {
                let object = self.remote.unblock_owners(object).await?;
                self.remote
                    .delete(&object, verdict::FOREGROUND)
                    .await
                    .map(|()| Next::Wait)
            }
            Verdict::DeleteAfterDependents => {
                self.remote.delete(object, verdict::FOREGROUND).await?;
                Ok(Next::Wait)
            }
            Verdict::Delete(policy) => {
                self.remote.delete(object, policy).await?;
                Ok(Next::Wait)
            }
        }
    }

    async fn standing(
        &self,
        object: &Object,
        owner: &OwnerReference,
    ) -> Result<Standing, CollectError> {
        let knowledge = self.shared.graph().knowledge(owner, &object.namespace);
        match knowledge {
            Knowledge::Present => Ok(Standing::Watched),
            Knowledge::Departed => Ok(Standing::Gone),
            Knowledge::DeletesDependents | Knowledge::Unknown => {
                let kinds = self.shared.kinds();
                let standing = self
                    .remote
                    .find_owner(&kinds, owner, &object.namespace)
                    .await;
                standing.map_err(|source| CollectError::FindOwner {
                    owner: format!("{} {}", owner.kind, owner.name),
                    source,
                })
            }
        }
    }

    /// Takes `owner` out of the owner references of its dependents.
    async fn orphan(
        &self,
        owner: &Object,
        dependents: Vec<Arc<Object>>,
    ) -> Result<(), CollectError> {
        stream::iter(dependents.into_iter().map(Ok))
            .try_for_each_concurrent(ORPHANED_AT_ONCE, |dependent| {
                self.disown(dependent, &owner.uid)
            })
            .await
    }

    async fn disown(&self, mut dependent: Arc<Object>, owner: &Uid) -> Result<(), CollectError> {
        let mut attempts = 1;
        loop {
            let mut keep = dependent.owners.clone();
            keep.retain(|reference| reference.uid != **owner);
            if keep.len() == dependent.owners.len() {
                return Ok(());
            }
            match self.remote.set_owners(&dependent, &keep).await {
                Err(error) if error.is_outdated() && attempts < ATTEMPTS => attempts += 1,
                changed => return changed.map(drop),
            }
            match self.remote.current(&dependent).await? {
                Some(fresh) => dependent = Arc::new(fresh),
                None => return Ok(()),
            }
        }
    }
}
