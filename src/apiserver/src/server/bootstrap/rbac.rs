//! How roles and bindings are brought up to date at start: what is missing is added, and nothing is taken away.
//!
//! So a cluster that was made by an older version gets the permissions that its parts need by now, and one that somebody
//! has locked themselves out of works again. Whoever wants to keep a role as they made it says so in an annotation.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vaquita_api::{Object, meta};
use vaquita_auth::rbac::{Rule, compact, missing};

use super::manifests::AUTO_UPDATE;

/// The role `present`, with what it lacks of `wanted`. `None` if it lacks nothing, or is to be left alone.
pub(super) fn role(wanted: &Object, present: &Object) -> Option<Object> {
    let mut better = with_metadata(wanted, present)?;
    if let Some(aggregation) = wanted.get("aggregationRule") {
        // Its rules are the aggregation's; of these, none is taken away.
        let selectors = added(
            aggregation,
            present.get("aggregationRule"),
            "clusterRoleSelectors",
        );
        better.insert(
            "aggregationRule".to_owned(),
            json!({"clusterRoleSelectors": selectors}),
        );
    } else {
        let (held, wanted): (Vec<Rule>, Vec<Rule>) =
            (list(present, "rules"), list(wanted, "rules"));
        let lacking = compact(missing(&held, &wanted));
        if !lacking.is_empty() {
            let rules: Vec<Rule> = held.into_iter().chain(lacking).collect();
            better.insert("rules".to_owned(), json!(rules));
        }
    }
    (better != *present).then_some(better)
}

/// The same for a binding and its subjects.
pub(super) fn binding(wanted: &Object, present: &Object) -> Option<Object> {
    let mut better = with_metadata(wanted, present)?;
    let subjects = added(
        &Value::Object(wanted.clone()),
        Some(&Value::Object(present.clone())),
        "subjects",
    );
    if !subjects.is_empty() {
        better.insert("subjects".to_owned(), json!(subjects));
    }
    (better != *present).then_some(better)
}

/// Whether a binding gives another role than it should.
pub(super) fn is_of_another_role(wanted: &Object, present: &Object) -> bool {
    wanted.get("roleRef") != present.get("roleRef") && !is_kept(present)
}

fn is_kept(present: &Object) -> bool {
    meta::annotations(present)
        .get(AUTO_UPDATE)
        .is_some_and(|value| value == "false")
}

/// What is there, with the labels and annotations that it lacks. `None` if it is to be left alone.
fn with_metadata(wanted: &Object, present: &Object) -> Option<Object> {
    if is_kept(present) {
        return None;
    }
    let mut better = present.clone();
    for field in ["labels", "annotations"] {
        let Some(Value::Object(wanted)) = meta::at(wanted, &["metadata", field]) else {
            continue;
        };
        let values = meta::object_mut(meta::metadata_mut(&mut better), field);
        for (key, value) in wanted {
            values.entry(key).or_insert_with(|| value.clone());
        }
    }
    Some(better)
}

/// The items of the list `field` that are there, and behind them those that should be.
fn added(wanted: &Value, present: Option<&Value>, field: &str) -> Vec<Value> {
    let items = |of: Option<&Value>| -> Vec<Value> {
        let list = of.and_then(|of| of.get(field)).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut all = items(present);
    for item in items(Some(wanted)) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}

fn list<T: DeserializeOwned>(object: &Object, field: &str) -> Vec<T> {
    object
        .get(field)
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default()
}
