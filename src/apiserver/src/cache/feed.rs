//! Fills the cache from the store and keeps it up to date.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use vaquita_store::{
    Event, EventKind, KeyValue, Range, ReadError, Revision, Store, Watch, WatchError,
};

use super::{
    Applied, Cache, Collection, ROOT,
    entry::{Change, Entry, Malformed},
    log::Window,
};

/// Objects that are read from the store in one go.
const PAGE: usize = 4096;
/// A pause before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(200);

/// Why the cache could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store could not be read.
    #[error("cannot read the store: {0}")]
    Read(#[from] ReadError),
    /// The store refused to be watched.
    #[error("cannot watch the store: {0}")]
    Watch(#[from] WatchError),
    /// A value is not an object that we wrote.
    #[error("the object at {key} is damaged: {source}")]
    Damaged {
        /// Its key in the store.
        key: String,
        /// What is wrong with it.
        source: Malformed,
    },
}

/// Reads everything below [`ROOT`] and begins to watch it.
pub(crate) async fn load(
    store: &dyn Store,
    prefixes: impl IntoIterator<Item = Bytes>,
    window: Window,
) -> Result<(Cache, Watch), LoadError> {
    let (items, revision) = read_all(store).await?;
    let cache = Cache::new(prefixes, revision, window);
    cache.replace(items, revision)?;
    let watch = store.watch(Bytes::from_static(ROOT), revision)?;
    Ok((cache, watch))
}

async fn read_all(store: &dyn Store) -> Result<(Vec<KeyValue>, Revision), ReadError> {
    let mut range = Range::prefix(ROOT).limit(PAGE);
    let mut items = Vec::new();
    loop {
        let page = store.range(range.clone()).await?;
        items.extend(page.items);
        match items.last() {
            Some(last) if page.more => range = range.at(page.revision).after(&last.key),
            _ => return Ok((items, page.revision)),
        }
    }
}

/// Applies what the store reports, until the store closes.
pub(crate) async fn follow(cache: Arc<Cache>, store: Arc<dyn Store>, mut watch: Watch) {
    loop {
        match watch.next().await {
            Some(Ok(events)) => cache.take(events),
            None | Some(Err(WatchError::Closed)) => return,
            Some(Err(error)) => {
                tracing::warn!(%error, "the watch that feeds the cache was cut; reading the store again");
                match rejoin(&cache, store.as_ref()).await {
                    Some(next) => watch = next,
                    None => return,
                }
            }
        }
    }
}

/// Brings the cache from wherever it is to what the store holds now. `None` if the store is closed.
async fn rejoin(cache: &Cache, store: &dyn Store) -> Option<Watch> {
    loop {
        // What history still has is better: every state in between reaches the watchers.
        match store.watch(Bytes::from_static(ROOT), cache.progress().applied()) {
            Ok(watch) => return Some(watch),
            Err(WatchError::Closed) => return None,
            Err(_) => {}
        }
        match read_all(store).await {
            Ok((items, revision)) => match cache.replace(items, revision) {
                Ok(()) => continue,
                Err(error) => tracing::error!(%error, "the store cannot be read; trying again"),
            },
            Err(ReadError::Closed) => return None,
            Err(error) => tracing::warn!(%error, "the store cannot be read; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Cache {
    /// Applies events, in order.
    fn take(&self, events: Vec<Event>) {
        let Some(last) = events.last().map(|event| event.kv.mod_revision) else {
            return;
        };
        let mut run: Option<(&Arc<Collection>, Vec<Applied>)> = None;
        for event in events {
            let Some(collection) = self.collection_of(&event.kv.key) else {
                continue;
            };
            let Some(applied) = applied(event) else {
                continue;
            };
            match &mut run {
                Some((current, changes)) if Arc::ptr_eq(current, collection) => {
                    changes.push(applied);
                }
                _ => {
                    if let Some((current, changes)) = run.replace((collection, vec![applied])) {
                        current.apply(changes);
                    }
                }
            }
        }
        if let Some((current, changes)) = run {
            current.apply(changes);
        }
        self.progress().advance(last);
        // Bookmarks and watchers of collections that did not change learn about progress when they next look.
    }

    /// Makes the cache hold exactly `items`, which are everything there was at `revision`.
    ///
    /// What happened in between is not known here, so the logs begin anew: watchers read the store's history, or are
    /// told to list again.
    fn replace(&self, items: Vec<KeyValue>, revision: Revision) -> Result<(), LoadError> {
        let mut objects: HashMap<&Bytes, Vec<Entry>> = HashMap::new();
        for item in items {
            let Some(collection) = self.collection_of(&item.key) else {
                continue;
            };
            let entry = Entry::from_stored(
                item.key.clone(),
                &item.value,
                item.mod_revision,
                Change::Added,
            )
            .map_err(|source| LoadError::Damaged {
                key: String::from_utf8_lossy(&item.key).into_owned(),
                source,
            })?;
            objects.entry(collection.prefix()).or_default().push(entry);
        }
        for collection in self.collections() {
            collection.replace(
                objects.remove(collection.prefix()).unwrap_or_default(),
                revision,
            );
        }
        self.progress().advance(revision);
        Ok(())
    }
}

fn applied(event: Event) -> Option<Applied> {
    match event.kind {
        EventKind::Put => put(&event.kv),
        EventKind::Delete => Some(Applied::Delete {
            key: event.kv.key,
            revision: event.kv.mod_revision,
        }),
    }
}

/// A new state. `None`, with a word in the log, if somebody else wrote something into our store that is no object.
fn put(kv: &KeyValue) -> Option<Applied> {
    let change = if kv.create_revision == kv.mod_revision {
        Change::Added
    } else {
        Change::Modified
    };
    match Entry::from_stored(kv.key.clone(), &kv.value, kv.mod_revision, change) {
        Ok(entry) => Some(Applied::Put(entry)),
        Err(error) => {
            tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "a value in the store is left out");
            None
        }
    }
}
