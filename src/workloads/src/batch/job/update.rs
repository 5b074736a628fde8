//! What of a job may change.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Affinity, Container, PodSpec, PodTemplateSpec};
use vaquita_api::field::{Errors, FieldError, Path};

use super::INDEXED;
use crate::rules::immutable;

pub(super) fn validate(new: &Job, old: &Job, path: &Path<'_>, errors: &mut Errors) {
    let (Some(spec), Some(before)) = (&new.spec, &old.spec) else {
        return;
    };
    validate_completions(spec, before, &path.child("completions"), errors);
    immutable(
        &spec.selector,
        &before.selector,
        &path.child("selector"),
        errors,
    );
    let template = allowed_template(spec, old, before);
    immutable(&spec.template, &template, &path.child("template"), errors);
    for (field, now, then) in [
        (
            "completionMode",
            &spec.completion_mode,
            &before.completion_mode,
        ),
        ("managedBy", &spec.managed_by, &before.managed_by),
    ] {
        immutable(now, then, &path.child(field), errors);
    }
    immutable(
        &spec.pod_failure_policy,
        &before.pod_failure_policy,
        &path.child("podFailurePolicy"),
        errors,
    );
    immutable(
        &spec.backoff_limit_per_index,
        &before.backoff_limit_per_index,
        &path.child("backoffLimitPerIndex"),
        errors,
    );
    immutable(
        &spec.success_policy,
        &before.success_policy,
        &path.child("successPolicy"),
        errors,
    );
}

/// An indexed job may grow and shrink, if all its pods run at once.
fn validate_completions(new: &JobSpec, old: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    if new.completion_mode.as_deref() != Some(INDEXED) {
        immutable(&new.completions, &old.completions, path, errors);
        return;
    }
    if let Some(completions) = new.completions
        && new.completions != old.completions
        && new.completions != new.parallelism
    {
        const DETAIL: &str = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(path, completions, DETAIL));
    }
}

/// The old template with what may change taken from the new one: where its pods may run and what they ask for, as long as
/// the job is suspended and none of its pods is left.
fn allowed_template(new: &JobSpec, job: &Job, old: &JobSpec) -> PodTemplateSpec {
    let mut template = old.template.clone();
    let status = job.status.as_ref();
    let started = status.is_some_and(|status| status.start_time.is_some());
    let active = status
        .and_then(|status| status.active)
        .is_some_and(|active| active > 0);
    if old.suspend != Some(true) || (started && active) {
        return template;
    }
    if let (Some(metadata), Some(now)) = (&mut template.metadata, &new.template.metadata) {
        metadata.labels.clone_from(&now.labels);
        metadata.annotations.clone_from(&now.annotations);
    }
    if let (Some(pod), Some(now)) = (&mut template.spec, &new.template.spec) {
        allow_scheduling(pod, now);
        allow_resources(&mut pod.containers, &now.containers);
        if let (Some(inits), Some(now)) = (&mut pod.init_containers, &now.init_containers) {
            allow_resources(inits, now);
        }
    }
    template
}

fn allow_scheduling(pod: &mut PodSpec, now: &PodSpec) {
    pod.node_selector.clone_from(&now.node_selector);
    pod.tolerations.clone_from(&now.tolerations);
    pod.scheduling_gates.clone_from(&now.scheduling_gates);
    let wanted = now
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.clone());
    match (&mut pod.affinity, &now.affinity) {
        (None, None) => {}
        (Some(affinity), None) => {
            affinity.node_affinity = None;
            if *affinity == Affinity::default() {
                pod.affinity = None;
            }
        }
        (Some(affinity), Some(_)) => affinity.node_affinity = wanted,
        (None, Some(_)) => {
            pod.affinity = Some(Affinity {
                node_affinity: wanted,
                ..Affinity::default()
            });
        }
    }
}

fn allow_resources(containers: &mut [Container], now: &[Container]) {
    if containers.len() != now.len() {
        return;
    }
    for (container, now) in containers.iter_mut().zip(now) {
        if container.name == now.name {
            container.resources.clone_from(&now.resources);
        }
    }
}
