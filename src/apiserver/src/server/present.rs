//! Objects in the shape that a client wants: whole, as rows of a table, or their metadata alone.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use vaquita_api::{
    Object,
    registry::Resource,
    status::Status,
    table::{self, IncludeObject},
};

use crate::{negotiation::Form, query::Query};
use vaquita_cache::entry::Entry;

/// A shape, with what it needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    form: Form,
    include: IncludeObject,
}

impl Shape {
    /// The shape that `form` and the query's `includeObject` ask for.
    pub(crate) fn new(form: Form, query: &Query<'_>) -> Result<Self, Status> {
        let include = query.get("includeObject").unwrap_or_default();
        let include = IncludeObject::parse(include).ok_or_else(|| {
            Status::bad_request(format!("unrecognized includeObject value: {include:?}"))
        })?;
        Ok(Self { form, include })
    }

    /// The form of the objects.
    pub(crate) fn form(self) -> Form {
        self.form
    }

    /// Whether objects are handed out as they are.
    pub(crate) fn is_whole(self) -> bool {
        self.form == Form::Object
    }

    /// One object, as JSON.
    pub(crate) fn object(self, resource: &Resource, entry: &Entry) -> Result<Bytes, Status> {
        match self.form {
            Form::Object => Ok(entry.object()),
            Form::Metadata { beta } => {
                let mut partial = table::partial(&object(entry)?);
                set_version(&mut partial, beta);
                Ok(partial.to_string().into())
            }
            Form::Table { .. } => {
                let metadata = json!({"resourceVersion": entry.revision.to_string()});
                self.table(resource, metadata, std::iter::once(entry), true)
            }
        }
    }

    /// Many objects in one document, for the shapes whose lists are not simply their objects in a row.
    pub(crate) fn list<'e>(
        self,
        resource: &Resource,
        metadata: Value,
        entries: impl Iterator<Item = &'e Entry>,
    ) -> Result<Bytes, Status> {
        match self.form {
            Form::Table { .. } => self.table(resource, metadata, entries, true),
            Form::Metadata { beta } => {
                let items = entries
                    .map(|entry| {
                        let mut partial = table::partial(&object(entry)?);
                        set_version(&mut partial, beta);
                        Ok(partial)
                    })
                    .collect::<Result<Vec<_>, Status>>()?;
                let mut list = json!({"kind": "PartialObjectMetadataList", "metadata": metadata, "items": items});
                set_version(&mut list, beta);
                Ok(list.to_string().into())
            }
            Form::Object => {
                let items = entries
                    .map(|entry| object(entry).map(Value::Object))
                    .collect::<Result<Vec<_>, _>>()?;
                let list = json!({
                    "kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": metadata, "items": items,
                });
                Ok(list.to_string().into())
            }
        }
    }

    /// One object of a watch. `first` says whether nothing was sent before: later tables leave the columns out.
    pub(crate) fn watched(
        self,
        resource: &Resource,
        entry: &Entry,
        first: bool,
    ) -> Result<Bytes, Status> {
        match self.form {
            Form::Table { .. } => {
                let metadata = json!({"resourceVersion": entry.revision.to_string()});
                self.table(resource, metadata, std::iter::once(entry), first)
            }
            _ => self.object(resource, entry),
        }
    }

    /// The kind and version that a bookmark's object has in this shape.
    pub(crate) fn bookmark_type(self, resource: &Resource) -> (String, String) {
        match self.form {
            Form::Object => (resource.kind.clone(), resource.api_version()),
            Form::Table { beta } => ("Table".to_owned(), partial_version(beta).to_owned()),
            Form::Metadata { beta } => (
                "PartialObjectMetadata".to_owned(),
                partial_version(beta).to_owned(),
            ),
        }
    }

    fn table<'e>(
        self,
        resource: &Resource,
        metadata: Value,
        entries: impl Iterator<Item = &'e Entry>,
        with_columns: bool,
    ) -> Result<Bytes, Status> {
        let now = Timestamp::now();
        let rows = entries
            .map(|entry| {
                let object = object(entry)?;
                let mut row = table::row(resource.row(&object, now), &object, self.include);
                if let Some(partial) = row
                    .get_mut("object")
                    .filter(|_| self.include == IncludeObject::Metadata)
                {
                    set_version(partial, self.beta());
                }
                Ok(row)
            })
            .collect::<Result<Vec<_>, Status>>()?;
        let columns = if with_columns {
            resource.columns()
        } else {
            &[]
        };
        let mut table = table::table(metadata, columns, rows);
        set_version(&mut table, self.beta());
        Ok(table.to_string().into())
    }

    fn beta(self) -> bool {
        matches!(
            self.form,
            Form::Table { beta: true } | Form::Metadata { beta: true }
        )
    }
}

/// An entry's object as a value. What is in the cache was written by us.
pub(crate) fn object(entry: &Entry) -> Result<Object, Status> {
    entry.value().map_err(Status::internal)
}

fn set_version(value: &mut Value, beta: bool) {
    value["apiVersion"] = partial_version(beta).into();
}

/// The version of tables and partial objects.
pub(crate) fn partial_version(beta: bool) -> &'static str {
    if beta {
        "meta.k8s.io/v1beta1"
    } else {
        "meta.k8s.io/v1"
    }
}
