//! Which nodes can take a pod, and the sentence that says why none can.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration,
};

use crate::{
    cluster::{Cluster, NodeInfo},
    pod::{HostPort, Needs},
};

/// Why a node cannot take a pod. Displayed in the words of upstream's messages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Refusal<'a> {
    /// It is cordoned.
    Unschedulable,
    /// It has a taint that the pod does not tolerate.
    Taint(&'a Taint),
    /// The pod does not select it.
    NotSelected,
    /// Another pod has a port of the host that this one wants.
    PortTaken,
    /// It has as many pods as it can have.
    TooManyPods,
    /// Not enough is left of this resource.
    Insufficient(&'a str),
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint(Taint { key, value, .. }) => {
                write!(
                    f,
                    "node(s) had untolerated taint {{{key}: {}}}",
                    value.as_deref().unwrap_or_default()
                )
            }
            Self::NotSelected => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::PortTaken => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
        }
    }
}

/// Whether `node` can take a pod with these needs.
pub(crate) fn fits(needs: &Needs, node: &NodeInfo) -> bool {
    refusals(needs, node).next().is_none()
}

/// Everything that keeps `needs` off `node`; nothing if it fits. Checks after the first that fails are left out,
/// except for resources, where all that lack are named.
pub(crate) fn refusals<'a>(
    needs: &'a Needs,
    node: &'a NodeInfo,
) -> impl Iterator<Item = Refusal<'a>> {
    let refusal = first_refusal(needs, node);
    let lacking = refusal.is_none().then(|| lacking(needs, node));
    refusal.into_iter().chain(lacking.into_iter().flatten())
}

fn first_refusal<'a>(needs: &Needs, node: &'a NodeInfo) -> Option<Refusal<'a>> {
    if node.unschedulable
        && !needs
            .tolerations
            .iter()
            .any(|it| tolerates(it, &unschedulable_taint()))
    {
        return Some(Refusal::Unschedulable);
    }
    if let Some(taint) = untolerated(needs, node) {
        return Some(Refusal::Taint(taint));
    }
    if !selected(needs, node) {
        return Some(Refusal::NotSelected);
    }
    let is_taken = |port: &HostPort| node.held.ports.iter().any(|held| held.conflicts(port));
    needs
        .host_ports
        .iter()
        .any(is_taken)
        .then_some(Refusal::PortTaken)
}

fn lacking<'a>(needs: &'a Needs, node: &NodeInfo) -> impl Iterator<Item = Refusal<'a>> {
    let too_many = node.held.pods >= node.max_pods;
    let resources = node
        .allocatable
        .lacking(&node.held.requested, &needs.requested);
    too_many
        .then_some(Refusal::TooManyPods)
        .into_iter()
        .chain(resources.map(Refusal::Insufficient))
}

/// The message for a pod that fits nowhere: `0/N nodes are available: 1 Insufficient cpu, 2 ....`
pub(crate) fn message(needs: &Needs, cluster: &Cluster) -> String {
    let nodes = cluster.nodes();
    let total = nodes.len();
    if total == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut counts = BTreeMap::<String, usize>::new();
    for node in nodes {
        for refusal in refusals(needs, node) {
            *counts.entry(refusal.to_string()).or_default() += 1;
        }
    }
    let mut reasons: Vec<_> = counts
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    reasons.sort();
    format!("0/{total} nodes are available: {}.", reasons.join(", "))
}

/// What cordoning stands for, so that a toleration can name it.
fn unschedulable_taint() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

fn untolerated<'n>(needs: &Needs, node: &'n NodeInfo) -> Option<&'n Taint> {
    node.taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| {
            !needs
                .tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
}

/// Whether `toleration` covers `taint`. An empty effect covers all effects; an empty key with `Exists` all taints.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    match given(&toleration.key) {
        None => exists,
        Some(key) if key != taint.key => false,
        Some(_) if exists => true,
        Some(_) => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
    }
}

fn selected(needs: &Needs, node: &NodeInfo) -> bool {
    needs
        .node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value))
        && needs
            .required
            .as_ref()
            .is_none_or(|selector| selects(selector, node))
}

/// Whether any of the terms matches. A term that says nothing matches nothing.
fn selects(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| term_matches(term, node))
}

/// Whether all expressions and fields of a term match. `metadata.name` is the only field there is.
pub(crate) fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions
        .iter()
        .all(|it| requirement_met(it, node.labels.get(&it.key).map(String::as_str)))
        && fields
            .iter()
            .all(|it| it.key == "metadata.name" && requirement_met(it, Some(&node.name)))
}

fn requirement_met(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|one| one == value);
    let numbers = || {
        Some((
            value?.parse::<i64>().ok()?,
            values.first()?.parse::<i64>().ok()?,
        ))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::tests::{key, needs, node};

    fn said(needs: &Needs, node: &NodeInfo) -> Vec<String> {
        refusals(needs, node)
            .map(|refusal| refusal.to_string())
            .collect()
    }

    fn cluster(nodes: &[(&str, u32, u32)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, cpu, pods) in nodes {
            cluster.set_node(&node(name, *cpu, *pods));
        }
        cluster
    }

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            value: Some(value.to_owned()),
            effect: effect.to_owned(),
            ..Taint::default()
        }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        Toleration {
            key: Some(key.to_owned()),
            operator: Some(operator.to_owned()),
            value: Some(value.to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        }
    }

    #[test]
    fn the_message_counts_reasons_over_all_nodes() {
        let mut cluster = cluster(&[("a", 100, 10), ("b", 100, 10), ("c", 4000, 1)]);
        cluster.place(key("other"), "c", Arc::new(needs(10)));
        assert_eq!(
            message(&needs(500), &cluster),
            "0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu."
        );
        assert_eq!(
            message(&needs(1), &Cluster::default()),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn cordoned_nodes_take_only_who_tolerates_it() {
        let mut info = cluster(&[("a", 1000, 10)]).nodes().next().unwrap().clone();
        info.unschedulable = true;
        assert_eq!(said(&needs(1), &info), ["node(s) were unschedulable"]);
        let daemon = Needs {
            tolerations: vec![toleration(
                "node.kubernetes.io/unschedulable",
                "Exists",
                "",
                "NoSchedule",
            )],
            ..needs(1)
        };
        assert!(fits(&daemon, &info));
    }

    #[test]
    fn taints_keep_out_who_does_not_tolerate_them() {
        let mut info = cluster(&[("a", 1000, 10)]).nodes().next().unwrap().clone();
        info.taints = vec![
            taint("soft", "", "PreferNoSchedule"),
            taint("gpu", "yes", "NoSchedule"),
        ];
        assert_eq!(
            said(&needs(1), &info),
            ["node(s) had untolerated taint {gpu: yes}"]
        );
        for good in [
            toleration("gpu", "Equal", "yes", "NoSchedule"),
            toleration("gpu", "Exists", "", ""),
            toleration("", "Exists", "", ""),
        ] {
            let tolerant = Needs {
                tolerations: vec![good],
                ..needs(1)
            };
            assert!(fits(&tolerant, &info));
        }
        for bad in [
            toleration("gpu", "Equal", "no", ""),
            toleration("gpu", "Exists", "", "NoExecute"),
            toleration("", "", "", ""),
        ] {
            let intolerant = Needs {
                tolerations: vec![bad],
                ..needs(1)
            };
            assert!(!fits(&intolerant, &info));
        }
    }

    #[test]
    fn affinity_terms_are_alternatives_of_conjunctions() {
        let mut info = cluster(&[("a", 1000, 10)]).nodes().next().unwrap().clone();
        info.labels = BTreeMap::from([
            ("zone".to_owned(), "x".to_owned()),
            ("cores".to_owned(), "8".to_owned()),
        ]);
        let requirement = |key: &str, operator: &str, values: &[&str]| NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(ToString::to_string).collect()),
        };
        let term = |all: Vec<NodeSelectorRequirement>| NodeSelectorTerm {
            match_expressions: Some(all),
            ..NodeSelectorTerm::default()
        };
        let wants = |terms: Vec<NodeSelectorTerm>| {
            let needs = Needs {
                required: Some(NodeSelector {
                    node_selector_terms: terms,
                }),
                ..needs(1)
            };
            fits(&needs, &info)
        };
        assert!(wants(vec![term(vec![
            requirement("zone", "In", &["x", "y"]),
            requirement("cores", "Gt", &["4"])
        ])]));
        assert!(!wants(vec![term(vec![
            requirement("zone", "In", &["x"]),
            requirement("cores", "Lt", &["4"])
        ])]));
        assert!(wants(vec![
            term(vec![requirement("zone", "NotIn", &["x"])]),
            term(vec![requirement("gpu", "DoesNotExist", &[])])
        ]));
        assert!(
            !wants(vec![term(vec![])]),
            "a term that says nothing matches nothing"
        );
        let by_name = NodeSelectorTerm {
            match_fields: Some(vec![requirement("metadata.name", "In", &["a"])]),
            ..NodeSelectorTerm::default()
        };
        assert!(wants(vec![by_name]));
    }

    proptest! {
        /// A node takes pods as long as they fit, and only then; and what goes makes room again.
        #[test]
        fn a_node_is_filled_but_never_overfilled(
            cpu in 0..2000u32,
            pods in 0..6u32,
            wanted in prop::collection::vec(0..900u32, 0..10),
        ) {
            let mut cluster = cluster(&[("a", cpu, pods)]);
            let info = |cluster: &Cluster| cluster.nodes().next().unwrap().clone();
            let mut placed = Vec::new();
            for (number, wants) in wanted.into_iter().enumerate() {
                let pod = needs(wants);
                let used: u32 = placed.iter().map(|(_, wants)| *wants).sum();
                let room = placed.len() < pods as usize && (wants == 0 || used + wants <= cpu);
                prop_assert_eq!(fits(&pod, &info(&cluster)), room);
                if room {
                    let name = number.to_string();
                    cluster.place(key(&name), "a", Arc::new(pod));
                    placed.push((name, wants));
                }
            }
            for (name, wants) in placed {
                cluster.remove(&key(&name));
                prop_assert!(fits(&needs(wants), &info(&cluster)));
            }
        }
    }
}
