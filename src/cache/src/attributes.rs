//! What selectors ask of an object, read from it once.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use vaquita_api::{Object, meta, registry::SelectableField};

/// The fields that selectors may name, of one resource.
#[derive(Debug, Clone)]
pub struct Fields {
    fields: Vec<SelectableField>,
    /// Equal for equal lists.
    digest: u64,
}

impl Fields {
    /// The fields of a resource, in its order.
    pub fn new(fields: &[SelectableField]) -> Self {
        let mut hasher = DefaultHasher::new();
        for field in fields {
            field.label.hash(&mut hasher);
        }
        Self {
            fields: fields.to_vec(),
            digest: hasher.finish(),
        }
    }

    /// The place of the field with this label among [`Attributes::fields`].
    pub fn position(&self, label: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.label == label)
    }
}

/// An object's labels, and the values of its resource's selectable fields in their order.
#[derive(Debug, Default, Clone)]
pub struct Attributes {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The values of the selectable fields, in the order of [`Fields`].
    pub fields: Vec<String>,
    digest: u64,
}

impl Attributes {
    /// Those of `object`.
    pub fn of(object: &Object, fields: &Fields) -> Self {
        Self {
            labels: meta::labels(object),
            fields: fields
                .fields
                .iter()
                .map(|field| field.value(object))
                .collect(),
            digest: fields.digest,
        }
    }

    /// Whether the values are those of `fields`.
    pub fn are_of(&self, fields: &Fields) -> bool {
        self.digest == fields.digest
    }
}
