//! What may change of a pod once it is there: very little.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use serde_json::Value;

use super::validate_spec;
use vaquita_api::field::{Errors, FieldError, Path};

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    validate_spec(new, errors);
    let (Some(spec), Some(before)) = (&new.spec, &old.spec) else {
        return;
    };
    let path = Path::root("spec");
    if !same_names(&spec.containers, &before.containers) {
        errors.push(FieldError::forbidden(
            &path.child("containers"),
            "pod updates may not add or remove containers",
        ));
        return;
    }
    let (inits, inits_before) = (
        spec.init_containers.as_deref(),
        before.init_containers.as_deref(),
    );
    if !same_names(inits.unwrap_or_default(), inits_before.unwrap_or_default()) {
        let at = path.child("initContainers");
        errors.push(FieldError::forbidden(
            &at,
            "pod updates may not add or remove containers",
        ));
        return;
    }
    validate_deadline(spec, before, &path.child("activeDeadlineSeconds"), errors);
    validate_tolerations(spec, before, &path.child("tolerations"), errors);
    validate_gates(spec, before, &path.child("schedulingGates"), errors);
    let allowed = with_allowed_changes(before, spec);
    if *spec != allowed {
        let names = crate::diff::changed(&allowed, spec, "spec").join(", ");
        errors.push(FieldError::forbidden(
            &path,
            format!("{ALLOWED}\nchanged: {names}"),
        ));
    }
}

fn same_names(new: &[Container], old: &[Container]) -> bool {
    let names = |containers: &[Container]| {
        containers
            .iter()
            .map(|container| container.name.clone())
            .collect::<Vec<_>>()
    };
    names(new) == names(old)
}

/// A deadline may be set or brought forward, never put off.
fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (None, Some(_)) => {
            errors.push(FieldError::invalid(
                path,
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
        }
        (Some(new), Some(old)) if new > old => {
            errors.push(FieldError::invalid(
                path,
                new,
                "must be less than or equal to previous value",
            ));
        }
        _ => {}
    }
}

fn validate_tolerations(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    // How long a taint is tolerated may change; the rest tells tolerations apart.
    let identity = |toleration: &Toleration| {
        let Toleration {
            key,
            operator,
            value,
            effect,
            ..
        } = toleration.clone();
        (key, operator, value, effect)
    };
    let kept: HashSet<_> = new.tolerations.iter().flatten().map(identity).collect();
    let mut before = old.tolerations.iter().flatten();
    if !before.all(|toleration| kept.contains(&identity(toleration))) {
        const DETAIL: &str = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, DETAIL));
    }
}

/// Gates open one after the other, and only while the pod waits for a node.
fn validate_gates(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let before = old.scheduling_gates.iter().flatten();
    let before: HashSet<&str> = before.map(|gate| gate.name.as_str()).collect();
    for (at, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !before.contains(gate.name.as_str()) {
            const DETAIL: &str = "only deletion is allowed, but found new scheduling gate";
            errors.push(FieldError::forbidden(&path.index(at), DETAIL));
        }
    }
}

/// `old` with those changes of `new` that are allowed.
fn with_allowed_changes(old: &PodSpec, new: &PodSpec) -> PodSpec {
    let mut allowed = old.clone();
    for (container, changed) in allowed.containers.iter_mut().zip(&new.containers) {
        container.image.clone_from(&changed.image);
    }
    let inits = allowed.init_containers.iter_mut().flatten();
    for (container, changed) in inits.zip(new.init_containers.iter().flatten()) {
        container.image.clone_from(&changed.image);
    }
    allowed.active_deadline_seconds = new.active_deadline_seconds;
    allowed.tolerations.clone_from(&new.tolerations);
    allowed.scheduling_gates.clone_from(&new.scheduling_gates);
    if old
        .scheduling_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty())
    {
        // A pod whose scheduling is held back may still be steered.
        allowed.node_selector.clone_from(&new.node_selector);
        allowed.affinity.clone_from(&new.affinity);
    }
    if old
        .termination_grace_period_seconds
        .is_some_and(|seconds| seconds < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        allowed.termination_grace_period_seconds = Some(1);
    }
    allowed
}
