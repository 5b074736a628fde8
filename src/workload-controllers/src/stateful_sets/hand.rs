//! Takes the steps of a plan: pods with their claims, one call after the other for ordered sets, many at once for the rest.

use std::sync::Arc;

use futures::future::try_join_all;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{PersistentVolumeClaim, Pod},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::{
    SyncError, identity,
    plan::{Reason, Version, View},
};
use crate::replicas;
use vaquita_reconcile::{ObjectKey, Recorder, informer::Store, meta, pods};

/// Acts for one stateful set.
pub(super) struct Hand<'a> {
    pub(super) client: &'a Client,
    pub(super) recorder: &'a Recorder,
    pub(super) claims: &'a Store<PersistentVolumeClaim>,
    pub(super) set: &'a StatefulSet,
    /// What new pods are made after.
    pub(super) spec: &'a StatefulSetSpec,
    /// The same with the template that all pods had before the update.
    pub(super) before: &'a StatefulSetSpec,
}

impl Hand<'_> {
    /// Takes the next step of the set, all of them if it is parallel.
    pub(super) async fn act(&self, view: &View<'_>, burst: usize) -> Result<(), SyncError> {
        self.settle_claims(view).await?;
        let plan = view.plan(burst);
        for (ordinal, pod) in &plan.label {
            self.label(*ordinal, pod).await?;
        }
        let mut models = plan.create.iter();
        let (_, created) = replicas::slow_start(plan.create.len(), || {
            let next = models.next().copied();
            async move {
                match next {
                    Some((ordinal, version)) => self.create(view, ordinal, version).await,
                    None => Ok(()),
                }
            }
        })
        .await;
        created?;
        let each = plan.delete.iter();
        try_join_all(each.map(|(pod, why)| self.delete(pod, *why)))
            .await
            .map(drop)
    }

    /// Makes the pod with this number, and its claims before it.
    async fn create(
        &self,
        view: &View<'_>,
        ordinal: i32,
        version: Version,
    ) -> Result<(), SyncError> {
        let (spec, revision) = match version {
            Version::Current => (self.before, &view.current),
            Version::Updated => (self.spec, &view.updated),
        };
        if !self.create_claims(ordinal).await? {
            return Ok(());
        }
        let model = identity::model(self.set, spec, ordinal, revision);
        let name = model.name_any();
        let set = self.set.name_any();
        match self
            .api::<Pod>()
            .create(&PostParams::default(), &model)
            .await
        {
            Ok(_) => {
                let message = format!("create Pod {name} in StatefulSet {set} successful");
                self.recorder.normal(self.set, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if meta::is_namespace_terminating(&error) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                self.is_known(name, &status.message).await
            }
            Err(source) => {
                self.creation_failed(&name, &meta::message(&source));
                Err(SyncError::Create { name, source })
            }
        }
    }

    fn creation_failed(&self, name: &str, why: &str) {
        let set = self.set.name_any();
        let message = format!("create Pod {name} in StatefulSet {set} failed error: {why}");
        self.recorder.warning(self.set, "FailedCreate", message);
    }

    /// There is a pod of this name: it is ours, which the local copy does not show yet, or somebody else's.
    async fn is_known(&self, name: String, message: &str) -> Result<(), SyncError> {
        let live = self.api::<Pod>().get_opt(&name).await;
        let live = live.map_err(|source| SyncError::Create {
            name: name.clone(),
            source,
        })?;
        let foreign = live.is_some_and(|pod| {
            meta::controller_of(&pod).is_some_and(|owner| owner.uid != meta::uid(self.set))
        });
        if !foreign {
            return Ok(());
        }
        self.creation_failed(&name, message);
        Err(SyncError::Taken(name))
    }

    async fn delete(&self, pod: &Pod, why: Reason) -> Result<(), SyncError> {
        let (name, set) = (pod.name_any(), self.set.name_any());
        if why == Reason::Ended {
            let (reason, how) = match pods::phase(pod) {
                pods::Phase::Succeeded => ("RecreatingTerminatedPod", "terminated"),
                _ => ("RecreatingFailedPod", "failed"),
            };
            let namespace = self.set.namespace().unwrap_or_default();
            let message = format!("StatefulSet {namespace}/{set} is recreating {how} Pod {name}");
            self.recorder.warning(self.set, reason, message);
        }
        let this_one = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(this_one);
        match self.api::<Pod>().delete(&name, &params).await {
            Ok(_) => {
                let message = format!("delete Pod {name} in StatefulSet {set} successful");
                self.recorder.normal(self.set, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) if meta::is_not_found(&error) || meta::is_conflict(&error) => Ok(()),
            Err(source) => {
                let why = meta::message(&source);
                let message = format!("delete Pod {name} in StatefulSet {set} failed error: {why}");
                self.recorder.warning(self.set, "FailedDelete", message);
                Err(SyncError::Delete { name, source })
            }
        }
    }

    async fn label(&self, ordinal: i32, pod: &Pod) -> Result<(), SyncError> {
        let labels = identity::labels(&pod.name_any(), ordinal).into_iter();
        let labels: serde_json::Map<_, _> = labels.map(|(k, v)| (k, json!(v))).collect();
        let patch = meta::guarded_patch(&pod.metadata, json!({ "labels": labels }));
        let (api, name) = (self.api::<Pod>(), pod.name_any());
        let patch = Patch::Merge(patch);
        let patched = api.patch(&name, &PatchParams::default(), &patch).await;
        patched.map(drop).map_err(SyncError::Label)
    }

    // ---- claims ----

    /// Makes the claims that the pod with this number does not have yet. Whether the pod can be made: not while a claim of
    /// the pod before it is on its way out.
    async fn create_claims(&self, ordinal: i32) -> Result<bool, SyncError> {
        for template in self.spec.volume_claim_templates.iter().flatten() {
            match self.known_claim(template, ordinal) {
                Some(known) if self.is_stale(&known, ordinal) => return Ok(false),
                Some(_) => {}
                None => self.create_claim(template, ordinal).await?,
            }
        }
        Ok(true)
    }

    fn known_claim(
        &self,
        template: &PersistentVolumeClaim,
        ordinal: i32,
    ) -> Option<Arc<PersistentVolumeClaim>> {
        let namespace = self.set.namespace().unwrap_or_default();
        let name = identity::claim_name(self.set, template, ordinal);
        self.claims.get(&ObjectKey::new(namespace, name))
    }

    /// Whether a claim is going, or will go with a pod of this number that is no more.
    fn is_stale(&self, claim: &PersistentVolumeClaim, ordinal: i32) -> bool {
        let pod = identity::pod_name(self.set, ordinal);
        let goes_with_pod = |claim: &PersistentVolumeClaim| {
            let mut owners = claim.owner_references().iter();
            owners.any(|owner| owner.kind == Pod::kind(&()) && owner.name == pod)
        };
        meta::is_terminating(&claim.metadata) || goes_with_pod(claim)
    }

    async fn create_claim(
        &self,
        template: &PersistentVolumeClaim,
        ordinal: i32,
    ) -> Result<(), SyncError> {
        let mut claim = identity::claim(self.set, self.spec, template, ordinal);
        let owners = identity::claim_owners(self.spec, self.set, None, false, &[]);
        claim.metadata.owner_references = Some(owners).filter(|owners| !owners.is_empty());
        let (name, pod) = (claim.name_any(), identity::pod_name(self.set, ordinal));
        let set = self.set.name_any();
        let about = format!("create Claim {name} Pod {pod} in StatefulSet {set}");
        let api = self.api::<PersistentVolumeClaim>();
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => {
                let message = format!("{about} success");
                self.recorder.normal(self.set, "SuccessfulCreate", message);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) if meta::is_namespace_terminating(&error) => Ok(()),
            Err(source) => {
                let message = format!("{about} failed error: {}", meta::message(&source));
                self.recorder.warning(self.set, "FailedCreate", message);
                Err(SyncError::CreateClaim { name, source })
            }
        }
    }

    /// Writes down with whom each claim ends, and makes the claims that pods still wait for.
    async fn settle_claims(&self, view: &View<'_>) -> Result<(), SyncError> {
        if self.spec.volume_claim_templates.is_none() {
            return Ok(());
        }
        let wanted = view.wanted().map(|(ordinal, pod)| (ordinal, pod, false));
        let condemned = view.condemned();
        let all = wanted.chain(condemned.map(|(ordinal, pod)| (ordinal, pod, true)));
        for (ordinal, pod, is_condemned) in all {
            let waits = !is_condemned && pods::phase(pod) == pods::Phase::Pending;
            for template in self.spec.volume_claim_templates.iter().flatten() {
                match self.known_claim(template, ordinal) {
                    Some(claim) => self.settle_owners(&claim, pod, is_condemned).await?,
                    None if waits => self.create_claim(template, ordinal).await?,
                    None => {}
                }
            }
        }
        Ok(())
    }

    async fn settle_owners(
        &self,
        claim: &PersistentVolumeClaim,
        pod: &Pod,
        is_condemned: bool,
    ) -> Result<(), SyncError> {
        let known = claim.owner_references();
        let owners = identity::claim_owners(self.spec, self.set, Some(pod), is_condemned, known);
        if owners == known {
            return Ok(());
        }
        let patch = meta::guarded_patch(&claim.metadata, json!({ "ownerReferences": owners }));
        let (api, params) = (self.api::<PersistentVolumeClaim>(), PatchParams::default());
        match api
            .patch(&claim.name_any(), &params, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if meta::is_not_found(&error) => Ok(()),
            Err(error) => Err(SyncError::ClaimOwners(error)),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let namespace = self.set.namespace().unwrap_or_default();
        Api::namespaced(self.client.clone(), &namespace)
    }
}
