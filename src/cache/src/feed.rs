//! Fills the cache from the store and keeps it up to date.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use vaquita_store::{
    Event, EventKind, KeyValue, Range, ReadError, Revision, Store, Watch, WatchError,
};

use super::{
    Applied, Cache, Collection, ROOT, collection_of,
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
pub async fn load(
    store: &dyn Store,
    prefixes: impl IntoIterator<Item = Bytes>,
    window: Window,
) -> Result<(Cache, Watch), LoadError> {
    let (items, revision) = read_all(store, ROOT).await?;
    let cache = Cache::new(prefixes, revision, window);
    cache.replace(items, revision)?;
    let watch = store.watch(Bytes::from_static(ROOT), revision)?;
    Ok((cache, watch))
}

async fn read_all(
    store: &dyn Store,
    prefix: &[u8],
) -> Result<(Vec<KeyValue>, Revision), ReadError> {
    let mut range = Range::prefix(Bytes::copy_from_slice(prefix)).limit(PAGE);
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
pub async fn follow(cache: Arc<Cache>, store: Arc<dyn Store>, mut watch: Watch) {
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
        match read_all(store, ROOT).await {
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
        let collections = self.collections.load();
        let mut run: Option<(&Arc<Collection>, Vec<Applied>)> = None;
        for event in events {
            let Some(collection) = collection_of(&collections, &event.kv.key) else {
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
        let collections = self.collections.load();
        let mut objects: HashMap<&Bytes, Vec<Entry>> = HashMap::new();
        for item in items {
            let Some(collection) = collection_of(&collections, &item.key) else {
                continue;
            };
            let entry = entry(&item)?;
            objects.entry(collection.prefix()).or_default().push(entry);
        }
        for collection in collections.values() {
            collection.replace(
                objects.remove(collection.prefix()).unwrap_or_default(),
                revision,
            );
        }
        self.progress().advance(revision);
        Ok(())
    }

    /// Begins to keep what starts with `prefix`: reads it from the store, and follows it from then on.
    pub async fn open(
        &self,
        store: &dyn Store,
        prefix: &Bytes,
    ) -> Result<Arc<Collection>, LoadError> {
        // First the place where changes arrive, then the state before them: nothing falls in between.
        let collection = self.add(prefix);
        let opening = Opening {
            cache: self,
            prefix,
        };
        let (items, revision) = read_all(store, prefix).await?;
        let entries = items.iter().map(entry).collect::<Result<_, _>>()?;
        collection.loaded(entries, revision);
        std::mem::forget(opening);
        Ok(collection)
    }
}

/// Takes a collection away again whose objects could not be read.
struct Opening<'c> {
    cache: &'c Cache,
    prefix: &'c Bytes,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.cache.remove(self.prefix);
    }
}

fn entry(item: &KeyValue) -> Result<Entry, LoadError> {
    let (key, revision) = (item.key.clone(), item.mod_revision);
    Entry::from_stored(key, &item.value, revision, Change::Added).map_err(|source| {
        LoadError::Damaged {
            key: String::from_utf8_lossy(&item.key).into_owned(),
            source,
        }
    })
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
