//! Which objects a list or watch is about: namespace, labels and fields.

use bytes::Bytes;
use vaquita_api::{
    selector::{FieldSelector, LabelSelector},
    status::Status,
};

use super::catalog::Served;
use crate::query::ListOptions;
use vaquita_cache::entry::Entry;

/// The objects that are asked for.
#[derive(Clone)]
pub(crate) struct Selection {
    /// What their keys begin with, and others' maybe too.
    pub(crate) scope: Bytes,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of `options`; `name` narrows to one object.
    pub(crate) fn new(
        served: &Served,
        namespace: Option<&str>,
        name: Option<&str>,
        options: &ListOptions,
    ) -> Result<Self, Status> {
        let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        let labels = options.label_selector.as_deref().unwrap_or_default();
        let mut fields = options.field_selector.clone().unwrap_or_default();
        if let Some(name) = name {
            let separator = if fields.is_empty() { "" } else { "," };
            fields = format!("{fields}{separator}metadata.name={name}");
        }
        let fields = FieldSelector::parse(&fields).map_err(|error| bad(&error))?;
        fields
            .check(|field| served.field(field).is_some())
            .map_err(|error| bad(&error))?;
        let apart = namespace.is_some() || !served.resource.namespaced;
        let scope = match fields.requires("metadata.name") {
            // One object, so that no other is looked at but those whose keys begin like its own.
            Some(name) if apart && !name.is_empty() => served.collection.key(namespace, name),
            _ => served.collection.scope(namespace),
        };
        Ok(Self {
            scope,
            labels: LabelSelector::parse(labels).map_err(|error| bad(&error))?,
            fields,
        })
    }

    /// Whether there is no selector at all.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether `entry`, which is as `served` shows it, is one of the objects.
    pub(crate) fn matches(&self, served: &Served, entry: &Entry) -> bool {
        if !entry.key.starts_with(&self.scope) {
            return false;
        }
        if self.is_everything() {
            return true;
        }
        let attributes = served.attributes(entry);
        let value = |label: &str| {
            let index = served.field(label);
            index
                .and_then(|index| attributes.fields.get(index))
                .map_or("", String::as_str)
        };
        self.labels.matches(&attributes.labels) && self.fields.matches(value)
    }
}
