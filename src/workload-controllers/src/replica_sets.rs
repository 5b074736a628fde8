//! Replica sets: what replication controllers do, with selectors that say more. Deployments work through them.

use std::borrow::Cow;

use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::PodTemplateSpec,
};
use vaquita_api::selector::LabelSelector as Selector;

pub use crate::replicas::SyncError;
use crate::replicas::{self, Keeper, Owner};
use vaquita_reconcile::Context;

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    Keeper::<ReplicaSet>::run(context).await;
}

impl Owner for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

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
        replicas::selector(self.spec.as_ref().map(|spec| &spec.selector))
    }

    fn status(&self) -> Cow<'_, ReplicaSetStatus> {
        match &self.status {
            Some(status) => Cow::Borrowed(status),
            None => Cow::Owned(ReplicaSetStatus::default()),
        }
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

#[cfg(test)]
mod tests;
