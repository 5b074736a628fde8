//! What may change of a pod once it is there: very little.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeAffinity, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use serde_json::{Value, json};

use super::{metadata, validate_all};
use crate::diff;
use vaquita_api::field::{Errors, FieldError, Path};

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    validate_all(new, errors);
    metadata::validate_change(new, old, errors);
    let (Some(spec), Some(before)) = (&new.spec, &old.spec) else {
        return;
    };
    let path = Path::root("spec");
    let inits = |spec: &PodSpec| spec.init_containers.as_ref().map_or(0, Vec::len);
    for (field, now, before) in [
        ("containers", spec.containers.len(), before.containers.len()),
        ("initContainers", inits(spec), inits(before)),
    ] {
        if now != before {
            const DETAIL: &str = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path.child(field), DETAIL));
            return;
        }
    }
    if !validate_deadline(spec, before, &path.child("activeDeadlineSeconds"), errors) {
        return;
    }
    validate_tolerations(spec, before, &path.child("tolerations"), errors);
    validate_gates(spec, before, &path.child("schedulingGates"), errors);
    let mut allowed = with_allowed_changes(before, spec);
    let gates = before.scheduling_gates.as_ref();
    if gates.is_some_and(|gates| !gates.is_empty()) {
        validate_steering(spec, before, &path, errors);
        allow_steering(&mut allowed, spec);
    }
    if *spec != allowed {
        let names = diff::changed(&allowed, spec, "spec").join(", ");
        let detail = format!("{ALLOWED}\nchanged: {names}");
        errors.push(FieldError::forbidden(&path, detail));
    }
}

/// A deadline may be set or brought forward, never put off. Says whether there is any use in looking further.
fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (None, Some(_)) => {
            const DETAIL: &str = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Value::Null, DETAIL));
        }
        (Some(new), Some(old)) if new > old => {
            const DETAIL: &str = "must be less than or equal to previous value";
            errors.push(FieldError::invalid(path, new, DETAIL));
            return false;
        }
        _ => {}
    }
    true
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
        let name = gate.name.as_str();
        if !before.contains(name) {
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            let path = path.index(at);
            errors.push(FieldError::forbidden(&path.child("name"), detail));
        }
    }
}

/// `old` with those changes of `new` that are allowed of any pod.
fn with_allowed_changes(old: &PodSpec, new: &PodSpec) -> PodSpec {
    let mut allowed = old.clone();
    let copy_image = |(container, changed): (&mut Container, &Container)| {
        container.image.clone_from(&changed.image);
    };
    let containers = allowed.containers.iter_mut().zip(&new.containers);
    containers.for_each(copy_image);
    let inits = allowed.init_containers.iter_mut().flatten();
    inits
        .zip(new.init_containers.iter().flatten())
        .for_each(copy_image);
    allowed.active_deadline_seconds = new.active_deadline_seconds;
    allowed.tolerations.clone_from(&new.tolerations);
    allowed.scheduling_gates.clone_from(&new.scheduling_gates);
    let grace = old.termination_grace_period_seconds;
    if grace.is_some_and(|seconds| seconds < 0) && new.termination_grace_period_seconds == Some(1) {
        allowed.termination_grace_period_seconds = Some(1);
    }
    allowed
}

/// A pod whose scheduling is held back may still be steered: by labels and fields of nodes.
fn allow_steering(allowed: &mut PodSpec, new: &PodSpec) {
    allowed.node_selector.clone_from(&new.node_selector);
    let near_nodes = new
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.clone());
    let nothing_else = |affinity: &Affinity| {
        affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none()
    };
    if near_nodes.is_some() || allowed.affinity.is_some() {
        let affinity = allowed.affinity.get_or_insert_default();
        affinity.node_affinity = near_nodes;
    }
    // No affinity at all, and one that says nothing, are the same.
    let silent = |affinity: &Affinity| nothing_else(affinity) && affinity.node_affinity.is_none();
    if allowed.affinity.as_ref().is_none_or(silent) && new.affinity.as_ref().is_none_or(silent) {
        allowed.affinity.clone_from(&new.affinity);
    }
}

/// Steering may only narrow the choice, so that what was decided on the old one still holds.
fn validate_steering(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let empty = BTreeMap::new();
    let selector = new.node_selector.as_ref().unwrap_or(&empty);
    let mut before = old.node_selector.iter().flatten();
    if before.any(|(key, value)| selector.get(key) != Some(value)) {
        const DETAIL: &str =
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        let path = path.child("nodeSelector");
        errors.push(FieldError::invalid(&path, json!(selector), DETAIL));
    }
    let required = |spec: &PodSpec| -> Vec<NodeSelectorTerm> {
        let affinity: Option<&NodeAffinity> = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let selector = affinity.and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .clone()
        });
        selector.map_or_else(Vec::new, |selector| selector.node_selector_terms)
    };
    let (now, before) = (required(new), required(old));
    if before.is_empty() || now == before {
        return;
    }
    let path = path.child("affinity");
    let path = path.child("nodeAffinity");
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let path = path.child("nodeSelectorTerms");
    if now.len() != before.len() {
        const DETAIL: &str =
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(&path, json!(now), DETAIL));
        return;
    }
    for (at, (now, before)) in now.iter().zip(&before).enumerate() {
        if !only_adds(now, before) {
            const DETAIL: &str = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(&path.index(at), json!(now), DETAIL));
        }
    }
}

/// Whether a term has all that it had, in front, and perhaps more. An empty term matches nothing, and stays so.
fn only_adds(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let (expressions, fields) = (
        new.match_expressions.as_deref().unwrap_or_default(),
        new.match_fields.as_deref().unwrap_or_default(),
    );
    let (old_expressions, old_fields) = (
        old.match_expressions.as_deref().unwrap_or_default(),
        old.match_fields.as_deref().unwrap_or_default(),
    );
    if old_expressions.is_empty() && old_fields.is_empty() {
        return expressions.is_empty() && fields.is_empty();
    }
    expressions.starts_with(old_expressions) && fields.starts_with(old_fields)
}
