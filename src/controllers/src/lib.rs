//! Reconcile loops that keep the cluster in order: nodes, namespaces, endpoints, garbage, quota, accounts.
//!
//! What a loop is made of is in [`vaquita_reconcile`]; those that keep pods as users declared them are in a crate of their
//! own. Each speaks to the cluster by a [`kube::Client`] alone.
//!
//! Enter at [`run`], which starts them all, or at the `run` of a single controller's module with a [`Context`].

pub mod autoscaling;
pub mod bootstrap_tokens;
pub mod certificates;
pub mod cluster_roles;
pub mod collector;
pub mod departures;
pub mod disruption;
pub mod endpoints;
pub mod ephemeral_volumes;
pub mod evictions;
pub mod namespaces;
pub mod nodes;
pub mod pod_gc;
pub mod quotas;
pub mod resource_claims;
pub mod root_ca;
pub mod secret_tokens;
pub mod service_accounts;
pub mod volume_protection;

use departures::Departures;
use tokio::task::{JoinError, JoinSet};
use vaquita_reconcile::Context;

/// Runs all of these controllers until the context's shutdown, then lets work in flight end for a moment.
pub async fn run(context: Context) {
    let departures = Departures::default();
    let mut running = JoinSet::new();
    running.spawn(autoscaling::run(context.clone()));
    running.spawn(bootstrap_tokens::run(context.clone()));
    running.spawn(certificates::run(context.clone()));
    running.spawn(cluster_roles::run(context.clone()));
    running.spawn(collector::run(context.clone(), departures.clone()));
    running.spawn(disruption::run(context.clone()));
    running.spawn(endpoints::run(context.clone()));
    running.spawn(ephemeral_volumes::run(context.clone()));
    running.spawn(evictions::run(context.clone()));
    running.spawn(namespaces::run(context.clone()));
    running.spawn(nodes::run(context.clone()));
    running.spawn(pod_gc::run(context.clone()));
    running.spawn(quotas::run(context.clone(), departures));
    running.spawn(resource_claims::run(context.clone()));
    running.spawn(root_ca::run(context.clone()));
    running.spawn(secret_tokens::run(context.clone()));
    running.spawn(service_accounts::run(context.clone()));
    running.spawn(volume_protection::run(context));
    while let Some(ended) = running.join_next().await {
        if let Err(panic) = ended.map_err(JoinError::into_panic) {
            // A bug: whoever runs us must hear of it rather than go on with half of the controllers.
            std::panic::resume_unwind(panic);
        }
    }
}
