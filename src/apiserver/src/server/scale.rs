//! The `scale` subresource: an object's wanted and present number of replicas, as `autoscaling/v1` `Scale`.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};
use vaquita_api::{
    Object,
    body::SCALE,
    field::{FieldError, Path},
    meta,
    registry::{Part, ScalePaths},
    selector::LabelSelector,
    status::Status,
};

use super::{
    answer::{self, Answer},
    call::Call,
    patch::{Patch, patched},
    update::replace,
    write::ATTEMPTS,
};
use crate::query::{WriteOptions, Writing};
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
    let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    if replicas < 0 {
        let spec = Path::root("spec");
        let error = FieldError::invalid(
            &spec.child("replicas"),
            replicas,
            "must be greater than or equal to 0",
        );
        return Err(Status::invalid(
            "autoscaling",
            "Scale",
            call.name(),
            &[error],
        ));
    }
    let mut object = entry.value().map_err(Status::internal)?;
    put_at(&mut object, &paths(call)?.replicas, replicas.into());
    let manager = call.manager(options);
    replace(call, entry, object, Part::Main, options, Some(&manager)).await
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
    let bytes: Bytes = scale.to_string().into();
    Ok(answer::json(StatusCode::OK, bytes, call.accepted.encoding))
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
