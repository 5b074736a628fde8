//! What the graph keeps of an object: who it is, whom it names as owner, how it wants to be deleted.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use vaquita_reconcile::served::{Served, group_of};

/// Deletion waits until the dependents are deleted.
const FOREGROUND: &str = "foregroundDeletion";
/// Deletion waits until the dependents have let go of the owner.
const ORPHAN: &str = "orphan";

/// The identity of an object through time and across versions of its kind. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uid(Arc<str>);

impl From<&str> for Uid {
    fn from(uid: &str) -> Self {
        Self(uid.into())
    }
}

impl Deref for Uid {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Uid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A resource whatever its version: group and plural.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ResourceKey {
    group: String,
    plural: String,
}

impl ResourceKey {
    pub(crate) fn of(served: &Served) -> Self {
        Self {
            group: served.api.group.clone(),
            plural: served.api.plural.clone(),
        }
    }
}

/// What is to become of an object's dependents when it is deleted, if anything but background deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cascade {
    /// It holds the finalizer `orphan`.
    Orphan,
    /// It holds the finalizer `foregroundDeletion`.
    Foreground,
}

impl Cascade {
    /// The finalizer by which an object holds itself back until this is done.
    pub(crate) fn finalizer(self) -> &'static str {
        match self {
            Self::Orphan => ORPHAN,
            Self::Foreground => FOREGROUND,
        }
    }

    fn of(meta: &ObjectMeta) -> Option<Self> {
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        [Self::Orphan, Self::Foreground]
            .into_iter()
            .find(|cascade| finalizers.iter().any(|held| held == cascade.finalizer()))
    }
}

/// An object as it was last seen.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) uid: Uid,
    /// Where it is served.
    pub(crate) resource: Arc<Served>,
    /// Empty for a cluster-scoped object.
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Its `resourceVersion`.
    pub(crate) version: String,
    /// Its `ownerReferences`.
    pub(crate) owners: Vec<OwnerReference>,
    /// Whether it has a `deletionTimestamp`.
    pub(crate) deleting: bool,
    pub(crate) cascade: Option<Cascade>,
}

impl Object {
    /// What matters of an object with this metadata. Nothing if it lacks a name or a uid, as no stored object does.
    pub(crate) fn new(resource: Arc<Served>, meta: ObjectMeta) -> Option<Self> {
        Some(Self {
            cascade: Cascade::of(&meta),
            deleting: meta.deletion_timestamp.is_some(),
            uid: Uid::from(meta.uid?.as_str()),
            resource,
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name?,
            version: meta.resource_version.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
        })
    }

    /// Whether it is being deleted and must first be taken out of its dependents' owner references.
    pub(crate) fn orphans_dependents(&self) -> bool {
        self.deleting && self.cascade == Some(Cascade::Orphan)
    }

    /// Whether it is being deleted and waits for its dependents to go first.
    pub(crate) fn deletes_dependents(&self) -> bool {
        self.deleting && self.cascade == Some(Cascade::Foreground)
    }

    /// Whether an owner reference of an object in `namespace` means this object: not only the uid must be right.
    ///
    /// An object in one namespace can't be owned by an object in another, nor a cluster-scoped one by a namespaced one.
    pub(crate) fn is_meant_by(&self, owner: &OwnerReference, namespace: &str) -> bool {
        owner.uid == *self.uid
            && owner.name == self.name
            && owner.kind == self.resource.api.kind
            && group_of(&owner.api_version) == self.resource.api.group
            && (self.namespace.is_empty() || self.namespace == namespace)
    }

    /// Whether the object asks that its owner stay as long as it does.
    pub(crate) fn blocks_deletion_of(&self, owner: &Uid) -> bool {
        self.owners.iter().any(|reference| {
            reference.uid == **owner && reference.block_owner_deletion == Some(true)
        })
    }

    pub(crate) fn is_of(&self, resource: &ResourceKey) -> bool {
        self.resource.api.group == resource.group && self.resource.api.plural == resource.plural
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.resource.qualified_name())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}
