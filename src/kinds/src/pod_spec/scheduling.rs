//! Mistakes in what says where a pod may run: tolerations, affinity, spreading, gates.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use super::spec::{one_of, one_of_if};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::selectors;

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

/// Where the pod wants to be, and near whom.
pub(super) fn validate_affinities(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    if let Some(affinity) = &spec.affinity {
        validate_affinity(affinity, &path.child("affinity"), errors);
    }
}

/// What readiness and scheduling wait for, and how pods are spread.
pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let at_gates = path.child("readinessGates");
    for (at, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let problems = names::qualified_name(&gate.condition_type);
        invalid(
            &at_gates.index(at).child("conditionType"),
            &gate.condition_type,
            problems,
            errors,
        );
    }
    let at_gates = path.child("schedulingGates");
    let mut seen = HashSet::new();
    for (at, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = at_gates.index(at);
        invalid(&path, &gate.name, names::qualified_name(&gate.name), errors);
        if !seen.insert(&gate.name) {
            errors.push(FieldError::duplicate(&path, gate.name.as_str()));
        }
    }
    validate_spread(
        spec.topology_spread_constraints
            .as_deref()
            .unwrap_or_default(),
        &path.child("topologySpreadConstraints"),
        errors,
    );
}

/// Mistakes in tolerations.
pub fn validate_tolerations(tolerations: &[Toleration], path: &Path<'_>, errors: &mut Errors) {
    for (at, toleration) in tolerations.iter().enumerate() {
        validate_toleration(toleration, &path.index(at), errors);
    }
}

fn validate_toleration(toleration: &Toleration, path: &Path<'_>, errors: &mut Errors) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, value, operator) = (
        text(&toleration.key),
        text(&toleration.value),
        text(&toleration.operator),
    );
    let effect = text(&toleration.effect);
    if !key.is_empty() {
        invalid(
            &path.child("key"),
            &key,
            names::qualified_name(&key),
            errors,
        );
    } else if operator != "Exists" {
        const DETAIL: &str = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(
            &path.child("operator"),
            operator.as_str(),
            DETAIL,
        ));
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        const DETAIL: &str = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(
            &path.child("effect"),
            effect.as_str(),
            DETAIL,
        ));
    }
    match operator.as_str() {
        "" | "Equal" => {
            let problems = names::label_value(&value);
            if !problems.is_empty() {
                let at = path.child("operator");
                errors.push(FieldError::invalid(&at, value, problems.join(";")));
            }
        }
        "Exists" if !value.is_empty() => {
            const DETAIL: &str = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(&path.child("operator"), value, DETAIL));
        }
        "Exists" => {}
        other => errors.push(FieldError::not_supported(
            &path.child("operator"),
            other,
            &["Equal", "Exists"],
        )),
    }
    if !effect.is_empty() {
        one_of(Some(&effect), &EFFECTS, &path.child("effect"), errors);
    }
}

fn validate_affinity(affinity: &Affinity, path: &Path<'_>, errors: &mut Errors) {
    if let Some(node) = &affinity.node_affinity {
        validate_node_affinity(node, &path.child("nodeAffinity"), errors);
    }
    let pods = affinity.pod_affinity.as_ref().map(|pods| {
        (
            "podAffinity",
            pods.required_during_scheduling_ignored_during_execution
                .as_deref(),
            pods.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
        )
    });
    let others = affinity.pod_anti_affinity.as_ref().map(|pods| {
        (
            "podAntiAffinity",
            pods.required_during_scheduling_ignored_during_execution
                .as_deref(),
            pods.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
        )
    });
    for (field, required, preferred) in [pods, others].into_iter().flatten() {
        let path = path.child(field);
        validate_pod_terms(
            required.unwrap_or_default(),
            preferred.unwrap_or_default(),
            &path,
            errors,
        );
    }
}

fn validate_weight(weight: i32, path: &Path<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(
            &path.child("weight"),
            weight,
            "must be in the range 1-100",
        ));
    }
}

/// Mistakes in what selects nodes. Every value must be one that a label can have.
pub fn validate_node_selector(selector: &NodeSelector, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        const DETAIL: &str = "must have at least one node selector term";
        errors.push(FieldError::required(&path, DETAIL));
    }
    for (at, term) in selector.node_selector_terms.iter().enumerate() {
        validate_node_term(term, true, &path.index(at), errors);
    }
}

fn validate_node_affinity(affinity: &NodeAffinity, path: &Path<'_>, errors: &mut Errors) {
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        validate_node_selector(required, &path, errors);
    }
    let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    let preferred = affinity
        .preferred_during_scheduling_ignored_during_execution
        .iter()
        .flatten();
    for (at, preferred) in preferred.enumerate() {
        let path = path.index(at);
        validate_weight(preferred.weight, &path, errors);
        let term = &preferred.preference;
        validate_node_term(term, false, &path.child("preference"), errors);
    }
}

/// `strict` looks at the values too. In a preference, one that no label can have is merely met by no node.
fn validate_node_term(term: &NodeSelectorTerm, strict: bool, path: &Path<'_>, errors: &mut Errors) {
    let expressions = path.child("matchExpressions");
    for (at, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = expressions.index(at);
        validate_node_requirement(requirement, &path, errors);
        invalid(
            &path.child("key"),
            &requirement.key,
            names::qualified_name(&requirement.key),
            errors,
        );
        let values = path.child("values");
        let given = requirement.values.iter().flatten().filter(|_| strict);
        for (at, value) in given.enumerate() {
            invalid(&values.index(at), value, names::label_value(value), errors);
        }
    }
    let fields = path.child("matchFields");
    for (at, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = fields.index(at);
        let count = requirement.values.as_ref().map_or(0, Vec::len);
        match requirement.operator.as_str() {
            "In" | "NotIn" if count == 1 => {}
            "In" | "NotIn" => {
                const DETAIL: &str = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(FieldError::required(&path.child("values"), DETAIL));
            }
            other => errors.push(FieldError::invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        if requirement.key != "metadata.name" {
            const DETAIL: &str = "not a valid field selector key";
            let key = requirement.key.as_str();
            errors.push(FieldError::invalid(&path.child("key"), key, DETAIL));
            continue;
        }
        let values = path.child("values");
        for (at, name) in requirement.values.iter().flatten().enumerate() {
            let problems = names::dns1123_subdomain(name);
            invalid(&values.index(at), name, problems, errors);
        }
    }
}

fn validate_node_requirement(
    requirement: &NodeSelectorRequirement,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let values = path.child("values");
    let count = requirement.values.as_ref().map_or(0, Vec::len);
    match (requirement.operator.as_str(), count) {
        ("In" | "NotIn", 0) => {
            errors.push(FieldError::required(
                &values,
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        ("Exists" | "DoesNotExist", 1..) => {
            const DETAIL: &str =
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values, DETAIL));
        }
        ("Gt" | "Lt", 0 | 2..) => {
            const DETAIL: &str = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&values, DETAIL));
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => {}
        (other, _) => {
            errors.push(FieldError::invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            ));
        }
    }
}

fn validate_pod_terms(
    required: &[PodAffinityTerm],
    preferred: &[WeightedPodAffinityTerm],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at_required = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (at, term) in required.iter().enumerate() {
        validate_pod_term(term, &at_required.index(at), errors);
    }
    let at_preferred = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (at, term) in preferred.iter().enumerate() {
        let path = at_preferred.index(at);
        validate_weight(term.weight, &path, errors);
        validate_pod_term(
            &term.pod_affinity_term,
            &path.child("podAffinityTerm"),
            errors,
        );
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    selectors::label_selector(
        term.label_selector.as_ref(),
        &path.child("labelSelector"),
        errors,
    );
    selectors::label_selector(
        term.namespace_selector.as_ref(),
        &path.child("namespaceSelector"),
        errors,
    );
    for namespace in term.namespaces.iter().flatten() {
        // The field's name is spelt like this in upstream's answers.
        invalid(
            &path.child("namespace"),
            namespace,
            names::dns1123_label(namespace),
            errors,
        );
    }
    validate_label_keys(term, path, errors);
    let (key, at) = (term.topology_key.as_str(), path.child("topologyKey"));
    if key.is_empty() {
        errors.push(FieldError::required(&at, "can not be empty"));
    }
    invalid(&at, key, names::qualified_name(key), errors);
}

/// Those labels of which a pod's own values count.
fn validate_label_keys(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    let keys = term.match_label_keys.as_deref().unwrap_or_default();
    let other_keys = term.mismatch_label_keys.as_deref().unwrap_or_default();
    let selector = term.label_selector.as_ref();
    let at = path.child("matchLabelKeys");
    validate_keys(keys, selector, &at, errors);
    validate_keys(
        other_keys,
        selector,
        &path.child("mismatchLabelKeys"),
        errors,
    );
    for (index, key) in named_twice(keys, selector) {
        const DETAIL: &str = "exists in both matchLabelKeys and labelSelector";
        errors.push(FieldError::invalid(&path.index(index), key, DETAIL));
    }
    for (index, key) in keys.iter().enumerate() {
        if other_keys.contains(key) {
            const DETAIL: &str = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(&at.index(index), key.as_str(), DETAIL));
        }
    }
}

fn validate_keys(
    keys: &[String],
    selector: Option<&LabelSelector>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        const DETAIL: &str = "must not be specified when labelSelector is not set";
        errors.push(FieldError::forbidden(path, DETAIL));
        return;
    }
    for (at, key) in keys.iter().enumerate() {
        invalid(&path.index(at), key, names::qualified_name(key), errors);
    }
}

/// The keys of which the selector had an expression before its pod's own value was added to it as another.
fn named_twice<'k>(
    keys: &'k [String],
    selector: Option<&LabelSelector>,
) -> impl Iterator<Item = (usize, &'k str)> {
    let mut named: HashSet<String> = selector
        .iter()
        .flat_map(|selector| selector.match_labels.iter().flatten())
        .map(|(key, _)| key.clone())
        .collect();
    let mut twice = Vec::new();
    let expressions = selector
        .into_iter()
        .flat_map(|selector| selector.match_expressions.iter().flatten());
    for expression in expressions {
        if named.contains(&expression.key)
            && let Some(at) = keys.iter().rposition(|key| *key == expression.key)
        {
            twice.push((at, keys[at].as_str()));
        }
        named.insert(expression.key.clone());
    }
    twice.into_iter()
}

fn validate_spread(constraints: &[TopologySpreadConstraint], path: &Path<'_>, errors: &mut Errors) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let mut seen = HashSet::new();
    for (at, constraint) in constraints.iter().enumerate() {
        let path = path.index(at);
        if constraint.max_skew <= 0 {
            errors.push(FieldError::invalid(
                &path.child("maxSkew"),
                constraint.max_skew,
                "must be greater than zero",
            ));
        }
        if constraint.topology_key.is_empty() {
            errors.push(FieldError::required(
                &path.child("topologyKey"),
                "can not be empty",
            ));
        }
        let action = constraint.when_unsatisfiable.as_str();
        if ACTIONS.contains(&action) {
            if !seen.insert((&constraint.topology_key, action)) {
                let pair = format!("{{{}, {action}}}", constraint.topology_key);
                errors.push(FieldError::duplicate(
                    &path.child("{topologyKey, whenUnsatisfiable}"),
                    pair,
                ));
            }
        } else {
            errors.push(FieldError::not_supported(
                &path.child("whenUnsatisfiable"),
                action,
                &ACTIONS,
            ));
        }
        validate_spread_details(constraint, &path, errors);
    }
}

fn validate_spread_details(
    constraint: &TopologySpreadConstraint,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const POLICIES: [&str; 2] = ["Honor", "Ignore"];
    if let Some(domains) = constraint.min_domains {
        let path = path.child("minDomains");
        if domains <= 0 {
            const DETAIL: &str = "must be greater than zero";
            errors.push(FieldError::invalid(&path, domains, DETAIL));
        }
        let action = constraint.when_unsatisfiable.as_str();
        if action != "DoNotSchedule" {
            let detail =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.push(FieldError::invalid(&path, domains, detail));
        }
    }
    for (field, policy) in [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ] {
        one_of_if(policy.as_deref(), &POLICIES, &path.child(field), errors);
    }
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    let selector = constraint.label_selector.as_ref();
    let at = path.child("matchLabelKeys");
    validate_keys(keys, selector, &at, errors);
    for (index, key) in named_twice(keys, selector) {
        const DETAIL: &str = "exists in both matchLabelKeys and labelSelector";
        errors.push(FieldError::invalid(&at.index(index), key, DETAIL));
    }
    selectors::label_selector(selector, &path.child("labelSelector"), errors);
}
