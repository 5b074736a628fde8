//! Quantities of resources: requests, limits, capacities.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource;

use super::metadata::invalid;
use crate::field::{Errors, FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

/// The resources of a container that every cluster knows.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const HUGE_PAGES: &str = "hugepages-";

/// Where a quantity may be fractional: everywhere but among counted things.
fn is_whole_only(name: &str) -> bool {
    is_extended(name) || name == "pods" || name == "services" || name.starts_with("count/")
}

/// A resource that the cluster's owner made up, such as `example.com/gpu`. Those are counted, and never overcommitted.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

fn parsed(quantity: &resource::Quantity) -> Quantity {
    // Decoding has let only quantities through.
    quantity.0.parse().unwrap_or(Quantity::ZERO)
}

/// A quantity of a named resource: the name, its sign and its wholeness.
pub fn quantity(name: &str, quantity: &resource::Quantity, path: &Path<'_>, errors: &mut Errors) {
    invalid(path, name, names::qualified_name(name), errors);
    amount(name, quantity, path, errors);
}

fn amount(name: &str, quantity: &resource::Quantity, path: &Path<'_>, errors: &mut Errors) {
    let value = parsed(quantity);
    if value.is_negative() {
        errors.push(FieldError::invalid(
            path,
            quantity.0.as_str(),
            "must be greater than or equal to 0",
        ));
    }
    if is_whole_only(name) && !value.is_whole() {
        errors.push(FieldError::invalid(
            path,
            quantity.0.as_str(),
            "must be an integer",
        ));
    }
}

/// What a container asks for and may have at most.
pub fn requirements(resources: &ResourceRequirements, path: &Path<'_>, errors: &mut Errors) {
    let empty = BTreeMap::new();
    let limits = resources.limits.as_ref().unwrap_or(&empty);
    let requests = resources.requests.as_ref().unwrap_or(&empty);
    let at_limits = path.child("limits");
    for (name, quantity) in limits {
        container_resource(name, &at_limits, errors);
        amount(name, quantity, &at_limits.key(name), errors);
    }
    let at_requests = path.child("requests");
    for (name, request) in requests {
        container_resource(name, &at_requests, errors);
        amount(name, request, &at_requests.key(name), errors);
        within_limit(name, request, limits.get(name), &at_requests, errors);
    }
}

fn within_limit(
    name: &str,
    request: &resource::Quantity,
    limit: Option<&resource::Quantity>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let no_overcommit = is_extended(name) || name.starts_with(HUGE_PAGES);
    match limit {
        Some(limit) if no_overcommit && parsed(request) != parsed(limit) => {
            let detail = format!("must be equal to {name} limit of {}", limit.0);
            errors.push(FieldError::invalid(path, request.0.as_str(), detail));
        }
        Some(limit) if parsed(request) > parsed(limit) => {
            let detail = format!("must be less than or equal to {name} limit of {}", limit.0);
            errors.push(FieldError::invalid(path, request.0.as_str(), detail));
        }
        None if no_overcommit => {
            errors.push(FieldError::required(
                path,
                "Limit must be set for non overcommitable resources",
            ));
        }
        _ => {}
    }
}

/// A container may ask for the standard resources, for huge pages, and for whatever has a prefix.
fn container_resource(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let problems = names::qualified_name(name);
    if !problems.is_empty() {
        invalid(path, name, problems, errors);
    } else if !name.contains('/') && !STANDARD.contains(&name) && !name.starts_with(HUGE_PAGES) {
        errors.push(FieldError::invalid(
            &path.key(name),
            name,
            "must be a standard resource for containers",
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(value: Value) -> Vec<String> {
        let mut errors = Errors::default();
        let resources = serde_json::from_value(value).unwrap();
        requirements(&resources, &Path::root("resources"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn compares_requests_with_limits() {
        assert_eq!(
            check(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1000m", "memory": "1Gi"}})),
            [""; 0]
        );
        assert_eq!(
            check(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
            [
                "resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
            ]
        );
        assert_eq!(
            check(json!({"requests": {"example.com/gpu": "1"}})),
            [
                "resources.requests: Required value: Limit must be set for non overcommitable resources"
            ]
        );
        assert_eq!(
            check(json!({"limits": {"memory": "-1"}})),
            ["resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
        assert_eq!(
            check(json!({"limits": {"bananas": "1"}})),
            [
                "resources.limits[bananas]: Invalid value: \"bananas\": must be a standard resource for containers"
            ]
        );
        assert_eq!(
            check(json!({"limits": {"example.com/gpu": "500m"}, "requests": {"example.com/gpu": "500m"}})).len(),
            2
        );
    }
}
