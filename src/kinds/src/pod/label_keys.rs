//! `matchLabelKeys` and `mismatchLabelKeys`: labels of which the pod's own values are what counts.
//!
//! Whoever schedules the pod need not know of them: each becomes an expression of the selector beside it, with the pod's
//! value, when the pod is created. A rolling update can so spread the pods of each revision apart.

use serde_json::{Map, Value, json};

use vaquita_api::{Object, meta};

/// Adds the expressions to affinities and spread constraints.
pub(super) fn merge(pod: &mut Object) {
    let labels = meta::at(pod, &["metadata", "labels"]).and_then(Value::as_object);
    let labels = labels.cloned().unwrap_or_default();
    let Some(Value::Object(spec)) = pod.get_mut("spec") else {
        return;
    };
    let affinity = spec.get_mut("affinity").and_then(Value::as_object_mut);
    for (_, terms) in affinity
        .into_iter()
        .flatten()
        .filter(|(kind, _)| matches!(kind.as_str(), "podAffinity" | "podAntiAffinity"))
    {
        const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
        const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
        each(terms.get_mut(REQUIRED), |term| add(term, &labels));
        each(terms.get_mut(PREFERRED), |weighted| {
            if let Some(Value::Object(term)) = weighted.get_mut("podAffinityTerm") {
                add(term, &labels);
            }
        });
    }
    each(spec.get_mut("topologySpreadConstraints"), |constraint| {
        add(constraint, &labels);
    });
}

fn each(list: Option<&mut Value>, change: impl Fn(&mut Object)) {
    let items = list.and_then(Value::as_array_mut).into_iter().flatten();
    items.filter_map(Value::as_object_mut).for_each(change);
}

fn add(term: &mut Object, labels: &Map<String, Value>) {
    let mut expressions = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = term.get(field).and_then(Value::as_array);
        for key in keys.into_iter().flatten().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    // Without a selector, the keys are a mistake that validation tells.
    if let (false, Some(Value::Object(selector))) =
        (expressions.is_empty(), term.get_mut("labelSelector"))
    {
        let list = selector.entry("matchExpressions").or_insert(json!([]));
        if let Value::Array(list) = list {
            list.extend(expressions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::object;

    #[test]
    fn become_expressions_with_the_pods_values() {
        let mut pod = object(json!({
            "metadata": {"labels": {"rev": "7", "zone": "a"}},
            "spec": {
                "topologySpreadConstraints": [{"matchLabelKeys": ["rev", "gone"], "labelSelector": {}}],
                "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"podAffinityTerm": {"mismatchLabelKeys": ["zone"], "labelSelector": {"matchLabels": {"a": "b"}}}},
                    {"podAffinityTerm": {"mismatchLabelKeys": ["zone"]}},
                ]}},
            },
        }));
        merge(&mut pod);
        let spec = &pod["spec"];
        assert_eq!(
            spec["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "rev", "operator": "In", "values": ["7"]}]})
        );
        let terms =
            &spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(
            terms[0]["podAffinityTerm"]["labelSelector"]["matchExpressions"],
            json!([{"key": "zone", "operator": "NotIn", "values": ["a"]}])
        );
        assert_eq!(terms[1]["podAffinityTerm"].get("labelSelector"), None);
    }
}
