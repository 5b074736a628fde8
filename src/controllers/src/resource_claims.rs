//! Claims of devices that pods ask for by a template.
//!
//! For each entry of a pod's `resourceClaims` that names a `ResourceClaimTemplate`, a `ResourceClaim` is made that the pod owns, and
//! its name is written into the pod's status. A claim says which pods it is reserved for: those that have ended are taken off
//! that list, and a claim that nobody uses any more loses its devices. A claim that was made for a pod is deleted as soon as
//! the pod has ended; when the pod itself goes, the garbage collector sees to it.
//!
//! Which devices a claim gets is for the scheduler to say.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::{
    core::v1::{Pod, PodResourceClaim, PodResourceClaimStatus},
    resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::ObjectMeta,
};
use serde_json::json;

use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

/// Annotation of a claim that was made from a template: which of its pod's entries it is for.
const ENTRY: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps a claim as long as it has devices.
const PROTECTION: &str = "resource.kubernetes.io/delete-protection";

/// Why a pod's claims could not be made, or a claim not be tidied.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The template could not be read, or is not there.
    #[error("resource claim template {0:?}")]
    Template(String, #[source] kube::Error),
    /// The claim could not be made.
    #[error("creating a claim")]
    Create(#[source] kube::Error),
    /// The pod's status could not be written.
    #[error("writing the claims' names into the pod's status")]
    Status(#[source] kube::Error),
    /// A pod that is not known could not be looked for.
    #[error("looking for the pod {0}")]
    Pod(String, #[source] kube::Error),
    /// The claim's status could not be written.
    #[error("updating the claim")]
    Release(#[source] kube::Error),
    /// The claim could not be deleted.
    #[error("deleting the claim")]
    Delete(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing::default());
    let controller = Arc::new(Controller {
        pods: context.informers.of(),
        claims: context.informers.of(),
        made: Mutex::default(),
        recorder: context.recorder("resource_claim"),
        context: context.clone(),
    });
    if !(controller.pods.synced().await && controller.claims.synced().await) {
        return;
    }
    controller.listen(&queue);
    context.drive(controller, queue).await;
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod {key}"),
            Self::Claim(key) => write!(f, "claim {key}"),
        }
    }
}

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    /// The claims that were made here, by their pod's uid and entry: the local copy may not show them yet.
    made: Mutex<HashMap<(String, String), String>>,
    recorder: Recorder,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = SyncError;
    const NAME: &'static str = "resource-claims";

    async fn reconcile(&self, key: &Key) -> Result<Next, SyncError> {
        match key {
            Key::Pod(key) => self.sync_pod(key).await?,
            Key::Claim(key) => self.sync_claim(key).await?,
        }
        Ok(Next::Wait)
    }
}

impl Controller {
    fn listen(self: &Arc<Self>, queue: &WorkQueue<Key>) {
        let (listener, keys) = (Arc::clone(self), queue.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            if entries(pod).is_empty() {
                return;
            }
            let key = ObjectKey::of(pod);
            let gone = matches!(change, Change::Deleted(_)) || is_done(pod);
            if gone {
                let uid = meta::uid(pod);
                listener.made().retain(|(of, _), _| of != uid);
                let uses = |claim: &ResourceClaim| is_for(claim, pod);
                for claim in listener.claims.store().in_namespace(&key.namespace, uses) {
                    keys.add(Key::Claim(ObjectKey::of(&*claim)));
                }
            } else {
                keys.add(Key::Pod(key));
            }
        });
        let (listener, keys) = (Arc::clone(self), queue.clone());
        self.claims.subscribe(move |change| {
            let claim = change.object();
            let key = ObjectKey::of(claim);
            if !matches!(change, Change::Deleted(_)) {
                return keys.add(Key::Claim(key));
            }
            listener.made().retain(|_, name| *name != key.name);
            // Somebody deleted a claim that its pod still needs, perhaps: then there is to be another.
            let owner = meta::controller_of(claim).filter(|owner| owner.kind == "Pod");
            let pod = owner.map(|owner| ObjectKey::new(key.namespace, &*owner.name));
            if let Some(pod) = pod.filter(|pod| listener.pods.store().get(pod).is_some()) {
                keys.add(Key::Pod(pod));
            }
        });
    }

    async fn sync_pod(&self, key: &ObjectKey) -> Result<(), SyncError> {
        let Some(pod) = self.pods.store().get(key) else {
            return Ok(());
        };
        if is_done(&pod) || meta::is_terminating(&pod.metadata) {
            return Ok(());
        }
        let known = claim_statuses(&pod);
        let mut names = Vec::new();
        for entry in entries(&pod) {
            let Some(template) = &entry.resource_claim_template_name else {
                continue;
            };
            let noted = known.iter().find(|status| status.name == entry.name);
            let resource_claim_name = match noted {
                // Said to need none.
                Some(PodResourceClaimStatus {
                    resource_claim_name: None,
                    ..
                }) => None,
                _ => Some(self.claim_for(&pod, entry, template).await?),
            };
            names.push(PodResourceClaimStatus {
                name: entry.name.clone(),
                resource_claim_name,
            });
        }
        if names == known {
            return Ok(());
        }
        let mut patch = meta::guarded_patch(&pod.metadata, json!({}));
        patch["status"] = json!({ "resourceClaimStatuses": names });
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        let (patch, params) = (Patch::Merge(patch), PatchParams::default());
        match api.patch_status(&key.name, &params, &patch).await {
            Err(error) if !meta::is_not_found(&error) => Err(SyncError::Status(error)),
            _ => Ok(()),
        }
    }

    /// The name of the claim for one entry of a pod; it is made if there is none.
    async fn claim_for(
        &self,
        pod: &Pod,
        entry: &PodResourceClaim,
        template: &str,
    ) -> Result<String, SyncError> {
        let namespace = pod.namespace().unwrap_or_default();
        let is_meant = |claim: &ResourceClaim| {
            is_owned_by(claim, pod)
                && claim.annotations().get(ENTRY) == Some(&entry.name)
                && !meta::is_terminating(&claim.metadata)
        };
        let mut present = self.claims.store().in_namespace(&namespace, is_meant);
        // The oldest, should there be two: this process was stopped between making one and noting it.
        present.sort_by_key(|claim| (claim.creation_timestamp().map(|at| at.0), claim.name_any()));
        if let Some(claim) = present.first() {
            return Ok(claim.name_any());
        }
        let of = (meta::uid(pod).to_owned(), entry.name.clone());
        if let Some(name) = self.made().get(&of) {
            return Ok(name.clone());
        }
        match self.make_claim(pod, entry, template).await {
            Ok(name) => {
                self.made().insert(of, name.clone());
                Ok(name)
            }
            Err(error) => {
                let why = vaquita_reconcile::drive::chain(&error);
                let message = format!("PodResourceClaim {}: {why}", entry.name);
                self.recorder
                    .warning(pod, "FailedResourceClaimCreation", message);
                Err(error)
            }
        }
    }

    fn made(&self) -> MutexGuard<'_, HashMap<(String, String), String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make_claim(
        &self,
        pod: &Pod,
        entry: &PodResourceClaim,
        template: &str,
    ) -> Result<String, SyncError> {
        let namespace = pod.namespace().unwrap_or_default();
        let client = &self.context.client;
        let api = Api::<ResourceClaim>::namespaced(client.clone(), &namespace);
        let templates = Api::<ResourceClaimTemplate>::namespaced(client.clone(), &namespace);
        let found = templates.get(template).await;
        let template = found.map_err(|error| SyncError::Template(template.to_owned(), error))?;
        let metadata = template.spec.metadata.unwrap_or_default();
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.insert(ENTRY.to_owned(), entry.name.clone());
        let claim = ResourceClaim {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-{}-", pod.name_any(), entry.name)),
                namespace: Some(namespace),
                labels: metadata.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![meta::controller_reference(pod)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.spec,
            status: None,
        };
        let made = api.create(&PostParams::default(), &claim).await;
        Ok(made.map_err(SyncError::Create)?.name_any())
    }

    async fn sync_claim(&self, key: &ObjectKey) -> Result<(), SyncError> {
        let Some(claim) = self.claims.store().get(key) else {
            return Ok(());
        };
        let reserved = reserved_for(&claim);
        let mut valid = Vec::new();
        for consumer in reserved {
            if self.still_uses(&key.namespace, consumer).await? {
                valid.push(consumer.clone());
            }
        }
        let in_use = !valid.is_empty();
        let has_devices = claim
            .status
            .as_ref()
            .is_some_and(|status| status.allocation.is_some());
        let release = !in_use
            && has_devices
            && (!reserved.is_empty() || meta::is_terminating(&claim.metadata));
        let mut claim = ResourceClaim::clone(&claim);
        if valid.len() < reserved.len() || release {
            claim = match self.release(&claim, valid, release).await? {
                Some(claim) => claim,
                None => return Ok(()),
            };
        }
        let still_has_devices = has_devices && !release;
        if !still_has_devices && claim.finalizers().iter().any(|own| own == PROTECTION) {
            match self.unprotect(&claim).await? {
                Some(unprotected) => claim = unprotected,
                None => return Ok(()),
            }
        }
        if !in_use && self.is_left_over(&claim).await? {
            return self.delete(&claim).await;
        }
        Ok(())
    }

    /// Whether the consumer is a pod that may still use the claim. Of other consumers nothing is known: they stay.
    async fn still_uses(
        &self,
        namespace: &str,
        consumer: &ResourceClaimConsumerReference,
    ) -> Result<bool, SyncError> {
        if consumer.resource != "pods"
            || consumer
                .api_group
                .as_ref()
                .is_some_and(|group| !group.is_empty())
        {
            return Ok(true);
        }
        self.is_alive(namespace, &consumer.name, &consumer.uid)
            .await
    }

    /// Whether this very pod is there and has not ended. Before that is denied, the API server itself is asked.
    async fn is_alive(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, SyncError> {
        let alive = |pod: &Pod| meta::uid(pod) == uid && !is_done(pod);
        if let Some(pod) = self.pods.store().get(&ObjectKey::new(namespace, name))
            && meta::uid(&*pod) == uid
        {
            return Ok(alive(&pod));
        }
        let api = Api::<Pod>::namespaced(self.context.client.clone(), namespace);
        let pod = api.get_opt(name).await;
        let pod = pod.map_err(|error| SyncError::Pod(name.to_owned(), error))?;
        Ok(pod.as_ref().is_some_and(alive))
    }

    /// Writes who may use the claim from now on, and takes its devices away if nobody does.
    async fn release(
        &self,
        claim: &ResourceClaim,
        valid: Vec<ResourceClaimConsumerReference>,
        release: bool,
    ) -> Result<Option<ResourceClaim>, SyncError> {
        let mut claim = claim.clone();
        let status = claim.status.get_or_insert_default();
        status.reserved_for = Some(valid).filter(|valid| !valid.is_empty());
        if release {
            status.allocation = None;
            status.devices = None;
        }
        let (name, params) = (claim.name_any(), PostParams::default());
        let written = self
            .api(&claim)
            .replace_status(&name, &params, &claim)
            .await;
        present(written).map_err(SyncError::Release)
    }

    async fn unprotect(&self, claim: &ResourceClaim) -> Result<Option<ResourceClaim>, SyncError> {
        let mut claim = claim.clone();
        claim.finalizers_mut().retain(|own| own != PROTECTION);
        let (name, params) = (claim.name_any(), PostParams::default());
        let written = self.api(&claim).replace(&name, &params, &claim).await;
        present(written).map_err(SyncError::Release)
    }

    /// Whether the claim was made for a pod that has ended.
    async fn is_left_over(&self, claim: &ResourceClaim) -> Result<bool, SyncError> {
        if meta::is_terminating(&claim.metadata) {
            return Ok(false);
        }
        let owner = meta::controller_of(claim).filter(|owner| owner.kind == "Pod");
        let Some(owner) = owner.filter(|_| claim.annotations().contains_key(ENTRY)) else {
            return Ok(false);
        };
        let namespace = claim.namespace().unwrap_or_default();
        let alive = self.is_alive(&namespace, &owner.name, &owner.uid).await?;
        Ok(!alive)
    }

    async fn delete(&self, claim: &ResourceClaim) -> Result<(), SyncError> {
        let this_one = Preconditions {
            uid: claim.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(this_one);
        match self.api(claim).delete(&claim.name_any(), &params).await {
            Err(error) if !meta::is_not_found(&error) => Err(SyncError::Delete(error)),
            _ => Ok(()),
        }
    }

    fn api(&self, claim: &ResourceClaim) -> Api<ResourceClaim> {
        let namespace = claim.namespace().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }
}

/// What was written, unless it is gone.
fn present<T>(written: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match written {
        Ok(object) => Ok(Some(object)),
        Err(error) if meta::is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn entries(pod: &Pod) -> &[PodResourceClaim] {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.resource_claims.as_deref())
        .unwrap_or_default()
}

fn claim_statuses(pod: &Pod) -> &[PodResourceClaimStatus] {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.resource_claim_statuses.as_deref())
        .unwrap_or_default()
}

fn reserved_for(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    let status = claim.status.as_ref();
    status
        .and_then(|status| status.reserved_for.as_deref())
        .unwrap_or_default()
}

/// Whether the pod will not use its claims any more.
fn is_done(pod: &Pod) -> bool {
    let never_ran = meta::is_terminating(&pod.metadata) && pods::node_name(pod).is_none();
    pods::is_terminal(pod) || never_ran
}

fn is_owned_by(claim: &ResourceClaim, pod: &Pod) -> bool {
    meta::controller_of(claim).is_some_and(|owner| owner.uid == meta::uid(pod))
}

/// Whether the claim is owned by, or reserved for, the pod.
fn is_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    let uid = meta::uid(pod);
    is_owned_by(claim, pod)
        || reserved_for(claim)
            .iter()
            .any(|consumer| consumer.uid == uid)
}

#[cfg(test)]
mod tests;
