//! All objects in memory, as the bytes that clients get.
//!
//! One task ([`feed`]) applies the store's one watch, in order, to one [`Collection`] for each resource: a persistent ordered map of
//! entries, and a log of recent events. Readers take a snapshot of the map (a pointer) and never wait for writers;
//! watchers follow the log with a cursor. Whoever has written waits until the cache has applied the revision of
//! that write, so that nobody misses what was acknowledged to them.

pub mod attributes;
pub mod entry;
pub mod feed;
pub mod log;
pub mod progress;

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use imbl::OrdMap;
use tokio::sync::Notify;
use vaquita_store::Revision;

use self::{
    entry::{Change, Entry},
    log::{Event, EventLog, TooOld, Window},
    progress::Progress,
};

/// What every key of ours begins with.
pub use vaquita_api::continuation::ROOT;

/// Where a resource's objects are stored: `/registry/{group or "core"}/{plural}/`.
pub fn resource_prefix(group: &str, plural: &str) -> Bytes {
    let group = if group.is_empty() { "core" } else { group };
    format!("/registry/{group}/{plural}/").into()
}

type Objects = OrdMap<Bytes, Arc<Entry>>;

/// The objects of one resource, and what recently happened to them.
#[derive(Debug)]
pub struct Collection {
    prefix: Bytes,
    state: RwLock<State>,
    changed: Notify,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct State {
    objects: Objects,
    /// The last revision that changed an object here.
    revision: Revision,
    /// The revision that the objects were read at; what the feed reports of before is in them.
    read_at: Revision,
    /// What has been reported while the objects are still being read. `None` once they are.
    pending: Option<Vec<Applied>>,
    log: EventLog,
}

/// A collection as it was at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    objects: Objects,
    /// The snapshot holds everything up to here, and nothing after.
    pub revision: Revision,
    /// The last revision that changed anything in it.
    pub changed: Revision,
}

impl Snapshot {
    /// The entries whose key starts with `prefix`, in order of keys, beginning behind `after` (a key) if it is given.
    pub fn range(&self, prefix: &[u8], after: Option<&[u8]>) -> impl Iterator<Item = &Arc<Entry>> {
        let start = match after {
            Some(key) => Bound::Excluded(Bytes::copy_from_slice(key)),
            None => Bound::Included(Bytes::copy_from_slice(prefix)),
        };
        let prefix = prefix.to_vec();
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(&prefix))
            .map(|(_, entry)| entry)
    }
}

impl Collection {
    fn new(prefix: Bytes, floor: Revision, window: Window, progress: Arc<Progress>) -> Self {
        Self {
            prefix,
            state: RwLock::new(State::new(Objects::new(), floor, window)),
            changed: Notify::new(),
            progress,
        }
    }

    /// A collection whose objects will be [loaded](Self::loaded); what is reported until then waits.
    fn opening(prefix: Bytes, window: Window, progress: Arc<Progress>) -> Self {
        let collection = Self::new(prefix, 0, window, progress);
        collection.write().pending = Some(Vec::new());
        collection
    }

    /// Begins with `entries`, the state at `revision`, and applies what has been reported of after it.
    fn loaded(&self, entries: Vec<Entry>, revision: Revision) {
        let mut state = self.write();
        // Somebody has replaced everything meanwhile: that is newer.
        let Some(pending) = state.pending.take() else {
            return;
        };
        let window = state.log.window();
        *state = State::new(by_key(entries), revision, window);
        for change in pending {
            state.apply(change);
        }
    }

    /// A collection that nothing is ever kept in, for what is answered and forgotten.
    pub fn nothing(prefix: Bytes) -> Self {
        let window = Window {
            events: 1,
            bytes: 0,
        };
        Self::new(prefix, 0, window, Arc::default())
    }

    /// What all keys of the collection begin with; ends with a slash.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// The key of an object.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> Bytes {
        let namespace = namespace.map(str::as_bytes).unwrap_or_default();
        let mut key = Vec::with_capacity(self.prefix.len() + namespace.len() + 1 + name.len());
        key.extend_from_slice(&self.prefix);
        if !namespace.is_empty() {
            key.extend_from_slice(namespace);
            key.push(b'/');
        }
        key.extend_from_slice(name.as_bytes());
        key.into()
    }

    /// What the keys of all objects in `namespace` begin with; of the whole collection without one.
    pub fn scope(&self, namespace: Option<&str>) -> Bytes {
        match namespace {
            Some(namespace) => [&self.prefix, namespace.as_bytes(), b"/"].concat().into(),
            None => self.prefix.clone(),
        }
    }

    /// The object at `key` now.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects now.
    pub fn snapshot(&self) -> Snapshot {
        // Before the lock: whatever is applied by now is in the map that we are about to see.
        let applied = self.progress.applied();
        let state = self.read();
        Snapshot {
            objects: state.objects.clone(),
            revision: applied.max(state.revision),
            changed: state.revision,
        }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `limit` events after `cursor`, and the revision up to which that is everything.
    pub fn events(
        &self,
        cursor: Revision,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, Revision), TooOld> {
        let applied = self.progress.applied();
        let state = self.read();
        let events = state.log.read(cursor, limit)?;
        let seen = match events.last() {
            Some(event) if events.len() == limit => event.revision(),
            _ => applied.max(state.revision).max(cursor),
        };
        Ok((events, seen))
    }

    /// Resolves at the next change after it was first polled (or `enable`d).
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Applies changes of this collection, in order.
    fn apply(&self, changes: Vec<Applied>) {
        {
            let mut state = self.write();
            match &mut state.pending {
                Some(pending) => pending.extend(changes),
                None => changes.into_iter().for_each(|change| state.apply(change)),
            }
        }
        self.changed.notify_waiters();
    }

    /// Replaces all objects by `entries`, the state at `revision`; what happened until then is forgotten.
    fn replace(&self, entries: Vec<Entry>, revision: Revision) {
        let objects = by_key(entries);
        {
            let mut state = self.write();
            let window = state.log.window();
            *state = State::new(objects, revision, window);
        }
        self.changed.notify_waiters();
    }

    /// Forgets events up to and including `revision`.
    fn trim(&self, revision: Revision) {
        self.write().log.trim(revision);
    }

    // A panic in a short section that only moves values leaves nothing half done that a reader could trip over.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_key(entries: Vec<Entry>) -> Objects {
    entries
        .into_iter()
        .map(|entry| (entry.key.clone(), Arc::new(entry)))
        .collect()
}

/// One change, ready to be applied.
#[derive(Debug)]
enum Applied {
    Put(Entry),
    Delete { key: Bytes, revision: Revision },
}

impl Applied {
    fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

impl State {
    fn new(objects: Objects, revision: Revision, window: Window) -> Self {
        Self {
            objects,
            revision,
            read_at: revision,
            pending: None,
            log: EventLog::new(revision, window),
        }
    }

    fn apply(&mut self, change: Applied) {
        if change.revision() <= self.read_at {
            return;
        }
        let event = match change {
            Applied::Put(entry) => {
                let entry = Arc::new(entry);
                let previous = self.objects.insert(entry.key.clone(), entry.clone());
                Event {
                    change: entry.change(),
                    entry,
                    previous,
                }
            }
            Applied::Delete { key, revision } => {
                let Some(previous) = self.objects.remove(&key) else {
                    return;
                };
                let entry = Arc::new(previous.deleted(revision));
                Event {
                    change: Change::Deleted,
                    entry,
                    previous: Some(previous),
                }
            }
        };
        self.revision = event.revision();
        self.log.push(Arc::new(event));
    }
}

type Collections = HashMap<Bytes, Arc<Collection>>;

/// All collections, by the prefix of their keys. There are more or fewer of them as resources come and go.
#[derive(Debug)]
pub struct Cache {
    collections: ArcSwap<Collections>,
    window: Window,
    progress: Arc<Progress>,
}

impl Cache {
    /// A cache of the resources with these prefixes, whose history begins after `floor`.
    fn new(prefixes: impl IntoIterator<Item = Bytes>, floor: Revision, window: Window) -> Self {
        let progress = Arc::new(Progress::default());
        let collection = |prefix: Bytes| {
            (
                prefix.clone(),
                Arc::new(Collection::new(prefix, floor, window, progress.clone())),
            )
        };
        let collections: Collections = prefixes.into_iter().map(collection).collect();
        Self {
            collections: ArcSwap::from_pointee(collections),
            window,
            progress: progress.clone(),
        }
    }

    /// The collection with this prefix.
    pub fn collection(&self, prefix: &[u8]) -> Option<Arc<Collection>> {
        self.collections.load().get(prefix).cloned()
    }

    /// Adds a collection of what begins with `prefix`; its objects are yet to be loaded.
    fn add(&self, prefix: &Bytes) -> Arc<Collection> {
        let collection = Collection::opening(prefix.clone(), self.window, self.progress.clone());
        let collection = Arc::new(collection);
        self.collections.rcu(|current| {
            let mut next = Collections::clone(current);
            next.insert(prefix.clone(), collection.clone());
            next
        });
        collection
    }

    /// Keeps what begins with `prefix` no longer. The store still does.
    pub fn remove(&self, prefix: &[u8]) {
        self.collections.rcu(|current| {
            let mut next = Collections::clone(current);
            next.remove(prefix);
            next
        });
    }

    /// How far everything has been applied.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Forgets events up to and including `revision`, as the store does when it compacts.
    pub fn trim(&self, revision: Revision) {
        for collection in self.collections.load().values() {
            collection.trim(revision);
        }
    }
}

/// The collection that `key` belongs to.
fn collection_of<'c>(collections: &'c Collections, key: &[u8]) -> Option<&'c Arc<Collection>> {
    let rest = key.strip_prefix(ROOT)?;
    let mut slashes = rest
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at);
    let plural_end = slashes.nth(1)?;
    collections.get(&key[..=ROOT.len() + plural_end])
}
