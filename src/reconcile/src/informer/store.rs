//! The local copy of all objects of one kind, with the indices that controllers ask for all the time.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use crate::{key::ObjectKey, meta, pods};

/// All objects of kind `K` as the watch last told, readable from any thread.
///
/// It follows the API server a moment behind: an object just written may be missing, one just deleted may still be here.
/// Whoever acts on an absence must allow for that (as those do who count on writes of their own).
#[derive(Debug)]
pub struct Store<K> {
    tables: RwLock<Tables<K>>,
}

#[derive(Debug)]
struct Tables<K> {
    /// namespace → name → object.
    objects: BTreeMap<String, BTreeMap<String, Arc<K>>>,
    /// The same objects by who controls them, and pods also by where they are.
    slots: HashMap<Slot, BTreeMap<ObjectKey, Arc<K>>>,
}

/// What objects are found by.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Slot {
    /// The object with this uid controls them.
    Owner(String),
    /// Nobody does: orphans of this namespace, free to be adopted.
    Nobody(String),
    /// They are pods of this node.
    Node(String),
}

impl Slot {
    /// The slots that an object is in.
    fn of<K: Resource + 'static>(object: &K) -> impl Iterator<Item = Self> + use<K> {
        let controller = match meta::controller_of(object) {
            Some(owner) => Self::Owner(owner.uid.clone()),
            None => Self::Nobody(object.namespace().unwrap_or_default()),
        };
        let pod = (object as &dyn Any).downcast_ref::<Pod>();
        let node = pod.and_then(pods::node_name).map(str::to_owned);
        [controller].into_iter().chain(node.map(Self::Node))
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            tables: RwLock::new(Tables {
                objects: BTreeMap::new(),
                slots: HashMap::new(),
            }),
        }
    }
}

impl<K: Resource + 'static> Store<K> {
    /// The object named `key`, if it is known.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read()
            .objects
            .get(&key.namespace)?
            .get(&key.name)
            .cloned()
    }

    /// Every object, ordered by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.matching(|_| true)
    }

    /// The objects of all namespaces for which `wanted` holds; otherwise like [`in_namespace`](Self::in_namespace).
    pub fn matching(&self, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let tables = self.read();
        let all = tables.objects.values().flat_map(BTreeMap::values);
        all.filter(|object| wanted(object)).cloned().collect()
    }

    /// The objects of one namespace for which `wanted` holds, ordered by name.
    ///
    /// `wanted` runs under the store's read lock: it must be short and must not come back to the store.
    pub fn in_namespace(&self, namespace: &str, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let tables = self.read();
        let Some(objects) = tables.objects.get(namespace) else {
            return Vec::new();
        };
        objects
            .values()
            .filter(|object| wanted(object))
            .cloned()
            .collect()
    }

    /// The objects whose `controller` owner reference names `uid`, ordered by name.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.slot(&Slot::Owner(uid.to_owned()))
    }

    /// The objects of one namespace that nobody controls, ordered by name.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.slot(&Slot::Nobody(namespace.to_owned()))
    }

    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.read().objects.values().map(BTreeMap::len).sum()
    }

    /// Whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `object` in place of what was there under its name, which is returned.
    pub fn insert(&self, object: Arc<K>) -> Option<Arc<K>> {
        let key = ObjectKey::of(&*object);
        let mut tables = self.write();
        let old = tables.take(&key);
        for slot in Slot::of(&*object) {
            let slot = tables.slots.entry(slot).or_default();
            slot.insert(key.clone(), Arc::clone(&object));
        }
        tables
            .objects
            .entry(key.namespace)
            .or_default()
            .insert(key.name, object);
        old
    }

    /// Forgets the object named `key` and returns it.
    pub fn remove(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.write().take(key)
    }

    fn slot(&self, slot: &Slot) -> Vec<Arc<K>> {
        self.read()
            .slots
            .get(slot)
            .map(|slot| slot.values().cloned().collect())
            .unwrap_or_default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables<K>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables<K>> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store<Pod> {
    /// The pods that were given to a node, ordered by namespace and name.
    pub fn on_node(&self, node: &str) -> Vec<Arc<Pod>> {
        self.slot(&Slot::Node(node.to_owned()))
    }
}

impl<K: Resource<DynamicType = ()> + 'static> Store<K> {
    /// The object of this kind that controls `dependent`, if it says so and that very one is still there.
    pub fn controlling<D: Resource>(&self, dependent: &D) -> Option<Arc<K>> {
        let owner = meta::controller_of(dependent).filter(|owner| owner.kind == K::kind(&()))?;
        let object = self.get(&ObjectKey::new(dependent.namespace()?, &owner.name))?;
        (meta::uid(&*object) == owner.uid).then_some(object)
    }
}

impl<K: Resource + 'static> Tables<K> {
    /// Takes the object named `key` out of all tables, leaving no empty slot behind.
    fn take(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let names = self.objects.get_mut(&key.namespace)?;
        let old = names.remove(&key.name)?;
        if names.is_empty() {
            self.objects.remove(&key.namespace);
        }
        for name in Slot::of(&*old) {
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.remove(key);
                if slot.is_empty() {
                    self.slots.remove(&name);
                }
            }
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::objects::{owned_by, pod};

    fn names(pods: &[Arc<k8s_openapi::api::core::v1::Pod>]) -> Vec<String> {
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn objects_are_found_by_name_namespace_and_controller() {
        let store = Store::default();
        store.insert(Arc::new(pod("a", "one")));
        store.insert(Arc::new(owned_by(pod("a", "two"), "rc-uid")));
        store.insert(Arc::new(pod("b", "one")));
        assert!(store.get(&ObjectKey::new("a", "one")).is_some());
        assert!(store.get(&ObjectKey::new("c", "one")).is_none());
        assert_eq!(names(&store.in_namespace("a", |_| true)), ["one", "two"]);
        assert_eq!(names(&store.controlled_by("rc-uid")), ["two"]);
        assert_eq!(names(&store.orphans("a")), ["one"]);
        assert_eq!(store.len(), 3);
    }

    #[test]
    fn adoption_moves_an_object_between_the_slots_of_the_index() {
        let store = Store::default();
        store.insert(Arc::new(pod("a", "one")));
        let old = store.insert(Arc::new(owned_by(pod("a", "one"), "rc-uid")));
        assert!(old.is_some_and(|old| meta::controller_of(&*old).is_none()));
        assert!(store.orphans("a").is_empty());
        assert_eq!(names(&store.controlled_by("rc-uid")), ["one"]);
        store.remove(&ObjectKey::new("a", "one"));
        assert!(store.controlled_by("rc-uid").is_empty());
        assert!(store.is_empty());
        assert!(
            store.read().slots.is_empty(),
            "empty slots must not pile up"
        );
    }

    #[test]
    fn pods_are_found_where_they_are() {
        let on = |node: &str, name: &str| {
            let mut pod = pod("a", name);
            let spec = pod.spec.get_or_insert_default();
            spec.node_name = Some(node.to_owned()).filter(|node| !node.is_empty());
            Arc::new(pod)
        };
        let store = Store::default();
        store.insert(on("", "one"));
        store.insert(on("n1", "two"));
        assert_eq!(names(&store.on_node("n1")), ["two"]);
        store.insert(on("n1", "one"));
        assert_eq!(names(&store.on_node("n1")), ["one", "two"]);
        store.remove(&ObjectKey::new("a", "two"));
        assert_eq!(names(&store.on_node("n1")), ["one"]);
        store.insert(on("n2", "one"));
        assert!(store.on_node("n1").is_empty());
    }
}
