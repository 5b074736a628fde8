//! The kinds that keep a number of pods, seen alike: what a [`Keeper`](super::Keeper) asks of them.

use std::borrow::Cow;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::ReplicaSetStatus,
        core::v1::{Pod, PodTemplateSpec},
    },
};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use vaquita_api::selector::LabelSelector as Selector;

use vaquita_reconcile::informer::Watched;

/// A kind whose objects want so many pods after one template.
///
/// Its status is read and written as that of a replica set, of which the others' are subsets.
pub(crate) trait Owner:
    Watched + Serialize + Resource<Scope = NamespaceResourceScope>
{
    /// The controller's name, in the log and in events.
    const CONTROLLER: &'static str;

    /// How many pods are wanted; never below zero.
    fn wanted(&self) -> i32;

    /// For how many seconds a pod must have been ready to count as available.
    fn min_ready_seconds(&self) -> i32;

    /// What new pods look like.
    fn template(&self) -> Option<&PodTemplateSpec>;

    /// Which pods are meant. An empty selector would take in the whole namespace; nobody ever means that, so it selects
    /// nothing.
    fn selector(&self) -> Selector;

    /// Whether this pod is selected.
    fn selects(&self, pod: &Pod) -> bool {
        self.selector().matches(pod.labels())
    }

    /// What was last reported.
    fn status(&self) -> Cow<'_, ReplicaSetStatus>;

    /// Puts what is to be reported in place of what was.
    fn set_status(&mut self, status: ReplicaSetStatus);
}
