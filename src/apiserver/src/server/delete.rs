//! DELETE of one object: at once, after a grace period, or when the last finalizer is gone.
//!
//! An object with finalizers, or one that needs time to end, is only marked: its `deletionTimestamp` is set, and
//! whoever holds a finalizer (or, for a pod, the node) does their part. It goes with the update that takes the last
//! finalizer away, or with a delete whose grace period is 0. `propagationPolicy` becomes one of the two finalizers of
//! the garbage collector, `orphan` and `foregroundDeletion`.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use serde_json::{Value, json};
use vaquita_admission::Operation;
use vaquita_api::{
    Object, body,
    field::{FieldError, Path},
    meta,
    registry::Resource,
    status::Status,
};
use vaquita_store::Expect;

use super::{
    Server,
    admission::Admission,
    answer::{self, Answer},
    call::{Call, bad_query},
    catalog::Served,
    write::{ATTEMPTS, Outcome, rehearsed},
};
use crate::{
    negotiation::{BodyKind, CONSUMED},
    query::{Query, dry_run, invalid_options},
};
use vaquita_cache::entry::Entry;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Resources of the core group whose deletion is answered with the object; all others' with a `Status`.
const SHOWN: [&str; 7] = [
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
];

/// What is to become of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Orphan,
    Foreground,
    Background,
    /// Not said: what the object's own finalizers, and its kind, imply.
    Unsaid,
}

/// How to delete.
#[derive(Debug, Clone)]
pub(crate) struct Deletion {
    pub(crate) dry_run: bool,
    grace_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    propagation: Propagation,
    /// Whether the client asked in the old way for what the object owns to be deleted: then it is told when that takes time.
    cascades: bool,
}

/// What a deletion came to.
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Entry>),
    /// It is there still, in this state, and will go when somebody has done their part.
    Marked(Arc<Entry>),
}

impl Deletion {
    /// Reads the options from the body, or from the query if there is no body.
    pub(crate) async fn of(call: &mut Call<'_>) -> Result<Self, Status> {
        let bytes = call.read_body().await?;
        if bytes.is_empty() {
            return Self::new(from_query(&call.query)?);
        }
        let parsed = match call.body_kind {
            BodyKind::Yaml => body::yaml(&bytes)?,
            BodyKind::Json => body::json(&bytes)?,
            BodyKind::Protobuf => body::DELETE_OPTIONS.parse_protobuf(&bytes)?,
            _ => return Err(Status::unsupported_media_type(&CONSUMED)),
        };
        let mut options: DeleteOptions = body::DELETE_OPTIONS.decode(parsed.value)?.0;
        // Else the query does not count. But whoever asks for a dry run anywhere does not mean to delete.
        let dry_run = options.dry_run.get_or_insert_default();
        dry_run.extend(call.query.all("dryRun").map(str::to_owned));
        Self::new(options)
    }

    /// Checks options that came in some body.
    pub(crate) fn new(options: DeleteOptions) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let values = options.dry_run.iter().flatten().map(String::as_str);
        let dry_run = dry_run(values, &mut errors);
        let policy = options.propagation_policy.as_deref();
        let path = Path::root("propagationPolicy");
        let propagation = match (policy, options.orphan_dependents) {
            (Some(policy), Some(_)) => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                errors.push(FieldError::invalid(&path, policy, why));
                Propagation::Unsaid
            }
            (Some("Orphan"), None) | (None, Some(true)) => Propagation::Orphan,
            (Some("Foreground"), None) => Propagation::Foreground,
            (Some("Background"), None) | (None, Some(false)) => Propagation::Background,
            (None, None) => Propagation::Unsaid,
            (Some(other), None) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported(&path, other, &known));
                Propagation::Unsaid
            }
        };
        if !errors.is_empty() {
            return Err(invalid_options("DeleteOptions", &errors));
        }
        Ok(Self {
            dry_run,
            grace_seconds: options.grace_period_seconds,
            preconditions: options.preconditions,
            propagation,
            cascades: options.orphan_dependents == Some(false),
        })
    }

    fn check(&self, object: &Object, resource: &Resource) -> Result<(), Status> {
        let Some(preconditions) = &self.preconditions else {
            return Ok(());
        };
        let differs = |wanted: &Option<String>, actual: &str| {
            wanted.as_ref().filter(|wanted| *wanted != actual).cloned()
        };
        let why = if let Some(wanted) = differs(&preconditions.uid, meta::uid(object)) {
            format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                meta::uid(object)
            )
        } else if let Some(wanted) = differs(
            &preconditions.resource_version,
            meta::resource_version(object),
        ) {
            let actual = meta::resource_version(object);
            format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({actual}). The object might have been modified"
            )
        } else {
            return Ok(());
        };
        // Named by its kind here, not by its plural, as upstream does.
        let (group, kind) = (&resource.group, &resource.kind);
        Err(Status::conflict(group, kind, meta::name(object), why))
    }

    /// Sets the garbage collector's finalizers as the propagation wants them.
    fn set_finalizers(&self, object: &mut Object, resource: &Resource) {
        let has = |name: &str| meta::finalizers(object).any(|finalizer| finalizer == name);
        // Clients of the oldest controllers rely on this.
        let orphans_by_default = matches!(
            (resource.group.as_str(), resource.plural.as_str()),
            ("", "replicationcontrollers") | ("batch", "jobs")
        );
        let wanted = match self.propagation {
            Propagation::Orphan => Some(ORPHAN),
            Propagation::Foreground => Some(FOREGROUND),
            Propagation::Unsaid if has(ORPHAN) => Some(ORPHAN),
            Propagation::Unsaid if has(FOREGROUND) => Some(FOREGROUND),
            Propagation::Unsaid if orphans_by_default => Some(ORPHAN),
            Propagation::Background | Propagation::Unsaid => None,
        };
        let others =
            meta::finalizers(object).filter(|finalizer| !matches!(*finalizer, ORPHAN | FOREGROUND));
        let finalizers: Vec<Value> = others.chain(wanted).map(Value::from).collect();
        let metadata = meta::metadata_mut(object);
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), finalizers.into());
        }
    }
}

/// Whether nothing keeps an object any more: it is being deleted, has no finalizers, and its time is up.
pub(crate) fn is_finished(resource: &Resource, object: &Object) -> bool {
    let grace = meta::at(object, &["metadata", "deletionGracePeriodSeconds"])
        .and_then(Value::as_i64)
        .unwrap_or(0);
    meta::deletion_timestamp(object).is_some() && grace == 0 && !is_finalizing(resource, object)
}

/// Whether somebody still has to do something before the object may go. A namespace has a second list of those.
fn is_finalizing(resource: &Resource, object: &Object) -> bool {
    let more = meta::at(object, &["spec", "finalizers"]).and_then(Value::as_array);
    meta::finalizers(object).next().is_some()
        || is_namespace(resource) && more.is_some_and(|finalizers| !finalizers.is_empty())
}

fn is_namespace(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "namespaces"
}

/// Deletes the object that the path names.
pub(crate) async fn delete(call: &mut Call<'_>) -> Answer {
    let deletion = Deletion::of(call).await?;
    let resource = call.resource;
    let shown = resource.group.is_empty() && SHOWN.contains(&resource.plural.as_str());
    match delete_admitted(call, call.entry()?, &deletion).await? {
        Some(Deleted::Marked(entry)) if deletion.cascades => {
            call.object(StatusCode::ACCEPTED, &entry)
        }
        Some(Deleted::Marked(entry)) => call.object(StatusCode::OK, &entry),
        Some(Deleted::Gone(entry)) if shown => call.object(StatusCode::OK, &entry),
        Some(Deleted::Gone(entry)) => Ok(success(call, &entry)),
        None => Err(call.not_found()),
    }
}

fn success(call: &Call<'_>, entry: &Entry) -> Response {
    let object = entry.value().unwrap_or_default();
    let (group, plural) = (&call.resource.group, &call.resource.plural);
    let status = Status::success(group, plural, call.name(), meta::uid(&object));
    answer::status_as(&status, call.accepted.encoding)
}

/// Options in the query, which count if there is no body.
fn from_query(query: &Query<'_>) -> Result<DeleteOptions, Status> {
    let orphan_dependents = match query.text("orphanDependents") {
        Some(_) => Some(query.flag("orphanDependents").map_err(bad_query)?),
        None => None,
    };
    Ok(DeleteOptions {
        dry_run: Some(query.all("dryRun").map(str::to_owned).collect()),
        grace_period_seconds: query.integer("gracePeriodSeconds").map_err(bad_query)?,
        orphan_dependents,
        propagation_policy: query.text("propagationPolicy").map(str::to_owned),
        ..DeleteOptions::default()
    })
}

/// [`delete_one`], if admission lets it happen.
pub(crate) async fn delete_admitted(
    call: &Call<'_>,
    entry: Arc<Entry>,
    deletion: &Deletion,
) -> Result<Option<Deleted>, Status> {
    let old = entry.value().map_err(Status::internal)?;
    let admission = Admission {
        operation: Operation::Delete,
        subresource: "",
        name: meta::name(&old),
        old: Some(&old),
        dry_run: deletion.dry_run,
    };
    admission.ask(call).await?;
    delete_one(call.server, call.served, entry, deletion).await
}

/// Deletes or marks one object, whose state was `entry` lately. `None` if it went meanwhile.
pub(crate) async fn delete_one(
    server: &Server,
    target: &Served,
    entry: Arc<Entry>,
    deletion: &Deletion,
) -> Result<Option<Deleted>, Status> {
    let mut entry = entry;
    for _ in 0..ATTEMPTS {
        match step(server, target, entry.clone(), deletion).await? {
            Some(deleted) => return Ok(Some(deleted)),
            None => match target.get(&entry.key)? {
                Some(newer) => entry = newer,
                None => return Ok(None),
            },
        }
    }
    let name = entry
        .value()
        .map(|object| meta::name(&object).to_owned())
        .unwrap_or_default();
    Err(Status::stale(
        &target.resource.group,
        &target.resource.plural,
        &name,
    ))
}

/// One attempt; `None` if the object has changed.
async fn step(
    server: &Server,
    target: &Served,
    entry: Arc<Entry>,
    deletion: &Deletion,
) -> Result<Option<Deleted>, Status> {
    let old = entry.value().map_err(Status::internal)?;
    deletion.check(&old, &target.resource)?;
    let mut new = old.clone();
    deletion.set_finalizers(&mut new, &target.resource);
    mark(&mut new, &old, &target.resource, deletion.grace_seconds);
    let finished = is_finished(&target.resource, &new);
    if deletion.dry_run {
        let entry = Arc::new(rehearsed(entry.key.clone(), &new, entry.revision)?);
        return Ok(Some(if finished {
            Deleted::Gone(entry)
        } else {
            Deleted::Marked(entry)
        }));
    }
    if finished {
        let outcome = server.remove(target, &entry).await?;
        return Ok(match outcome {
            Outcome::Done(gone) => Some(Deleted::Gone(gone)),
            Outcome::Conflict => None,
        });
    }
    if new == old {
        return Ok(Some(Deleted::Marked(entry)));
    }
    meta::metadata_mut(&mut new).remove("resourceVersion");
    let outcome = server
        .put(
            target,
            entry.key.clone(),
            &new,
            Expect::Revision(entry.revision),
        )
        .await?;
    Ok(match outcome {
        Outcome::Done(entry) => Some(Deleted::Marked(entry)),
        Outcome::Conflict => None,
    })
}

/// Sets the times of a deletion on `new`. A second deletion may only shorten the grace period of the first.
fn mark(new: &mut Object, old: &Object, resource: &Resource, requested: Option<i64>) {
    let now = Timestamp::now();
    let marked = meta::deletion_timestamp(old);
    let left = meta::at(old, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let grace = match (marked, left, requested) {
        (Some(_), Some(left), Some(_)) => resource.grace_period(old, requested).min(left),
        (Some(_), left, _) => left.unwrap_or(0),
        (None, ..) => resource.grace_period(old, requested),
    };
    if marked.is_some() && left.unwrap_or(0) == grace {
        return;
    }
    // A shortened period counts from the deletion, not from the second request.
    let start = marked.map_or(now, |deadline| {
        deadline - SignedDuration::from_secs(left.unwrap_or(0))
    });
    let deadline = start
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    let generation = meta::generation(old);
    let metadata = meta::metadata_mut(new);
    metadata.insert("deletionTimestamp".to_owned(), meta::time(deadline).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    if generation > 0 && marked.is_none() {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    if is_namespace(resource) {
        meta::object_mut(new, "status").insert("phase".to_owned(), "Terminating".into());
    }
    if marked.is_none() {
        resource.rules.begin_deletion(new, now);
    }
}
