//! Mistakes in what an autoscaler looks at.

use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget,
};
use serde_json::json;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

use super::validate::{Version, parsed, reference, version_problem};

/// The types, each with the field that holds its source, in the order in which sources are looked at.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

pub(super) fn validate(
    spec: &HorizontalPodAutoscalerSpec,
    old: Option<&HorizontalPodAutoscalerSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let version = described_version(old);
    for (at, metric) in metrics.iter().enumerate() {
        validate_metric(metric, version, &path.index(at), errors);
    }
    // Without pods there is nothing to measure but what is outside of them.
    let outside = |metric: &MetricSpec| matches!(metric.type_.as_str(), "Object" | "External");
    if spec.min_replicas == Some(0) && !metrics.iter().any(outside) {
        const DETAIL: &str = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(path, DETAIL));
    }
}

/// An autoscaler that describes objects of no proper version may go on doing so.
fn described_version(old: Option<&HorizontalPodAutoscalerSpec>) -> Version {
    let metrics = old.iter().flat_map(|old| old.metrics.iter().flatten());
    let mut described = metrics.filter_map(|metric| {
        let object = metric.object.as_ref()?;
        let version = object.described_object.api_version.as_deref();
        Some(version.unwrap_or_default())
    });
    if described.any(|version| version_problem(version, Version::Formed).is_some()) {
        Version::Any
    } else {
        Version::Formed
    }
}

fn validate_metric(metric: &MetricSpec, version: Version, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("type");
    if metric.type_.is_empty() {
        const DETAIL: &str = "must specify a metric source type";
        errors.push(FieldError::required(&at, DETAIL));
    }
    let expected = SOURCES.iter().find(|(kind, _)| *kind == metric.type_);
    if expected.is_none() {
        let types = SOURCES.map(|(kind, _)| kind);
        errors.push(FieldError::not_supported(
            &at,
            metric.type_.as_str(),
            &types,
        ));
    }
    let present: Vec<&str> = SOURCES
        .iter()
        .map(|(_, field)| *field)
        .filter(|field| has_source(metric, field))
        .collect();
    if let Some(first) = present.first() {
        validate_source(metric, first, version, &path.child(first), errors);
    }
    let expected = expected.map(|(_, field)| *field);
    if let Some(field) = expected.filter(|field| !present.contains(field)) {
        const DETAIL: &str = "must populate information for the given metric source";
        errors.push(FieldError::required(&path.child(field), DETAIL));
    }
    if present.len() > 1 {
        for field in present.iter().filter(|field| Some(**field) != expected) {
            const DETAIL: &str = "must populate the given metric source only";
            errors.push(FieldError::forbidden(&path.child(field), DETAIL));
        }
    }
}

fn has_source(metric: &MetricSpec, field: &str) -> bool {
    match field {
        "object" => metric.object.is_some(),
        "external" => metric.external.is_some(),
        "pods" => metric.pods.is_some(),
        "resource" => metric.resource.is_some(),
        _ => metric.container_resource.is_some(),
    }
}

fn validate_source(
    metric: &MetricSpec,
    field: &str,
    version: Version,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("target");
    match field {
        "object" => {
            let Some(source) = &metric.object else { return };
            let described = path.child("describedObject");
            reference(&source.described_object, version, &described, errors);
            validate_identifier(&source.metric, &path.child("metric"), errors);
            let missing = "must set either a target value or averageValue";
            validate_value(&source.target, missing, &at, errors);
        }
        "external" => {
            let Some(source) = &metric.external else {
                return;
            };
            validate_identifier(&source.metric, &path.child("metric"), errors);
            let missing = "must set either a target value for metric or a per-pod target";
            validate_value(&source.target, missing, &at, errors);
            if source.target.value.is_some() && source.target.average_value.is_some() {
                const BOTH: &str =
                    "may not set both a target value for metric and a per-pod target";
                errors.push(FieldError::forbidden(&at.child("value"), BOTH));
            }
        }
        "pods" => {
            let Some(source) = &metric.pods else { return };
            validate_identifier(&source.metric, &path.child("metric"), errors);
            validate_target(&source.target, &at, errors);
            if source.target.average_value.is_none() {
                const DETAIL: &str = "must specify a positive target averageValue";
                errors.push(FieldError::required(&at.child("averageValue"), DETAIL));
            }
        }
        "resource" => {
            let Some(source) = &metric.resource else {
                return;
            };
            required(
                &source.name,
                "must specify a resource name",
                &path.child("name"),
                errors,
            );
            validate_utilization(&source.target, &at, errors);
        }
        _ => {
            let Some(source) = &metric.container_resource else {
                return;
            };
            let name = path.child("name");
            required(&source.name, "must specify a resource name", &name, errors);
            validate_container_resource(&source.name, &name, errors);
            let container = path.child("container");
            required(
                &source.container,
                "must specify a container",
                &container,
                errors,
            );
            if !source.container.is_empty() {
                let problems = names::dns1123_label(&source.container);
                invalid(&container, &source.container, problems, errors);
            }
            validate_utilization(&source.target, &at, errors);
        }
    }
}

fn required(value: &str, detail: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, detail));
    }
}

fn validate_container_resource(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let known = matches!(name, "" | "cpu" | "memory" | "ephemeral-storage");
    if known || name.starts_with("hugepages-") {
        return;
    }
    let problems = names::qualified_name(name);
    if problems.is_empty() && !name.contains('/') {
        const DETAIL: &str = "must be a standard resource for containers";
        errors.push(FieldError::invalid(path, name, DETAIL));
    }
    invalid(path, name, problems, errors);
}

fn validate_identifier(metric: &MetricIdentifier, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("name");
    required(&metric.name, "must specify a metric name", &path, errors);
    let problems = names::path_segment(&metric.name);
    invalid(&path, &metric.name, problems, errors);
}

/// A target that is a value, as a whole or for each pod.
fn validate_value(target: &MetricTarget, missing: &str, path: &Path<'_>, errors: &mut Errors) {
    validate_target(target, path, errors);
    if target.value.is_none() && target.average_value.is_none() {
        errors.push(FieldError::required(&path.child("averageValue"), missing));
    }
}

/// A target that is a share of what is asked for, or a value for each pod.
fn validate_utilization(target: &MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    validate_target(target, path, errors);
    match (target.average_utilization, &target.average_value) {
        (None, None) => {
            const DETAIL: &str = "must set either a target raw value or a target utilization";
            errors.push(FieldError::required(
                &path.child("averageUtilization"),
                DETAIL,
            ));
        }
        (Some(_), Some(_)) => {
            const DETAIL: &str = "may not set both a target raw value and a target utilization";
            errors.push(FieldError::forbidden(&path.child("averageValue"), DETAIL));
        }
        _ => {}
    }
}

fn validate_target(target: &MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    let kind = target.type_.as_str();
    let at = path.child("type");
    required(kind, "must specify a metric target type", &at, errors);
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        const DETAIL: &str = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&at, kind, DETAIL));
    }
    for (field, value) in [
        ("value", &target.value),
        ("averageValue", &target.average_value),
    ] {
        let Some(value) = value else { continue };
        let amount = parsed(value);
        if amount.is_negative() || amount.is_zero() {
            const DETAIL: &str = "must be positive";
            errors.push(FieldError::invalid(
                &path.child(field),
                json!(value),
                DETAIL,
            ));
        }
    }
    if let Some(percent @ ..=0) = target.average_utilization {
        const DETAIL: &str = "must be greater than 0";
        errors.push(FieldError::invalid(
            &path.child("averageUtilization"),
            percent,
            DETAIL,
        ));
    }
}
