//! PUT of an object, of its status, and of a namespace's finalizers; and the step that patches share with it.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use vaquita_admission::Operation;
use vaquita_api::{
    Object,
    apply::{self, Manager},
    meta,
    registry::Part,
    status::Status,
};
use vaquita_store::Expect;

use super::{
    Server,
    admission::Admission,
    answer::Answer,
    call::Call,
    catalog::Served,
    create::{Made, make},
    delete::is_finished,
    write::{ATTEMPTS, Outcome, incoming_body, precondition, rehearsed, unhurried},
};
use crate::{
    authz::escalation,
    query::{WriteOptions, Writing},
};
use vaquita_cache::entry::{Entry, encode};

/// Replaces `part` of the object by the body; makes the object, for the kinds where a PUT does so.
pub(crate) async fn update(call: &mut Call<'_>, part: Part) -> Answer {
    let options = call.write_options(Writing::Update)?;
    let parsed = call.parse_body().await?;
    let object = incoming_body(call, parsed, &options)?;
    if meta::name(&object).is_empty() {
        let name = call.name();
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    call.check_name(&object)?;
    let wanted = precondition(&object)?;
    for _ in 0..ATTEMPTS {
        let Some(entry) = call.served.get(&call.key())? else {
            match made(call, &object, part, &options).await? {
                Some(entry) => return call.object(StatusCode::CREATED, &entry),
                None => continue,
            }
        };
        if wanted.is_some_and(|revision| revision != entry.revision) {
            return Err(call.stale());
        }
        let manager = call.manager(&options);
        let replaced = replace(call, &entry, object.clone(), part, &options, Some(&manager));
        if let Some(entry) = replaced.await? {
            return call.object(StatusCode::OK, &entry);
        }
    }
    Err(call.stale())
}

/// The object of a PUT, made because there was none. `None` if there is one by now.
async fn made(
    call: &Call<'_>,
    object: &Object,
    part: Part,
    options: &WriteOptions,
) -> Result<Option<Arc<Entry>>, Status> {
    if part != Part::Main || !call.resource.creates_on_update() {
        return Err(call.not_found());
    }
    let (uid, mut object) = (meta::uid(object), object.clone());
    if !uid.is_empty() {
        // It is about an object that was there once.
        return Err(call.other_uid(uid, ""));
    }
    let name = call.name().to_owned();
    let metadata = meta::metadata_mut(&mut object);
    metadata.insert("name".to_owned(), name.into());
    metadata.remove("resourceVersion");
    let manager = call.manager(options);
    match make(call, object, options, Some(&manager)).await? {
        Made::Done(entry) => Ok(Some(entry)),
        Made::Taken { .. } if options.dry_run => Err(call.stale()),
        Made::Taken { .. } => Ok(None),
    }
}

/// Makes `new` the successor of the object whose state is `entry`. What changes becomes `manager`'s, unless `new` says
/// already whose it is. `None` if somebody else was faster.
pub(crate) async fn replace(
    call: &Call<'_>,
    entry: &Entry,
    mut new: Object,
    part: Part,
    options: &WriteOptions,
    manager: Option<&Manager>,
) -> Result<Option<Arc<Entry>>, Status> {
    let old = entry.value().map_err(Status::internal)?;
    let uid = meta::uid(&new);
    if !uid.is_empty() && uid != meta::uid(&old) {
        return Err(call.other_uid(uid, meta::uid(&old)));
    }
    call.resource.place(&mut new, call.namespace())?;
    if let Some(manager) = manager {
        apply::track(call.resource.schema(), Some(&old), &mut new, manager);
    }
    let admission = Admission {
        operation: Operation::Update,
        subresource: call.subresource(),
        name: call.name(),
        old: Some(&old),
        dry_run: options.dry_run,
    };
    admission.mutate(call, Some(&mut new)).await?;
    call.resource
        .prepare_update(&mut new, &old, part, Timestamp::now())?;
    escalation::check(call.server, call.user, call.resource, &new, Some(&old))?;
    let warnings = unhurried(call.resource, || {
        call.resource.validate_update(&new, &old, part)
    })?;
    for text in warnings {
        call.warn(text);
    }
    let claim = match part {
        Part::Main => Some(
            call.server
                .services
                .claim(call.resource, &mut new, Some(&old))?,
        ),
        Part::Status
        | Part::Finalize
        | Part::EphemeralContainers
        | Part::Resize
        | Part::Approval => None,
    };
    admission.validate(call, Some(&mut new)).await?;
    let dry_run = options.dry_run;
    let stored = store(call.server, call.served, entry, &new, dry_run).await?;
    if let (Some(claim), Some(_), false) = (claim, &stored, dry_run) {
        claim.keep();
    }
    Ok(stored)
}

/// Writes an object that is ready over the state `entry`; removes it, if nothing keeps it any more. `None` if somebody
/// else was faster. An object that would stay as it is is not written.
async fn store(
    server: &Server,
    served: &Served,
    entry: &Entry,
    new: &Object,
    dry_run: bool,
) -> Result<Option<Arc<Entry>>, Status> {
    let encoded = encode(new).map_err(Status::internal)?;
    let finished = is_finished(&served.resource, new);
    if dry_run || entry.is(&encoded) && !finished {
        return rehearsed(entry.key.clone(), new, entry.revision)
            .map(|entry| Some(Arc::new(entry)));
    }
    if finished {
        return match server.remove(served, entry).await? {
            // The client wrote this state and sees it, though it was the last.
            Outcome::Done(gone) => {
                rehearsed(entry.key.clone(), new, gone.revision).map(|entry| Some(Arc::new(entry)))
            }
            Outcome::Conflict => Ok(None),
        };
    }
    let expect = Expect::Revision(entry.revision);
    match server.put(served, entry.key.clone(), new, expect).await? {
        Outcome::Done(entry) => Ok(Some(entry)),
        Outcome::Conflict => Ok(None),
    }
}

/// Reads, changes and writes an object until nobody else comes in between. For changes that the server itself makes of
/// a client's request; `change` may refuse.
pub(crate) async fn modify(
    call: &Call<'_>,
    dry_run: bool,
    change: impl FnMut(&mut Object) -> Result<(), Status>,
) -> Result<Arc<Entry>, Status> {
    let (server, served, name) = (call.server, call.served, call.name());
    modify_at(server, served, &call.key(), name, dry_run, change).await
}

/// The same for any object: that of `served` at `key`, whose name is `name`.
pub(crate) async fn modify_at(
    server: &Server,
    served: &Served,
    key: &[u8],
    name: &str,
    dry_run: bool,
    mut change: impl FnMut(&mut Object) -> Result<(), Status>,
) -> Result<Arc<Entry>, Status> {
    let (group, plural) = (&served.resource.group, &served.resource.plural);
    for _ in 0..ATTEMPTS {
        let entry = served.get(key)?;
        let entry = entry.ok_or_else(|| Status::not_found(group, plural, name))?;
        let mut object = entry.value().map_err(Status::internal)?;
        change(&mut object)?;
        meta::metadata_mut(&mut object).remove("resourceVersion");
        if let Some(entry) = store(server, served, &entry, &object, dry_run).await? {
            return Ok(entry);
        }
    }
    Err(Status::stale(group, plural, name))
}
