//! Removes persistent volumes that this node made, once their claims are gone.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use vaquita_volumes::claims::Claims;

use crate::pods::Registry;

/// How long after a claim went its volume is looked at: pods that used it are usually about to go as well.
const SETTLE: Duration = Duration::from_secs(1);
/// How soon it is looked at again while a pod still uses it, or the API server cannot be asked.
const RETRY: Duration = Duration::from_secs(10);

/// Follows claims, and removes the volumes of those that are gone.
pub(crate) async fn run(
    client: Client,
    claims: Claims,
    registry: Registry,
    shutdown: CancellationToken,
) {
    let api: Api<PersistentVolumeClaim> = Api::all(client);
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    let work = async {
        let mut is_due = false;
        loop {
            let wait = if is_due { RETRY } else { Duration::MAX };
            tokio::select! {
                Some(event) = events.next() => match event {
                    // At the start, and whenever one goes.
                    Ok(Event::InitDone | Event::Delete(_)) => sleep(SETTLE).await,
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::debug!(%error, "cannot follow claims");
                        continue;
                    }
                },
                () = sleep(wait) => {}
            }
            is_due = match claims
                .reclaim(|namespace, name| uses(&registry, namespace, name))
                .await
            {
                Ok(is_left) => is_left,
                Err(error) => {
                    tracing::warn!(%error, "cannot look for volumes of claims that are gone");
                    true
                }
            };
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Whether a pod on this node uses the claim.
fn uses(registry: &Registry, namespace: &str, name: &str) -> bool {
    registry.pods().iter().any(|pod| {
        let volumes = pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten());
        let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
        pod.metadata.namespace.as_deref() == Some(namespace)
            && claims.any(|claim| claim.claim_name == name)
    })
}
