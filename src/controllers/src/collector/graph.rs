//! Who owns whom: pure bookkeeping, fed by watches, asked by workers.
//!
//! Every object that was observed is a node; an owner that somebody names but nobody has observed is a *virtual* node,
//! there only to know its dependents. The graph says whose situation has changed and so deserves a look; whether
//! something is deleted is decided at that look, after asking the API server about whatever the graph does not know.

mod departed;
mod object;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use self::departed::Departed;
pub(crate) use self::object::{Cascade, Object, ResourceKey, Uid};

/// All observed objects and the owner references between them.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: HashMap<Uid, Node>,
    departed: Departed,
}

#[derive(Debug, Default)]
struct Node {
    /// Nothing as long as the node is virtual.
    object: Option<Arc<Object>>,
    /// The objects with a reference that means this one.
    dependents: HashSet<Uid>,
}

impl Node {
    fn deletes_dependents(&self) -> bool {
        self.object
            .as_ref()
            .is_some_and(|object| object.deletes_dependents())
    }
}

/// What the graph knows of the owner that a reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// It is there.
    Present,
    /// It is there and waits for its dependents to be deleted before it.
    DeletesDependents,
    /// It was there and was seen to be deleted.
    Departed,
    /// Never seen: ask.
    Unknown,
}

/// What there is to do about an object.
#[derive(Debug)]
pub(crate) enum Task {
    /// See whether its owners still want it.
    Examine(Arc<Object>),
    /// Let go of these dependents, then of the object's `orphan` finalizer.
    Orphan {
        /// The owner.
        object: Arc<Object>,
        /// All that name it.
        dependents: Vec<Arc<Object>>,
    },
    /// See that the dependents go, then let go of the object's `foregroundDeletion` finalizer.
    DeleteDependents {
        /// The owner.
        object: Arc<Object>,
        /// Those that it has to wait for.
        blocking: Vec<Uid>,
    },
}

/// Whose situation has changed.
type Looks = Vec<Uid>;

impl Graph {
    /// Notes that `object` exists, in this version. Returns who deserves a look because of it.
    pub(crate) fn observe(&mut self, object: Object) -> Looks {
        let object = Arc::new(object);
        let mut looks = Looks::new();
        let node = self.nodes.entry(object.uid.clone()).or_default();
        let before = node.object.replace(Arc::clone(&object));
        if before.is_none() {
            self.settle_claims(&object, &mut looks);
        }
        if before
            .as_ref()
            .is_none_or(|before| before.owners != object.owners)
        {
            if let Some(before) = &before {
                self.unlink(before, &mut looks);
            }
            self.link(&object, &mut looks);
        }
        let begins =
            |asked: fn(&Object) -> bool| asked(&object) && !before.as_deref().is_some_and(asked);
        if begins(Object::orphans_dependents) {
            looks.push(object.uid.clone());
        }
        if begins(Object::deletes_dependents) {
            looks.push(object.uid.clone());
            looks.extend(self.dependents(&object.uid).cloned());
        }
        looks
    }

    /// Notes that an object is no more. Returns who deserves a look because of it.
    pub(crate) fn gone(&mut self, uid: &Uid) -> Looks {
        let mut looks = Looks::new();
        let Some(object) = self.make_virtual(uid, &mut looks) else {
            return looks;
        };
        looks.extend(self.dependents(uid).cloned());
        self.departed.remember(&object);
        looks
    }

    /// Forgets all objects of a resource that is served no longer. Not the same as their being gone: their
    /// dependents stay until the API server says about each owner that it isn't there.
    pub(crate) fn forget(&mut self, resource: &ResourceKey) -> Looks {
        let mut looks = Looks::new();
        for uid in self.of_resource(resource) {
            self.make_virtual(&uid, &mut looks);
        }
        looks
    }

    /// The observed objects of a resource.
    pub(crate) fn of_resource(&self, resource: &ResourceKey) -> Vec<Uid> {
        let observed = self.nodes.values().filter_map(|node| node.object.as_ref());
        observed
            .filter(|object| object.is_of(resource))
            .map(|object| object.uid.clone())
            .collect()
    }

    /// What is to be done about an object; nothing if it isn't there, or is going its own way.
    pub(crate) fn task(&self, uid: &Uid) -> Option<Task> {
        let object = Arc::clone(self.nodes.get(uid)?.object.as_ref()?);
        if object.orphans_dependents() {
            let dependents = self.observed_dependents(uid).cloned().collect();
            return Some(Task::Orphan { object, dependents });
        }
        if object.deletes_dependents() {
            let blocking = self
                .observed_dependents(uid)
                .filter(|dependent| dependent.blocks_deletion_of(uid))
                .map(|dependent| dependent.uid.clone())
                .collect();
            return Some(Task::DeleteDependents { object, blocking });
        }
        (!object.deleting && !object.owners.is_empty()).then_some(Task::Examine(object))
    }

    /// What is known of the owner named by a reference of an object in `namespace`.
    pub(crate) fn knowledge(&self, owner: &OwnerReference, namespace: &str) -> Knowledge {
        let node = self.nodes.get(&*owner.uid);
        match node.and_then(|node| node.object.as_ref()) {
            Some(object) if !object.is_meant_by(owner, namespace) => Knowledge::Unknown,
            Some(object) if object.deletes_dependents() => Knowledge::DeletesDependents,
            Some(_) => Knowledge::Present,
            None if self.departed.contains(owner, namespace) => Knowledge::Departed,
            None => Knowledge::Unknown,
        }
    }

    /// Whether any object names this one as its owner.
    pub(crate) fn has_dependents(&self, uid: &Uid) -> bool {
        self.dependents(uid).next().is_some()
    }

    /// Whether a dependent of this object waits for its own dependents: if those include this object, both would
    /// wait for ever.
    pub(crate) fn may_be_in_a_circle(&self, uid: &Uid) -> bool {
        self.observed_dependents(uid)
            .any(|dependent| dependent.deletes_dependents())
    }

    fn dependents(&self, uid: &Uid) -> impl Iterator<Item = &Uid> {
        self.nodes
            .get(uid)
            .into_iter()
            .flat_map(|node| &node.dependents)
    }

    fn observed_dependents(&self, uid: &Uid) -> impl Iterator<Item = &Arc<Object>> {
        self.dependents(uid)
            .filter_map(|dependent| self.nodes.get(dependent)?.object.as_ref())
    }

    /// Takes the object out of its node and out of its owners' sight. Its dependents still name it, so they stay.
    fn make_virtual(&mut self, uid: &Uid, looks: &mut Looks) -> Option<Arc<Object>> {
        let node = self.nodes.get_mut(uid)?;
        let object = node.object.take()?;
        let forgettable = node.dependents.is_empty();
        self.unlink(&object, looks);
        if forgettable {
            self.nodes.remove(uid);
        }
        Some(object)
    }

    /// Now that the object behind a uid is known: who named it by another name, kind or namespace does not mean it.
    fn settle_claims(&mut self, object: &Arc<Object>, looks: &mut Looks) {
        let means_it = |claimant: &Object| {
            let mut owners = claimant.owners.iter();
            owners.any(|owner| object.is_meant_by(owner, &claimant.namespace))
        };
        let mistaken: Vec<Uid> = self
            .observed_dependents(&object.uid)
            .filter(|claimant| !means_it(claimant))
            .map(|claimant| claimant.uid.clone())
            .collect();
        if let Some(node) = self.nodes.get_mut(&object.uid) {
            for claimant in &mistaken {
                node.dependents.remove(claimant);
            }
        }
        looks.extend(mistaken);
    }

    fn link(&mut self, object: &Arc<Object>, looks: &mut Looks) {
        let mut in_doubt = false;
        for owner in &object.owners {
            if owner.uid == *object.uid {
                continue;
            }
            let node = self.nodes.entry(Uid::from(&*owner.uid)).or_default();
            match &node.object {
                Some(known) if !known.is_meant_by(owner, &object.namespace) => {
                    in_doubt = true;
                    continue;
                }
                Some(known) => in_doubt |= known.deletes_dependents(),
                None => in_doubt = true,
            }
            node.dependents.insert(object.uid.clone());
        }
        if in_doubt {
            looks.push(object.uid.clone());
        }
    }

    fn unlink(&mut self, object: &Object, looks: &mut Looks) {
        for owner in &object.owners {
            let Some(node) = self.nodes.get_mut(&*owner.uid) else {
                continue;
            };
            if !node.dependents.remove(&object.uid) {
                continue;
            }
            if node.deletes_dependents() {
                // It may have been the last that held its owner back.
                looks.push(Uid::from(&*owner.uid));
            } else if node.object.is_none() && node.dependents.is_empty() {
                self.nodes.remove(&*owner.uid);
            }
        }
    }
}
