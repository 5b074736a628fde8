//! The class of service of a pod, which follows from what its containers request and are limited to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;

use vaquita_api::quantity::Quantity;
use vaquita_api::{Object, meta};

/// The two resources that the class depends on.
const COUNTED: [&str; 2] = ["cpu", "memory"];

/// The class of a pod of this specification.
pub(super) fn of_spec(spec: &PodSpec) -> &'static str {
    match serde_json::json!({"spec": spec}) {
        Value::Object(pod) => class(&pod),
        _ => "BestEffort",
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn class(pod: &Object) -> &'static str {
    if let Some(resources) = meta::at(pod, &["spec", "resources"]) {
        return class_of(std::iter::once(resources));
    }
    let list = |field| {
        meta::at(pod, &["spec", field])
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    class_of(
        list("containers")
            .chain(list("initContainers"))
            .map(|container| &container["resources"]),
    )
}

fn class_of<'r>(all: impl Iterator<Item = &'r Value>) -> &'static str {
    let (mut requests, mut limits) = (Totals::default(), Totals::default());
    let mut all_limited = true;
    for resources in all {
        requests.add(&resources["requests"]);
        let limited = limits.add(&resources["limits"]);
        all_limited &= limited == COUNTED.len();
    }
    if requests.0.is_empty() && limits.0.is_empty() {
        "BestEffort"
    } else if all_limited && requests.0 == limits.0 {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[derive(Default)]
struct Totals(BTreeMap<&'static str, Quantity>);

impl Totals {
    /// Adds up what is above zero, and says how many resources that were.
    fn add(&mut self, list: &Value) -> usize {
        let mut found = 0;
        for name in COUNTED {
            let quantity: Option<Quantity> = list[name].as_str().and_then(|text| text.parse().ok());
            if let Some(quantity) = quantity.filter(|quantity| *quantity > Quantity::ZERO) {
                let total = self.0.entry(name).or_insert(Quantity::ZERO);
                *total = *total + quantity;
                found += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_follow_from_resources() {
        let class_of = |resources: Value| {
            let pod = json!({"spec": {"containers": [{"resources": resources}]}});
            class(pod.as_object().unwrap())
        };
        assert_eq!(class_of(json!({})), "BestEffort");
        assert_eq!(
            class_of(json!({"limits": {"nvidia.com/gpu": "1"}})),
            "BestEffort"
        );
        assert_eq!(class_of(json!({"requests": {"cpu": "1"}})), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            class_of(json!({"requests": both, "limits": both})),
            "Guaranteed"
        );
        let equal = json!({"cpu": "1000m", "memory": "1024Mi"});
        assert_eq!(
            class_of(json!({"requests": equal, "limits": both})),
            "Guaranteed"
        );
        let less = json!({"cpu": "500m", "memory": "1Gi"});
        assert_eq!(
            class_of(json!({"requests": less, "limits": both})),
            "Burstable"
        );
    }
}
