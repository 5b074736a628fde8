//! Which resources there are: what containers, pods, quotas and limit ranges may name, and in what amounts
//! (`pkg/apis/core/helper/helpers.go`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource;

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::quantity::Quantity;
use vaquita_api::validate::metadata::invalid;

/// Amounts by the names of resources.
pub(crate) type Amounts = BTreeMap<String, resource::Quantity>;

/// What a container can be given.
const OF_CONTAINERS: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// What a pod as a whole can be given.
const OF_PODS: [&str; 2] = ["cpu", "memory"];

/// What a quota can limit, besides the number of objects of any kind (`count/<plural>.<group>`).
pub(crate) const OF_QUOTAS: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// What is counted, so that there is no half of it.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";

/// The prefix under which whole pages of a size are known: `hugepages-2Mi`.
pub(crate) fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

fn is_huge_pages_in_quota(name: &str) -> bool {
    is_huge_pages(name.strip_prefix(REQUESTS).unwrap_or(name))
}

/// A resource that Kubernetes itself knows, rather than the cluster's owner.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that the cluster's owner made up, such as `example.com/gpu`.
fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with(REQUESTS)
        && names::qualified_name(&format!("{REQUESTS}{name}")).is_empty()
}

/// Whether more of it may be promised than there is.
pub(crate) fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// Whether a quota knows it by name.
pub(crate) fn is_standard_in_quota(name: &str) -> bool {
    OF_QUOTAS.contains(&name) || is_huge_pages_in_quota(name)
}

/// The quantity. Decoding has let nothing else through.
pub(crate) fn parsed(quantity: &resource::Quantity) -> Quantity {
    quantity.0.parse().unwrap_or(Quantity::ZERO)
}

/// The name of any resource: a well-known one, or one with a prefix. Says whether it is at least well-formed.
pub(crate) fn any(name: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let problems = names::qualified_name(name);
    if !problems.is_empty() {
        invalid(path, name, problems, errors);
        return false;
    }
    if !name.contains('/') && name != "storage" && !is_standard_in_quota(name) {
        const DETAIL: &str = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, name, DETAIL));
        return false;
    }
    true
}

/// The name of a resource that a container may ask for.
pub(crate) fn of_container(name: &str, path: &Path<'_>, errors: &mut Errors) {
    any(name, path, errors);
    if !name.contains('/') {
        if !OF_CONTAINERS.contains(&name) && !is_huge_pages(name) {
            const DETAIL: &str = "must be a standard resource for containers";
            errors.push(FieldError::invalid(path, name, DETAIL));
        }
    } else if !is_native(name) && !is_extended(name) {
        const DETAIL: &str = "doesn't follow extended resource name standard";
        errors.push(FieldError::invalid(path, name, DETAIL));
    }
}

/// The name of a resource that all containers of a pod may share.
fn of_pod(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if any(name, path, errors) && !OF_PODS.contains(&name) && !is_huge_pages(name) {
        errors.push(FieldError::not_supported(
            path,
            name,
            &["cpu", HUGE_PAGES, "memory"],
        ));
    }
}

/// The name of a resource that a quota may limit.
pub(crate) fn of_quota(name: &str, path: &Path<'_>, errors: &mut Errors) {
    any(name, path, errors);
    if !name.contains('/') && !is_standard_in_quota(name) {
        const DETAIL: &str = "must be a standard resource for quota";
        errors.push(FieldError::invalid(path, name, DETAIL));
    }
}

/// An amount: not negative, and whole where it is counted.
pub(crate) fn amount(
    name: &str,
    quantity: &resource::Quantity,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let value = parsed(quantity);
    let mut refuse = |detail| errors.push(FieldError::invalid(path, quantity.0.as_str(), detail));
    if value.is_negative() {
        refuse("must be greater than or equal to 0");
    }
    if (COUNTED.contains(&name) || is_extended(name)) && !value.is_whole() {
        refuse("must be an integer");
    }
}

/// Amounts of a volume's or a node's capacity, of which nothing is said but that they are not negative.
pub(crate) fn basic(quantity: &resource::Quantity, path: &Path<'_>, errors: &mut Errors) {
    let value = parsed(quantity).value();
    if value < 0 {
        const DETAIL: &str = "must be a valid resource quantity";
        errors.push(FieldError::invalid(path, value, DETAIL));
    }
}

/// An amount of more than nothing.
pub(crate) fn positive(quantity: &resource::Quantity, path: &Path<'_>, errors: &mut Errors) {
    if parsed(quantity) <= Quantity::ZERO {
        const DETAIL: &str = "must be greater than zero";
        errors.push(FieldError::invalid(path, quantity.0.as_str(), DETAIL));
    }
}

/// What [`requirements`] are those of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// One container.
    Container,
    /// All containers of a pod together.
    Pod,
}

/// What somebody asks for and may have at most. `claims` are the names of the pod's resource claims.
pub(crate) fn requirements(
    resources: &ResourceRequirements,
    owner: Owner,
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let none = Amounts::new();
    let limits = resources.limits.as_ref().unwrap_or(&none);
    let requests = resources.requests.as_ref().unwrap_or(&none);
    let check_name = match owner {
        Owner::Container => of_container,
        Owner::Pod => of_pod,
    };
    let (at_limits, at_requests) = (path.child("limits"), path.child("requests"));
    for (list, at) in [(limits, &at_limits), (requests, &at_requests)] {
        for (name, quantity) in list {
            let path = at.key(name);
            check_name(name, &path, errors);
            amount(name, quantity, &path, errors);
            whole_pages(name, quantity, &path, errors);
        }
    }
    for (name, request) in requests {
        within_limit(
            name,
            request,
            limits.get(name),
            (&at_limits, &at_requests),
            errors,
        );
    }
    let names = || limits.keys().chain(requests.keys());
    if names().any(|name| is_huge_pages(name))
        && !names().any(|name| OF_PODS.contains(&name.as_str()))
    {
        errors.push(FieldError::forbidden(
            path,
            "HugePages require cpu or memory",
        ));
    }
    let asked = resources.claims.as_deref().unwrap_or_default();
    claim_names(asked, claims, &path.child("claims"), errors);
}

fn within_limit(
    name: &str,
    request: &resource::Quantity,
    limit: Option<&resource::Quantity>,
    (at_limits, at_requests): (&Path<'_>, &Path<'_>),
    errors: &mut Errors,
) {
    let exact = !may_be_overcommitted(name);
    let mut refuse = |how: &str, limit: &resource::Quantity| {
        let detail = format!("must be {how} to {name} limit of {}", limit.0);
        errors.push(FieldError::invalid(at_requests, request.0.as_str(), detail));
    };
    match limit {
        Some(limit) if exact && parsed(request) != parsed(limit) => refuse("equal", limit),
        Some(limit) if parsed(request) > parsed(limit) => refuse("less than or equal", limit),
        None if exact => {
            const DETAIL: &str = "Limit must be set for non overcommitable resources";
            errors.push(FieldError::required(at_limits, DETAIL));
        }
        _ => {}
    }
}

/// Huge pages come whole: of `hugepages-2Mi` there are 0, 2Mi, 4Mi, ...
fn whole_pages(name: &str, quantity: &resource::Quantity, path: &Path<'_>, errors: &mut Errors) {
    let Some(size) = name.strip_prefix(HUGE_PAGES) else {
        return;
    };
    let size = size.parse().unwrap_or(Quantity::ZERO).value();
    let value = parsed(quantity);
    if size <= 0 || !value.is_whole() || value.value() % size != 0 {
        let detail = format!(
            "{} is not positive integer multiple of {name}",
            quantity.0.as_str()
        );
        errors.push(FieldError::invalid(path, quantity.0.as_str(), detail));
    }
}

/// A container names each claim of its pod, or each request of it, once.
fn claim_names(
    asked: &[ResourceClaim],
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (at, claim) in asked.iter().enumerate() {
        let path = path.index(at);
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let request = claim.request.as_deref().unwrap_or_default();
        if !request.is_empty() {
            let problems = names::dns1123_label(request);
            invalid(&path.child("request"), request, problems, errors);
        }
        let whole = seen.contains(&(name, ""));
        let overlaps = request.is_empty() && seen.iter().any(|(other, _)| *other == name);
        if whole || overlaps {
            errors.push(FieldError::duplicate(&path, name));
        } else if !seen.insert((name, request)) {
            errors.push(FieldError::duplicate(&path, format!("{name}/{request}")));
        }
        if !claims.contains(name) {
            let mut detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if claims.is_empty() {
                detail.push_str(" which is empty");
            } else {
                let known: Vec<&str> = claims.iter().copied().collect();
                detail.push_str(": ");
                detail.push_str(&known.join(", "));
            }
            errors.push(FieldError::not_found(&path, name).with_detail(detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(resources: Value) -> Vec<String> {
        let resources = serde_json::from_value(resources).unwrap();
        let mut errors = Errors::default();
        let claims = BTreeSet::from(["gpu"]);
        let path = Path::root("r");
        requirements(&resources, Owner::Container, &claims, &path, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn knows_what_containers_may_ask_for() {
        let good = json!({
            "limits": {"cpu": "1", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"},
            "requests": {"cpu": "500m", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"},
            "claims": [{"name": "gpu"}],
        });
        assert_eq!(wrong(good), [""; 0]);
        assert_eq!(
            wrong(json!({"limits": {"storage": "1Gi"}})),
            [
                "r.limits[storage]: Invalid value: \"storage\": must be a standard resource for containers"
            ]
        );
        assert_eq!(
            wrong(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
            ["r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"]
        );
        assert_eq!(
            wrong(json!({"requests": {"example.com/gpu": "1"}})),
            ["r.limits: Required value: Limit must be set for non overcommitable resources"]
        );
        assert_eq!(
            wrong(json!({"limits": {"example.com/gpu": "1500m"}})),
            ["r.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer"]
        );
        assert_eq!(
            wrong(json!({"limits": {"hugepages-2Mi": "3Mi"}})),
            [
                "r.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "r: Forbidden: HugePages require cpu or memory",
            ]
        );
    }

    #[test]
    fn names_each_claim_once() {
        let twice = json!({"claims": [{"name": "gpu"}, {"name": "gpu"}, {"name": "x"}]});
        assert_eq!(
            wrong(twice),
            [
                "r.claims[1]: Duplicate value: \"gpu\"",
                "r.claims[2]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims: gpu",
            ]
        );
    }
}
