//! What objects use of a namespace's quota, and which quotas count them.
//!
//! Admission asks what one more object would use, the quota controller what all of them do. Both must come to the same
//! number, which is why the counting is here. Enter at [`Counted`].

mod pod;
mod scopes;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::quantity::{Format, Quantity};
use crate::{Object, meta};

pub use pod::{must_specify, pod_limits, pod_requests};

/// Amounts by the names that quotas have for what is counted: `pods`, `requests.cpu`, `count/deployments.apps`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Resources of the core group that quotas also know by their bare plural.
const BARE: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

fn one() -> Quantity {
    Quantity::whole(1, Format::DecimalSi)
}

/// An object as quotas look at it.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'o> {
    /// The group of its resource.
    pub group: &'o str,
    /// The plural of its resource.
    pub plural: &'o str,
    /// The object.
    pub object: &'o Object,
}

impl Counted<'_> {
    fn is_core(&self, plural: &str) -> bool {
        self.group.is_empty() && self.plural == plural
    }

    /// All that it uses at `now`, by every name that a quota may have for it.
    pub fn usage(&self, now: Timestamp) -> Amounts {
        let mut usage = Amounts::from([(count_name(self.group, self.plural), one())]);
        if !self.group.is_empty() {
            return usage;
        }
        match self.plural {
            "pods" => pod::add_usage(self.object, now, &mut usage),
            "services" => add_service(self.object, &mut usage),
            "persistentvolumeclaims" => add_claim(self.object, &mut usage),
            bare if BARE.contains(&bare) => add(&mut usage, bare, one()),
            _ => {}
        }
        usage
    }

    /// Whether it is within all scopes of a quota.
    pub fn is_within(&self, quota: &Object) -> bool {
        scopes::match_all(quota, self)
    }

    /// What it uses of this quota: nothing if the quota is about others.
    pub fn usage_of(&self, quota: &Object, now: Timestamp) -> Amounts {
        if !self.is_within(quota) {
            return Amounts::new();
        }
        let limits = hard(quota);
        let mut usage = self.usage(now);
        usage.retain(|name, _| limits.contains_key(name));
        usage
    }
}

/// The name by which quotas count the objects of a resource: `count/pods`, `count/deployments.apps`.
pub fn count_name(group: &str, plural: &str) -> String {
    match group {
        "" => format!("count/{plural}"),
        group => format!("count/{plural}.{group}"),
    }
}

/// The plural and group of a resource whose objects are counted under `name`.
pub fn counted_resource(name: &str) -> Option<(&str, &str)> {
    if let Some(resource) = name.strip_prefix("count/") {
        return Some(resource.split_once('.').unwrap_or((resource, "")));
    }
    BARE.contains(&name).then_some((name, ""))
}

fn amounts(object: &Object, path: &[&str]) -> Amounts {
    parse(meta::at(object, path))
}

/// Reads a map of quantities. Decoding has let nothing else into objects.
fn parse(value: Option<&Value>) -> Amounts {
    let map = value.and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?)))
        .collect()
}

/// What a quota allows.
pub fn hard(quota: &Object) -> Amounts {
    amounts(quota, &["spec", "hard"])
}

/// What a quota allowed when its use was counted last: what admission enforces.
pub fn enforced(quota: &Object) -> Amounts {
    amounts(quota, &["status", "hard"])
}

/// What was used of it then, and has been admitted since.
pub fn used(quota: &Object) -> Amounts {
    amounts(quota, &["status", "used"])
}

/// Amounts as objects have them.
pub fn to_value(amounts: &Amounts) -> Value {
    let entries = amounts
        .iter()
        .map(|(name, amount)| (name.clone(), Value::from(amount.to_string())));
    Value::Object(entries.collect())
}

/// Adds an amount to what is there under `name`.
pub fn add(amounts: &mut Amounts, name: &str, amount: Quantity) {
    let sum = amounts
        .get(name)
        .map_or(amount, |present| *present + amount);
    amounts.insert(name.to_owned(), sum);
}

fn add_service(service: &Object, usage: &mut Amounts) {
    add(usage, "services", one());
    let spec = |field| meta::at(service, &["spec", field]);
    let ports = spec("ports").and_then(Value::as_array);
    let ports = ports.map_or(&[][..], Vec::as_slice);
    let count =
        |count: usize| Quantity::whole(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi);
    match spec("type").and_then(Value::as_str) {
        Some("NodePort") => add(usage, "services.nodeports", count(ports.len())),
        Some("LoadBalancer") => {
            add(usage, "services.loadbalancers", one());
            let given = || {
                ports
                    .iter()
                    .filter(|port| port["nodePort"].is_i64())
                    .count()
            };
            let allocated = spec("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
            let ports = if allocated { ports.len() } else { given() };
            add(usage, "services.nodeports", count(ports));
        }
        _ => {}
    }
}

/// Claims are counted for themselves and for their class.
fn add_claim(claim: &Object, usage: &mut Amounts) {
    const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
    const LEGACY_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    let class = meta::at(claim, &["metadata", "annotations", LEGACY_CLASS])
        .or_else(|| meta::at(claim, &["spec", "storageClassName"]))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let requested = amounts(claim, &["spec", "resources", "requests"]);
    let granted = amounts(claim, &["status", "allocatedResources"]);
    let storage = requested.get("storage").max(granted.get("storage"));
    let mut both = |name: &str, amount| {
        add(usage, name, amount);
        if !class.is_empty() {
            add(usage, &format!("{class}{OF_CLASS}{name}"), amount);
        }
    };
    both("persistentvolumeclaims", one());
    if let Some(storage) = storage {
        both("requests.storage", *storage);
    }
}

#[cfg(test)]
mod tests;
