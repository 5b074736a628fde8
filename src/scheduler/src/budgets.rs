//! Disruption budgets: how many pods of an application may be taken away.

use std::collections::HashMap;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::{
    pod::{Identity, PodKey},
    selector::Selector,
};

#[derive(Debug)]
struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i64,
    /// Pods whose end is already counted in `allowed`.
    disrupted: Vec<String>,
}

/// All budgets, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Budgets(HashMap<String, HashMap<String, Budget>>);

/// What is left of each budget while victims are chosen.
pub(crate) struct Left<'b>(Vec<(&'b Budget, i64)>);

impl Budgets {
    pub(crate) fn set(&mut self, budget: &PodDisruptionBudget) {
        let (namespace, name) = names(budget);
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        let new = Budget {
            namespace: namespace.clone(),
            selector: Selector::of(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())),
            allowed: status
                .and_then(|status| status.disruptions_allowed)
                .map_or(0, i64::from),
            disrupted: disrupted
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect(),
        };
        self.0.entry(namespace).or_default().insert(name, new);
    }

    pub(crate) fn remove(&mut self, budget: &PodDisruptionBudget) {
        let (namespace, name) = names(budget);
        if let Some(budgets) = self.0.get_mut(&namespace) {
            budgets.remove(&name);
            if budgets.is_empty() {
                self.0.remove(&namespace);
            }
        }
    }

    /// Begins to count.
    pub(crate) fn left(&self) -> Left<'_> {
        let budgets = self.0.values().flat_map(HashMap::values);
        Left(budgets.map(|budget| (budget, budget.allowed)).collect())
    }
}

impl Left<'_> {
    /// Whether a budget would be overdrawn if the pod went. If not, it is taken off.
    pub(crate) fn overdraws(&mut self, key: &PodKey, pod: &Identity) -> bool {
        if pod.labels.is_empty() {
            return false;
        }
        let mut overdrawn = false;
        for (budget, left) in &mut self.0 {
            let counts = budget.namespace == pod.namespace
                && budget.selector.matches(&pod.labels)
                && !budget.disrupted.iter().any(|name| *name == key.name);
            if counts {
                *left -= 1;
                overdrawn |= *left < 0;
            }
        }
        overdrawn
    }
}

fn names(budget: &PodDisruptionBudget) -> (String, String) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    (
        text(&budget.metadata.namespace),
        text(&budget.metadata.name),
    )
}
