//! Which objects a quota is about.

use serde_json::Value;

use super::{Counted, pod};
use crate::{Object, meta};

/// A quota without scopes is about everything; each scope narrows it down.
pub(super) fn match_all(quota: &Object, counted: &Counted<'_>) -> bool {
    let plain = meta::at(quota, &["spec", "scopes"]).and_then(Value::as_array);
    let chosen = meta::at(quota, &["spec", "scopeSelector", "matchExpressions"]);
    let plain = plain.into_iter().flatten().filter_map(Value::as_str);
    let chosen = chosen.and_then(Value::as_array).into_iter().flatten();
    plain
        .map(|scope| (scope, "Exists", &[][..]))
        .chain(chosen.map(|expression| {
            let text = |field: &str| expression[field].as_str().unwrap_or_default();
            let values = expression["values"]
                .as_array()
                .map_or(&[][..], Vec::as_slice);
            (text("scopeName"), text("operator"), values)
        }))
        .all(|(scope, operator, values)| matches(scope, operator, values, counted))
}

fn matches(scope: &str, operator: &str, values: &[Value], counted: &Counted<'_>) -> bool {
    let object = counted.object;
    if counted.is_core("persistentvolumeclaims") && scope == "VolumeAttributesClass" {
        let wanted = meta::at(object, &["spec", "volumeAttributesClassName"]);
        let present = meta::at(object, &["status", "currentVolumeAttributesClassName"]);
        let mut classes = [wanted, present].into_iter().flatten().peekable();
        return match classes.peek() {
            None => chosen(None, operator, values),
            Some(_) => classes.any(|class| chosen(class.as_str(), operator, values)),
        };
    }
    if !counted.is_core("pods") {
        return false;
    }
    let spec = |field| meta::at(object, &["spec", field]);
    let deadline = || spec("activeDeadlineSeconds").and_then(Value::as_i64);
    match scope {
        "Terminating" => deadline().is_some(),
        "NotTerminating" => deadline().is_none(),
        "BestEffort" => pod::is_best_effort(object),
        "NotBestEffort" => !pod::is_best_effort(object),
        "PriorityClass" => {
            let class = spec("priorityClassName").and_then(Value::as_str);
            chosen(class.filter(|class| !class.is_empty()), operator, values)
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(spec("affinity")),
        _ => false,
    }
}

fn chosen(name: Option<&str>, operator: &str, values: &[Value]) -> bool {
    let listed = |name: &str| values.iter().any(|value| value == name);
    match operator {
        "Exists" => name.is_some(),
        "DoesNotExist" => name.is_none(),
        "In" => name.is_some_and(listed),
        "NotIn" => !name.is_some_and(listed),
        _ => false,
    }
}

/// Whether any term, wanted or required, is about the pods of other namespaces.
fn crosses_namespaces(affinity: Option<&Value>) -> bool {
    let Some(affinity) = affinity else {
        return false;
    };
    let crosses = |term: &Value| {
        let named = term["namespaces"].as_array();
        named.is_some_and(|names| !names.is_empty()) || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].into_iter().any(|side| {
        let list = |field: &str| {
            affinity[side][field]
                .as_array()
                .map_or(&[][..], Vec::as_slice)
        };
        list("requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .any(crosses)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|term| crosses(&term["podAffinityTerm"]))
    })
}
