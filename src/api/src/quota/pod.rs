//! What a pod uses.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Amounts, add, one, parse};
use crate::quantity::Quantity;
use crate::{Object, meta};

const HUGE_PAGES: &str = "hugepages-";
/// What quotas also know without `requests.` before it.
const PLAIN: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// Which of the two sides of a container's resources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

impl Side {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

fn containers<'p>(pod: &'p Object, field: &str) -> &'p [Value] {
    meta::at(pod, &["spec", field])
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Everything that a pod takes; a pod that has ended, or should have, is merely there.
pub(super) fn add_usage(pod: &Object, now: Timestamp, usage: &mut Amounts) {
    if has_ended(pod, now) {
        return;
    }
    add(usage, "pods", one());
    for (name, amount) in total(pod, Side::Requests) {
        if PLAIN.contains(&name.as_str()) || name.starts_with(HUGE_PAGES) {
            add(usage, &name, amount);
        }
        add(usage, &format!("requests.{name}"), amount);
    }
    for (name, amount) in total(pod, Side::Limits) {
        if PLAIN.contains(&name.as_str()) {
            add(usage, &format!("limits.{name}"), amount);
        }
    }
}

fn has_ended(pod: &Object, now: Timestamp) -> bool {
    let phase = meta::at(pod, &["status", "phase"]).and_then(Value::as_str);
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return true;
    }
    // A node that is lost confirms no end; its pods are not held against the namespace for good.
    let grace = meta::at(pod, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    match (meta::deletion_timestamp(pod), grace) {
        (Some(deleted), Some(grace)) => deleted
            .checked_add(SignedDuration::from_secs(grace))
            .is_ok_and(|end| now > end),
        _ => false,
    }
}

fn side(container: &Value, side: Side) -> Amounts {
    parse(container["resources"].get(side.field()))
}

fn sum(into: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        add(into, &name, amount);
    }
}

fn raise(into: &mut Amounts, to: Amounts) {
    for (name, amount) in to {
        let present = into.entry(name).or_insert(amount);
        if amount > *present {
            *present = amount;
        }
    }
}

/// What a pod asks for, as a whole.
pub fn pod_requests(pod: &Object) -> Amounts {
    total(pod, Side::Requests)
}

/// What a pod may have at most, as a whole.
pub fn pod_limits(pod: &Object) -> Amounts {
    total(pod, Side::Limits)
}

/// What a pod takes at most at any time: its containers and sidecars together, or more for as long as an init container
/// runs beside the sidecars before it.
fn total(pod: &Object, of: Side) -> Amounts {
    let mut total = Amounts::new();
    for container in containers(pod, "containers") {
        sum(&mut total, side(container, of));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in containers(pod, "initContainers") {
        let own = side(container, of);
        if container["restartPolicy"] == "Always" {
            sum(&mut total, own.clone());
            sum(&mut sidecars, own);
            raise(&mut starting, sidecars.clone());
        } else {
            let mut together = sidecars.clone();
            sum(&mut together, own);
            raise(&mut starting, together);
        }
    }
    raise(&mut total, starting);
    // What is asked for the pod as a whole counts instead of what its containers ask for.
    total.extend(parse(meta::at(pod, &["spec", "resources", of.field()])));
    for (name, amount) in parse(meta::at(pod, &["spec", "overhead"])) {
        if of == Side::Requests || total.get(&name).is_some_and(|limit| !limit.is_zero()) {
            add(&mut total, &name, amount);
        }
    }
    total
}

/// Whether a pod asks for nothing at all.
pub(super) fn is_best_effort(pod: &Object) -> bool {
    if let Some(class) = meta::at(pod, &["status", "qosClass"]).and_then(Value::as_str) {
        return class == "BestEffort";
    }
    let asks = |amounts: Amounts| {
        amounts
            .iter()
            .any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && !amount.is_zero())
    };
    let all = containers(pod, "containers")
        .iter()
        .chain(containers(pod, "initContainers"));
    let whole = [Side::Requests, Side::Limits]
        .map(|of| parse(meta::at(pod, &["spec", "resources", of.field()])));
    !whole.into_iter().any(asks)
        && all
            .flat_map(|container| [Side::Requests, Side::Limits].map(|of| side(container, of)))
            .all(|amounts| !asks(amounts))
}

/// A quota for CPU or memory needs every container to say how much it takes. Gives the containers that don't, by what they
/// must say: `limits.cpu for: a,b`; sorted. `limited` are the names that the quota limits.
pub fn must_specify<'n>(
    pod: &Object,
    limited: impl IntoIterator<Item = &'n str>,
) -> Vec<(String, BTreeSet<String>)> {
    let all: Vec<&Value> = containers(pod, "containers")
        .iter()
        .chain(containers(pod, "initContainers"))
        .collect();
    let whole = |of: Side, resource: &str| {
        let amounts: Amounts = parse(meta::at(pod, &["spec", "resources", of.field()]));
        amounts.contains_key(resource)
    };
    let mut missing = Vec::new();
    for name in limited {
        let (of, resource) = match name.split_once('.') {
            Some(("limits", resource)) => (Side::Limits, resource),
            Some(("requests", resource)) => (Side::Requests, resource),
            _ => (Side::Requests, name),
        };
        if !matches!(resource, "cpu" | "memory") || whole(of, resource) {
            continue;
        }
        let silent = |container: &&&Value| {
            let amounts: Amounts = side(container, of);
            amounts.get(resource).copied().is_none_or(Quantity::is_zero)
        };
        let names: BTreeSet<String> = all
            .iter()
            .filter(silent)
            .map(|container| container["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        if !names.is_empty() {
            missing.push((name.to_owned(), names));
        }
    }
    missing.sort();
    missing
}
