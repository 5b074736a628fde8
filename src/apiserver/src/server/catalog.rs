//! What is served at a moment, and how that changes while the server runs.
//!
//! A [`Catalog`] never changes; the server swaps one for the next ([`Server::install`], [`Server::uninstall`]). A request works
//! with the [`Served`] that it found, to its end. A watch, which has no end, is ended when its resource is withdrawn or
//! replaced.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use vaquita_api::{
    Object,
    registry::{Convert, Registry, Resource, Storage},
    status::Status,
};

use super::Server;
use vaquita_cache::{
    Cache, Collection,
    attributes::{Attributes, Fields},
    entry::{Entry, encode},
    feed::LoadError,
    resource_prefix,
};

/// A resource, and where its objects are.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) resource: Arc<Resource>,
    /// What is kept, as it is stored: of a resource that shows another one's objects, in that one's form.
    pub(crate) collection: Arc<Collection>,
    /// What metrics call it.
    pub(crate) label: Arc<str>,
    fields: Arc<Fields>,
    /// Cancelled when it is no longer served, or not in this way.
    pub(crate) withdrawn: CancellationToken,
}

impl Served {
    fn new(resource: Arc<Resource>, cache: &Cache) -> Self {
        let prefix = home(&resource);
        let collection = cache.collection(&prefix);
        Self {
            collection: collection.unwrap_or_else(|| Arc::new(Collection::nothing(prefix))),
            label: resource.plural.as_str().into(),
            fields: Arc::new(Fields::new(resource.selectable())),
            withdrawn: CancellationToken::new(),
            resource,
        }
    }

    /// How this resource's form of an object and the stored one become each other, if they differ.
    fn convert(&self) -> Option<&dyn Convert> {
        match &self.resource.storage {
            Storage::Shared { convert, .. } | Storage::Versions { convert, .. } => {
                Some(convert.as_ref())
            }
            Storage::Own | Storage::Nowhere => None,
        }
    }

    /// An entry of the collection, as this resource shows it.
    pub(crate) fn show<'e>(&self, entry: &'e Arc<Entry>) -> Result<Cow<'e, Arc<Entry>>, Status> {
        let Some(convert) = self.convert() else {
            return Ok(Cow::Borrowed(entry));
        };
        let object = convert.from_stored(entry.value().map_err(Status::internal)?)?;
        let shown = entry.shown_as(&object).map_err(Status::internal)?;
        Ok(Cow::Owned(Arc::new(shown)))
    }

    /// Has what the first of these entries will be shown as asked for together, where it is asked for at all.
    pub(crate) fn foresee<'e>(&self, entries: impl Iterator<Item = &'e Arc<Entry>>, limit: usize) {
        let Some(convert) = self.convert() else {
            return;
        };
        let limit = convert.foresight().min(limit);
        if limit > 0 {
            let objects = entries.take(limit).filter_map(|entry| entry.value().ok());
            convert.foresee(objects.collect());
        }
    }

    /// The object at `key` now, as this resource shows it.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Arc<Entry>>, Status> {
        let entry = self.collection.get(key);
        entry
            .map(|entry| Ok(self.show(&entry)?.into_owned()))
            .transpose()
    }

    /// What is stored of this resource's `object`.
    pub(crate) fn encode(&self, object: &Object) -> Result<Bytes, Status> {
        match self.convert() {
            None => encode(object),
            Some(convert) => encode(&convert.to_stored(object.clone())?),
        }
        .map_err(Status::internal)
    }

    /// What selectors ask of an entry, which is in this resource's form.
    pub(crate) fn attributes<'e>(&self, entry: &'e Entry) -> Cow<'e, Attributes> {
        entry.attributes(&self.fields)
    }

    /// The place of a selectable field among the attributes.
    pub(crate) fn field(&self, label: &str) -> Option<usize> {
        self.fields.position(label)
    }
}

/// What the keys of a resource's objects begin with.
pub(crate) fn home(resource: &Resource) -> Bytes {
    match &resource.storage {
        Storage::Shared {
            with: (group, _, plural),
            ..
        } => resource_prefix(group, plural),
        Storage::Own | Storage::Versions { .. } | Storage::Nowhere => {
            resource_prefix(&resource.group, &resource.plural)
        }
    }
}

/// Everything that is served at a moment.
pub(crate) struct Catalog {
    pub(crate) registry: Arc<Registry>,
    /// By plural; more than one where groups or versions share it.
    served: HashMap<String, Vec<Arc<Served>>>,
}

impl Catalog {
    /// Serves what `registry` lists, out of `cache`. What `before` has of it in the same form is served on.
    pub(crate) fn new(registry: Registry, cache: &Cache, before: Option<&Self>) -> Self {
        let mut served: HashMap<String, Vec<Arc<Served>>> = HashMap::new();
        for resource in registry.iter() {
            let same = before.and_then(|before| before.of(resource));
            let here = same.unwrap_or_else(|| Arc::new(Served::new(resource.clone(), cache)));
            served
                .entry(resource.plural.clone())
                .or_default()
                .push(here);
        }
        Self {
            registry: Arc::new(registry),
            served,
        }
    }

    /// How this very resource is served.
    fn of(&self, resource: &Arc<Resource>) -> Option<Arc<Served>> {
        let same = |served: &&Arc<Served>| Arc::ptr_eq(&served.resource, resource);
        self.served
            .get(&resource.plural)?
            .iter()
            .find(same)
            .cloned()
    }

    /// The resource behind a URL.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        let same = |served: &&Arc<Served>| {
            served.resource.group == group && served.resource.version == version
        };
        self.served.get(plural)?.iter().find(same)
    }

    /// Everything, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.served.values().flatten()
    }
}

impl Server {
    /// What is served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.catalog.load().registry.clone()
    }

    /// The resource behind a URL.
    pub(crate) fn served(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        self.catalog.load().get(group, version, plural).cloned()
    }

    /// The resource of this group and plural in the version that is stored.
    pub(crate) fn stored(&self, group: &str, plural: &str) -> Option<Arc<Served>> {
        let catalog = self.catalog.load();
        let mut versions = catalog.served.get(plural)?.iter();
        let stored = versions.find(|served| {
            let storage = &served.resource.storage;
            let is_stored = matches!(
                storage,
                Storage::Own | Storage::Versions { stored: true, .. }
            );
            served.resource.group == group && is_stored
        });
        stored.cloned()
    }

    /// Serves `resources` from now on. For every group and plural among them, they replace all versions that were served.
    ///
    /// Objects that the store has of them already are served too. Fails if they cannot be read; then nothing has changed.
    pub(crate) async fn install(&self, resources: Vec<Resource>) -> Result<(), LoadError> {
        let _turn = self.installing.lock().await;
        let new: Vec<Arc<Resource>> = resources.into_iter().map(Arc::new).collect();
        for resource in &new {
            let prefix = home(resource);
            let kept = !matches!(resource.storage, Storage::Nowhere);
            if kept && self.cache.collection(&prefix).is_none() {
                self.cache.open(self.store.as_ref(), &prefix).await?;
            }
        }
        let replaced = |old: &Resource| {
            new.iter()
                .any(|new| new.group == old.group && new.plural == old.plural)
        };
        self.replace(replaced, new.clone());
        Ok(())
    }

    /// Serves the resources of this group and plural no longer, in any version. Their objects stay in the store; whoever
    /// wants them gone deletes them before.
    pub(crate) async fn uninstall(&self, group: &str, plural: &str) {
        let _turn = self.installing.lock().await;
        self.replace(|old| old.group == group && old.plural == plural, Vec::new());
        self.cache.remove(&resource_prefix(group, plural));
    }

    /// Swaps the catalog for one without what is `withdrawn` and with what is `new`.
    fn replace(&self, withdrawn: impl Fn(&Resource) -> bool, new: Vec<Arc<Resource>>) {
        let before = self.catalog.load_full();
        let kept = before.registry.iter().filter(|old| !withdrawn(old));
        let registry = Registry::new(kept.cloned().chain(new));
        let next = Catalog::new(registry, &self.cache, Some(&before));
        self.catalog.store(Arc::new(next));
        for old in before.iter().filter(|old| withdrawn(&old.resource)) {
            old.withdrawn.cancel();
        }
    }
}
