//! How much of a device's capacity a request may take.

use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicy, CapacityRequestPolicyRange, DeviceCapacity,
};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::shared::each_once;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::quantity::Quantity;

/// The most values that a request may choose from.
const VALUES_MAX: usize = 10;

/// Decoding has let only quantities through.
fn parsed(quantity: &resource::Quantity) -> Quantity {
    quantity.0.parse().unwrap_or(Quantity::ZERO)
}

/// Makes 0 of an amount that was left out.
pub(super) fn or_zero(quantity: &mut resource::Quantity) {
    if quantity.0.is_empty() {
        "0".clone_into(&mut quantity.0);
    }
}

pub(super) fn apply_defaults(capacity: &mut DeviceCapacity) {
    or_zero(&mut capacity.value);
    let range = capacity.request_policy.as_mut();
    if let Some(range) = range.and_then(|policy| policy.valid_range.as_mut()) {
        or_zero(&mut range.min);
    }
}

/// A capacity of a device, which may be `shared` by several claims.
pub(super) fn validate(
    capacity: &DeviceCapacity,
    shared: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(policy) = &capacity.request_policy else {
        return;
    };
    let path = path.child("requestPolicy");
    if !shared {
        let detail = "allowMultipleAllocations must be true";
        errors.push(FieldError::forbidden(&path, detail));
        return;
    }
    validate_policy(policy, parsed(&capacity.value), &path, errors);
}

fn validate_policy(
    policy: &CapacityRequestPolicy,
    capacity: Quantity,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let values = policy.valid_values.as_deref().unwrap_or_default();
    let at = path.child("default");
    match (values, &policy.valid_range, &policy.default) {
        ([], None, _) => {}
        ([_, ..], Some(_), _) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the \
                          same time";
            errors.push(FieldError::forbidden(path, detail));
        }
        ([_, ..], None, None) => {
            let detail = "required when validValues is defined";
            errors.push(FieldError::required(&at, detail));
        }
        ([], Some(_), None) => {
            let detail = "required when validRange is defined";
            errors.push(FieldError::required(&at, detail));
        }
        (values, None, Some(default)) => {
            validate_values(
                values,
                parsed(default),
                capacity,
                &path.child("validValues"),
                errors,
            );
        }
        ([], Some(range), Some(default)) => {
            validate_range(
                range,
                parsed(default),
                capacity,
                &path.child("validRange"),
                errors,
            );
        }
    }
}

fn validate_values(
    values: &[resource::Quantity],
    default: Quantity,
    capacity: Quantity,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (at, pair) in values.windows(2).enumerate() {
        if parsed(&pair[0]) > parsed(&pair[1]) {
            let detail = "values must be sorted in ascending order";
            errors.push(FieldError::invalid(
                &path.index(at + 1),
                pair[1].0.as_str(),
                detail,
            ));
        }
    }
    each_once(
        Some(values),
        VALUES_MAX,
        path,
        errors,
        |value| parsed(value).value().to_string(),
        |value, path, errors| {
            if parsed(value) > capacity {
                let detail = format!("option is larger than capacity value: {capacity}");
                errors.push(FieldError::invalid(path, value.0.as_str(), detail));
            }
        },
    );
    if !values.iter().any(|value| parsed(value) == default) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(path, default.to_string(), detail));
    }
}

fn validate_range(
    range: &CapacityRequestPolicyRange,
    default: Quantity,
    capacity: Quantity,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let min = parsed(&range.min);
    let mut refuse = |field: &str, value: Quantity, detail: String| {
        errors.push(FieldError::invalid(
            &path.child(field),
            value.to_string(),
            detail,
        ));
    };
    if min > capacity {
        refuse(
            "min",
            min,
            format!("min is larger than capacity value: {capacity}"),
        );
    }
    if default < min {
        refuse("min", default, format!("default is less than min: {min}"));
    }
    let max = range.max.as_ref().map(parsed);
    if let Some(max) = max {
        if min > max {
            refuse("max", min, format!("min is larger than max: {max}"));
        }
        if max > capacity {
            refuse(
                "max",
                max,
                format!("max is larger than capacity value: {capacity}"),
            );
        }
        if default > max {
            refuse("max", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = range.step.as_ref().map(parsed) else {
        return;
    };
    let first = min + step;
    if first > capacity {
        refuse(
            "step",
            step,
            format!("one step {first} is larger than capacity value: {capacity}"),
        );
    }
    for value in [Some(default), max].into_iter().flatten() {
        let above = value.value().saturating_sub(min.value());
        // No step at all leads nowhere else.
        if above.checked_rem(step.value()).unwrap_or(above) != 0 {
            let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
            refuse("step", value, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn problems(policy: Value) -> Vec<String> {
        let mut errors = Errors::default();
        let capacity = json!({"value": "10Gi", "requestPolicy": policy});
        let capacity = serde_json::from_value(capacity).unwrap();
        validate(&capacity, true, &Path::root("c"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn gives_what_its_policy_says() {
        assert_eq!(
            problems(json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]})),
            [""; 0]
        );
        assert_eq!(
            problems(
                json!({"default": "2Gi", "validRange": {"min": "1Gi", "max": "9Gi", "step": "1Gi"}})
            ),
            [""; 0]
        );
        assert_eq!(
            problems(json!({"default": "3Gi", "validValues": ["2Gi", "1Gi", "20Gi"]})),
            [
                "c.requestPolicy.validValues[1]: Invalid value: \"1Gi\": values must be sorted in ascending order",
                "c.requestPolicy.validValues[2]: Invalid value: \"20Gi\": option is larger than capacity value: 10Gi",
                "c.requestPolicy.validValues: Invalid value: \"3Gi\": default value is not valid according to the requestPolicy",
            ]
        );
        assert_eq!(
            problems(json!({"default": "3", "validRange": {"min": "2", "step": "0"}})),
            [
                "c.requestPolicy.validRange.step: Invalid value: \"3\": value is not a multiple of a given step (0) from (2)"
            ]
        );
    }
}
