//! Reconcile loops that keep pods as users declared them: replication controllers, replica sets, deployments, stateful
//! sets, daemon sets, jobs, cron jobs.
//!
//! What a loop is made of is in [`vaquita_reconcile`]; what keeps count of replicas for several of them is in
//! `replicas`, what remembers templates in `history`. Each speaks to the cluster by a [`kube::Client`] alone.
//!
//! Enter at [`run`], which starts them all, or at the `run` of a single controller's module with a [`Context`].

pub mod cron_jobs;
pub mod daemon_sets;
pub mod deployments;
#[cfg(test)]
mod faults;
mod history;
pub mod jobs;
pub mod replica_sets;
mod replicas;
pub mod replication;
pub mod stateful_sets;

use tokio::task::{JoinError, JoinSet};
use vaquita_reconcile::Context;

pub use crate::{
    history::HistoryError,
    replicas::{ClaimError, Expectations},
};

/// Runs all of these controllers until the context's shutdown, then lets work in flight end for a moment.
pub async fn run(context: Context) {
    let mut running = JoinSet::new();
    running.spawn(cron_jobs::run(context.clone()));
    running.spawn(daemon_sets::run(context.clone()));
    running.spawn(deployments::run(context.clone()));
    running.spawn(jobs::run(context.clone()));
    running.spawn(replica_sets::run(context.clone()));
    running.spawn(replication::run(context.clone()));
    running.spawn(stateful_sets::run(context));
    while let Some(ended) = running.join_next().await {
        if let Err(panic) = ended.map_err(JoinError::into_panic) {
            // A bug: whoever runs us must hear of it rather than go on with half of the controllers.
            std::panic::resume_unwind(panic);
        }
    }
}
