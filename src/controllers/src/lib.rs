//! Reconcile loops that keep what users declared.
//!
//! Each controller watches a few kinds through shared [`informer`]s, puts the names of objects that need a look into a
//! [`queue`], and brings them closer to what they should be, one look at a time ([`drive`]). All of it goes through a
//! [`kube::Client`]: the controllers run inside a Vaquita cluster and beside any other Kubernetes API server alike.
//!
//! Enter at [`run`], which starts them all, or at the `run` of a single controller's module with a [`Context`].

mod backoff;
pub mod cluster_roles;
pub mod collector;
mod context;
pub mod daemon_sets;
pub mod deployments;
pub mod drive;
pub mod endpoints;
pub mod evictions;
pub mod informer;
pub mod jobs;
mod key;
mod meta;
pub mod namespaces;
pub mod nodes;
mod pods;
pub mod queue;
pub mod quotas;
mod record;
pub mod replica_sets;
mod replicas;
pub mod replication;
pub mod root_ca;
mod served;
pub mod service_accounts;
#[cfg(test)]
mod testing;

use kube::Client;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use crate::{
    backoff::Backoff,
    context::{Context, Options},
    key::ObjectKey,
    record::Recorder,
    replicas::{ClaimError, Expectations},
};

/// Runs all controllers until `shutdown` is cancelled, then lets work in flight end for a moment.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) {
    let context = Context::new(client, options, shutdown);
    let mut running = JoinSet::new();
    running.spawn(cluster_roles::run(context.clone()));
    running.spawn(collector::run(context.clone()));
    running.spawn(daemon_sets::run(context.clone()));
    running.spawn(deployments::run(context.clone()));
    running.spawn(endpoints::run(context.clone()));
    running.spawn(evictions::run(context.clone()));
    running.spawn(jobs::run(context.clone()));
    running.spawn(namespaces::run(context.clone()));
    running.spawn(nodes::run(context.clone()));
    running.spawn(quotas::run(context.clone()));
    running.spawn(replica_sets::run(context.clone()));
    running.spawn(replication::run(context.clone()));
    running.spawn(root_ca::run(context.clone()));
    running.spawn(service_accounts::run(context.clone()));
    while let Some(ended) = running.join_next().await {
        if let Err(panic) = ended.map_err(JoinError::into_panic) {
            // A bug: whoever runs us must hear of it rather than go on with half of the controllers.
            std::panic::resume_unwind(panic);
        }
    }
}
