//! News of the config maps and secrets that pods use: one watch for each object, however many pods use it.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::{StreamExt as _, future::select_all};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use vaquita_volumes::fill::Reference;

/// An object: its namespace, and what it is there.
type Key = (String, Reference);

/// Follows objects for those who ask. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Follower {
    client: Client,
    watches: Arc<Mutex<HashMap<Key, Weak<Watch>>>>,
}

/// Follows an object as long as somebody holds it.
struct Watch {
    changes: watch::Sender<()>,
    _task: AbortOnDropHandle<()>,
}

/// Tells of changes of some objects.
pub(crate) struct News {
    followed: Vec<(Arc<Watch>, watch::Receiver<()>)>,
}

impl Follower {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            watches: Arc::default(),
        }
    }

    /// Tells of each change of these objects from now on.
    pub(crate) fn follow(&self, namespace: &str, objects: Vec<Reference>) -> News {
        let followed = objects.into_iter().map(|object| {
            let watch = self.watch((namespace.to_owned(), object));
            let changes = watch.changes.subscribe();
            (watch, changes)
        });
        News {
            followed: followed.collect(),
        }
    }

    fn watch(&self, key: Key) -> Arc<Watch> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watches.get(&key).and_then(Weak::upgrade) {
            return watch;
        }
        watches.retain(|_, watch| watch.strong_count() > 0);
        let (namespace, object) = &key;
        let (client, changes) = (self.client.clone(), watch::Sender::default());
        let told = changes.clone();
        let task = match object {
            Reference::ConfigMap(name) => {
                let api: Api<ConfigMap> = Api::namespaced(client, namespace);
                tokio::spawn(tell(api, name.clone(), told))
            }
            Reference::Secret(name) => {
                let api: Api<Secret> = Api::namespaced(client, namespace);
                tokio::spawn(tell(api, name.clone(), told))
            }
        };
        let watch = Arc::new(Watch {
            changes,
            _task: AbortOnDropHandle::new(task),
        });
        watches.insert(key, Arc::downgrade(&watch));
        watch
    }
}

impl News {
    /// Waits for the next change; for ever, if nothing is followed. Cancelling loses nothing.
    pub(crate) async fn changed(&mut self) {
        if self.followed.is_empty() {
            return std::future::pending().await;
        }
        let waits = self
            .followed
            .iter_mut()
            .map(|(_, changes)| Box::pin(changes.changed()));
        // The senders are in the watches, which are held.
        let _ = select_all(waits).await;
    }
}

/// Tells of each version of the object, and of its end.
async fn tell<K>(api: Api<K>, name: String, changes: watch::Sender<()>)
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut last = None;
    while let Some(event) = events.next().await {
        let version = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => object.resource_version(),
            Ok(Event::Delete(_)) => None,
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) => {
                tracing::debug!(name, %error, "cannot follow an object");
                continue;
            }
        };
        if version != last {
            last = version;
            changes.send_replace(());
        }
    }
}
