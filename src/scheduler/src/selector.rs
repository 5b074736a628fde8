//! Selectors made ready: of pods by labels ([`Selector`]), of pods in certain namespaces ([`Target`]), of nodes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// What a label must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// Picks objects by their labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) enum Selector {
    /// No object: what a selector that is not given picks.
    #[default]
    Nothing,
    /// Every object that meets all of these. An empty list picks every object.
    All(Vec<Requirement>),
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Requirement {
    key: String,
    test: Test,
}

impl Requirement {
    fn is_met(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.contains(value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
        }
    }
}

impl Selector {
    /// Reads a selector. One with an operator that does not exist picks nothing; the API server lets none in.
    pub(crate) fn of(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else {
            return Self::Nothing;
        };
        let mut all = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            all.push(Requirement {
                key: key.clone(),
                test: Test::In(vec![value.clone()]),
            });
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = || expression.values.clone().unwrap_or_default();
            let test = match expression.operator.as_str() {
                "In" => Test::In(values()),
                "NotIn" => Test::NotIn(values()),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                _ => return Self::Nothing,
            };
            all.push(Requirement {
                key: expression.key.clone(),
                test,
            });
        }
        Self::All(all)
    }

    /// Picks what has all of these labels.
    pub(crate) fn of_labels(labels: &Labels) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            test: Test::In(vec![value.clone()]),
        };
        Self::All(labels.iter().map(equals).collect())
    }

    /// Asks in addition that these labels are (or are not) as they are in `own`. Labels that `own` lacks are passed
    /// over. Asking twice is asking once, so that it does not matter whether the API server has done it already.
    fn like(&mut self, own: &Labels, keys: Option<&Vec<String>>, same: bool) {
        let Self::All(all) = self else { return };
        for key in keys.into_iter().flatten() {
            if let Some(value) = own.get(key) {
                let values = vec![value.clone()];
                let test = if same {
                    Test::In(values)
                } else {
                    Test::NotIn(values)
                };
                all.push(Requirement {
                    key: key.clone(),
                    test,
                });
            }
        }
    }

    /// The same, for the labels of `matchLabelKeys`.
    pub(crate) fn alike(mut self, own: &Labels, keys: Option<&Vec<String>>) -> Self {
        self.like(own, keys, true);
        self
    }

    /// The same, for the labels of `mismatchLabelKeys`.
    fn unlike(mut self, own: &Labels, keys: Option<&Vec<String>>) -> Self {
        self.like(own, keys, false);
        self
    }

    /// Whether an object with these labels is picked.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::Nothing => false,
            Self::All(all) => all.iter().all(|requirement| requirement.is_met(labels)),
        }
    }
}

/// The pods that an affinity term is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// Pods of these namespaces.
    pub(crate) namespaces: Vec<String>,
    /// And of those whose labels it picks.
    pub(crate) namespace_selector: Selector,
    pub(crate) selector: Selector,
}

impl Target {
    fn of(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        Self {
            namespaces,
            namespace_selector: Selector::of(term.namespace_selector.as_ref()),
            selector: Selector::of(term.label_selector.as_ref())
                .alike(labels, term.match_label_keys.as_ref())
                .unlike(labels, term.mismatch_label_keys.as_ref()),
        }
    }
}

/// A term of inter-pod affinity or anti-affinity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    pub(crate) target: Target,
    pub(crate) topology_key: String,
}

impl Term {
    /// Reads a term of a pod with these labels in `namespace`.
    pub(crate) fn of(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        Self {
            target: Target::of(term, namespace, labels),
            topology_key: term.topology_key.clone(),
        }
    }
}

/// Whether any of the terms matches a node with this name and these labels. A term that says nothing matches nothing.
pub(crate) fn node_matches(selector: &NodeSelector, name: &str, labels: &Labels) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| node_term_matches(term, name, labels))
}

/// Whether all expressions and fields of a term match. `metadata.name` is the only field there is.
pub(crate) fn node_term_matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions
        .iter()
        .all(|it| is_met(it, labels.get(&it.key).map(String::as_str)))
        && fields
            .iter()
            .all(|it| it.key == "metadata.name" && is_met(it, Some(name)))
}

fn is_met(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
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
    use serde_json::{Value, json};

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn selector(json: Value) -> Selector {
        Selector::of(Some(&serde_json::from_value(json).unwrap()))
    }

    #[test]
    fn no_selector_picks_nothing_and_an_empty_one_everything() {
        assert!(!Selector::of(None).matches(&labels(&[])));
        assert!(selector(json!({})).matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn all_requirements_must_be_met() {
        let picks = selector(json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["test"]},
                {"key": "zone", "operator": "Exists"},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }));
        assert!(picks.matches(&labels(&[("app", "web"), ("zone", "x")])));
        for bad in [
            labels(&[("app", "db"), ("zone", "x")]),
            labels(&[("app", "web"), ("zone", "x"), ("tier", "test")]),
            labels(&[("app", "web")]),
            labels(&[("app", "web"), ("zone", "x"), ("old", "")]),
        ] {
            assert!(!picks.matches(&bad), "{bad:?}");
        }
    }

    #[test]
    fn a_term_is_about_its_own_namespace_unless_it_says_otherwise() {
        let term = |json: Value| {
            Term::of(
                &serde_json::from_value(json).unwrap(),
                "shop",
                &labels(&[("v", "1")]),
            )
            .target
        };
        let own = term(json!({"topologyKey": "k", "labelSelector": {}}));
        assert_eq!(own.namespaces, ["shop"]);
        let other = term(json!({"topologyKey": "k", "namespaces": ["a"], "labelSelector": {}}));
        assert_eq!(other.namespaces, ["a"]);
        let every = term(json!({"topologyKey": "k", "namespaceSelector": {}, "labelSelector": {}}));
        assert!(every.namespaces.is_empty());
        assert!(every.namespace_selector.matches(&labels(&[])));
        let keyed = term(
            json!({"topologyKey": "k", "labelSelector": {}, "matchLabelKeys": ["v", "absent"]}),
        );
        assert!(keyed.selector.matches(&labels(&[("v", "1")])));
        assert!(!keyed.selector.matches(&labels(&[("v", "2")])));
        let unlike =
            term(json!({"topologyKey": "k", "labelSelector": {}, "mismatchLabelKeys": ["v"]}));
        assert!(!unlike.selector.matches(&labels(&[("v", "1")])));
        assert!(unlike.selector.matches(&labels(&[("v", "2")])));
    }

    #[test]
    fn node_terms_are_alternatives_of_conjunctions() {
        let node = labels(&[("zone", "x"), ("cores", "8")]);
        let wants = |terms: Value| {
            let selector = serde_json::from_value(json!({"nodeSelectorTerms": terms})).unwrap();
            node_matches(&selector, "a", &node)
        };
        let expressions = |all: Value| json!({"matchExpressions": all});
        assert!(wants(json!([expressions(json!([
            {"key": "zone", "operator": "In", "values": ["x", "y"]},
            {"key": "cores", "operator": "Gt", "values": ["4"]},
        ]))])));
        assert!(!wants(json!([expressions(json!([
            {"key": "zone", "operator": "In", "values": ["x"]},
            {"key": "cores", "operator": "Lt", "values": ["4"]},
        ]))])));
        assert!(wants(json!([
            expressions(json!([{"key": "zone", "operator": "NotIn", "values": ["x"]}])),
            expressions(json!([{"key": "gpu", "operator": "DoesNotExist"}])),
        ])));
        assert!(
            !wants(json!([{}])),
            "a term that says nothing matches nothing"
        );
        let by_name = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
        assert!(wants(json!([{"matchFields": [by_name]}])));
    }
}
