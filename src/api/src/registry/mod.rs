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

mod entry;
mod resource;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use entry::{created_only, stored};
pub use resource::{
    Convert, Decoded, NewObject, Part, Resource, ScalePaths, SelectableField, Storage, Subresource,
    Verb, field_warnings,
};
pub use rules::{Describe, Kind, Rules, Typed};
/// All resources that are served. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Sorted by group, version and plural.
    resources: Vec<Arc<Resource>>,
}

fn key(resource: &Resource) -> (&str, &str, &str) {
    (&resource.group, &resource.version, &resource.plural)
}

impl Registry {
    /// A registry of these kinds. Of two entries for one group, version and plural, the first counts.
    pub fn new(resources: impl IntoIterator<Item = impl Into<Arc<Resource>>>) -> Self {
        let mut resources: Vec<Arc<Resource>> = resources.into_iter().map(Into::into).collect();
        resources.sort_by(|a, b| key(a).cmp(&key(b)));
        resources.dedup_by(|later, first| key(later) == key(first));
        Self { resources }
    }

    /// The resource behind a URL: `get("", "v1", "pods")`.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let wanted = (group, version, plural);
        let at = self
            .resources
            .binary_search_by(|resource| key(resource).cmp(&wanted))
            .ok()?;
        self.resources.get(at)
    }

    /// The resource of a kind: `by_kind("", "v1", "Pod")`.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.iter().find(|resource| {
            resource.group == group && resource.version == version && resource.kind == kind
        })
    }

    /// All resources, sorted by group, version and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
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
