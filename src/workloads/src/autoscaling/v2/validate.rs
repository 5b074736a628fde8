//! Mistakes in an autoscaler.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules,
    HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
};
use serde_json::json;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::quantity::Quantity;
use vaquita_api::validate::metadata::invalid;

use super::metrics;
use crate::rules;

/// The longest period of a policy, in seconds.
const PERIOD_MAX: i32 = 1800;
/// The longest time for which recommendations are remembered, in seconds.
const WINDOW_MAX: i32 = 3600;

/// What the `apiVersion` of a reference must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// As it was: nobody looks.
    Any,
    /// Well formed.
    Formed,
    /// Well formed, and not of the core group.
    WithGroup,
}

/// The specification at `path`, which is to follow `old`.
pub(super) fn spec(
    spec: &HorizontalPodAutoscalerSpec,
    old: Option<&HorizontalPodAutoscalerSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    validate_limits(spec, old, path, errors);
    let target = &spec.scale_target_ref;
    let same = |old: &CrossVersionObjectReference| {
        (&old.api_version, &old.kind) == (&target.api_version, &target.kind)
    };
    let version = match old {
        Some(old) if same(&old.scale_target_ref) => Version::Any,
        // The one kind of the core group that can be scaled.
        _ if target.kind == "ReplicationController" => Version::Formed,
        _ => Version::WithGroup,
    };
    reference(target, version, &path.child("scaleTargetRef"), errors);
    metrics::validate(spec, old, &path.child("metrics"), errors);
    if let Some(behavior) = &spec.behavior {
        validate_behavior(behavior, &path.child("behavior"), errors);
    }
}

fn validate_limits(
    spec: &HorizontalPodAutoscalerSpec,
    old: Option<&HorizontalPodAutoscalerSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let was_zero = old.is_some_and(|old| old.min_replicas == Some(0));
    let least = i32::from(!was_zero);
    if let Some(min) = spec.min_replicas.filter(|min| *min < least) {
        let detail = format!("must be greater than or equal to {least}");
        errors.push(FieldError::invalid(&path.child("minReplicas"), min, detail));
    }
    let (max, at) = (spec.max_replicas, path.child("maxReplicas"));
    match max {
        0 => errors.push(FieldError::required(&at, "must be set and greater than 0")),
        ..0 => errors.push(FieldError::invalid(&at, max, "must be greater than 0")),
        _ => {}
    }
    if spec.min_replicas.is_some_and(|min| max < min) {
        const DETAIL: &str = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(&at, max, DETAIL));
    }
}

/// An object by its kind and name.
pub(super) fn reference(
    reference: &CrossVersionObjectReference,
    version: Version,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (field, name) in [("kind", &reference.kind), ("name", &reference.name)] {
        let path = path.child(field);
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            invalid(&path, name, names::path_segment(name), errors);
        }
    }
    let api_version = reference.api_version.as_deref().unwrap_or_default();
    if let Some(detail) = version_problem(api_version, version) {
        errors.push(FieldError::invalid(
            &path.child("apiVersion"),
            api_version,
            detail,
        ));
    }
}

/// What is wrong with an `apiVersion`.
pub(super) fn version_problem(api_version: &str, version: Version) -> Option<String> {
    let slashes = api_version.matches('/').count();
    match version {
        Version::Any => None,
        _ if slashes > 1 => Some(format!("unexpected GroupVersion string: {api_version}")),
        Version::WithGroup if slashes == 0 || api_version.starts_with('/') => {
            Some("apiVersion must specify API group".to_owned())
        }
        Version::Formed | Version::WithGroup => None,
    }
}

fn validate_behavior(
    behavior: &HorizontalPodAutoscalerBehavior,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (field, rules) in [
        ("scaleUp", &behavior.scale_up),
        ("scaleDown", &behavior.scale_down),
    ] {
        if let Some(rules) = rules {
            validate_rules(rules, &path.child(field), errors);
        }
    }
}

fn validate_rules(rules: &HPAScalingRules, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("stabilizationWindowSeconds");
    match rules.stabilization_window_seconds {
        Some(window @ ..0) => {
            const DETAIL: &str = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(&at, window, DETAIL));
        }
        Some(window) if window > WINDOW_MAX => {
            let detail = format!("must be less than or equal to {WINDOW_MAX}");
            errors.push(FieldError::invalid(&at, window, detail));
        }
        _ => {}
    }
    if let Some(policy) = &rules.select_policy {
        let path = path.child("selectPolicy");
        rules::supported(policy, &["Disabled", "Max", "Min"], &path, errors);
    }
    let at = path.child("policies");
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() {
        errors.push(FieldError::required(
            &at,
            "must specify at least one Policy",
        ));
    }
    for (index, policy) in policies.iter().enumerate() {
        validate_policy(policy, &at.index(index), errors);
    }
    if let Some(tolerance) = &rules.tolerance
        && parsed(tolerance).is_negative()
    {
        const DETAIL: &str = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(
            &path.child("tolerance"),
            json!(tolerance),
            DETAIL,
        ));
    }
}

fn validate_policy(policy: &HPAScalingPolicy, path: &Path<'_>, errors: &mut Errors) {
    rules::supported(
        &policy.type_,
        &["Percent", "Pods"],
        &path.child("type"),
        errors,
    );
    for (field, number) in [
        ("value", policy.value),
        ("periodSeconds", policy.period_seconds),
    ] {
        if number <= 0 {
            const DETAIL: &str = "must be greater than zero";
            errors.push(FieldError::invalid(&path.child(field), number, DETAIL));
        }
    }
    if policy.period_seconds > PERIOD_MAX {
        let detail = format!("must be less than or equal to {PERIOD_MAX}");
        errors.push(FieldError::invalid(
            &path.child("periodSeconds"),
            policy.period_seconds,
            detail,
        ));
    }
}

/// A quantity that decoding has let through.
pub(super) fn parsed(
    quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity,
) -> Quantity {
    quantity.0.parse().unwrap_or(Quantity::ZERO)
}
