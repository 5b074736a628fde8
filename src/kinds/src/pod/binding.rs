//! `pods/binding`: the scheduler puts a pod on a node.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Binding;
use serde_json::{Value, json};

use crate::binding::validate_target;
use vaquita_api::field::Errors;
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

/// Why a pod can't be bound.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BindError {
    /// The binding does not name a node.
    #[error("{}", .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Errors),
    /// The pod is not the one that was meant, or can't be bound any more.
    #[error("{0}")]
    Conflict(String),
}

impl BindError {
    /// The answer to the client; `pod` is the pod's name.
    pub fn into_status(self, pod: &str) -> Status {
        match self {
            Self::Invalid(errors) => Status::invalid("", "Binding", pod, &errors),
            Self::Conflict(why) => Status::conflict("", "pods/binding", pod, why),
        }
    }
}

/// Carries a binding out on `pod`: sets its node, adds the binding's labels and annotations, notes that it is scheduled.
///
/// A pod is bound once and for all. If the binding names a uid or resourceVersion, the pod must have them.
pub fn bind(pod: &mut Object, binding: &Binding, now: Timestamp) -> Result<(), BindError> {
    let node = check_target(binding)?;
    check_pod(pod, binding)?;
    for (field, added) in [
        ("labels", &binding.metadata.labels),
        ("annotations", &binding.metadata.annotations),
    ] {
        if let Some(added) = added.as_ref().filter(|added| !added.is_empty()) {
            let map = meta::object_mut(meta::metadata_mut(pod), field);
            map.extend(
                added
                    .iter()
                    .map(|(key, value)| (key.clone(), Value::from(value.as_str()))),
            );
        }
    }
    meta::object_mut(pod, "spec").insert("nodeName".to_owned(), node.into());
    let generation = meta::generation(pod);
    if generation > 0 {
        meta::metadata_mut(pod).insert("generation".to_owned(), (generation + 1).into());
    }
    note_scheduled(meta::object_mut(pod, "status"), now);
    Ok(())
}

fn check_target(binding: &Binding) -> Result<String, BindError> {
    let mut errors = Errors::default();
    validate_target(binding, &mut errors);
    if errors.is_empty() {
        Ok(binding.target.name.clone().unwrap_or_default())
    } else {
        Err(BindError::Invalid(errors))
    }
}

fn check_pod(pod: &Object, binding: &Binding) -> Result<(), BindError> {
    let name = meta::name(pod);
    let conflict = |why: String| Err(BindError::Conflict(why));
    let differs = |wanted: &Option<String>, actual: &str| {
        wanted
            .as_ref()
            .filter(|wanted| !wanted.is_empty() && *wanted != actual)
            .cloned()
    };
    if let Some(wanted) = differs(&binding.metadata.uid, meta::uid(pod)) {
        let actual = meta::uid(pod);
        return conflict(format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}"
        ));
    }
    if let Some(wanted) = differs(
        &binding.metadata.resource_version,
        meta::resource_version(pod),
    ) {
        let actual = meta::resource_version(pod);
        return conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {actual}"
        ));
    }
    if meta::deletion_timestamp(pod).is_some() {
        return conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let node = meta::at(pod, &["spec", "nodeName"])
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !node.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    let gates = meta::at(pod, &["spec", "schedulingGates"]).and_then(Value::as_array);
    if gates.is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

/// Sets the condition `PodScheduled`.
fn note_scheduled(status: &mut Object, now: Timestamp) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastTransitionTime": meta::time(now),
    });
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(conditions) = conditions else {
        return;
    };
    match conditions
        .iter_mut()
        .find(|condition| condition["type"] == "PodScheduled")
    {
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}
