//! `autoscaling/v1` `HorizontalPodAutoscaler`: a view of v2 with one metric of its own, the use of CPU. All else that v2 says
//! is in annotations.

mod convert;
mod forms;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use serde_json::{Value, json};
use vaquita_api::field::Errors;
use vaquita_api::registry::{Convert, Kind, Part, Resource, Storage};
use vaquita_api::status::Status;
use vaquita_api::table::Column;
use vaquita_api::{Object, meta};

use super::v2;
use crate::{Here, stored};

/// What v1 can't say of the specification, and of the status.
const SPEC: [&str; 2] = [forms::METRICS, forms::BEHAVIOR];
const STATUS: [&str; 2] = [forms::CURRENT_METRICS, forms::CONDITIONS];

pub(super) fn resource() -> Resource {
    stored::<HorizontalPodAutoscaler>("horizontalpodautoscaler")
        .short(&["hpa"])
        .in_all()
        .with_status()
        .kept(Storage::Shared {
            with: ("autoscaling", "v2", "horizontalpodautoscalers"),
            convert: Arc::new(View),
        })
}

struct View;

/// Reads, converts and writes an object.
fn converted<A: serde::de::DeserializeOwned, B: serde::Serialize>(
    object: Object,
    convert: impl FnOnce(A) -> B,
) -> Result<Object, Status> {
    let from = serde_json::from_value(Value::Object(object)).map_err(Status::internal)?;
    match serde_json::to_value(convert(from)).map_err(Status::internal)? {
        Value::Object(object) => Ok(object),
        other => Err(Status::internal(format_args!("not an object: {other}"))),
    }
}

impl Convert for View {
    fn from_stored(&self, object: Object) -> Result<Object, Status> {
        converted(object, convert::from_v2)
    }

    fn to_stored(&self, object: Object) -> Result<Object, Status> {
        converted(object, convert::to_v2)
    }
}

impl Kind<Here> for HorizontalPodAutoscaler {
    const COLUMNS: &'static [Column] = v2::COLUMNS;

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        self.spec.min_replicas.get_or_insert(1);
    }

    fn prepare_create(object: &mut Object) {
        let status = json!({"currentReplicas": 0, "desiredReplicas": 0});
        object.insert("status".to_owned(), status);
        take_annotations(object, &STATUS, None);
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        // Annotations are metadata, which either part of an object brings along; these belong to one part only.
        let kept = if part == Part::Status { &SPEC } else { &STATUS };
        take_annotations(new, kept, Some(old));
    }

    fn validate(&self, errors: &mut Errors) {
        convert::to_v2(self.clone()).validate(errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let old = convert::to_v2(old.clone());
        convert::to_v2(self.clone()).validate_update(&old, errors);
    }

    fn validate_status(&self, old: &Self, errors: &mut Errors) {
        let old = convert::to_v2(old.clone());
        convert::to_v2(self.clone()).validate_status(&old, errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        convert::to_v2(self.clone()).row(now)
    }
}

/// Gives `object` the annotations `names` of `from`, and no others of these.
fn take_annotations(object: &mut Object, names: &[&str], from: Option<&Object>) {
    let metadata = meta::metadata_mut(object);
    for name in names {
        match from.and_then(|from| meta::at(from, &["metadata", "annotations", name])) {
            Some(value) => {
                let annotations = meta::object_mut(metadata, "annotations");
                annotations.insert((*name).to_owned(), value.clone());
            }
            None => {
                if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
                    annotations.remove(*name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
