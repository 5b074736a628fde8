//! The two subresources by which more of a running pod changes than by an update: `ephemeralcontainers` and `resize`.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, Pod, PodSpec, ResourceRequirements,
};
use serde_json::{Value, json};

use super::{metadata, qos, validate_all};
use crate::diff;
use crate::pod_spec::is_sidecar;
use crate::resource_names::{Amounts, parsed};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::meta;

/// Makes `new` what `old` is, but for what says which version it is based on, who did what, and the specification's
/// fields that `keep` puts back.
fn keep_all_but(new: &mut Object, old: &Object, keep: impl FnOnce(&mut Object, &Object)) {
    let written = new.remove("spec");
    let mut metadata = old.get("metadata").cloned().unwrap_or_default();
    if let (Value::Object(kept), Some(Value::Object(sent))) = (&mut metadata, new.get("metadata")) {
        for field in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "managedFields",
            "generation",
        ] {
            match sent.get(field) {
                Some(value) => kept.insert(field.to_owned(), value.clone()),
                None => kept.remove(field),
            };
        }
    }
    let types = ["apiVersion", "kind"].map(|field| (field, new.get(field).cloned()));
    new.clone_from(old);
    for (field, value) in types {
        if let Some(value) = value {
            new.insert(field.to_owned(), value);
        }
    }
    new.insert("metadata".to_owned(), metadata);
    if let Some(Value::Object(written)) = written {
        keep(meta::object_mut(new, "spec"), &written);
    }
}

/// Leaves a pod as it was, with other ephemeral containers.
pub(super) fn keep_all_but_ephemeral(new: &mut Object, old: &Object) {
    const FIELD: &str = "ephemeralContainers";
    keep_all_but(new, old, |spec, written| {
        match written.get(FIELD) {
            Some(containers) => spec.insert(FIELD.to_owned(), containers.clone()),
            None => spec.remove(FIELD),
        };
    });
}

/// Leaves a pod as it was, with other resources. A pod whose containers are others, or in another order, stays as it was
/// sent, for validation to refuse.
pub(super) fn keep_all_but_resources(new: &mut Object, old: &Object) {
    let names = |pod: &Object, field: &str| -> Vec<String> {
        let containers = meta::at(pod, &["spec", field]).and_then(Value::as_array);
        let names = containers
            .into_iter()
            .flatten()
            .map(|container| &container["name"]);
        names.map(ToString::to_string).collect()
    };
    let same = |field| names(new, field) == names(old, field);
    if !same("containers") || !same("initContainers") {
        return;
    }
    keep_all_but(new, old, |spec, written| {
        for list in ["containers", "initContainers"] {
            let kept = spec.get_mut(list).and_then(Value::as_array_mut);
            let sent = written.get(list).and_then(Value::as_array);
            for (kept, sent) in kept.into_iter().flatten().zip(sent.into_iter().flatten()) {
                copy_fields(kept, sent, &["resources", "resizePolicy"]);
            }
        }
        match written.get("resources") {
            Some(resources) => spec.insert("resources".to_owned(), resources.clone()),
            None => spec.remove("resources"),
        };
    });
}

fn copy_fields(to: &mut Value, from: &Value, fields: &[&str]) {
    let Value::Object(to) = to else { return };
    for field in fields {
        match from.get(*field) {
            Some(value) => to.insert((*field).to_owned(), value.clone()),
            None => to.remove(*field),
        };
    }
}

fn is_mirror(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(metadata::MIRROR))
}

/// Refuses the whole, whatever else there is to say.
fn refuse_all(errors: &mut Errors, detail: &str) {
    *errors = Errors::default();
    errors.push(FieldError::forbidden(&Path::root(""), detail));
}

/// An ephemeral container is there for good, as it was made.
pub(super) fn validate_ephemeral(new: &Pod, old: &Pod, errors: &mut Errors) {
    validate_all(new, errors);
    metadata::validate_change(new, old, errors);
    if is_mirror(old) {
        refuse_all(errors, "static pods do not support ephemeral containers");
        return;
    }
    let list = |pod: &Pod| -> Vec<EphemeralContainer> {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.ephemeral_containers.clone())
            .unwrap_or_default()
    };
    let now = list(new);
    let by_name: HashMap<&str, &EphemeralContainer> = now
        .iter()
        .map(|container| (container.name.as_str(), container))
        .collect();
    let path = Path::root("spec");
    let path = path.child("ephemeralContainers");
    for before in list(old) {
        let name = &before.name;
        let detail = match by_name.get(name.as_str()) {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(now) if **now != before => {
                let changed = diff::changed(&before, now, name).join(", ");
                format!(
                    "existing ephemeral containers {name:?} may not be changed\nchanged: {changed}"
                )
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(&path, detail));
    }
}

/// Only CPU and memory of running containers change, and neither the class of service nor what is limited at all.
pub(super) fn validate_resize(new: &Pod, old: &Pod, errors: &mut Errors) {
    validate_all(new, errors);
    let (Some(spec), Some(before)) = (&new.spec, &old.spec) else {
        return;
    };
    if is_mirror(old) {
        refuse_all(errors, "static pods cannot be resized");
        return;
    }
    if before.os.as_ref().is_some_and(|os| os.name == "windows") {
        refuse_all(errors, "windows pods cannot be resized");
        return;
    }
    let path = Path::root("spec");
    if !same_containers(spec, before, &path, errors) {
        return;
    }
    let class = qos::of_spec(spec);
    let class_before = old
        .status
        .as_ref()
        .and_then(|status| status.qos_class.clone())
        .unwrap_or_else(|| qos::of_spec(before).to_owned());
    if class != class_before {
        const DETAIL: &str = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&path, class_before, DETAIL));
    }
    if !is_supported(old) {
        const DETAIL: &str = "Pod running on node without support for resize";
        errors.push(FieldError::forbidden(&path, DETAIL));
    }
    validate_lists(spec, before, &path, errors);
    validate_pod_level(spec, before, &path.child("resources"), errors);
    validate_rest(spec, before, &path, errors);
}

/// Containers can't be added, removed, renamed or put in another order on the way.
fn same_containers(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) -> bool {
    let names = |list: &[Container]| -> Vec<String> {
        list.iter()
            .map(|container| container.name.clone())
            .collect()
    };
    let inits = |spec: &PodSpec| spec.init_containers.clone().unwrap_or_default();
    let mut same = true;
    for (field, now, before) in [
        ("containers", names(&new.containers), names(&old.containers)),
        ("initContainers", names(&inits(new)), names(&inits(old))),
    ] {
        let detail = if now.len() != before.len() {
            "containers may not be added or removed on resize"
        } else if now != before {
            "containers may not be renamed or reordered on resize"
        } else {
            continue;
        };
        errors.push(FieldError::forbidden(&path.child(field), detail));
        same = false;
    }
    same
}

/// A node agent that can resize pods reports what their containers have.
fn is_supported(pod: &Pod) -> bool {
    let containers = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let mut running = containers.filter(|container| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some())
    });
    running
        .next()
        .is_none_or(|container| container.resources.is_some())
}

fn validate_lists(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("initContainers");
    let (now, before) = (new.init_containers.iter(), old.init_containers.iter());
    for (at, (new, old)) in now.flatten().zip(before.flatten()).enumerate() {
        if is_sidecar(old) {
            let path = list.index(at);
            validate_removals(
                new.resources.as_ref(),
                old.resources.as_ref(),
                &path.child("resources"),
                errors,
            );
        }
    }
    let list = path.child("containers");
    for (at, (new, old)) in new.containers.iter().zip(&old.containers).enumerate() {
        let path = list.index(at);
        validate_removals(
            new.resources.as_ref(),
            old.resources.as_ref(),
            &path.child("resources"),
            errors,
        );
    }
}

/// What is requested or limited stays so, by another amount.
fn validate_removals(
    new: Option<&ResourceRequirements>,
    old: Option<&ResourceRequirements>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let removed = |new: Option<&Amounts>, old: Option<&Amounts>| {
        let mut names = old.into_iter().flat_map(Amounts::keys);
        names.any(|name| new.is_none_or(|new| !new.contains_key(name)))
    };
    let requests = |resources: Option<&ResourceRequirements>| {
        resources.and_then(|resources| resources.requests.clone())
    };
    let limits = |resources: Option<&ResourceRequirements>| {
        resources.and_then(|resources| resources.limits.clone())
    };
    if removed(requests(new).as_ref(), requests(old).as_ref()) {
        const DETAIL: &str = "resource requests cannot be removed";
        errors.push(FieldError::forbidden(&path.child("requests"), DETAIL));
    }
    if removed(limits(new).as_ref(), limits(old).as_ref()) {
        const DETAIL: &str = "resource limits cannot be removed";
        errors.push(FieldError::forbidden(&path.child("limits"), DETAIL));
    }
}

/// What the pod asks for as a whole changes by the same rules.
fn validate_pod_level(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_removals(new.resources.as_ref(), old.resources.as_ref(), path, errors);
}

fn is_resizable(name: &str) -> bool {
    matches!(name, "cpu" | "memory")
}

/// The amounts of `new`, but CPU and memory as in `old`.
fn with_old_amounts(new: Option<&Amounts>, old: Option<&Amounts>) -> Option<Amounts> {
    let old = old?;
    let others = new
        .into_iter()
        .flatten()
        .filter(|(name, _)| !is_resizable(name));
    let resizable = old.iter().filter(|(name, _)| is_resizable(name));
    let amounts = others.chain(resizable);
    Some(
        amounts
            .map(|(name, quantity)| (name.clone(), quantity.clone()))
            .collect(),
    )
}

/// The container with the CPU and memory that `old` has.
fn with_old_resources(new: &Container, old: &Container) -> Container {
    let (now, before) = (
        new.resources.clone().unwrap_or_default(),
        old.resources.clone().unwrap_or_default(),
    );
    Container {
        resources: Some(ResourceRequirements {
            claims: now.claims,
            limits: with_old_amounts(now.limits.as_ref(), before.limits.as_ref()),
            requests: with_old_amounts(now.requests.as_ref(), before.requests.as_ref()),
        }),
        // What becomes of the container on the way may change with it.
        resize_policy: old.resize_policy.clone(),
        ..new.clone()
    }
}

/// Whether two containers ask for the same, however that is written.
fn is_same(new: &Container, old: &Container) -> bool {
    let plain = |container: &Container| {
        let mut container = container.clone();
        let resources = container.resources.get_or_insert_default();
        for amounts in [&mut resources.limits, &mut resources.requests] {
            for quantity in amounts.iter_mut().flat_map(Amounts::values_mut) {
                quantity.0 = parsed(quantity).to_string();
            }
            amounts.take_if(|amounts| amounts.is_empty());
        }
        json!(container)
    };
    plain(new) == plain(old)
}

/// Nothing but CPU and memory has changed.
fn validate_rest(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let mut forbid = |detail| errors.push(FieldError::forbidden(path, detail));
    for (new, old) in new.containers.iter().zip(&old.containers) {
        if !is_same(&with_old_resources(new, old), old) {
            forbid("only cpu and memory resources are mutable");
        }
    }
    let (now, before) = (new.init_containers.iter(), old.init_containers.iter());
    for (new, old) in now.flatten().zip(before.flatten()) {
        if is_sidecar(old) {
            if !is_same(&with_old_resources(new, old), old) {
                forbid("only cpu and memory resources for sidecar containers are mutable");
            }
        } else if new != old {
            forbid("resources for non-sidecar init containers are immutable");
        }
    }
    let mut rest = new.clone();
    rest.containers.clone_from(&old.containers);
    rest.init_containers.clone_from(&old.init_containers);
    if let (Some(now), Some(before)) = (&mut rest.resources, &old.resources) {
        now.limits = with_old_amounts(now.limits.as_ref(), before.limits.as_ref());
        now.requests = with_old_amounts(now.requests.as_ref(), before.requests.as_ref());
    }
    if rest != *old {
        forbid("only cpu and memory resources are mutable");
    }
}
