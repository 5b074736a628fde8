//! What selectors ask of an object, read from it once.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use vaquita_api::{Object, meta, registry::SelectableField};

/// The fields that selectors may name, of one resource.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    fields: Vec<SelectableField>,
    /// Equal for equal lists.
    digest: u64,
}

impl Fields {
    pub(crate) fn new(fields: &[SelectableField]) -> Self {
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
    pub(crate) fn position(&self, label: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.label == label)
    }
}

/// An object's labels, and the values of its resource's selectable fields in their order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Attributes {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) fields: Vec<String>,
    digest: u64,
}

impl Attributes {
    pub(crate) fn of(object: &Object, fields: &Fields) -> Self {
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
    pub(crate) fn are_of(&self, fields: &Fields) -> bool {
        self.digest == fields.digest
    }
}
