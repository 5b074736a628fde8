//! Budgets of disruptions: how many pods of an application may be evicted now.
//!
//! The eviction of a pod counts its budget's `disruptionsAllowed` down and notes the pod in `disruptedPods`, in the API
//! server; this controller counts again whenever a pod comes, goes, or changes its readiness. Both write with the version
//! that they read, so no eviction is forgotten and none is counted twice.
//!
//! What a budget's status says is computed in `plan`. `stale` takes the mark back from pods that were to be disrupted
//! and were not.

mod owners;
mod plan;
mod stale;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::Pod,
    policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
};
use kube::{Api, ResourceExt as _, api::PostParams};
use vaquita_api::selector::LabelSelector;

use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler, chain},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

use owners::{OwnerError, Owners};

/// The least time between two counts of one budget: many pods tend to become ready together.
const GATHER: Duration = Duration::from_millis(50);

/// Why a budget could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// How many pods there should be could not be found out.
    #[error(transparent)]
    Owners(#[from] OwnerError),
    /// A limit makes no sense.
    #[error(transparent)]
    Limit(#[from] plan::InvalidLimit),
    /// The status could not be written.
    #[error("writing the status")]
    Write(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing {
        interval: GATHER,
        ..Pacing::default()
    });
    let controller = Arc::new(Controller {
        budgets: context.informers.of(),
        pods: context.informers.of(),
        owners: Owners::new(&context),
        recorder: context.recorder("controllermanager"),
        context: context.clone(),
    });
    let synced = controller.budgets.synced().await
        && controller.pods.synced().await
        && controller.owners.synced().await;
    if !synced {
        return;
    }
    controller.listen(&queue);
    tokio::join!(
        context.drive(Arc::clone(&controller), queue),
        stale::run(&context, &controller.pods),
    );
}

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    owners: Owners,
    recorder: Recorder,
}

impl Reconciler for Controller {
    /// The budget's name.
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "disruption";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(budget) = self.budgets.store().get(key) else {
            return Ok(Next::Wait);
        };
        let now = self.context.now();
        match self.count(&budget, now).await {
            Ok((status, next)) => {
                self.write(&budget, status).await?;
                Ok(next)
            }
            Err(error) => {
                let why = chain(&error);
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder
                    .warning(&*budget, "CalculateExpectedPodCountFailed", message);
                self.write(&budget, plan::failed(&budget, why, now)).await?;
                Err(error)
            }
        }
    }
}

impl Controller {
    fn listen(self: &Arc<Self>, queue: &WorkQueue<ObjectKey>) {
        let budgets = queue.clone();
        self.budgets.subscribe(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                budgets.add(ObjectKey::of(change.object()));
            }
        });
        let (listener, budgets) = (Arc::clone(self), queue.clone());
        self.pods.subscribe(move |change| match change {
            Change::Added(pod) | Change::Deleted(pod) => listener.concern(pod, &budgets),
            Change::Modified { old, new } => {
                if matters(old) != matters(new) {
                    listener.concern(new, &budgets);
                    if old.labels() != new.labels() {
                        listener.concern(old, &budgets);
                    }
                }
            }
        });
        let (listener, budgets) = (Arc::clone(self), queue.clone());
        self.owners.on_resize(move |namespace| {
            for budget in listener.budgets.store().in_namespace(namespace, |_| true) {
                budgets.add(ObjectKey::of(&*budget));
            }
        });
    }

    /// Queues the budgets that select this pod.
    fn concern(&self, pod: &Pod, queue: &WorkQueue<ObjectKey>) {
        let namespace = pod.namespace().unwrap_or_default();
        let selects = |budget: &PodDisruptionBudget| selector(budget).matches(pod.labels());
        for budget in self.budgets.store().in_namespace(&namespace, selects) {
            queue.add(ObjectKey::of(&*budget));
        }
    }

    /// What the status should say, and when it has to be looked at again.
    async fn count(
        &self,
        budget: &PodDisruptionBudget,
        now: Timestamp,
    ) -> Result<(PodDisruptionBudgetStatus, Next), SyncError> {
        let namespace = budget.namespace().unwrap_or_default();
        let selector = selector(budget);
        let selected = |pod: &Pod| selector.matches(pod.labels());
        let pods = self.pods.store().in_namespace(&namespace, selected);
        if pods.is_empty() {
            let message = "No matching pods found".to_owned();
            self.recorder.normal(budget, "NoPods", message);
        }
        let spec = budget.spec.clone().unwrap_or_default();
        let scale = if plan::needs_scale(&spec) {
            self.owners.scale(&namespace, &pods).await?
        } else {
            0
        };
        let needs = plan::needs(&spec, plan::count(pods.len()), scale)?;
        let disrupted = plan::disrupted(budget, &pods, now);
        for pod in pods
            .iter()
            .filter(|pod| disrupted.overdue.contains(&pod.name_any()))
        {
            let message = format!(
                "Pod was expected by PDB {namespace}/{} to be deleted but it wasn't",
                budget.name_any()
            );
            self.recorder.warning(&**pod, "NotDeleted", message);
        }
        let next = disrupted.recheck.map_or(Next::Wait, Next::After);
        let healthy = plan::healthy(&pods, &disrupted);
        Ok((plan::status(budget, needs, healthy, disrupted, now), next))
    }

    /// Writes the status, unless it is there already. A conflict means that an eviction was counted meanwhile.
    async fn write(
        &self,
        known: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), SyncError> {
        if known.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let budget = PodDisruptionBudget {
            status: Some(status),
            ..known.clone()
        };
        let namespace = known.namespace().unwrap_or_default();
        let api = Api::<PodDisruptionBudget>::namespaced(self.context.client.clone(), &namespace);
        let (name, params) = (known.name_any(), PostParams::default());
        match api.replace_status(&name, &params, &budget).await {
            Err(error) if !meta::is_not_found(&error) => Err(SyncError::Write(error)),
            _ => Ok(()),
        }
    }
}

/// What of a pod a budget depends on.
fn matters(
    pod: &Pod,
) -> (
    bool,
    bool,
    &std::collections::BTreeMap<String, String>,
    Option<&str>,
) {
    let owner = meta::controller_of(pod).map(|owner| owner.uid.as_str());
    (
        pods::is_ready(pod),
        meta::is_terminating(&pod.metadata),
        pod.labels(),
        owner,
    )
}

/// The pods that the budget is about; validation lets no selector in that makes no sense.
fn selector(budget: &PodDisruptionBudget) -> LabelSelector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    LabelSelector::from_object(selector).unwrap_or_else(|_| LabelSelector::nothing())
}

#[cfg(test)]
mod tests;
