//! Claims that pods use, and volumes that claims have, are not deleted before they are free: a finalizer holds each of
//! them, which is taken away when nobody needs it any more.
//!
//! A claim is used by every pod that was given a node, as long as there is the pod, whether or not it runs. One that waits
//! for a node does not use it: no node starts a pod whose claim is being deleted.

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    core::ObjectMeta,
};
use serde_json::json;
use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";

/// Why a claim or a volume could not be protected or let go.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// The pods that may use it could not be listed.
    #[error("looking for pods")]
    Pods(#[source] kube::Error),
    /// The claim that it may belong to could not be read.
    #[error("looking for its claim")]
    Claim(#[source] kube::Error),
    /// Its finalizers could not be written.
    #[error("writing the finalizers")]
    Write(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing::default());
    let controller = Arc::new(Controller {
        claims: context.informers.of(),
        volumes: context.informers.of(),
        pods: context.informers.of(),
        context: context.clone(),
    });
    let synced = controller.claims.synced().await
        && controller.volumes.synced().await
        && controller.pods.synced().await;
    if !synced {
        return;
    }
    controller.listen(&queue);
    context.drive(controller, queue).await;
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Claim(ObjectKey),
    Volume(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

struct Controller {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    pods: Informer<Pod>,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ProtectError;
    const NAME: &'static str = "volume-protection";

    async fn reconcile(&self, key: &Key) -> Result<Next, ProtectError> {
        match key {
            Key::Claim(key) => self.look_at_claim(key).await?,
            Key::Volume(name) => self.look_at_volume(name).await?,
        }
        Ok(Next::Wait)
    }
}

impl Controller {
    fn listen(self: &Arc<Self>, queue: &WorkQueue<Key>) {
        let (listener, keys) = (Arc::clone(self), queue.clone());
        self.claims.subscribe(move |change| {
            let claim = change.object();
            keys.add(Key::Claim(ObjectKey::of(claim)));
            let name = claim.spec.as_ref().and_then(|it| it.volume_name.clone());
            if matches!(change, Change::Deleted(_))
                && let Some(name) = name
                && listener.is_going(&name)
            {
                keys.add(Key::Volume(name));
            }
        });
        let keys = queue.clone();
        self.volumes
            .subscribe(move |change| keys.add(Key::Volume(change.object().name_any())));
        let (listener, keys) = (Arc::clone(self), queue.clone());
        self.pods.subscribe(move |change| {
            // Only who goes can leave a claim free.
            let Change::Deleted(pod) = change else {
                return;
            };
            let namespace = pod.namespace().unwrap_or_default();
            for name in claims_of(pod) {
                let key = ObjectKey::new(&namespace, name);
                let claim = listener.claims.store().get(&key);
                if claim.is_some_and(|claim| meta::is_terminating(&claim.metadata)) {
                    keys.add(Key::Claim(key));
                }
            }
        });
    }

    /// Whether the volume waits for leave to go.
    fn is_going(&self, volume: &str) -> bool {
        let volume = self.volumes.store().get(&ObjectKey::new("", volume));
        volume.is_some_and(|volume| meta::is_terminating(&volume.metadata))
    }

    async fn look_at_claim(&self, key: &ObjectKey) -> Result<(), ProtectError> {
        let Some(claim) = self.claims.store().get(key) else {
            return Ok(());
        };
        let Some(finalizers) = change(&claim.metadata, OF_CLAIMS) else {
            return Ok(());
        };
        if meta::is_terminating(&claim.metadata) && self.is_used(key).await? {
            return Ok(());
        }
        let client = self.context.client.clone();
        let api = Api::<PersistentVolumeClaim>::namespaced(client, &key.namespace);
        let patch = patch(&claim.metadata, &finalizers);
        let written = api.patch(&key.name, &PatchParams::default(), &patch).await;
        unless_gone(written)
    }

    /// Whether a pod uses the claim. Before that is denied, the API server itself is asked.
    async fn is_used(&self, claim: &ObjectKey) -> Result<bool, ProtectError> {
        let uses = |pod: &Pod| {
            pods::node_name(pod).is_some() && claims_of(pod).any(|name| name == claim.name)
        };
        let known = self.pods.store().in_namespace(&claim.namespace, uses);
        if !known.is_empty() {
            return Ok(true);
        }
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &claim.namespace);
        let all = api.list(&ListParams::default()).await;
        Ok(all.map_err(ProtectError::Pods)?.iter().any(uses))
    }

    async fn look_at_volume(&self, name: &str) -> Result<(), ProtectError> {
        let Some(volume) = self.volumes.store().get(&ObjectKey::new("", name)) else {
            return Ok(());
        };
        let Some(finalizers) = change(&volume.metadata, OF_VOLUMES) else {
            return Ok(());
        };
        if meta::is_terminating(&volume.metadata) && self.is_bound(&volume).await? {
            return Ok(());
        }
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        let patch = patch(&volume.metadata, &finalizers);
        let written = api.patch(name, &PatchParams::default(), &patch).await;
        unless_gone(written)
    }

    /// Whether the claim that the volume is for is there.
    async fn is_bound(&self, volume: &PersistentVolume) -> Result<bool, ProtectError> {
        let spec = volume.spec.as_ref();
        let Some(claim) = spec.and_then(|spec| spec.claim_ref.as_ref()) else {
            return Ok(false);
        };
        let namespace = claim.namespace.as_deref().unwrap_or_default();
        let client = self.context.client.clone();
        let api = Api::<PersistentVolumeClaim>::namespaced(client, namespace);
        let name = claim.name.as_deref().unwrap_or_default();
        let found = api.get_opt(name).await.map_err(ProtectError::Claim)?;
        let has_it = |found: &PersistentVolumeClaim| {
            let wanted = found.spec.as_ref().and_then(|it| it.volume_name.as_deref());
            found.uid() == claim.uid && wanted == Some(&*volume.name_any())
        };
        Ok(found.as_ref().is_some_and(has_it))
    }
}

/// The finalizers as they are to be, if that is not how they are: with ours on what is to stay, without it on what is to
/// go.
fn change(metadata: &ObjectMeta, ours: &str) -> Option<Vec<String>> {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    let has_ours = finalizers.iter().any(|own| own == ours);
    if meta::is_terminating(metadata) != has_ours {
        return None;
    }
    if has_ours {
        finalizers.retain(|own| own != ours);
    } else {
        finalizers.push(ours.to_owned());
    }
    Some(finalizers)
}

fn patch(metadata: &ObjectMeta, finalizers: &[String]) -> Patch<serde_json::Value> {
    let finalizers = json!({ "finalizers": finalizers });
    Patch::Merge(meta::guarded_patch(metadata, finalizers))
}

fn unless_gone<T>(written: Result<T, kube::Error>) -> Result<(), ProtectError> {
    match written {
        Err(error) if !meta::is_not_found(&error) => Err(ProtectError::Write(error)),
        _ => Ok(()),
    }
}

/// The names of the claims of a pod, those included that are made for it.
fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume: &Volume| match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => volume
            .ephemeral
            .as_ref()
            .map(|_| format!("{}-{}", pod.name_any(), volume.name)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio_util::sync::CancellationToken;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    use super::*;

    const CLAIMS: &str = "api/v1/persistentvolumeclaims";
    const VOLUMES: &str = "api/v1/persistentvolumes";
    const PODS: &str = "api/v1/pods";

    async fn started() -> FakeApi {
        let api = FakeApi::new();
        api.put(
            CLAIMS,
            &json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": { "namespace": "shop", "name": "data", "uid": "claim" },
                "spec": { "volumeName": "disk" },
            }),
        );
        api.put(
            VOLUMES,
            &json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "disk" },
                "spec": { "claimRef": { "namespace": "shop", "name": "data", "uid": "claim" } },
            }),
        );
        for (name, node) in [("placed", json!("n1")), ("waiting", Value::Null)] {
            let volumes =
                json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }]);
            api.put(
                PODS,
                &json!({
                    "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "shop", "name": name },
                    "spec": { "nodeName": node, "containers": [], "volumes": volumes },
                }),
            );
        }
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        tokio::spawn(run(context));
        api.until("both are protected", |api| {
            finalizers(api, CLAIMS, "shop", "data") == json!([OF_CLAIMS])
                && finalizers(api, VOLUMES, "", "disk") == json!([OF_VOLUMES])
        })
        .await;
        api
    }

    fn finalizers(api: &FakeApi, path: &str, namespace: &str, name: &str) -> Value {
        let object = api.object(path, namespace, name);
        object.map_or(Value::Null, |mut it| it["metadata"]["finalizers"].take())
    }

    fn delete(api: &FakeApi, path: &str, namespace: &str, name: &str) {
        api.edit(path, namespace, name, |object| {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_stays_until_the_last_pod_that_uses_it_is_gone() {
        let api = started().await;
        delete(&api, CLAIMS, "shop", "data");
        api.settle().await;
        let kept = finalizers(&api, CLAIMS, "shop", "data");
        assert_eq!(kept, json!([OF_CLAIMS]));
        api.remove(PODS, "shop", "placed");
        api.until("it is let go", |api| {
            let left = finalizers(api, CLAIMS, "shop", "data");
            left.as_array().is_none_or(Vec::is_empty)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_stays_as_long_as_its_claim() {
        let api = started().await;
        delete(&api, VOLUMES, "", "disk");
        api.settle().await;
        let kept = finalizers(&api, VOLUMES, "", "disk");
        assert_eq!(kept, json!([OF_VOLUMES]));
        api.remove(CLAIMS, "shop", "data");
        api.until("it is let go", |api| {
            let left = finalizers(api, VOLUMES, "", "disk");
            left.as_array().is_none_or(Vec::is_empty)
        })
        .await;
    }
}
