//! Shared informers: one watch and one local copy for each kind, however many controllers look at it.
//!
//! A controller asks [`Informers`] for the kinds it needs, reads them from the [`Store`]s and subscribes to their
//! [`Change`]s. The first to ask for a kind starts its watch; everybody after shares it.
//!
//! ```text
//! API server ──watch──▶ follow ──▶ Store ──▶ handlers of all subscribers ──▶ their work queues
//! ```

mod follow;
mod store;

use std::{
    any::{Any, TypeId},
    collections::{HashMap, HashSet},
    fmt::{self, Debug},
    sync::{Arc, Mutex, PoisonError},
};

use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use follow::follow;
pub use store::Store;

use crate::key::ObjectKey;

/// A kind that can be watched by its Rust type alone: every type of `k8s-openapi`.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

/// How an object changed in the local copy. The store already shows the new state when a handler hears of it.
#[derive(Debug)]
pub enum Change<'a, K> {
    /// It was not known before.
    Added(&'a Arc<K>),
    /// It was known in another version; both have the same uid.
    Modified {
        /// Before.
        old: &'a Arc<K>,
        /// Now.
        new: &'a Arc<K>,
    },
    /// It is gone; this is its last known state.
    Deleted(&'a Arc<K>),
}

impl<'a, K> Change<'a, K> {
    /// The object as it is now, or as it last was.
    pub fn object(&self) -> &'a K {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Modified { new: object, .. } => {
                object
            }
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send>;

/// The local copy of one kind and those who listen to it. Cheap to clone; all clones are the same informer.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    synced: watch::Receiver<bool>,
}

struct Shared<K> {
    store: Store<K>,
    /// Locked while a change is applied and told, so that a new subscriber sees each object exactly once.
    handlers: Mutex<Vec<Handler<K>>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            synced: self.synced.clone(),
        }
    }
}

impl<K> Debug for Informer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informer")
            .field("synced", &*self.synced.borrow())
            .finish_non_exhaustive()
    }
}

impl<K: Watched> Informer<K> {
    /// The local copy.
    pub fn store(&self) -> &Store<K> {
        &self.shared.store
    }

    /// Calls `handler` for each object there is (as [`Change::Added`]) and then for every change, in order.
    ///
    /// Handlers run on the informer's own task, one after the other: they decide which keys to queue and return.
    /// They may read any store; they must not subscribe.
    pub fn subscribe(&self, handler: impl Fn(&Change<'_, K>) + Send + 'static) {
        let mut handlers = self
            .shared
            .handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for object in self.shared.store.all() {
            handler(&Change::Added(&object));
        }
        handlers.push(Box::new(handler));
    }

    /// Waits until the store holds a complete list. `false` when the informers were stopped before that.
    pub async fn synced(&self) -> bool {
        self.synced.clone().wait_for(|synced| *synced).await.is_ok()
    }
}

impl<K: Watched> Shared<K> {
    fn apply(&self, object: K) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply_with(&handlers, object);
    }

    fn apply_with(&self, handlers: &[Handler<K>], mut object: K) {
        // Who set which field is of no use here and often the larger half of an object.
        object.meta_mut().managed_fields = None;
        let object = Arc::new(object);
        let key = ObjectKey::of(&*object);
        let namesake = self
            .store
            .get(&key)
            .filter(|known| known.meta().uid != object.meta().uid);
        if let Some(namesake) = namesake {
            // Deleted and made anew while we weren't told: two objects that happen to share a name.
            self.store.remove(&key);
            tell(handlers, &Change::Deleted(&namesake));
        }
        match self.store.insert(Arc::clone(&object)) {
            None => tell(handlers, &Change::Added(&object)),
            Some(old) if old.meta().resource_version == object.meta().resource_version => {}
            Some(old) => tell(
                handlers,
                &Change::Modified {
                    old: &old,
                    new: &object,
                },
            ),
        }
    }

    fn delete(&self, key: &ObjectKey) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = self.store.remove(key) {
            tell(&handlers, &Change::Deleted(&old));
        }
    }

    /// Makes the store equal to a complete list, telling the differences only.
    fn replace(&self, objects: Vec<K>) {
        let present: HashSet<ObjectKey> = objects.iter().map(ObjectKey::of).collect();
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        for known in self.store.all() {
            let key = ObjectKey::of(&*known);
            if !present.contains(&key) && self.store.remove(&key).is_some() {
                tell(&handlers, &Change::Deleted(&known));
            }
        }
        for object in objects {
            self.apply_with(&handlers, object);
        }
    }
}

fn tell<K>(handlers: &[Handler<K>], change: &Change<'_, K>) {
    for handler in handlers {
        handler(change);
    }
}

/// Applies the watcher's events to one informer's store.
struct Feed<K> {
    shared: Arc<Shared<K>>,
    synced: watch::Sender<bool>,
    /// What a list that is still arriving has told so far.
    listed: Vec<K>,
}

impl<K: Watched> Feed<K> {
    fn event(&mut self, event: Event<K>) {
        match event {
            Event::Apply(object) => self.shared.apply(object),
            Event::Delete(object) => {
                let key = ObjectKey::of(&object);
                self.shared.delete(&key);
            }
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => self.listed.push(object),
            Event::InitDone => {
                self.shared.replace(std::mem::take(&mut self.listed));
                self.synced.send_replace(true);
            }
        }
    }
}

/// The informers of one process, by kind. Cheap to clone.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: CancellationToken,
    by_kind: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>>,
}

impl Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informers").finish_non_exhaustive()
    }
}

impl Informers {
    /// No watch is started yet. All watches end when `shutdown` is cancelled.
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        Self {
            client,
            shutdown,
            by_kind: Arc::default(),
        }
    }

    /// The informer of kind `K` over all namespaces, its watch started by the first call.
    ///
    /// Must be called within a tokio runtime.
    pub fn of<K: Watched>(&self) -> Informer<K> {
        let mut by_kind = self.by_kind.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(informer) = by_kind
            .get(&TypeId::of::<K>())
            .and_then(|any| any.downcast_ref::<Informer<K>>())
        {
            return informer.clone();
        }
        let informer = self.start(watcher::Config::default());
        by_kind.insert(TypeId::of::<K>(), Box::new(informer.clone()));
        informer
    }

    /// An informer of only those objects of kind `K` that a field selector matches, such as `metadata.name=web`. Nobody else
    /// shares it.
    ///
    /// Must be called within a tokio runtime.
    pub fn selected<K: Watched>(&self, fields: &str) -> Informer<K> {
        self.start(watcher::Config::default().fields(fields))
    }

    fn start<K: Watched>(&self, config: watcher::Config) -> Informer<K> {
        let shared = Arc::new(Shared {
            store: Store::default(),
            handlers: Mutex::default(),
        });
        let (sender, synced) = watch::channel(false);
        let mut feed = Feed {
            shared: Arc::clone(&shared),
            synced: sender,
            listed: Vec::new(),
        };
        let api = Api::<K>::all(self.client.clone());
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let following = follow(api, config, |event| feed.event(event));
            shutdown.run_until_cancelled(following).await;
        });
        Informer { shared, synced }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::testing::objects::{at_version, pod};

    type Log = Arc<Mutex<Vec<String>>>;

    fn feed() -> (Feed<Pod>, Informer<Pod>) {
        let shared = Arc::new(Shared {
            store: Store::default(),
            handlers: Mutex::default(),
        });
        let (sender, synced) = watch::channel(false);
        let feed = Feed {
            shared: Arc::clone(&shared),
            synced: sender,
            listed: Vec::new(),
        };
        (feed, Informer { shared, synced })
    }

    fn listen(informer: &Informer<Pod>) -> Log {
        let log = Log::default();
        let written = Arc::clone(&log);
        informer.subscribe(move |change| {
            let what = match change {
                Change::Added(_) => "+",
                Change::Modified { .. } => "~",
                Change::Deleted(_) => "-",
            };
            written
                .lock()
                .unwrap()
                .push(format!("{what}{}", ObjectKey::of(change.object())));
        });
        log
    }

    fn taken(log: &Log) -> Vec<String> {
        std::mem::take(&mut log.lock().unwrap())
    }

    #[test]
    fn a_relist_tells_only_what_differs() {
        let (mut feed, informer) = feed();
        let log = listen(&informer);
        feed.event(Event::Init);
        for object in [
            at_version(pod("a", "same"), 1),
            at_version(pod("a", "gone"), 2),
            at_version(pod("a", "newer"), 3),
        ] {
            feed.event(Event::InitApply(object));
        }
        assert!(
            taken(&log).is_empty(),
            "an unfinished list is nobody's business"
        );
        assert!(!*informer.synced.borrow());
        feed.event(Event::InitDone);
        assert!(*informer.synced.borrow());
        assert_eq!(taken(&log), ["+a/same", "+a/gone", "+a/newer"]);

        feed.event(Event::Init);
        for object in [
            at_version(pod("a", "same"), 1),
            at_version(pod("a", "newer"), 5),
            at_version(pod("a", "fresh"), 6),
        ] {
            feed.event(Event::InitApply(object));
        }
        feed.event(Event::InitDone);
        assert_eq!(taken(&log), ["-a/gone", "~a/newer", "+a/fresh"]);
    }

    #[test]
    fn a_list_broken_off_half_way_leaves_no_trace() {
        let (mut feed, informer) = feed();
        feed.event(Event::Init);
        feed.event(Event::InitApply(at_version(pod("a", "ghost"), 1)));
        feed.event(Event::Init);
        feed.event(Event::InitDone);
        assert!(informer.store().is_empty());
    }

    #[test]
    fn a_namesake_is_another_object() {
        let (mut feed, informer) = feed();
        feed.event(Event::Apply(at_version(pod("a", "one"), 1)));
        let log = listen(&informer);
        taken(&log);
        let mut namesake = at_version(pod("a", "one"), 7);
        namesake.metadata.uid = Some("another".to_owned());
        feed.event(Event::Apply(namesake));
        assert_eq!(taken(&log), ["-a/one", "+a/one"]);
    }

    #[test]
    fn a_late_subscriber_hears_of_every_object_once() {
        let (mut feed, informer) = feed();
        feed.event(Event::Apply(at_version(pod("a", "one"), 1)));
        let log = listen(&informer);
        feed.event(Event::Apply(at_version(pod("a", "two"), 2)));
        feed.event(Event::Delete(at_version(pod("a", "one"), 3)));
        feed.event(Event::Delete(at_version(pod("a", "never-seen"), 4)));
        assert_eq!(taken(&log), ["+a/one", "+a/two", "-a/one"]);
    }
}
