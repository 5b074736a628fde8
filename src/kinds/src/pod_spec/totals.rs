//! What a pod as a whole asks for, and how that fits with what its containers ask for.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::is_sidecar;
use crate::resource_names::{self, Amounts, Owner, parsed};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::quantity::Quantity;

/// Requests or limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// What is asked for.
    Requests,
    /// What there may be at most.
    Limits,
}

impl Side {
    fn of(self, resources: &ResourceRequirements) -> Option<&Amounts> {
        match self {
            Self::Requests => resources.requests.as_ref(),
            Self::Limits => resources.limits.as_ref(),
        }
    }
}

fn written(quantity: Quantity) -> resource::Quantity {
    resource::Quantity(quantity.to_string())
}

fn add(total: &mut Amounts, amounts: Option<&Amounts>) {
    for (name, quantity) in amounts.into_iter().flatten() {
        let sum = total.get(name).map_or(Quantity::ZERO, parsed) + parsed(quantity);
        total.insert(name.clone(), written(sum));
    }
}

fn raise(total: &mut Amounts, amounts: &Amounts) {
    for (name, quantity) in amounts {
        if total
            .get(name)
            .is_none_or(|present| parsed(present) < parsed(quantity))
        {
            total.insert(name.clone(), quantity.clone());
        }
    }
}

/// What all containers need at the time when they need most: init containers run one after the other, before the regular
/// ones, each beside the sidecars that were started before it.
pub(super) fn of_containers(spec: &PodSpec, side: Side) -> Amounts {
    let own = |container: &Container| {
        let resources = container.resources.as_ref();
        resources.and_then(|resources| side.of(resources)).cloned()
    };
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(&mut running, own(container).as_ref());
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut now = sidecars.clone();
        add(&mut now, own(container).as_ref());
        raise(&mut starting, &now);
        if is_sidecar(container) {
            add(&mut running, own(container).as_ref());
            sidecars = now;
        }
    }
    raise(&mut running, &starting);
    running
}

/// Whether the resource is one that a pod as a whole can be given.
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || resource_names::is_huge_pages(name)
}

fn is_empty(amounts: Option<&Amounts>) -> bool {
    amounts.is_none_or(Amounts::is_empty)
}

/// Fills in what follows for the pod from what its containers ask for, where the pod says something of its own.
pub(super) fn apply_defaults(spec: &mut PodSpec) {
    let Some(given) = spec.resources.clone() else {
        return;
    };
    let mut limits = given.limits.clone().unwrap_or_default();
    let mut requests = given.requests.clone().unwrap_or_default();
    let silent = limits.is_empty() && requests.is_empty();
    let container_limits = of_containers(spec, Side::Limits);
    if !silent {
        for (name, limit) in &container_limits {
            if resource_names::is_huge_pages(name) && !requests.contains_key(name) {
                limits.entry(name.clone()).or_insert_with(|| limit.clone());
            }
        }
    }
    if !limits.is_empty() {
        for (name, request) in of_containers(spec, Side::Requests) {
            if is_of_pods(&name) && resource_names::may_be_overcommitted(&name) {
                requests.entry(name).or_insert(request);
            }
        }
        for (name, limit) in limits.iter().filter(|(name, _)| is_of_pods(name)) {
            requests
                .entry(name.clone())
                .or_insert_with(|| limit.clone());
        }
    } else if !requests.is_empty() {
        for (name, limit) in container_limits {
            let all = || all_limited(spec, &name);
            if is_of_pods(&name) && resource_names::may_be_overcommitted(&name) && all() {
                limits.insert(name, limit);
            }
        }
    }
    if let Some(resources) = &mut spec.resources {
        let list = |amounts: Amounts| (!amounts.is_empty()).then_some(amounts);
        resources.limits = list(limits).or(given.limits);
        resources.requests = list(requests).or(given.requests);
    }
}

/// Whether every container that runs beside others has a limit.
fn all_limited(spec: &PodSpec, name: &str) -> bool {
    let inits = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(inits).all(|container| {
        let limits = container
            .resources
            .as_ref()
            .and_then(|resources| resources.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key(name))
    })
}

/// Mistakes in what the pod asks for as a whole.
pub(super) fn validate(
    spec: &PodSpec,
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(resources) = &spec.resources else {
        return;
    };
    if resources.claims.is_some() {
        const DETAIL: &str = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), DETAIL));
    }
    resource_names::requirements(resources, Owner::Pod, claims, path, errors);
    if is_empty(resources.requests.as_ref()) && is_empty(resources.limits.as_ref()) {
        return;
    }
    let none = Amounts::new();
    let requests = resources.requests.as_ref().unwrap_or(&none);
    let limits = resources.limits.as_ref().unwrap_or(&none);
    let at = path.child("requests");
    for (name, sum) in of_containers(spec, Side::Requests) {
        let own = requests.get(&name).map_or(Quantity::ZERO, parsed);
        // Resources that only containers can have are none of the pod's business.
        if is_of_pods(&name) && parsed(&sum) > own {
            let detail = format!(
                "must be greater than or equal to aggregate container requests of {}",
                sum.0
            );
            errors.push(FieldError::invalid(&at.key(&name), own.to_string(), detail));
        }
    }
    let at = path.child("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        let own = container
            .resources
            .as_ref()
            .and_then(|resources| resources.limits.as_ref());
        for (name, limit) in own.into_iter().flatten() {
            let Some(most) = limits.get(name).filter(|most| parsed(limit) > parsed(most)) else {
                continue;
            };
            let detail = format!("must be less than or equal to pod limits of {}", most.0);
            let path = at.index(index);
            let path = path.key(name);
            errors.push(FieldError::invalid(
                &path.child("limits"),
                limit.0.as_str(),
                detail,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn counts_the_moment_of_greatest_need() {
        let mut sidecar = container("s", "1");
        sidecar["restartPolicy"] = json!("Always");
        let total = |containers: Value, inits: Value| {
            let spec = spec(json!({"containers": containers, "initContainers": inits}));
            of_containers(&spec, Side::Requests)["cpu"].0.clone()
        };
        let two = json!([container("a", "1"), container("b", "500m")]);
        assert_eq!(total(two.clone(), json!([])), "1500m");
        assert_eq!(total(two.clone(), json!([container("i", "4")])), "4");
        assert_eq!(total(two.clone(), json!([sidecar])), "2500m");
        assert_eq!(
            total(two.clone(), json!([sidecar, container("i", "4")])),
            "5"
        );
        assert_eq!(total(two, json!([container("i", "4"), sidecar])), "4");
    }

    #[test]
    fn fills_the_pods_own_requests_in() {
        let mut spec = spec(json!({
            "containers": [container("a", "1")],
            "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
        }));
        apply_defaults(&mut spec);
        assert_eq!(
            json!(spec.resources),
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}})
        );
    }

    #[test]
    fn refuses_a_whole_that_is_less_than_its_parts() {
        let spec = spec(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "4"}}}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "3"}},
        }));
        let mut errors = Errors::default();
        validate(&spec, &BTreeSet::new(), &Path::root("r"), &mut errors);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "r.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
                "r.containers[0][cpu].limits: Invalid value: \"4\": must be less than or equal to pod limits of 3",
            ]
        );
    }
}
