//! Takes the mark `DisruptionTarget` back from pods that were to be disrupted, and live on.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use vaquita_reconcile::{
    Clock, Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

/// How long a pod is believed to be about to go.
const STALE_AFTER: Duration = Duration::from_mins(2);
const TARGET: &str = "DisruptionTarget";

/// Why a pod's mark could not be taken back.
#[derive(Debug, thiserror::Error)]
#[error("updating the pod's conditions")]
pub(super) struct UnmarkError(#[source] kube::Error);

pub(super) async fn run(context: &Context, pods: &Informer<Pod>) {
    let queue = WorkQueue::new(Pacing::default());
    let marks = Arc::new(Marks {
        client: context.client.clone(),
        clock: context.options.clock.clone(),
        pods: pods.clone(),
    });
    let marked = queue.clone();
    pods.subscribe(move |change| {
        if !matches!(change, Change::Deleted(_)) && mark(change.object()).is_some() {
            marked.add(ObjectKey::of(change.object()));
        }
    });
    context.drive(marks, queue).await;
}

/// The mark of a pod that is not going.
fn mark(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let marked = conditions
        .iter()
        .find(|condition| condition.type_ == TARGET && condition.status == "True")?;
    pods::is_active(pod).then_some(marked)
}

struct Marks {
    client: Client,
    clock: Clock,
    pods: Informer<Pod>,
}

impl Reconciler for Marks {
    /// The pod's name.
    type Key = ObjectKey;
    type Error = UnmarkError;
    const NAME: &'static str = "stale-disruption";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, UnmarkError> {
        let Some(pod) = self.pods.store().get(key) else {
            return Ok(Next::Wait);
        };
        let Some(marked) = mark(&pod) else {
            return Ok(Next::Wait);
        };
        let now = self.clock.now();
        let since = marked.last_transition_time.as_ref().map_or(now, |at| at.0);
        let age = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
        match STALE_AFTER.checked_sub(age) {
            Some(left) if !left.is_zero() => Ok(Next::After(left)),
            _ => self.unmark(&pod, now).await.map(|()| Next::Wait),
        }
    }
}

impl Marks {
    async fn unmark(&self, pod: &Pod, now: Timestamp) -> Result<(), UnmarkError> {
        let status = pod.status.as_ref();
        let mut conditions = status
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        for condition in conditions.iter_mut().filter(|one| one.type_ == TARGET) {
            "False".clone_into(&mut condition.status);
            condition.last_transition_time = Some(Time(now));
            condition.reason = None;
            condition.message = None;
        }
        let mut patch = meta::guarded_patch(&pod.metadata, json!({}));
        patch["status"] = json!({ "conditions": conditions });
        let namespace = pod.namespace().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        let (name, params) = (pod.name_any(), PatchParams::default());
        match api.patch_status(&name, &params, &Patch::Merge(patch)).await {
            Err(error) if !meta::is_not_found(&error) => Err(UnmarkError(error)),
            _ => Ok(()),
        }
    }
}
