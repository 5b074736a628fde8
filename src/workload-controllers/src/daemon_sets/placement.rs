//! Which nodes a daemon set's pods belong on.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, Taint, Toleration,
};
use kube::ResourceExt as _;
use vaquita_api::selector::{LabelSelector as Selector, Operator, Requirement};

use vaquita_reconcile::pods;

/// The one field of a node that affinities may name.
const NAME_FIELD: &str = "metadata.name";
/// What daemons put up with: they are what makes nodes ready, and they belong to a node for as long as there is one.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// What those on the host's network put up with besides: they may be what makes the pods' network.
const TOLERATED_ON_HOST: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Where a node stands with a daemon set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It should have a pod.
    Run,
    /// It gets none, and keeps what it has.
    Keep,
    /// It should have none.
    Leave,
}

/// Whether a pod of this template belongs on the node.
pub(super) fn judge(template: &PodSpec, node: &Node) -> Verdict {
    let name = node.name_any();
    let elsewhere = template
        .node_name
        .as_ref()
        .is_some_and(|wanted| !wanted.is_empty() && *wanted != name);
    let selector = Selector::from_map(template.node_selector.iter().flatten());
    if elsewhere || !selector.matches(node.labels()) || !is_wanted_by_affinity(template, node) {
        return Verdict::Leave;
    }
    let mut tolerations = template.tolerations.clone().unwrap_or_default();
    tolerations.extend(added_tolerations(template));
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let minded: BTreeSet<&str> = taints
        .into_iter()
        .flatten()
        .filter(|taint| {
            !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
        .map(|taint| taint.effect.as_str())
        .collect();
    if minded.contains("NoExecute") {
        Verdict::Leave
    } else if minded.contains("NoSchedule") {
        Verdict::Keep
    } else {
        Verdict::Run
    }
}

/// Binds a new pod to a node: by affinity, so that the scheduler still has a say, and with the tolerations of daemons.
pub(super) fn pin(spec: &mut PodSpec, node: &str) {
    let added = added_tolerations(spec);
    let tolerations = spec.tolerations.get_or_insert_default();
    for toleration in added {
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    let this_one = NodeSelectorTerm {
        match_expressions: None,
        match_fields: Some(vec![NodeSelectorRequirement {
            key: NAME_FIELD.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
    };
    // In place of what was required: it has been looked at already.
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![this_one],
    });
}

/// The node that a pod is on, or is meant for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pods::node_name(pod).or_else(|| {
        let terms = required(pod.spec.as_ref()?)?;
        let mut fields = terms
            .iter()
            .flat_map(|term| term.match_fields.iter().flatten());
        let field = fields.find(|field| field.key == NAME_FIELD && field.operator == "In")?;
        field.values.as_ref()?.first().map(String::as_str)
    })
}

fn required(spec: &PodSpec) -> Option<&Vec<NodeSelectorTerm>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    Some(&required.node_selector_terms)
}

/// Any of the terms will do.
fn is_wanted_by_affinity(template: &PodSpec, node: &Node) -> bool {
    required(template).is_none_or(|terms| terms.iter().any(|term| fits(term, node)))
}

/// All of a term must hold; an empty term matches nothing.
fn fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.name_any();
    let names = |field: &NodeSelectorRequirement| {
        field.values.as_ref().is_some_and(|all| all.contains(&name))
    };
    expressions.iter().all(|expression| {
        requirement(expression).is_some_and(|requirement| requirement.matches(node.labels()))
    }) && fields.iter().all(
        |field| match (field.key.as_str(), field.operator.as_str()) {
            (NAME_FIELD, "In") => names(field),
            (NAME_FIELD, "NotIn") => !names(field),
            _ => false,
        },
    )
}

fn requirement(expression: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match expression.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    let values = expression.values.iter().flatten().cloned();
    Requirement::new(&expression.key, operator, values).ok()
}

fn added_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let on_host = spec.host_network == Some(true);
    let all = TOLERATED
        .into_iter()
        .chain(on_host.then_some(TOLERATED_ON_HOST));
    all.map(|(key, effect)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    })
    .collect()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => text(&toleration.value) == text(&taint.value),
    };
    value && (key.is_empty() || key == taint.key) && (effect.is_empty() || effect == taint.effect)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(labels: &Value, taints: &Value) -> Node {
        let node =
            json!({ "metadata": { "name": "n1", "labels": labels }, "spec": { "taints": taints } });
        serde_json::from_value(node).unwrap()
    }

    fn spec(spec: &Value) -> PodSpec {
        let mut all = json!({ "containers": [] });
        all.as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn taints_keep_new_pods_away_or_drive_all_out() {
        let taint = |key: &str, effect: &str| json!([{ "key": key, "effect": effect }]);
        let any = spec(&json!({}));
        let verdict = |spec: &PodSpec, key: &str, effect: &str| {
            judge(spec, &node(&json!({}), &taint(key, effect)))
        };
        assert_eq!(verdict(&any, "mine", "NoSchedule"), Verdict::Keep);
        assert_eq!(verdict(&any, "mine", "NoExecute"), Verdict::Leave);
        assert_eq!(verdict(&any, "mine", "PreferNoSchedule"), Verdict::Run);
        assert_eq!(
            verdict(&any, "node.kubernetes.io/not-ready", "NoExecute"),
            Verdict::Run
        );
        let network = "node.kubernetes.io/network-unavailable";
        assert_eq!(verdict(&any, network, "NoSchedule"), Verdict::Keep);
        let on_host = spec(&json!({ "hostNetwork": true }));
        assert_eq!(verdict(&on_host, network, "NoSchedule"), Verdict::Run);
        let bold = spec(&json!({ "tolerations": [{ "operator": "Exists" }] }));
        assert_eq!(verdict(&bold, "mine", "NoExecute"), Verdict::Run);
    }

    #[test]
    fn selectors_and_affinities_choose_nodes() {
        let plain = node(&json!({ "disk": "ssd", "cores": "8" }), &json!([]));
        let affinity = |term: &Value| {
            spec(&json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] },
            } } }))
        };
        for (template, expected) in [
            (
                spec(&json!({ "nodeSelector": { "disk": "ssd" } })),
                Verdict::Run,
            ),
            (
                spec(&json!({ "nodeSelector": { "disk": "tape" } })),
                Verdict::Leave,
            ),
            (spec(&json!({ "nodeName": "n2" })), Verdict::Leave),
            (
                affinity(
                    &json!({ "matchExpressions": [{ "key": "cores", "operator": "Gt", "values": ["4"] }] }),
                ),
                Verdict::Run,
            ),
            (
                affinity(
                    &json!({ "matchExpressions": [{ "key": "disk", "operator": "DoesNotExist" }] }),
                ),
                Verdict::Leave,
            ),
            (
                affinity(
                    &json!({ "matchFields": [{ "key": NAME_FIELD, "operator": "NotIn", "values": ["n1"] }] }),
                ),
                Verdict::Leave,
            ),
            (affinity(&json!({})), Verdict::Leave),
        ] {
            assert_eq!(judge(&template, &plain), expected, "{template:?}");
        }
    }

    #[test]
    fn a_pinned_pod_is_of_its_node() {
        let mut pod = Pod {
            spec: Some(spec(&json!({}))),
            ..Pod::default()
        };
        assert_eq!(node_of(&pod), None);
        pin(pod.spec.as_mut().unwrap(), "n1");
        assert_eq!(node_of(&pod), Some("n1"));
        assert_eq!(
            pod.spec
                .as_ref()
                .unwrap()
                .tolerations
                .as_ref()
                .unwrap()
                .len(),
            6
        );
        assert_eq!(
            judge(pod.spec.as_ref().unwrap(), &node(&json!({}), &json!([]))),
            Verdict::Run
        );
    }
}
