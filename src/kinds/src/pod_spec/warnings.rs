//! What is allowed in a pod's specification, and hardly ever meant (`pkg/api/pod/warnings.go`).
//!
//! Nothing here keeps a pod from being made; its author is told.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, NodeSelectorTerm, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::each_container;
use vaquita_api::field::{Errors, Path};
use vaquita_api::names::dns1123_label;
use vaquita_api::quantity::Quantity;

/// Labels of nodes that have newer names: (old, since when, new).
const OLD_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    (
        "beta.kubernetes.io/instance-type",
        "v1.17",
        "node.kubernetes.io/instance-type",
    ),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "v1.17",
        "topology.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "v1.17",
        "topology.kubernetes.io/zone",
    ),
];

/// Annotations that fields have replaced, and what became of them; a name that ends in `/` stands for all below it.
const OLD_ANNOTATIONS: [(&str, &str); 5] = [
    (
        "container.apparmor.security.beta.kubernetes.io/",
        r#"deprecated since v1.30; use the "appArmorProfile" field instead"#,
    ),
    (
        "container.seccomp.security.alpha.kubernetes.io/",
        r#"non-functional in v1.27+; use the "seccompProfile" field instead"#,
    ),
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    (
        "seccomp.security.alpha.kubernetes.io/pod",
        r#"non-functional in v1.27+; use the "seccompProfile" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];

const MATCHES_NOTHING: &str = "a null labelSelector results in matching no pod";

/// Warns of a name that pods will bear in theirs, or in their hostname, and that is no DNS label.
pub fn of_name(metadata: &ObjectMeta, whose: &str, errors: &mut Errors) {
    let name = metadata.name.as_deref().unwrap_or_default();
    let problems = dns1123_label(name);
    if name.is_empty() || problems.is_empty() {
        return;
    }
    let root = Path::root("metadata");
    let text = format!(
        "this is used in {whose}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        problems.join(" ")
    );
    errors.warn(&root.child("name"), text);
}

/// Warns of annotations that mean nothing any more.
pub(crate) fn of_annotations(metadata: &ObjectMeta, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("annotations");
    for key in metadata.annotations.iter().flat_map(BTreeMap::keys) {
        let old = OLD_ANNOTATIONS
            .iter()
            .find(|(old, _)| key == old || old.ends_with('/') && key.starts_with(old));
        if let Some((_, fate)) = old {
            errors.warn(&path.key(key), fate);
        }
    }
}

/// Warns of what a specification most likely does not mean.
pub(super) fn of_spec(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let selector = path.child("nodeSelector");
    for key in spec.node_selector.iter().flat_map(BTreeMap::keys) {
        if let Some((since, new)) = successor(key) {
            let text = format!("deprecated since {since}; use {new:?} instead");
            errors.warn(&selector.key(key), text);
        }
    }
    of_affinity(spec, &path.child("affinity"), errors);
    of_spreading(spec, &path.child("topologySpreadConstraints"), errors);
    let secrets = path.child("imagePullSecrets");
    for (at, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if secret.name.is_empty() {
            let text = "invalid empty name \"\"";
            errors.warn(&secrets.index(at).child("name"), text);
        }
    }
    let volumes = path.child("volumes");
    for (at, volume) in spec.volumes.iter().flatten().enumerate() {
        if volume.git_repo.is_some() {
            let text = "deprecated in v1.11, and disabled by default in v1.33+";
            errors.warn(&volumes.index(at).child("gitRepo"), text);
        }
    }
    if spec
        .termination_grace_period_seconds
        .is_some_and(|grace| grace < 0)
    {
        let text = "must be >= 0; negative values are invalid and will be treated as 1";
        errors.warn(&path.child("terminationGracePeriodSeconds"), text);
    }
    each_container(spec, path, |container, path| {
        of_container(container, path, errors);
    });
}

/// Since when a label of nodes is out of date, and what to use in its place.
fn successor(label: &str) -> Option<(&'static str, &'static str)> {
    let known = OLD_LABELS.iter().find(|(old, _, _)| *old == label);
    known.map(|(_, since, new)| (*since, *new))
}

fn of_old_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some((since, new)) = successor(key) {
        let text = format!("{key} is deprecated since {since}; use {new:?} instead");
        errors.warn(path, text);
    }
}

fn of_affinity(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(affinity) = &spec.affinity else {
        return;
    };
    if let Some(nodes) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &nodes.required_during_scheduling_ignored_during_execution {
            let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
            let path = path.child("nodeSelectorTerms");
            for (at, term) in required.node_selector_terms.iter().enumerate() {
                of_node_term(term, &path.index(at), errors);
            }
        }
        let preferred = nodes
            .preferred_during_scheduling_ignored_during_execution
            .iter();
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (at, weighted) in preferred.flatten().enumerate() {
            let path = path.index(at);
            of_node_term(&weighted.preference, &path.child("preference"), errors);
        }
    }
    if let Some(pods) = &affinity.pod_affinity {
        let required = &pods.required_during_scheduling_ignored_during_execution;
        let preferred = &pods.preferred_during_scheduling_ignored_during_execution;
        of_pod_terms(
            required.as_deref(),
            preferred.as_deref(),
            &path.child("podAffinity"),
            errors,
        );
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let required = &pods.required_during_scheduling_ignored_during_execution;
        let preferred = &pods.preferred_during_scheduling_ignored_during_execution;
        let path = path.child("podAntiAffinity");
        of_pod_terms(required.as_deref(), preferred.as_deref(), &path, errors);
    }
}

fn of_node_term(term: &NodeSelectorTerm, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("matchExpressions");
    for (at, expression) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.index(at);
        of_old_key(&expression.key, &path.child("key"), errors);
    }
}

fn of_pod_terms(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at_required = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (at, term) in required.unwrap_or_default().iter().enumerate() {
        of_pod_term(term, &at_required.index(at), errors);
    }
    let at_preferred = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (at, weighted) in preferred.unwrap_or_default().iter().enumerate() {
        let path = at_preferred.index(at);
        of_pod_term(
            &weighted.pod_affinity_term,
            &path.child("podAffinityTerm"),
            errors,
        );
    }
}

fn of_pod_term(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    of_old_key(&term.topology_key, &path.child("topologyKey"), errors);
    if term.label_selector.is_none() {
        errors.warn(&path.child("labelSelector"), MATCHES_NOTHING);
    }
}

fn of_spreading(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let constraints = spec.topology_spread_constraints.iter().flatten();
    for (at, constraint) in constraints.enumerate() {
        let path = path.index(at);
        of_old_key(&constraint.topology_key, &path.child("topologyKey"), errors);
        if constraint.label_selector.is_none() {
            errors.warn(&path.child("labelSelector"), MATCHES_NOTHING);
        }
    }
}

fn of_container(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("env");
    let mut seen = BTreeMap::new();
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if seen.insert(variable.name.as_str(), index).is_some() {
            let text = format!(
                "hides previous definition of {:?}, which may be dropped when using apply",
                variable.name
            );
            errors.warn(&at.index(index), text);
        }
    }
    let at = path.child("ports");
    let mut seen = BTreeMap::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let host = (port.host_ip.as_deref().unwrap_or_default(), port.host_port);
        let first = *seen
            .entry((port.container_port, protocol, host))
            .or_insert(index);
        if first != index {
            let text = format!("duplicate port definition with {}", at.index(first));
            errors.warn(&at.index(index), text);
        }
    }
    let resources = container.resources.clone().unwrap_or_default();
    let at = path.child("resources");
    for (field, amounts) in [
        ("limits", resources.limits),
        ("requests", resources.requests),
    ] {
        let at = at.child(field);
        for resource in ["memory", "ephemeral-storage"] {
            let amount = amounts.as_ref().and_then(|amounts| amounts.get(resource));
            if let Some(amount) = amount.filter(|amount| is_fractional(&amount.0)) {
                let text = format!(
                    "fractional byte value {:?} is invalid, must be an integer",
                    amount.0
                );
                errors.warn(&at.key(resource), text);
            }
        }
    }
}

fn is_fractional(amount: &str) -> bool {
    // What is no quantity at all is a mistake, of which validation speaks.
    amount
        .parse::<Quantity>()
        .is_ok_and(|quantity| !quantity.is_whole())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of_spec_like(spec: Value) -> Vec<String> {
        let spec: PodSpec = serde_json::from_value(spec).expect("a specification");
        let mut errors = Errors::default();
        of_spec(&spec, &Path::root("spec"), &mut errors);
        assert!(errors.is_empty(), "nothing here is a mistake");
        errors.into_warnings()
    }

    #[test]
    fn old_labels_have_successors_wherever_they_stand() {
        let old = "failure-domain.beta.kubernetes.io/zone";
        let selector = json!({"matchLabels": {"app": "web"}});
        let warnings = of_spec_like(json!({
            "containers": [],
            "nodeSelector": {"beta.kubernetes.io/os": "linux", "disk": "fast"},
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "Exists"}]},
                ]}},
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]},
            },
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": old, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector},
            ],
        }));
        assert_eq!(
            warnings,
            [
                r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#,
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]\
                 .matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \
                 \"kubernetes.io/arch\" instead",
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null \
                 labelSelector results in matching no pod",
                "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated \
                 since v1.17; use \"topology.kubernetes.io/zone\" instead",
            ]
        );
    }

    #[test]
    fn what_is_said_twice_in_a_container_is_told() {
        let warnings = of_spec_like(json!({"containers": [{
            "name": "web",
            "env": [{"name": "A", "value": "1"}, {"name": "B"}, {"name": "A", "value": "2"}],
            "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}, {"name": "w", "containerPort": 80}],
            "resources": {"limits": {"memory": "100m", "cpu": "100m"}},
        }]}));
        assert_eq!(
            warnings,
            [
                r#"spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply"#,
                "spec.containers[0].ports[2]: duplicate port definition with spec.containers[0].ports[0]",
                r#"spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer"#,
            ]
        );
    }

    #[test]
    fn names_that_make_poor_hostnames_are_told() {
        let warnings = |name: &str| {
            let mut errors = Errors::default();
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            };
            of_name(&metadata, "Pod names and hostnames", &mut errors);
            errors.into_warnings()
        };
        assert!(warnings("web-1").is_empty());
        assert_eq!(
            warnings("web.1"),
            [
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS \
                 label is recommended: [must not contain dots]"
            ]
        );
    }
}
