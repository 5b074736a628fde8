//! The owners that were seen to go of late.
//!
//! An object that is gone never comes back under its uid, so having seen it go is as good as asking for it; and when an
//! owner goes, all its dependents would ask at the same time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::object::{Object, Uid};

/// How many are remembered. Dependents of older ones are still collected, after a question each.
const REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Departed {
    objects: HashMap<Uid, Arc<Object>>,
    order: VecDeque<Uid>,
}

impl Departed {
    pub(super) fn remember(&mut self, object: &Arc<Object>) {
        let known = self.objects.insert(object.uid.clone(), Arc::clone(object));
        if known.is_some() {
            return;
        }
        self.order.push_back(object.uid.clone());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.objects.remove(&oldest);
        }
    }

    /// Whether the object meant by a reference of an object in `namespace` is among them.
    pub(super) fn contains(&self, owner: &OwnerReference, namespace: &str) -> bool {
        self.objects
            .get(&*owner.uid)
            .is_some_and(|object| object.is_meant_by(owner, namespace))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.objects.len(), self.order.len());
        self.objects.len()
    }
}
