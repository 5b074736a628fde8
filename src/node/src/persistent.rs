//! Persistent volumes: claims that the scheduler has decided for this node get their volume here, and volumes that this
//! node made go once their claims are gone.

use std::time::Duration;

use futures::{StreamExt as _, stream::select};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use vaquita_volumes::claims::Claims;

use crate::pods::Registry;

/// How long news are gathered before they are looked at.
const GATHER: Duration = Duration::from_millis(10);
/// How soon it is all looked at again while a pod still uses a claim that is gone, or something failed.
const RETRY: Duration = Duration::from_secs(5);

/// Follows claims and volumes, and does what is this node's to do.
pub(crate) async fn run(
    client: Client,
    claims: Claims,
    registry: Registry,
    shutdown: CancellationToken,
) {
    let all: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let volumes: Api<PersistentVolume> = Api::all(client);
    let config = watcher::Config::default();
    let of_claims = watcher(all.clone(), config.clone()).default_backoff();
    let of_volumes = watcher(volumes, config).default_backoff();
    let mut news = select(
        of_claims.map(|event| event.map(drop)),
        of_volumes.map(|event| event.map(drop)),
    )
    .boxed();
    let work = async {
        let mut is_due = false;
        loop {
            let wait = if is_due { RETRY } else { Duration::MAX };
            tokio::select! {
                Some(event) = news.next() => if let Err(error) = event {
                    tracing::debug!(%error, "cannot follow claims and volumes");
                    continue;
                },
                () = sleep(wait) => {}
            }
            // What comes together is looked at together.
            let gathered = async { while news.next().await.is_some() {} };
            let _ = tokio::time::timeout(GATHER, gathered).await;
            is_due = Box::pin(look(&all, &claims, &registry)).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Does what there is to do. Says whether something is left that no news will tell of.
async fn look(all: &Api<PersistentVolumeClaim>, claims: &Claims, registry: &Registry) -> bool {
    let mut is_left = false;
    match all.list(&ListParams::default()).await {
        Ok(found) => {
            for claim in found {
                if let Err(error) = claims.settle(&claim).await {
                    let (namespace, name) = (claim.namespace(), claim.name_any());
                    tracing::warn!(namespace, name, %error, "cannot bind a claim");
                    is_left = true;
                }
            }
        }
        Err(error) => {
            tracing::warn!(%error, "cannot list claims");
            is_left = true;
        }
    }
    match claims
        .reclaim(|namespace, name| uses(registry, namespace, name))
        .await
    {
        Ok(is_used) => is_left | is_used,
        Err(error) => {
            tracing::warn!(%error, "cannot look for volumes of claims that are gone");
            true
        }
    }
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
