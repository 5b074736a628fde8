//! The `scale` subresource: an object's wanted and present number of replicas, as `autoscaling/v1` `Scale`.

use axum::body::Body;
use http::StatusCode;
use k8s_openapi::api::autoscaling::v1::Scale;
use serde_json::{Map, Value, json};
use vaquita_api::{
    Object,
    body::SCALE,
    field::{FieldError, Path},
    meta, protobuf,
    registry::{Part, ScalePaths},
    selector::LabelSelector,
    status::Status,
};

use super::{
    answer::{self, Answer},
    apply::{changed, configuration},
    call::{Call, object_of},
    patch::{Patch, patched},
    update::replace,
    write::ATTEMPTS,
};
use crate::{
    negotiation::{BodyKind, Encoding},
    query::{WriteOptions, Writing},
};
use vaquita_cache::entry::Entry;

/// Answers with the scale.
pub(crate) fn get(call: &Call<'_>) -> Answer {
    let entry = call.entry()?;
    answer(call, &entry)
}

/// Sets the number of replicas from the body.
pub(crate) async fn update(call: &mut Call<'_>) -> Answer {
    let options = call.write_options(Writing::Update)?;
    let wanted = call
        .parse_body_as(|bytes| SCALE.parse_protobuf(bytes))
        .await?
        .value;
    for _ in 0..ATTEMPTS {
        let entry = call.entry()?;
        if let Some(entry) = set(call, &entry, wanted.clone(), &options).await? {
            return answer(call, &entry);
        }
    }
    Err(call.stale())
}

/// Patches the scale.
pub(crate) async fn patch(call: &mut Call<'_>) -> Answer {
    if call.body_kind == BodyKind::ApplyPatch {
        return apply(call).await;
    }
    let options = call.write_options(Writing::Patch)?;
    let patch = Patch::of(call).await?;
    for _ in 0..ATTEMPTS {
        let entry = call.entry()?;
        let scale = scale_of(call, &entry.value().map_err(Status::internal)?)?;
        let wanted = patched(&patch, scale, SCALE.schema())?;
        if let Some(entry) = set(call, &entry, wanted, &options).await? {
            return answer(call, &entry);
        }
    }
    Err(call.stale())
}

/// Applies a scale: to the object itself, this is the configuration that names its number of replicas and nothing else.
async fn apply(call: &mut Call<'_>) -> Answer {
    let options = call.write_options(Writing::Apply)?;
    let scale = configuration(call, &options).await?;
    call.check_name(&scale)?;
    let (scale, _) = SCALE.decode(Value::Object(scale))?;
    let replicas = replicas_of(call, &scale)?;
    let mut metadata = json!({"name": call.name()});
    if let Some(revision) = scale.metadata.resource_version {
        metadata["resourceVersion"] = revision.into();
    }
    let mut wanted = object_of(json!({
        "apiVersion": call.resource.api_version(), "kind": call.resource.kind, "metadata": metadata,
    }))?;
    put_at(&mut wanted, &paths(call)?.replicas, replicas.into());
    for _ in 0..ATTEMPTS {
        let entry = call.entry()?;
        if let Some(entry) = changed(call, &entry, &wanted, Part::Main, &options).await? {
            return answer(call, &entry);
        }
    }
    Err(call.stale())
}

/// Writes what `wanted`, a scale, says into the object. `None` if somebody else was faster.
async fn set(
    call: &Call<'_>,
    entry: &Entry,
    wanted: Value,
    options: &WriteOptions,
) -> Result<Option<std::sync::Arc<Entry>>, Status> {
    let (scale, _) = SCALE.decode(wanted)?;
    let revision = scale
        .metadata
        .resource_version
        .as_deref()
        .unwrap_or_default();
    if !revision.is_empty() && revision != entry.revision.to_string() {
        return Err(call.stale());
    }
    if let Some(name) = scale
        .metadata
        .name
        .as_deref()
        .filter(|name| !name.is_empty() && *name != call.name())
    {
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name()
        );
        return Err(Status::bad_request(message));
    }
    let replicas = replicas_of(call, &scale)?;
    let mut object = entry.value().map_err(Status::internal)?;
    put_at(&mut object, &paths(call)?.replicas, replicas.into());
    let manager = call.manager(options);
    replace(call, entry, object, Part::Main, options, Some(&manager)).await
}

/// How many replicas a scale asks for.
fn replicas_of(call: &Call<'_>, scale: &Scale) -> Result<i32, Status> {
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas);
    let replicas = replicas.unwrap_or(0);
    if replicas >= 0 {
        return Ok(replicas);
    }
    let spec = Path::root("spec");
    let detail = "must be greater than or equal to 0";
    let error = FieldError::invalid(&spec.child("replicas"), replicas, detail);
    let name = call.name();
    Err(Status::invalid("autoscaling", "Scale", name, &[error]))
}

fn paths<'c>(call: &'c Call<'_>) -> Result<&'c ScalePaths, Status> {
    call.resource
        .scale
        .as_ref()
        .ok_or_else(Status::no_such_path)
}

fn put_at(object: &mut Object, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            object.insert(last.clone(), value);
        }
        [first, rest @ ..] => put_at(meta::object_mut(object, first), rest, value),
    }
}

fn answer(call: &Call<'_>, entry: &Entry) -> Answer {
    let scale = scale_of(call, &entry.value().map_err(Status::internal)?)?;
    if let (Encoding::Protobuf, Value::Object(scale)) = (call.accepted.encoding, &scale) {
        let message = protobuf::encode(scale, SCALE.schema());
        let body = Body::from(message);
        return Ok(answer::body(StatusCode::OK, body, Encoding::Protobuf));
    }
    Ok(answer::value(
        StatusCode::OK,
        &scale,
        call.accepted.encoding,
    ))
}

fn scale_of(call: &Call<'_>, object: &Object) -> Result<Value, Status> {
    let paths = paths(call)?;
    let at = |path: &[String]| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        meta::at(object, &path)
    };
    let number = |path: &[String]| at(path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = meta::at(object, &["metadata", field]) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut spec = Map::new();
    if number(&paths.replicas) != 0 {
        spec.insert("replicas".to_owned(), number(&paths.replicas).into());
    }
    let mut status = json!({"replicas": number(&paths.status_replicas)});
    if let Some(selector) = at(&paths.selector).and_then(selector_text) {
        status["selector"] = selector.into();
    }
    Ok(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status,
    }))
}

/// A selector (a map of labels, or a `LabelSelector`) as selectors are written in queries.
fn selector_text(selector: &Value) -> Option<String> {
    // Custom kinds keep it as text already.
    if let Value::String(text) = selector {
        return Some(text.clone());
    }
    let fields = selector.as_object()?;
    if fields.contains_key("matchLabels") || fields.contains_key("matchExpressions") {
        let selector = serde_json::from_value(selector.clone()).ok()?;
        return LabelSelector::from_object(Some(&selector))
            .ok()
            .map(|selector| selector.to_string());
    }
    let labels = fields
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    Some(labels.collect::<Vec<_>>().join(","))
}
