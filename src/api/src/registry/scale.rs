//! The `scale` subresource: one shape for whatever has replicas.

use serde_json::{Value, json};

use super::Resource;
use crate::field::{FieldError, Path};
use crate::selector::LabelSelector;
use crate::status::Status;
use crate::{Object, meta};

impl Resource {
    /// The object's `autoscaling/v1` Scale. `None` if the kind has no `scale` subresource.
    pub fn scale_of(&self, object: &Object) -> Option<Value> {
        let paths = self.scale.as_ref()?;
        let number = |path| {
            look_up(object, path)
                .and_then(Value::as_i64)
                .unwrap_or_default()
        };
        let mut metadata = Object::new();
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
        let mut status = json!({"replicas": number(&paths.status_replicas)});
        let selector = look_up(object, &paths.selector)
            .map(selector_text)
            .unwrap_or_default();
        if !selector.is_empty() {
            status["selector"] = selector.into();
        }
        Some(json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {"replicas": number(&paths.replicas)}, "status": status,
        }))
    }

    /// Sets the wanted number of replicas. The rest of an update's way ([`Resource::prepare_update`] and so on) is the
    /// caller's.
    pub fn set_scale(&self, object: &mut Object, replicas: i32) -> Result<(), Status> {
        let name = meta::name(object).to_owned();
        if replicas < 0 {
            let spec = Path::root("spec");
            let detail = "must be greater than or equal to 0";
            let error = FieldError::invalid(&spec.child("replicas"), replicas, detail);
            return Err(Status::invalid("autoscaling", "Scale", &name, &[error]));
        }
        let Some((last, parents)) = self
            .scale
            .as_ref()
            .and_then(|paths| paths.replicas.split_last())
        else {
            return Err(Status::not_found(&self.group, &self.plural, &name));
        };
        let parent = parents
            .iter()
            .fold(object, |object, field| meta::object_mut(object, field));
        parent.insert(last.clone(), replicas.into());
        Ok(())
    }
}

fn look_up<'o>(object: &'o Object, path: &[String]) -> Option<&'o Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(object.get(first)?, |value, field| value.get(field))
}

/// A selector as a query string, be it a plain map, a `metav1.LabelSelector` or a query string already.
fn selector_text(selector: &Value) -> String {
    match selector {
        Value::String(text) => text.clone(),
        Value::Object(map) if map.values().all(Value::is_string) => {
            let labels: std::collections::BTreeMap<String, String> = map
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect();
            LabelSelector::from_map(&labels).to_string()
        }
        other => {
            let selector = serde_json::from_value(other.clone()).ok();
            LabelSelector::from_object(selector.as_ref())
                .map(|selector| selector.to_string())
                .unwrap_or_default()
        }
    }
}
