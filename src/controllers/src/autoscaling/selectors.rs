//! Which pods each autoscaler is about, so that two that pull at the same pods are found out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use vaquita_api::selector::LabelSelector;
use vaquita_reconcile::ObjectKey;

/// The selectors of all autoscalers that were looked at, by name.
#[derive(Default)]
pub(super) struct Selectors(Mutex<HashMap<ObjectKey, LabelSelector>>);

impl Selectors {
    /// Notes what the autoscaler `key` is about, and tells all autoscalers in its namespace that are about one of these pods,
    /// in order.
    pub(super) fn claim(
        &self,
        key: &ObjectKey,
        selector: &LabelSelector,
        pods: &[Arc<Pod>],
    ) -> Vec<ObjectKey> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key.clone(), selector.clone());
        let mut all: Vec<ObjectKey> = known
            .iter()
            .filter(|(other, _)| other.namespace == key.namespace)
            .filter(|(_, selector)| pods.iter().any(|pod| selector.matches(pod.labels())))
            .map(|(other, _)| other.clone())
            .collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// The autoscaler is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(key);
    }
}
