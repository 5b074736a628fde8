//! POST to a collection; and the creation of an object that a PUT or an apply did not find.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use vaquita_admission::Operation;
use vaquita_api::{
    Object,
    apply::{self, Manager},
    meta,
    registry::NewObject,
    status::Status,
};
use vaquita_auth::User;
use vaquita_platform::certificates;
use vaquita_store::Expect;

use super::{
    admission::Admission,
    answer::Answer,
    call::Call,
    write::{Outcome, incoming_body, rehearsed, unhurried},
};
use crate::{
    authz::{self, escalation},
    query::{WriteOptions, Writing},
};
use vaquita_cache::entry::Entry;

/// How often another name is made up for `generateName` when the one before is taken.
const NAME_ATTEMPTS: usize = 8;

/// Creates the object in the body.
pub(crate) async fn create(call: &mut Call<'_>) -> Answer {
    let options = call.write_options(Writing::Create)?;
    let parsed = call.parse_body().await?;
    let object = incoming_body(call, parsed, &options)?;
    let (group, plural) = (&call.resource.group, &call.resource.plural);
    let manager = call.manager(&options);
    match make(call, object, &options, Some(&manager)).await? {
        Made::Done(entry) => call.object(StatusCode::CREATED, &entry),
        Made::Taken { name, generated } if generated => {
            Err(Status::generated_name_conflict(group, plural, &name))
        }
        Made::Taken { name, .. } => Err(Status::already_exists(group, plural, &name)),
    }
}

/// What became of a creation.
pub(crate) enum Made {
    /// The object is there.
    Done(Arc<Entry>),
    /// An object of that name is there already.
    Taken {
        /// The name.
        name: String,
        /// Whether the server made it up, and others before it.
        generated: bool,
    },
}

/// Takes a decoded object all the way into the store. Its fields become those of `manager`, unless it says already whose
/// they are.
pub(crate) async fn make(
    call: &Call<'_>,
    mut object: Object,
    options: &WriteOptions,
    manager: Option<&Manager>,
) -> Result<Made, Status> {
    authz::creation(call)?;
    let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
    call.resource.place(&mut object, call.namespace())?;
    if let Some(manager) = manager {
        apply::track(call.resource.schema(), None, &mut object, manager);
    }
    let name = meta::name(&object).to_owned();
    let admission = Admission {
        operation: Operation::Create,
        subresource: "",
        name: &name,
        old: None,
        dry_run: options.dry_run,
    };
    admission.mutate(call, Some(&mut object)).await?;
    let new = NewObject {
        namespace: call.namespace(),
        now: Timestamp::now(),
        uid: uuid::Uuid::new_v4().to_string(),
        entropy: rand::random(),
    };
    call.resource.prepare_create(&mut object, &new)?;
    if call.resource.kind == "CertificateSigningRequest" {
        certificates::set_requester(&mut object, &user_info(call.user));
    }
    escalation::check(call.server, call.user, call.resource, &object, None)?;
    let warnings = unhurried(call.resource, || call.resource.validate_create(&object))?;
    for text in warnings {
        call.warn(text);
    }
    let services = &call.server.services;
    let claim = services.claim(call.resource, &mut object, None)?;
    admission.validate(call, Some(&mut object)).await?;
    if options.dry_run {
        return rehearse(call, &object);
    }
    let made = store(call, object, generated).await?;
    if matches!(made, Made::Done(_)) {
        claim.keep();
    }
    Ok(made)
}

/// Who asks, as objects hold it.
fn user_info(user: &User) -> UserInfo {
    UserInfo {
        extra: Some(user.extra.as_ref().clone()),
        groups: Some(user.groups.to_vec()),
        uid: Some(user.uid.to_string()),
        username: Some(user.name.to_string()),
    }
}

/// Writes the object unless its name is taken; one that the server made up is made up again.
async fn store(call: &Call<'_>, mut object: Object, generated: bool) -> Result<Made, Status> {
    let attempts = if generated { NAME_ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            let name = meta::generated_name(meta::generate_name(&object), rand::random());
            meta::metadata_mut(&mut object).insert("name".to_owned(), name.into());
        }
        let key = key(call, &object);
        let put = call.server.put(call.served, key, &object, Expect::Absent);
        if let Outcome::Done(entry) = put.await? {
            return Ok(Made::Done(entry));
        }
    }
    let name = meta::name(&object).to_owned();
    Ok(Made::Taken { name, generated })
}

fn key(call: &Call<'_>, object: &Object) -> Bytes {
    let namespace = call.info.namespace.as_deref();
    call.served.collection.key(namespace, meta::name(object))
}

fn rehearse(call: &Call<'_>, object: &Object) -> Result<Made, Status> {
    let key = key(call, object);
    if call.served.collection.get(&key).is_some() {
        let name = meta::name(object).to_owned();
        let generated = false;
        return Ok(Made::Taken { name, generated });
    }
    rehearsed(key, object, 0).map(|entry| Made::Done(Arc::new(entry)))
}
