//! PATCH of an object or its status: JSON patch, JSON merge patch, strategic merge patch.

use http::StatusCode;
use serde_json::Value;
use vaquita_api::{
    body, meta,
    patch::{self, PatchType},
    registry::Part,
    status::Status,
};

use super::{
    answer::Answer,
    dispatch::{Call, bad_query, object_of},
    update::replace,
    write::{ATTEMPTS, incoming, precondition},
};
use crate::{negotiation::BodyKind, query::WriteOptions};

/// The patch in a request's body.
pub(crate) struct Patch {
    pub(crate) kind: PatchType,
    value: Value,
    pub(crate) duplicates: Vec<String>,
}

impl Patch {
    /// Reads the body as what its media type says.
    pub(crate) async fn of(call: &mut Call<'_>) -> Result<Self, Status> {
        let kind = match call.body_kind {
            BodyKind::JsonPatch => PatchType::Json,
            BodyKind::MergePatch => PatchType::Merge,
            BodyKind::StrategicMergePatch => PatchType::Strategic,
            BodyKind::ApplyPatch
            | BodyKind::Json
            | BodyKind::Yaml
            | BodyKind::Protobuf
            | BodyKind::Unknown => {
                return Err(Status::unsupported_media_type(&PatchType::MEDIA_TYPES));
            }
        };
        let parsed = body::json(&call.read_body().await?)?;
        Ok(Self {
            kind,
            value: parsed.value,
            duplicates: parsed.duplicates,
        })
    }

    /// Applies it to `target`.
    pub(crate) fn apply(
        &self,
        target: &mut Value,
        schema: &vaquita_api::schema::Schema,
    ) -> Result<(), Status> {
        Ok(patch::apply(self.kind, target, self.value.clone(), schema)?)
    }
}

/// Patches `part` of the object. If somebody else changes it meanwhile, the patch is applied to the new state, unless it
/// names the resourceVersion that it is for.
pub(crate) async fn patch(call: &mut Call<'_>, part: Part) -> Answer {
    let options = WriteOptions::from_query(&call.query).map_err(bad_query)?;
    let patch = Patch::of(call).await?;
    for _ in 0..ATTEMPTS {
        let entry = call.entry()?;
        let current = entry.value().map_err(Status::internal)?;
        let mut patched = Value::Object(current);
        patch.apply(&mut patched, call.resource.schema())?;
        let incoming = incoming(
            call.resource,
            patched,
            &patch.duplicates,
            options.field_validation,
        )?;
        call.check_name(&incoming.object)?;
        if meta::name(&incoming.object).is_empty() {
            return Err(Status::bad_request(
                "the name of an object cannot be removed",
            ));
        }
        // What the patch did not touch is the current state's own.
        if precondition(&incoming.object)?.is_some_and(|revision| revision != entry.revision) {
            return Err(call.stale());
        }
        if let Some(entry) = replace(call, &entry, incoming.object, part, options.dry_run).await? {
            return call.written(StatusCode::OK, &entry, incoming.warnings);
        }
    }
    Err(call.stale())
}

/// Applies a patch to something that is not stored as it is patched, such as a scale.
pub(crate) fn patched(
    patch: &Patch,
    target: Value,
    schema: &vaquita_api::schema::Schema,
) -> Result<Value, Status> {
    let mut target = target;
    patch.apply(&mut target, schema)?;
    object_of(target).map(Value::Object)
}
