//! The flow schemas and priority levels that every cluster has, with a specification that nobody may change: `exempt`, for
//! what must always get through, and `catch-all`, for what no other schema is about.

use serde_json::{Value, json};

/// What the two kinds have in common here.
const NAMES: [&str; 2] = ["exempt", "catch-all"];

fn rules(groups: &[&str]) -> Value {
    let subject = |group: &&str| json!({"kind": "Group", "group": {"name": group}});
    json!([{
        "subjects": groups.iter().map(subject).collect::<Vec<_>>(),
        "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]},
        ],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }])
}

/// The specification of a mandatory `FlowSchema`.
pub(super) fn flow_schema_spec(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1,
            "rules": rules(&["system:masters"]),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"}, "matchingPrecedence": 10_000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": rules(&["system:unauthenticated", "system:authenticated"]),
        })),
        _ => None,
    }
}

/// The specification of a mandatory `PriorityLevelConfiguration`.
pub(super) fn priority_level_spec(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({
            "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
        })),
        "catch-all" => Some(json!({
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}},
        })),
        _ => None,
    }
}

fn objects(kind: &str, spec: fn(&str) -> Option<Value>) -> Vec<Value> {
    let object = |name: &&str| {
        Some(json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "spec": spec(name)?,
            "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        }))
    };
    NAMES.iter().filter_map(object).collect()
}

/// The `FlowSchema` objects that a new cluster starts with at least.
pub fn flow_schemas() -> Vec<Value> {
    objects("FlowSchema", flow_schema_spec)
}

/// The `PriorityLevelConfiguration` objects that a new cluster starts with at least.
pub fn priority_levels() -> Vec<Value> {
    objects("PriorityLevelConfiguration", priority_level_spec)
}
