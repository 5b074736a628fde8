//! Server-side apply: PATCH with a configuration, `application/apply-patch+yaml`.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use vaquita_api::{
    Object,
    apply::{self, Manager},
    body, meta,
    registry::Part,
    status::Status,
};

use super::{
    answer::Answer,
    call::{Call, object_of},
    create::{Made, make},
    update::replace,
    write::{ATTEMPTS, incoming, precondition},
};
use crate::query::{FieldValidation, WriteOptions, Writing};
use vaquita_cache::entry::Entry;

/// Applies the configuration in the body to `part` of the object, which is made if it is not there.
pub(crate) async fn apply(call: &mut Call<'_>, part: Part) -> Answer {
    let options = call.write_options(Writing::Apply)?;
    let configuration = configuration(call, &options).await?;
    call.check_name(&configuration)?;
    for _ in 0..ATTEMPTS {
        let Some(entry) = call.served.get(&call.key())? else {
            if part != Part::Main {
                return Err(call.not_found());
            }
            match made(call, &configuration, &options).await? {
                Made::Done(entry) => return call.object(StatusCode::CREATED, &entry),
                Made::Taken { .. } if options.dry_run => return Err(call.stale()),
                Made::Taken { .. } => continue,
            }
        };
        if let Some(entry) = changed(call, &entry, &configuration, part, &options).await? {
            return call.object(StatusCode::OK, &entry);
        }
    }
    Err(call.stale())
}

/// The configuration in the body.
pub(super) async fn configuration(
    call: &mut Call<'_>,
    options: &WriteOptions,
) -> Result<Object, Status> {
    let bytes = call.read_body().await?;
    let parsed = body::yaml(&bytes)
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    if let Some(first) = parsed.duplicates.first() {
        let problem = format!("key {first:?} already set in map");
        match options.field_validation {
            FieldValidation::Strict => {
                let message = format!("error strict decoding YAML: {problem}");
                return Err(Status::bad_request(message));
            }
            FieldValidation::Warn => call.warn(problem),
            FieldValidation::Ignore => {}
        }
    }
    object_of(parsed.value)
}

/// Merges the configuration into what there is, and makes an object of its kind of the result.
fn merged(
    call: &Call<'_>,
    live: Option<&Object>,
    configuration: &Object,
    options: &WriteOptions,
) -> Result<Object, Status> {
    let (schema, manager) = (call.resource.schema(), call.manager(options));
    let merged = apply::apply(schema, live, configuration, &manager, options.force)?;
    incoming(call, Value::Object(merged), &[], options)
}

async fn made(
    call: &Call<'_>,
    configuration: &Object,
    options: &WriteOptions,
) -> Result<Made, Status> {
    let mut named = configuration.clone();
    let name = call.name().to_owned();
    meta::metadata_mut(&mut named).insert("name".to_owned(), name.into());
    let object = merged(call, None, &named, options)?;
    let uid = meta::uid(&object);
    if !uid.is_empty() {
        return Err(call.other_uid(uid, ""));
    }
    make(call, object, options, None).await
}

/// The object after the apply. `None` if somebody else was faster.
pub(super) async fn changed(
    call: &Call<'_>,
    entry: &Entry,
    configuration: &Object,
    part: Part,
    options: &WriteOptions,
) -> Result<Option<Arc<Entry>>, Status> {
    let live = entry.value().map_err(Status::internal)?;
    let object = merged(call, Some(&live), configuration, options)?;
    // What the configuration does not say is the live object's own.
    if precondition(&object)?.is_some_and(|revision| revision != entry.revision) {
        return Err(call.stale());
    }
    replace(call, entry, object, part, options, None).await
}

impl Call<'_> {
    /// Who owns what this request writes: the manager that the client names, or else its program.
    pub(crate) fn manager(&self, options: &WriteOptions) -> Manager {
        let agent = self.parts.headers.get(http::header::USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        let given = options.field_manager.as_deref().unwrap_or_default();
        let mut name = apply::manager_name(given, agent.unwrap_or_default());
        if name.is_empty() {
            "unknown".clone_into(&mut name);
        }
        let subresource = self.subresource();
        Manager {
            name,
            api_version: self.resource.api_version(),
            subresource: subresource.to_owned(),
            time: jiff::Timestamp::now(),
            reset: apply::Reset::of(subresource, self.resource.has_status()),
        }
    }
}
