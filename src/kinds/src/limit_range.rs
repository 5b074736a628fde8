//! `v1` `LimitRange`: what a container, pod or claim of a namespace gets and may ask for.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use serde_json::Value;

use crate::resource_names::{self, Amounts, parsed};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::quantity::Quantity;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

const TYPES: [&str; 3] = ["Container", "PersistentVolumeClaim", "Pod"];

pub(super) fn resource() -> Resource {
    stored::<LimitRange>("limitrange", true).short(&["limits"])
}

impl Kind<Here> for LimitRange {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::date("Created At", "When the object was created."),
    ];

    fn apply_defaults(&mut self) {
        let items = self.spec.iter_mut().flat_map(|spec| &mut spec.limits);
        for item in items.filter(|item| item.type_ == "Container") {
            apply_item_defaults(item);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("spec");
        let path = path.child("limits");
        let mut types = HashSet::new();
        let items = self.spec.iter().flat_map(|spec| &spec.limits);
        for (at, item) in items.enumerate() {
            let path = path.index(at);
            validate_type(&item.type_, &path.child("type"), errors);
            if !types.insert(&item.type_) {
                errors.push(FieldError::duplicate(
                    &path.child("type"),
                    item.type_.as_str(),
                ));
            }
            validate_item(item, &path, errors);
        }
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let created = self.metadata.creation_timestamp.as_ref();
        vec![
            self.name_cell(),
            serde_json::to_value(created).unwrap_or_default(),
        ]
    }
}

/// What is said about one thing goes for the next: the default limit is the maximum, the default request that limit, or
/// else the minimum.
fn apply_item_defaults(item: &mut LimitRangeItem) {
    let limits = item.default.get_or_insert_default();
    fill(limits, item.max.as_ref());
    let requests = item.default_request.get_or_insert_default();
    fill(requests, Some(limits));
    fill(requests, item.min.as_ref());
}

/// Adds what is missing.
fn fill(amounts: &mut Amounts, from: Option<&Amounts>) {
    for (name, quantity) in from.into_iter().flatten() {
        amounts
            .entry(name.clone())
            .or_insert_with(|| quantity.clone());
    }
}

fn validate_type(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let problems = names::qualified_name(name);
    if problems.is_empty() && !name.contains('/') && !TYPES.contains(&name) {
        const DETAIL: &str = "must be a standard limit type or fully qualified";
        errors.push(FieldError::invalid(path, name, DETAIL));
    }
    invalid(path, name, problems, errors);
}

fn validate_item(item: &LimitRangeItem, path: &Path<'_>, errors: &mut Errors) {
    let fields = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let mut mentioned = BTreeSet::new();
    for (field, amounts) in fields {
        let at = path.child(field);
        let given = amounts.as_ref().filter(|amounts| !amounts.is_empty());
        if item.type_ == "Pod" && field.starts_with("default") {
            if given.is_some() {
                errors.push(FieldError::forbidden(
                    &at,
                    "may not be specified when `type` is 'Pod'",
                ));
            }
            continue;
        }
        for name in given.into_iter().flat_map(Amounts::keys) {
            let path = at.key(name);
            if matches!(item.type_.as_str(), "Pod" | "Container") {
                resource_names::of_container(name, &path, errors);
            } else {
                resource_names::any(name, &path, errors);
            }
            mentioned.insert(name.as_str());
        }
    }
    let has_storage = |amounts: &Option<Amounts>| {
        amounts
            .as_ref()
            .is_some_and(|amounts| amounts.contains_key("storage"))
    };
    if item.type_ == "PersistentVolumeClaim" && !has_storage(&item.min) && !has_storage(&item.max) {
        const DETAIL: &str =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&path.child("limits"), DETAIL));
    }
    for name in mentioned {
        Bounds::of(item, name).validate(name, path, errors);
    }
}

/// What one item says of one resource.
struct Bounds {
    min: Option<Quantity>,
    max: Option<Quantity>,
    limit: Option<Quantity>,
    request: Option<Quantity>,
    ratio: Option<Quantity>,
}

impl Bounds {
    fn of(item: &LimitRangeItem, name: &str) -> Self {
        let get = |amounts: &Option<Amounts>| {
            amounts.as_ref().and_then(|list| list.get(name).map(parsed))
        };
        let of_pod = item.type_ == "Pod";
        Self {
            min: get(&item.min),
            max: get(&item.max),
            limit: get(&item.default).filter(|_| !of_pod),
            request: get(&item.default_request).filter(|_| !of_pod),
            ratio: get(&item.max_limit_request_ratio),
        }
    }

    fn validate(&self, name: &str, path: &Path<'_>, errors: &mut Errors) {
        let mut refuse = |field: &str, value: Quantity, detail: String| {
            let path = path.child(field);
            errors.push(FieldError::invalid(
                &path.key(name),
                value.to_string(),
                detail,
            ));
        };
        // Each pair in its order, and under which field and with which of the two values upstream reports it.
        let pairs = [
            (("min value", self.min), ("max value", self.max), "min", 0),
            (
                ("min value", self.min),
                ("default request value", self.request),
                "defaultRequest",
                1,
            ),
            (
                ("default request value", self.request),
                ("max value", self.max),
                "defaultRequest",
                0,
            ),
            (
                ("default request value", self.request),
                ("default limit value", self.limit),
                "defaultRequest",
                0,
            ),
            (
                ("min value", self.min),
                ("default value", self.limit),
                "default",
                0,
            ),
            (
                ("default value", self.limit),
                ("max value", self.max),
                "default",
                1,
            ),
        ];
        for ((small, low), (large, high), field, shown) in pairs {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let detail = format!("{small} {low} is greater than {large} {high}");
                refuse(field, [low, high][shown], detail);
            }
        }
        if let Some(ratio) = self.ratio {
            if ratio < Quantity::milli(1000) {
                let detail = format!("ratio {ratio} is less than 1");
                refuse("maxLimitRequestRatio", ratio, detail);
            }
            if let (Some(min), Some(max)) = (self.min, self.max) {
                let most = thousandths(max) / thousandths(min);
                if thousandths(ratio) / 1000.0 > most {
                    let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
                    refuse("maxLimitRequestRatio", ratio, detail);
                }
            }
        }
        if let (Some(limit), Some(request)) = (self.limit, self.request)
            && limit != request
            && !resource_names::may_be_overcommitted(name)
        {
            let detail = format!(
                "default value {limit} must equal to defaultRequest value {request} in {name}"
            );
            refuse("defaultRequest", request, detail);
        }
    }
}

/// For ratios, where the last digits don't matter.
#[allow(clippy::cast_precision_loss)]
fn thousandths(quantity: Quantity) -> f64 {
    quantity.milli_value() as f64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::testing::{assert_stable, created, refused};

    fn range(item: &Value) -> Value {
        json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}})
    }

    #[test]
    fn fills_in_what_follows() {
        let range = created(
            &resource(),
            range(
                &json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "100m", "memory": "1Mi"}}),
            ),
        );
        assert_eq!(
            range["spec"]["limits"][0],
            json!({
                "type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "100m", "memory": "1Mi"},
                "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2", "memory": "1Mi"},
            })
        );
        assert_stable(&resource(), &range);
        let row = resource().row(&range, Timestamp::UNIX_EPOCH);
        assert_eq!(row, [json!("l"), json!("1970-01-01T00:00:00Z")]);
    }

    #[test]
    fn refuses_bounds_that_contradict_each_other() {
        let cases = [
            (
                json!({"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "2"}}),
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                json!({"type": "Container", "default": {"cpu": "2"}, "max": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}),
                "spec.limits[0].default[cpu]: Invalid value: \"1\": default value 2 is greater than max value 1",
            ),
            (
                json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "3"}, "min": {"cpu": "1"}, "max": {"cpu": "2"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ),
            (
                json!({"type": "Galaxy"}),
                "spec.limits[0].type: Invalid value: \"Galaxy\": must be a standard limit type or fully qualified",
            ),
        ];
        for (item, want) in cases {
            assert_eq!(refused(&resource(), range(&item)), [want]);
        }
    }
}
