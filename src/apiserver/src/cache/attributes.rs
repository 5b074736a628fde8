//! What selectors ask of an object, read from it once.

use std::collections::BTreeMap;

use vaquita_api::{Object, meta, registry::Resource};

/// An object's labels, and the values of its resource's selectable fields in the order of
/// [`Resource::selectable`].
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) fields: Vec<String>,
}

impl Attributes {
    pub(crate) fn of(object: &Object, resource: &Resource) -> Self {
        Self {
            labels: meta::labels(object),
            fields: resource
                .selectable()
                .iter()
                .map(|field| field.value(object))
                .collect(),
        }
    }
}
