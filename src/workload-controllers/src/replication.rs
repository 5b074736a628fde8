//! Replication controllers: as many pods as `spec.replicas` says, no more and no fewer.

use std::borrow::Cow;

use k8s_openapi::api::{
    apps::v1::{ReplicaSetCondition, ReplicaSetStatus},
    core::v1::{
        PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
        ReplicationControllerStatus,
    },
};
use vaquita_api::selector::LabelSelector as Selector;

pub use crate::replicas::SyncError;
use crate::replicas::{self, Keeper, Owner};
use vaquita_reconcile::Context;

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    Keeper::<ReplicationController>::run(context).await;
}

impl Owner for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";

    fn wanted(&self) -> i32 {
        let wanted = self.spec.as_ref().and_then(|spec| spec.replicas);
        wanted.unwrap_or(1).max(0)
    }

    fn min_ready_seconds(&self) -> i32 {
        let seconds = self.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        seconds.unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn selector(&self) -> Selector {
        let selector = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        replicas::unless_empty(Selector::from_map(selector.into_iter().flatten()))
    }

    fn status(&self) -> Cow<'_, ReplicaSetStatus> {
        let Some(status) = self.status.clone() else {
            return Cow::Owned(ReplicaSetStatus::default());
        };
        let conditions = status.conditions.map(|conditions| {
            let each = conditions.into_iter().map(|condition| ReplicaSetCondition {
                type_: condition.type_,
                status: condition.status,
                reason: condition.reason,
                message: condition.message,
                last_transition_time: condition.last_transition_time,
            });
            each.collect()
        });
        Cow::Owned(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            terminating_replicas: None,
            observed_generation: status.observed_generation,
            conditions,
        })
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        let conditions = status.conditions.map(|conditions| {
            let each = conditions
                .into_iter()
                .map(|condition| ReplicationControllerCondition {
                    type_: condition.type_,
                    status: condition.status,
                    reason: condition.reason,
                    message: condition.message,
                    last_transition_time: condition.last_transition_time,
                });
            each.collect()
        });
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions,
        });
    }
}

#[cfg(test)]
mod tests;
