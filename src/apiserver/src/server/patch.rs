//! PATCH of an object or a part of it: JSON patch, JSON merge patch, strategic merge patch.

use http::StatusCode;
use serde_json::Value;
use vaquita_api::{
    body,
    field::{FieldError, Path},
    go::Printed,
    patch::{self, PatchType},
    registry::Part,
    schema::Schema,
    status::Status,
};

use super::{
    answer::Answer,
    apply::apply,
    call::{Call, object_of},
    update::replace,
    write::{ATTEMPTS, incoming, precondition},
};
use crate::{negotiation::BodyKind, query::Writing};
use vaquita_cache::entry::Entry;

/// The patch in a request's body.
pub(crate) struct Patch {
    kind: PatchType,
    value: Value,
    duplicates: Vec<String>,
}

impl Patch {
    /// Reads the body as what its media type says.
    pub(crate) async fn of(call: &mut Call<'_>) -> Result<Self, Status> {
        let kind = match call.body_kind {
            BodyKind::JsonPatch => PatchType::Json,
            BodyKind::MergePatch => PatchType::Merge,
            BodyKind::StrategicMergePatch if call.resource.rules.merges_strategically() => {
                PatchType::Strategic
            }
            _ => return Err(Status::unsupported_media_type(understood(call))),
        };
        let parsed = body::json(&call.read_body().await?)?;
        Ok(Self {
            kind,
            value: parsed.value,
            duplicates: parsed.duplicates,
        })
    }

    /// Applies it to `target`.
    fn apply(&self, target: &mut Value, schema: &Schema) -> Result<(), Status> {
        Ok(patch::apply(self.kind, target, self.value.clone(), schema)?)
    }

    /// The error of a patch that makes something of the object which its kind cannot be: 422, with the patch, or what came
    /// of it.
    fn refused(&self, call: &Call<'_>, entry: &Entry, why: &str) -> Status {
        let shown = match self.kind {
            PatchType::Strategic => Printed(&self.value).to_string(),
            PatchType::Json | PatchType::Merge => {
                let mut patched = Value::Object(entry.value().unwrap_or_default());
                match self.apply(&mut patched, call.resource.schema()) {
                    Ok(()) => patched.to_string(),
                    Err(error) => return error,
                }
            }
        };
        let error = FieldError::invalid(&Path::root("patch"), shown, why);
        Status::invalid("", "", "", &[error])
    }
}

/// The media types of patches for this resource.
fn understood(call: &Call<'_>) -> &'static [&'static str] {
    const ALL: [&str; 5] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "application/apply-patch+cbor",
    ];
    const CUSTOM: [&str; 4] = [ALL[0], ALL[1], ALL[3], ALL[4]];
    if call.resource.rules.merges_strategically() {
        &ALL
    } else {
        &CUSTOM
    }
}

/// Patches `part` of the object. If somebody else changes it meanwhile, the patch is applied to the new state, unless it
/// names the resourceVersion that it is for.
pub(crate) async fn patch(call: &mut Call<'_>, part: Part) -> Answer {
    if call.body_kind == BodyKind::ApplyPatch {
        return apply(call, part).await;
    }
    let options = call.write_options(Writing::Patch)?;
    let patch = Patch::of(call).await?;
    for _ in 0..ATTEMPTS {
        let entry = call.entry()?;
        let current = entry.value().map_err(Status::internal)?;
        let mut patched = Value::Object(current);
        patch.apply(&mut patched, call.resource.schema())?;
        let object = match incoming(call, patched, &patch.duplicates, &options) {
            Ok(object) => object,
            Err(error) => return Err(patch.refused(call, &entry, error.message())),
        };
        // What the patch did not touch is the current state's own.
        if precondition(&object)?.is_some_and(|revision| revision != entry.revision) {
            return Err(call.stale());
        }
        let manager = call.manager(&options);
        let replaced = replace(call, &entry, object, part, &options, Some(&manager));
        if let Some(entry) = replaced.await? {
            return call.object(StatusCode::OK, &entry);
        }
    }
    Err(call.stale())
}

/// Applies a patch to something that is not stored as it is patched, such as a scale.
pub(crate) fn patched(patch: &Patch, target: Value, schema: &Schema) -> Result<Value, Status> {
    let mut target = target;
    patch.apply(&mut target, schema)?;
    object_of(target).map(Value::Object)
}
