//! POST to a collection.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use vaquita_api::{Object, meta, registry::NewObject, status::Status};
use vaquita_store::Expect;

use super::{
    answer::Answer,
    dispatch::{Call, bad_query},
    write::{Outcome, incoming_body, rehearsed},
};
use crate::{cache::entry::Entry, query::WriteOptions};

/// How often another name is made up for `generateName` when the one before is taken.
const NAME_ATTEMPTS: usize = 8;

/// Creates the object in the body.
pub(crate) async fn create(call: &mut Call<'_>) -> Answer {
    let options = WriteOptions::from_query(&call.query).map_err(bad_query)?;
    if call.resource.namespaced && call.info.namespace.is_none() {
        return Err(Status::method_not_allowed(
            &call.resource.group,
            &call.resource.plural,
            "create",
        ));
    }
    let parsed = call.parse_body().await?;
    let incoming = incoming_body(call.resource, parsed, options)?;
    let mut object = incoming.object;
    let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
    prepare(call, &mut object)?;
    let services = &call.server.services;
    let claim = services.claim(call.resource, &mut object, None)?;
    let entry = if options.dry_run {
        Arc::new(rehearse(call, &object)?)
    } else {
        let entry = store(call, object, generated).await?;
        claim.keep();
        entry
    };
    call.written(StatusCode::CREATED, &entry, incoming.warnings)
}

/// Adds what the server has to say about a new object, and finds what is wrong with it.
fn prepare(call: &Call<'_>, object: &mut Object) -> Result<(), Status> {
    let new = NewObject {
        namespace: call.namespace(),
        now: Timestamp::now(),
        uid: uuid::Uuid::new_v4().to_string(),
        entropy: rand::random(),
    };
    call.resource.prepare_create(object, &new)?;
    admit_to_namespace(call, object)?;
    call.resource.validate_create(object)
}

/// Writes the object unless its name is taken; one that the server made up is made up again.
async fn store(call: &Call<'_>, mut object: Object, generated: bool) -> Result<Arc<Entry>, Status> {
    let (group, plural) = (&call.resource.group, &call.resource.plural);
    for _ in 0..NAME_ATTEMPTS {
        let key = key(call, &object);
        let put = call.server.put(call.served, key, &object, Expect::Absent);
        if let Outcome::Done(entry) = put.await? {
            return Ok(entry);
        }
        let name = meta::name(&object);
        if !generated {
            return Err(Status::already_exists(group, plural, name));
        }
        let name = meta::generated_name(meta::generate_name(&object), rand::random());
        meta::metadata_mut(&mut object).insert("name".to_owned(), name.into());
    }
    let name = meta::name(&object);
    Err(Status::generated_name_conflict(group, plural, name))
}

fn key(call: &Call<'_>, object: &Object) -> Bytes {
    let namespace = call.info.namespace.as_deref();
    call.served.collection.key(namespace, meta::name(object))
}

fn rehearse(call: &Call<'_>, object: &Object) -> Result<Entry, Status> {
    let key = key(call, object);
    if call.served.collection.get(&key).is_some() {
        let (group, plural) = (&call.resource.group, &call.resource.plural);
        return Err(Status::already_exists(group, plural, meta::name(object)));
    }
    rehearsed(key, object, 0)
}

/// Nothing is created in a namespace that is not there, or that is on its way out.
fn admit_to_namespace(call: &Call<'_>, object: &Object) -> Result<(), Status> {
    let Some(namespace) = &call.info.namespace else {
        return Ok(());
    };
    let namespaces = call
        .server
        .core("namespaces")
        .ok_or_else(Status::no_such_path)?;
    let Some(entry) = namespaces.get(&namespaces.key(None, namespace)) else {
        return Err(Status::not_found("", "namespaces", namespace));
    };
    let ending = entry.value().map_err(Status::internal)?;
    if meta::deletion_timestamp(&ending).is_some() {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        return Err(Status::forbidden(
            &call.resource.group,
            &call.resource.plural,
            meta::name(object),
            why,
        ));
    }
    Ok(())
}
