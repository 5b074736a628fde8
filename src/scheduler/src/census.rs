//! How many pods of which sort are on which node, and which of them want what company.
//!
//! Pods that no selector can tell apart are counted together, so that a question about some pods costs as much as
//! there are sorts of them, not as there are pods.

use std::{collections::HashMap, sync::Arc};

use crate::{
    cluster::NodeIx,
    pod::{Company, Identity},
    selector::{Labels, Target, Term},
};

/// How many on each node; those that have none are absent.
pub(crate) type Counts = HashMap<NodeIx, u32>;

/// How a pod that is there is disposed to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Disposition {
    /// It must have them near.
    Requires,
    /// It must not.
    Forbids,
    /// It would rather, or if negative rather not.
    Prefers(i64),
}

/// The pods of a cluster by sort.
#[derive(Debug, Default)]
pub(crate) struct Census {
    sorts: HashMap<String, HashMap<Arc<Identity>, Counts>>,
    terms: HashMap<(Disposition, Term), Counts>,
    namespaces: HashMap<String, Labels>,
}

impl Census {
    /// A pod has come to a node.
    pub(crate) fn add(&mut self, identity: &Arc<Identity>, company: &Company, node: NodeIx) {
        let sorts = match self.sorts.get_mut(&identity.namespace) {
            Some(sorts) => sorts,
            None => self.sorts.entry(identity.namespace.clone()).or_default(),
        };
        let counts = match sorts.get_mut(identity) {
            Some(counts) => counts,
            None => sorts.entry(Arc::clone(identity)).or_default(),
        };
        *counts.entry(node).or_default() += 1;
        for held in dispositions(company) {
            *self.terms.entry(held).or_default().entry(node).or_default() += 1;
        }
    }

    /// A pod that had come has gone.
    pub(crate) fn remove(&mut self, identity: &Arc<Identity>, company: &Company, node: NodeIx) {
        if let Some(sorts) = self.sorts.get_mut(&identity.namespace) {
            if let Some(counts) = sorts.get_mut(identity) {
                take(counts, node);
                if counts.is_empty() {
                    sorts.remove(identity);
                }
            }
            if sorts.is_empty() {
                self.sorts.remove(&identity.namespace);
            }
        }
        for held in dispositions(company) {
            if let Some(counts) = self.terms.get_mut(&held) {
                take(counts, node);
                if counts.is_empty() {
                    self.terms.remove(&held);
                }
            }
        }
    }

    /// Takes the labels of a namespace. Says whether they are new.
    pub(crate) fn set_namespace(&mut self, name: String, labels: Labels) -> bool {
        self.namespaces.insert(name, labels.clone()) != Some(labels)
    }

    /// Forgets all namespaces: their list comes anew.
    pub(crate) fn clear_namespaces(&mut self) {
        self.namespaces.clear();
    }

    pub(crate) fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// The sorts of pods in a namespace.
    pub(crate) fn sorts(&self, namespace: &str) -> impl Iterator<Item = (&Identity, &Counts)> {
        let sorts = self.sorts.get(namespace).into_iter().flatten();
        sorts.map(|(identity, counts)| (&**identity, counts))
    }

    /// The sorts of pods that all of these targets pick.
    pub(crate) fn picked<'c>(
        &'c self,
        targets: &'c [&'c Target],
    ) -> impl Iterator<Item = (&'c Identity, &'c Counts)> {
        // Whoever is picked by all is picked by the first: only its namespaces are looked through.
        let first = targets.first();
        let namespaces = self.sorts.iter().filter(move |(namespace, _)| {
            first.is_some_and(|target| self.in_namespaces(target, namespace))
        });
        namespaces
            .flat_map(|(_, sorts)| sorts)
            .map(|(identity, counts)| (&**identity, counts))
            .filter(move |(identity, _)| targets.iter().all(|it| self.picks(it, identity)))
    }

    /// Whether a target picks a pod.
    pub(crate) fn picks(&self, target: &Target, identity: &Identity) -> bool {
        target.selector.matches(&identity.labels) && self.in_namespaces(target, &identity.namespace)
    }

    fn in_namespaces(&self, target: &Target, namespace: &str) -> bool {
        target.namespaces.iter().any(|name| name == namespace)
            || self
                .namespaces
                .get(namespace)
                .is_some_and(|labels| target.namespace_selector.matches(labels))
    }

    /// What the pods that are there want of a pod, and where they are.
    pub(crate) fn about<'c>(
        &'c self,
        identity: &'c Identity,
    ) -> impl Iterator<Item = (Disposition, &'c Term, &'c Counts)> {
        self.terms
            .iter()
            .filter(|((_, term), _)| self.picks(&term.target, identity))
            .map(|((disposition, term), counts)| (*disposition, term, counts))
    }
}

fn take(counts: &mut Counts, node: NodeIx) {
    if let Some(count) = counts.get_mut(&node) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&node);
        }
    }
}

fn dispositions(company: &Company) -> impl Iterator<Item = (Disposition, Term)> {
    let required = company
        .required
        .iter()
        .map(|it| (Disposition::Requires, it));
    let forbidden = company
        .forbidden
        .iter()
        .map(|it| (Disposition::Forbids, it));
    let preferred = company
        .preferred
        .iter()
        .map(|(weight, it)| (Disposition::Prefers(*weight), it));
    required
        .chain(forbidden)
        .chain(preferred)
        .map(|(disposition, term)| (disposition, term.clone()))
}
