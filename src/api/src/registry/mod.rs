//! The resource registry: one [`Resource`] for each kind that is served.
//!
//! A write takes this way through a resource; everything between the steps (admission, allocation, storage) is the
//! caller's:
//!
//! 1. [`Resource::decode`] checks the types, drops and reports unknown fields, fills defaults in;
//! 2. [`Resource::prepare_create`] or [`Resource::prepare_update`] enforces what a client may not set;
//! 3. [`Resource::validate_create`] or [`Resource::validate_update`] finds what is wrong with the result.
//!
//! What is read uses [`Resource::selectable`], [`Resource::columns`] and [`Resource::row`].

mod resource;
mod rules;

use std::collections::BTreeMap;

pub use resource::{
    Decoded, NewObject, Part, Resource, ScalePaths, SelectableField, Subresource, Verb,
    field_warnings,
};
pub(crate) use rules::{Kind, Typed};

use crate::kinds;

/// Group, version and plural name.
type Key = (String, String, String);

/// All resources that are served, by group, version and plural.
#[derive(Debug, Default)]
pub struct Registry {
    resources: BTreeMap<Key, Resource>,
}

impl Registry {
    /// The built-in kinds.
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        for resource in kinds::all() {
            registry.insert(resource);
        }
        registry
    }

    /// Adds a resource, replacing one of the same group, version and plural.
    pub fn insert(&mut self, resource: Resource) {
        let key = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        self.resources.insert(key, resource);
    }

    /// The resource behind a URL: `get("", "v1", "pods")`.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.resources
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The resource of a kind: `by_kind("", "v1", "Pod")`.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Resource> {
        self.iter().find(|resource| {
            resource.group == group && resource.version == version && resource.kind == kind
        })
    }

    /// All resources, sorted by group, version and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// The groups with their versions, the core group (named "") first; for discovery.
    pub fn groups(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for resource in self.iter() {
            let versions = groups.entry(&resource.group).or_default();
            if !versions.contains(&resource.version.as_str()) {
                versions.push(&resource.version);
            }
        }
        groups
    }
}
