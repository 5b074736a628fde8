//! A pod with a volume of its own kind, `ephemeral`, gets a claim for it: named after both, made from the volume's template,
//! and owned by the pod, so that it goes with it.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, ResourceExt, api::PostParams};

use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::Informer,
    meta,
    queue::{Pacing, WorkQueue},
};

/// Why a pod could not be given a claim.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The claim could not be created.
    #[error("creating the claim of an ephemeral volume")]
    Create(#[source] kube::Error),
    /// There is a claim of that name which is somebody else's.
    #[error("PVC {0} was not created for the pod")]
    Foreign(String),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing::default());
    let controller = Arc::new(Controller {
        pods: context.informers.of(),
        claims: context.informers.of(),
        context: context.clone(),
    });
    if !(controller.pods.synced().await && controller.claims.synced().await) {
        return;
    }
    let pods = queue.clone();
    controller.pods.subscribe(move |change| {
        let pod = change.object();
        if templates(pod).next().is_some() {
            let namespace = pod.namespace().unwrap_or_default();
            pods.add(ObjectKey::new(&namespace, pod.name_any()));
        }
    });
    let pods = queue.clone();
    controller.claims.subscribe(move |change| {
        // One that somebody took away is made again.
        let claim = change.object();
        if let Some(owner) = meta::controller_of(claim).filter(|owner| owner.kind == "Pod") {
            let namespace = claim.namespace().unwrap_or_default();
            pods.add(ObjectKey::new(&namespace, &owner.name));
        }
    });
    context.drive(controller, queue).await;
}

/// The volumes that want a claim: their names, and what it is made from.
fn templates(pod: &Pod) -> impl Iterator<Item = (&str, &PersistentVolumeClaimTemplate)> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        Some((volume.name.as_str(), template))
    })
}

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

impl Controller {
    async fn ensure(
        &self,
        pod: &Pod,
        volume: &str,
        template: &PersistentVolumeClaimTemplate,
    ) -> Result<(), SyncError> {
        let namespace = pod.namespace().unwrap_or_default();
        let name = format!("{}-{volume}", pod.name_any());
        if let Some(claim) = self.claims.store().get(&ObjectKey::new(&namespace, &name)) {
            let owner = meta::controller_of(&*claim);
            return match owner {
                Some(owner) if owner.uid == meta::uid(pod) => Ok(()),
                _ => Err(SyncError::Foreign(format!("{namespace}/{name}"))),
            };
        }
        let given = template.metadata.clone().unwrap_or_default();
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                labels: given.labels,
                annotations: given.annotations,
                owner_references: Some(vec![meta::controller_reference(pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            ..PersistentVolumeClaim::default()
        };
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &namespace);
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(()),
            // Our copy of the claims is behind, and will tell whose it is.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) if meta::is_namespace_terminating(&error) || meta::is_not_found(&error) => {
                Ok(())
            }
            Err(error) => Err(SyncError::Create(error)),
        }
    }
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "ephemeral-volume";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(pod) = self.pods.store().get(key) else {
            return Ok(Next::Wait);
        };
        if meta::is_terminating(&pod.metadata) {
            return Ok(Next::Wait);
        }
        for (volume, template) in templates(&pod) {
            self.ensure(&pod, volume, template).await?;
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    const PODS: &str = "api/v1/pods";
    const CLAIMS: &str = "api/v1/persistentvolumeclaims";

    #[tokio::test(start_paused = true)]
    async fn a_pod_gets_its_claim_and_nobody_elses() {
        let api = FakeApi::new();
        let template = json!({
            "metadata": {"labels": {"for": "scratch"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
        });
        let pod = |name: &str| {
            json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name},
                "spec": {"containers": [], "volumes": [
                    {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}},
                ]},
            })
        };
        let foreign = json!({"metadata": {"name": "other-scratch", "namespace": "ns"}, "spec": {}});
        api.put(CLAIMS, &foreign);
        api.put(PODS, &pod("p"));
        api.put(PODS, &pod("other"));
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        tokio::spawn(run(context));
        let is_there = |api: &FakeApi| api.object(CLAIMS, "ns", "p-scratch").is_some();
        api.until("the claim", is_there).await;
        let claim = api.object(CLAIMS, "ns", "p-scratch").unwrap();
        assert_eq!(claim["metadata"]["labels"]["for"], "scratch");
        assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "p");
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Mi");
        api.remove(CLAIMS, "ns", "p-scratch");
        api.until("it made again", is_there).await;
        api.settle().await;
        let other = api.object(CLAIMS, "ns", "other-scratch").unwrap();
        assert!(other["metadata"].get("ownerReferences").is_none());
    }
}
