//! `metrics.k8s.io/v1beta1`: what nodes and pods use, for `kubectl top` and the autoscaler.
//!
//! Nothing is stored. Each answer is made of what the nodes that matter say (see [`Samples`]) and of what the cache knows
//! about their pods; nobody asks a node as long as nobody asks us.

mod kinds;
mod sample;

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::StatusCode;
use serde_json::{Map, Value, json};
use vaquita_api::{
    Object, meta,
    selector::LabelSelector,
    status::Status,
    table::{self, IncludeObject},
};
use vaquita_cache::entry::Entry;

use self::sample::{Usage, Usages};
pub(crate) use self::{
    kinds::{GROUP, resources},
    sample::Samples,
};
use super::{
    answer::{self, Answer},
    call::Call,
    present::partial_version,
};
use crate::negotiation::Form;

/// Answers a GET of one object or of many.
pub(crate) async fn read(call: &Call<'_>) -> Answer {
    let of_pods = call.resource.namespaced;
    let items = if of_pods {
        pods(call).await?
    } else {
        nodes(call).await?
    };
    if call.info.name.is_some() && items.is_empty() {
        return Err(missing(call));
    }
    let value = present(call, &items)?;
    Ok(answer::value(
        StatusCode::OK,
        &value,
        call.accepted.encoding,
    ))
}

fn missing(call: &Call<'_>) -> Status {
    let name = match call.info.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{}", call.name()),
        None => call.name().to_owned(),
    };
    Status::not_found(GROUP, &call.resource.plural, &name)
}

/// The objects that a request is about: those of the core group that they tell of, first.
fn selected(call: &Call<'_>) -> Result<Vec<Arc<Entry>>, Status> {
    let Some(collection) = call.server.core(&call.resource.plural) else {
        return Ok(Vec::new());
    };
    if call.info.name.is_some() {
        return Ok(collection
            .get(&key(call, &collection))
            .into_iter()
            .collect());
    }
    let options = call.list_options()?;
    if options.field_selector.is_some() {
        return Err(Status::bad_request("field selectors are not supported"));
    }
    let labels = LabelSelector::parse(options.label_selector.as_deref().unwrap_or_default());
    let labels = labels.map_err(|error| Status::bad_request(error.to_string()))?;
    let scope = collection.scope(call.info.namespace.as_deref());
    let mut entries = Vec::new();
    for entry in collection.snapshot().range(&scope, None) {
        if labels.is_everything()
            || labels.matches(&meta::labels(&*entry.parsed().map_err(Status::internal)?))
        {
            entries.push(Arc::clone(entry));
        }
    }
    Ok(entries)
}

fn key(call: &Call<'_>, collection: &vaquita_cache::Collection) -> bytes::Bytes {
    collection.key(call.info.namespace.as_deref(), call.name())
}

async fn sampled(
    call: &Call<'_>,
    names: Vec<String>,
) -> Result<HashMap<String, Arc<Usages>>, Status> {
    let transport = call.server.nodes();
    let transport = transport.ok_or_else(|| Status::unavailable("no node can be reached yet"))?;
    Ok(call.server.samples.of(&*transport, names).await)
}

async fn nodes(call: &Call<'_>) -> Result<Vec<Object>, Status> {
    let mut nodes = Vec::new();
    for entry in selected(call)? {
        nodes.push(entry.value().map_err(Status::internal)?);
    }
    let names: Vec<String> = nodes
        .iter()
        .map(|node| meta::name(node).to_owned())
        .collect();
    if call.info.name.is_none() && call.query.text("labelSelector").is_none() {
        call.server.samples.retain(&names).await;
    }
    let usages = sampled(call, names).await?;
    let measured = nodes.iter().filter_map(|node| {
        let usage = usages.get(meta::name(node))?.node?;
        let mut object = measured(call, node, usage);
        object.insert("usage".to_owned(), amounts(usage));
        Some(object)
    });
    Ok(measured.collect())
}

async fn pods(call: &Call<'_>) -> Result<Vec<Object>, Status> {
    let mut pods = Vec::new();
    let mut names = Vec::new();
    for entry in selected(call)? {
        let pod = entry.value().map_err(Status::internal)?;
        let text = |path: &[&str]| {
            meta::at(&pod, path)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let running = text(&["status", "phase"]).as_deref() == Some("Running");
        if let Some(node) = text(&["spec", "nodeName"]).filter(|_| running) {
            names.push(node.clone());
            pods.push((node, pod));
        }
    }
    names.sort_unstable();
    names.dedup();
    let usages = sampled(call, names).await?;
    let measured = pods.iter().filter_map(|(node, pod)| {
        let containers = usages.get(node)?.pods.get(meta::uid(pod))?;
        // The window of what was measured the shortest time, and the time of what was measured first.
        let of_pod = containers
            .iter()
            .map(|(_, usage)| *usage)
            .reduce(|one, other| Usage {
                time: one.time.min(other.time),
                window: one.window.min(other.window),
                ..one
            })?;
        let mut object = measured(call, pod, of_pod);
        let containers = containers
            .iter()
            .map(|(name, usage)| json!({ "name": name, "usage": amounts(*usage) }));
        object.insert("containers".to_owned(), containers.collect());
        Some(object)
    });
    Ok(measured.collect())
}

/// What all metrics have in common.
fn measured(call: &Call<'_>, of: &Object, usage: Usage) -> Object {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = meta::at(of, &["metadata", field]) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    metadata.insert(
        "creationTimestamp".to_owned(),
        meta::time(usage.time).into(),
    );
    let mut object = Object::new();
    let kind = call.resource.kind.clone();
    object.insert("kind".to_owned(), kind.into());
    object.insert("apiVersion".to_owned(), call.resource.api_version().into());
    object.insert("metadata".to_owned(), metadata.into());
    object.insert("timestamp".to_owned(), meta::time(usage.time).into());
    object.insert("window".to_owned(), window(usage.window).into());
    object
}

/// A duration as Go prints it, to the millisecond.
fn window(window: Duration) -> String {
    let (minutes, rest) = (window.as_secs() / 60, window.as_millis() % 60_000);
    let (seconds, millis) = (rest / 1000, rest % 1000);
    let fraction = format!(".{millis:03}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    match minutes {
        0 => format!("{seconds}{fraction}s"),
        minutes => format!("{minutes}m{seconds}{fraction}s"),
    }
}

fn amounts(usage: Usage) -> Value {
    let cpu = match usage.cpu {
        0 => "0".to_owned(),
        nanos => format!("{nanos}n"),
    };
    let memory = match usage.memory {
        bytes if bytes > 0 && bytes.is_multiple_of(1024) => format!("{}Ki", bytes / 1024),
        bytes => bytes.to_string(),
    };
    json!({ "cpu": cpu, "memory": memory })
}

/// In the shape that the client wants: alone if it was named, or else as a list.
fn present(call: &Call<'_>, items: &[Object]) -> Result<Value, Status> {
    let resource = call.resource;
    let alone = items.first().filter(|_| call.info.name.is_some());
    let partial = |item: &Object, beta| {
        let mut partial = table::partial(item);
        partial["apiVersion"] = partial_version(beta).into();
        partial
    };
    Ok(match (call.accepted.form, alone) {
        (Form::Table { beta }, _) => {
            let include = call.query.get("includeObject").unwrap_or_default();
            let include = IncludeObject::parse(include).ok_or_else(|| {
                Status::bad_request(format!("unrecognized includeObject value: {include:?}"))
            })?;
            let now = jiff::Timestamp::now();
            let rows = items
                .iter()
                .map(|item| table::row(resource.row(item, now), item, include));
            let mut table = table::table(json!({}), resource.columns(), rows.collect());
            table["apiVersion"] = partial_version(beta).into();
            table
        }
        (Form::Metadata { beta }, Some(item)) => partial(item, beta),
        (Form::Metadata { beta }, None) => {
            let items: Vec<_> = items.iter().map(|item| partial(item, beta)).collect();
            let version = partial_version(beta);
            json!({ "kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": {}, "items": items })
        }
        (Form::Object, Some(item)) => item.clone().into(),
        (Form::Object, None) => json!({
            "kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": {}, "items": items,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_told_as_go_does() {
        let told = |millis| window(Duration::from_millis(millis));
        assert_eq!(told(15_103), "15.103s");
        assert_eq!(told(1_000), "1s");
        assert_eq!(told(61_500), "1m1.5s");
    }
}
