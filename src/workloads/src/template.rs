//! What the kinds that keep pods running demand of their selector and their template.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use serde_json::json;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::selector::LabelSelector;
use vaquita_api::validate::selectors;
use vaquita_kinds::pod_spec;

const NO_MATCH: &str = "`selector` does not match template `labels`";

/// Fills in what a template leaves out.
pub(crate) fn apply_defaults(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    if let Some(spec) = &mut template.spec {
        pod_spec::apply_defaults(spec);
    }
}

/// The selector as the object has it. These types can't tell an empty selector from one that was left out; the latter is
/// the common mistake, and so both are taken for it.
pub(crate) fn given(selector: &v1::LabelSelector) -> Option<&v1::LabelSelector> {
    let labels = selector.match_labels.as_ref().map_or(0, BTreeMap::len);
    let expressions = selector.match_expressions.as_ref().map_or(0, Vec::len);
    (labels + expressions > 0).then_some(selector)
}

/// The selector at `path`, which must be there. `None` if it can't be understood; `nonsense` then says so.
pub(crate) fn required_selector(
    selector: &v1::LabelSelector,
    nonsense: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Option<LabelSelector> {
    let selector = given(selector);
    if selector.is_none() {
        errors.push(FieldError::required(path, ""));
    }
    selectors::label_selector(selector, path, errors);
    let understood = LabelSelector::from_object(selector);
    if understood.is_err() {
        errors.push(FieldError::invalid(path, json!(selector), nonsense));
    }
    understood.ok()
}

/// The template at `path` must carry the labels that its owner looks for.
pub(crate) fn must_match(
    template: &PodTemplateSpec,
    selector: &LabelSelector,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let metadata = template.metadata.as_ref();
    let labels = metadata
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default();
    if !selector.matches(&labels) {
        let path = path.child("metadata");
        errors.push(FieldError::invalid(
            &path.child("labels"),
            json!(labels),
            NO_MATCH,
        ));
    }
}

/// Pods that are to run for good: another policy or a deadline would let them end, only to be replaced. `kind` is who
/// says so.
pub(crate) fn must_last(
    template: &PodTemplateSpec,
    kind: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(spec) = &template.spec else { return };
    let path = path.child("spec");
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if policy != "Always" {
        let path = path.child("restartPolicy");
        errors.push(FieldError::not_supported(&path, policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(
            &path.child("activeDeadlineSeconds"),
            detail,
        ));
    }
}

/// The template of a Deployment or `ReplicaSet`, and the selector beside it.
pub(crate) fn replicated(
    selector: &v1::LabelSelector,
    template: &PodTemplateSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("selector");
    let Some(selector) = required_selector(selector, "invalid label selector", &at, errors) else {
        return;
    };
    let path = path.child("template");
    must_match(template, &selector, &path, errors);
    pod_spec::validate_template(template, &path, errors);
    must_last(template, "ReplicaSet", &path, errors);
}
