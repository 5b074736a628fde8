//! PATCH of an object or a part of it: JSON patch, JSON merge patch, strategic merge patch.

use std::fmt::Write as _;

use http::StatusCode;
use serde_json::Value;
use vaquita_api::{
    body,
    field::{FieldError, Path},
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
use crate::{cache::entry::Entry, negotiation::BodyKind, query::Writing};

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
            PatchType::Strategic => shown(&self.value),
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

/// A value as Go prints it: `map[spec:map[replicas:2]]`.
fn shown(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Null => out.push_str("<nil>"),
            Value::String(text) => out.push_str(text),
            Value::Bool(_) | Value::Number(_) => {
                let _ = write!(out, "{value}");
            }
            Value::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    write(item, out);
                }
                out.push(']');
            }
            Value::Object(fields) => {
                out.push_str("map[");
                for (at, (key, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    let _ = write!(out, "{key}:");
                    write(value, out);
                }
                out.push(']');
            }
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn values_are_shown_as_go_prints_them() {
        let value = json!({"spec": {"replicas": 2, "on": true, "list": ["a", null]}});
        assert_eq!(
            super::shown(&value),
            "map[spec:map[list:[a <nil>] on:true replicas:2]]"
        );
    }
}
