//! Services, as far as they say which pods belong together: pods that serve the same spread, if nothing else says how.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Service;

use crate::{pod::Identity, selector::Labels};

/// The selectors of all Services, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Services(HashMap<String, BTreeMap<String, Labels>>);

impl Services {
    pub(crate) fn set(&mut self, service: &Service) {
        let (namespace, name) = names(service);
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.clone())
            .unwrap_or_default();
        if selector.is_empty() {
            self.remove(service);
        } else {
            self.0.entry(namespace).or_default().insert(name, selector);
        }
    }

    pub(crate) fn remove(&mut self, service: &Service) {
        let (namespace, name) = names(service);
        if let Some(services) = self.0.get_mut(&namespace) {
            services.remove(&name);
            if services.is_empty() {
                self.0.remove(&namespace);
            }
        }
    }

    /// The labels by which Services pick this pod, all together; empty if none does.
    pub(crate) fn selecting(&self, pod: &Identity) -> Labels {
        let selectors = self.0.get(&pod.namespace).into_iter().flatten();
        let picks = |selector: &&Labels| {
            selector
                .iter()
                .all(|(key, value)| pod.labels.get(key) == Some(value))
        };
        let all = selectors.map(|(_, selector)| selector).filter(picks);
        all.flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

fn names(service: &Service) -> (String, String) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    (
        text(&service.metadata.namespace),
        text(&service.metadata.name),
    )
}
