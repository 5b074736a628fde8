//! Telling the API server what was decided: bindings and the volumes that they need, victims, and the condition of pods
//! that fit nowhere.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    devices::{self, Grant, GrantError},
    pod::{PodInfo, PodKey},
    volumes::{ClaimKey, SELECTED_NODE, Step},
};

/// How long claims may take to be bound before the pod is decided anew.
const CLAIMS_DEADLINE: Duration = Duration::from_mins(10);
/// How long to wait before looking at a claim again, at first and at most.
const CLAIM_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Says that a volume was chosen for its claim by the machine, and may be given back.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// How binding a pod ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The pod has its node.
    Bound,
    /// The pod is gone, or got a node from somebody else: nothing is left to do.
    Moot,
    /// It did not work this time.
    Failed(BindError),
}

/// Why binding did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("binding volumes: {0}")]
    Volume(#[source] kube::Error),
    #[error("binding volumes: timed out waiting for the condition")]
    VolumeTimeout,
    #[error("allocating devices: {0}")]
    Devices(#[source] GrantError),
    #[error("binding: {0}")]
    Pod(#[source] kube::Error),
}

/// What has to be done before a pod can be bound.
#[derive(Debug, Default)]
pub(crate) struct Preparations {
    /// For its volumes.
    pub(crate) steps: Vec<Step>,
    /// For its claims of devices.
    pub(crate) grants: Vec<Grant>,
}

/// Speaks to the API server. Clones are cheap.
#[derive(Clone)]
pub(crate) struct Speaker {
    client: Client,
}

impl Speaker {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Gives the pod to `node`, if it is still the same incarnation and still has none, once its volumes are there and
    /// it has its devices.
    pub(crate) async fn bind(&self, pod: &PodKey, node: &str, first: &Preparations) -> Outcome {
        let outcome = self.prepare_and_bind(pod, node, first).await;
        let failed = matches!(outcome, Outcome::Failed(_));
        if failed && !first.grants.is_empty() && self.still_waits(pod).await {
            for grant in &first.grants {
                devices::take_back(&self.client, pod, grant).await;
            }
        }
        outcome
    }

    /// Has a claim that only this pod may use give its devices back, for others may do better.
    pub(crate) async fn give_back(&self, pod: &PodKey, claim: &Grant) {
        devices::take_back(&self.client, pod, claim).await;
    }

    /// Whether the pod is there and has no node. An answer may have been lost of what was done after all.
    async fn still_waits(&self, pod: &PodKey) -> bool {
        let found = self.pods(pod).get_opt(&pod.name).await;
        let found = found.ok().flatten();
        found.is_some_and(|found| {
            let node = found.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            found.metadata.uid.as_ref() == Some(&pod.uid) && node.is_none()
        })
    }

    async fn prepare_and_bind(&self, pod: &PodKey, node: &str, first: &Preparations) -> Outcome {
        if let Err(error) = self.bind_volumes(&first.steps).await {
            return Outcome::Failed(error);
        }
        for grant in &first.grants {
            if let Err(error) = devices::give(&self.client, pod, grant).await {
                return Outcome::Failed(BindError::Devices(error));
            }
        }
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let bound: Result<Ignored, _> = self
            .pods(pod)
            .create_subresource("binding", &pod.name, &PostParams::default(), &binding)
            .await;
        match bound {
            Ok(_) => Outcome::Bound,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Outcome::Moot,
            Err(error) => Outcome::Failed(BindError::Pod(error)),
        }
    }

    async fn bind_volumes(&self, steps: &[Step]) -> Result<(), BindError> {
        for step in steps {
            self.take(step).await.map_err(BindError::Volume)?;
        }
        let deadline = Instant::now() + CLAIMS_DEADLINE;
        for step in steps {
            let (Step::Keep { claim, .. } | Step::Provision { claim, .. }) = step;
            let (mut pause, longest) = CLAIM_PAUSE;
            while !self.is_bound(claim).await.map_err(BindError::Volume)? {
                if Instant::now() >= deadline {
                    return Err(BindError::VolumeTimeout);
                }
                sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        }
        Ok(())
    }

    async fn take(&self, step: &Step) -> Result<(), kube::Error> {
        match step {
            Step::Keep { volume, claim, uid } => {
                let patch = json!({
                    "metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}},
                    "spec": {"claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": claim.0,
                        "name": claim.1,
                        "uid": uid,
                    }},
                });
                let volumes = Api::<PersistentVolume>::all(self.client.clone());
                volumes
                    .patch(volume, &PatchParams::default(), &Patch::Merge(patch))
                    .await
                    .map(drop)
            }
            Step::Provision { claim, node } => {
                let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                self.claims(claim)
                    .patch(&claim.1, &PatchParams::default(), &Patch::Merge(patch))
                    .await
                    .map(drop)
            }
        }
    }

    async fn is_bound(&self, claim: &ClaimKey) -> Result<bool, kube::Error> {
        let claim = self.claims(claim).get(&claim.1).await?;
        Ok(claim
            .status
            .is_some_and(|status| status.phase.as_deref() == Some("Bound")))
    }

    /// Says as the pod's condition that it fits nowhere.
    pub(crate) async fn unschedulable(&self, pod: &PodKey, message: &str, nominated: Option<&str>) {
        let mut status = json!({"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": Time(Timestamp::now()),
        }]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = node.into();
        }
        let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
        self.patch_status(pod, patch).await;
    }

    /// No room is kept for the pod any more.
    pub(crate) async fn withdraw(&self, pod: &PodKey) {
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": ""}});
        self.patch_status(pod, patch).await;
    }

    /// Sends a victim away, with time to end in good order. Says whether it goes.
    pub(crate) async fn evict(&self, victim: &Arc<PodInfo>, scheduler: &str) -> bool {
        let pod = &victim.key;
        let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": message,
            "lastTransitionTime": Time(Timestamp::now()),
        }]}});
        self.patch_status(pod, patch).await;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.pods(pod).delete(&pod.name, &params).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(pod = %pod.name, %error, "cannot send a victim away");
                matches!(error, kube::Error::Api(status) if status.code == 404)
            }
        }
    }

    async fn patch_status(&self, pod: &PodKey, patch: serde_json::Value) {
        let patched = self
            .pods(pod)
            .patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        if let Err(error) = patched {
            tracing::debug!(pod = %pod.name, %error, "cannot set a pod's status");
        }
    }

    fn pods(&self, pod: &PodKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }

    fn claims(&self, claim: &ClaimKey) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), &claim.0)
    }
}

/// An answer that nobody looks into.
#[derive(Debug, Clone, serde::Deserialize)]
struct Ignored {}
