//! Cells that several kinds' tables have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

/// What a cell shows for nothing.
pub const NONE: &str = "<none>";

/// The text, or `<none>`.
pub fn or_none(text: Option<&str>) -> Value {
    Value::from(text.filter(|text| !text.is_empty()).unwrap_or(NONE))
}

/// The text, or `<unset>`.
pub fn or_unset(text: Option<String>) -> Value {
    text.unwrap_or_else(|| "<unset>".to_owned()).into()
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(labels: Option<&BTreeMap<String, String>>) -> Value {
    let pairs: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    or_none(Some(&pairs.join(",")))
}

/// The names of containers, and their images.
pub fn containers(containers: &[Container]) -> (Value, Value) {
    let names: Vec<&str> = containers
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    let images: Vec<&str> = containers
        .iter()
        .map(|container| container.image.as_deref().unwrap_or_default())
        .collect();
    (names.join(",").into(), images.join(",").into())
}

/// The first three of `total` items, and how many more there are; `empty` if there are none.
pub fn first_three(items: impl Iterator<Item = String>, total: usize, empty: &str) -> Value {
    let shown: Vec<String> = items.take(3).collect();
    let list = shown.join(",");
    Value::from(match (list.as_str(), total.saturating_sub(shown.len())) {
        ("", _) => empty.to_owned(),
        (_, 0) => list,
        (_, more) => format!("{list} + {more} more..."),
    })
}
