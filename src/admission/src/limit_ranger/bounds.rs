//! Whether an object keeps within one item of a limit range. The words are upstream's.

use serde_json::Value;
use vaquita_api::quantity::Quantity;
use vaquita_api::quota::{Amounts, pod_limits, pod_requests};
use vaquita_api::{Object, meta};

use super::amounts;

/// What is asked for, and what may be had at most.
struct Asked {
    requests: Amounts,
    limits: Amounts,
}

/// Adds what is wrong with `object`, a pod or a claim, to `problems`.
pub(super) fn check(object: &Object, is_pod: bool, item: &Value, problems: &mut Vec<String>) {
    let kind = item["type"].as_str().unwrap_or_default();
    match (kind, is_pod) {
        ("Container", true) => {
            for list in ["containers", "initContainers"] {
                let containers = meta::at(object, &["spec", list]).and_then(Value::as_array);
                for container in containers.into_iter().flatten() {
                    let resources = &container["resources"];
                    let asked = Asked {
                        requests: amounts(resources, "requests"),
                        limits: amounts(resources, "limits"),
                    };
                    check_all(&asked, kind, item, problems);
                }
            }
        }
        ("Pod", true) => {
            let asked = Asked {
                requests: pod_requests(object),
                limits: pod_limits(object),
            };
            check_all(&asked, kind, item, problems);
        }
        ("PersistentVolumeClaim", false) => check_claim(object, item, problems),
        _ => {}
    }
}

fn check_all(asked: &Asked, kind: &str, item: &Value, problems: &mut Vec<String>) {
    for (name, least) in amounts(item, "min") {
        problems.extend(asked.below(&name, least, kind));
    }
    for (name, most) in amounts(item, "max") {
        problems.extend(asked.above(&name, most, kind));
    }
    for (name, ratio) in amounts(item, "maxLimitRequestRatio") {
        problems.extend(asked.stretched(&name, ratio, kind));
    }
}

fn check_claim(claim: &Object, item: &Value, problems: &mut Vec<String>) {
    const KIND: &str = "PersistentVolumeClaim";
    let resources = meta::at(claim, &["spec", "resources"]);
    let asked = Asked {
        requests: resources.map_or_else(Amounts::new, |value| amounts(value, "requests")),
        limits: Amounts::new(),
    };
    for (name, least) in amounts(item, "min") {
        problems.extend(asked.below(&name, least, KIND));
    }
    for (name, most) in amounts(item, "max") {
        let usage = format!("maximum {name} usage per {KIND} is {most}");
        match asked.requests.get(&name) {
            None => problems.push(format!("{usage}.  No request is specified")),
            Some(request) if *request > most => {
                problems.push(format!("{usage}, but request is {request}"));
            }
            Some(_) => {}
        }
    }
}

impl Asked {
    fn below(&self, name: &str, least: Quantity, kind: &str) -> Option<String> {
        let usage = format!("minimum {name} usage per {kind} is {least}");
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{usage}.  No request is specified")),
            (Some(request), _) if *request < least => {
                Some(format!("{usage}, but request is {request}"))
            }
            (_, Some(limit)) if *limit < least => Some(format!("{usage}, but limit is {limit}")),
            _ => None,
        }
    }

    fn above(&self, name: &str, most: Quantity, kind: &str) -> Option<String> {
        let usage = format!("maximum {name} usage per {kind} is {most}");
        match (self.limits.get(name), self.requests.get(name)) {
            (None, _) => Some(format!("{usage}.  No limit is specified")),
            (Some(limit), _) if *limit > most => Some(format!("{usage}, but limit is {limit}")),
            (_, Some(request)) if *request > most => {
                Some(format!("{usage}, but request is {request}"))
            }
            _ => None,
        }
    }

    /// Whether there is too much between what is asked for and what may be had.
    fn stretched(&self, name: &str, most: Quantity, kind: &str) -> Option<String> {
        let usage = format!("{name} max limit to request ratio per {kind} is {most}");
        let given = |amounts: &Amounts| {
            let amount = amounts.get(name).copied();
            amount.filter(|amount| !amount.is_zero())
        };
        let Some(request) = given(&self.requests) else {
            return Some(format!(
                "{usage}, but no request is specified or request is 0"
            ));
        };
        let Some(limit) = given(&self.limits) else {
            return Some(format!("{usage}, but no limit is specified or limit is 0"));
        };
        let ratio = number(limit) / number(request);
        (ratio > number(most)).then(|| format!("{usage}, but provided ratio is {ratio:.6}"))
    }
}

/// For a ratio, which needs no more than the precision of a float.
#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio is compared and shown with six digits"
)]
fn number(quantity: Quantity) -> f64 {
    match quantity.milli_value() {
        // Too large for thousandths.
        i64::MAX => quantity.value() as f64,
        milli => milli as f64 / 1000.0,
    }
}
