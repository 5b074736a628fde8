//! Checks that several of these kinds share, in upstream's words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde_json::{Value, json};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::validate::metadata::invalid;

/// A number that may not be less than 0.
pub(crate) fn not_negative(value: impl Into<i64>, path: &Path<'_>, errors: &mut Errors) {
    let value = value.into();
    if value < 0 {
        errors.push(FieldError::invalid(
            path,
            value,
            "must be greater than or equal to 0",
        ));
    }
}

/// Numbers below `path` of which none may be less than 0; absent ones are 0.
pub(crate) fn none_negative<N: Into<i64> + Copy>(
    numbers: &[(&str, Option<N>)],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (field, number) in numbers {
        if let Some(number) = number {
            not_negative(*number, &path.child(field), errors);
        }
    }
}

/// Numbers below `path` of which none may be more than `limit`, which `detail` names.
pub(crate) fn at_most(
    limit: i32,
    numbers: &[(&str, Option<i32>)],
    detail: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (field, number) in numbers {
        let number = number.unwrap_or_default();
        if number > limit {
            errors.push(FieldError::invalid(&path.child(field), number, detail));
        }
    }
}

/// A count of collisions, which only rises.
pub(crate) fn not_decremented(
    new: Option<i32>,
    old: Option<i32>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(old) = old else { return };
    let new = new.unwrap_or_default();
    if new < old {
        errors.push(FieldError::invalid(path, new, "cannot be decremented"));
    }
}

/// One of an enumeration.
pub(crate) fn supported(value: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if !allowed.contains(&value) {
        errors.push(FieldError::not_supported(path, value, allowed));
    }
}

/// A value that stays as it was made.
pub(crate) fn immutable<T: PartialEq + Serialize>(
    new: &T,
    old: &T,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if new != old {
        let shown = serde_json::to_value(new).unwrap_or_default();
        errors.push(FieldError::invalid(path, shown, "field is immutable"));
    }
}

/// `50%`, in digits.
fn percentage(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(i64::MAX))
}

fn shown(value: &IntOrString) -> Value {
    match value {
        IntOrString::Int(number) => json!(number),
        IntOrString::String(text) => json!(text),
    }
}

/// The number, with or without its percent sign; 0 for what is neither.
pub(crate) fn amount(value: &IntOrString) -> i64 {
    match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => percentage(text)
            .or_else(|| text.parse().ok())
            .unwrap_or_default(),
    }
}

/// A number from 0 or a percentage.
pub(crate) fn int_or_percent(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', or \
                          '93%', regex used for validation is '[0-9]+%')";
    match value {
        IntOrString::Int(number) => not_negative(*number, path, errors),
        IntOrString::String(text) => {
            if percentage(text).is_none() {
                errors.push(FieldError::invalid(path, shown(value), DETAIL));
            }
        }
    }
}

/// No percentage above 100.
pub(crate) fn at_most_all(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    if let IntOrString::String(text) = value
        && percentage(text).is_some_and(|percent| percent > 100)
    {
        errors.push(FieldError::invalid(
            path,
            shown(value),
            "must not be greater than 100%",
        ));
    }
}

/// A value that does not go with another one's.
pub(crate) fn conflicting(value: &IntOrString, detail: &str, path: &Path<'_>, errors: &mut Errors) {
    errors.push(FieldError::invalid(path, shown(value), detail));
}

/// `metav1.Condition`s, as the status of a budget has them.
pub(crate) fn conditions(conditions: &[v1::Condition], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = std::collections::HashSet::new();
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at);
        if !seen.insert(&condition.type_) {
            errors.push(FieldError::duplicate(
                &path.child("type"),
                condition.type_.as_str(),
            ));
        }
        validate_condition(condition, &path, errors);
    }
}

/// The longest reason, in bytes.
const REASON_MAX: usize = 1 << 10;
/// The longest message, in bytes.
const MESSAGE_MAX: usize = 32 << 10;

fn validate_condition(condition: &v1::Condition, path: &Path<'_>, errors: &mut Errors) {
    invalid(
        &path.child("type"),
        &condition.type_,
        names::qualified_name(&condition.type_),
        errors,
    );
    supported(
        &condition.status,
        &["False", "True", "Unknown"],
        &path.child("status"),
        errors,
    );
    if let Some(generation) = condition.observed_generation.filter(|number| *number < 0) {
        errors.push(FieldError::invalid(
            &path.child("observedGeneration"),
            generation,
            "must be greater than or equal to zero",
        ));
    }
    let at_reason = path.child("reason");
    if condition.reason.is_empty() {
        errors.push(FieldError::required(&at_reason, "must be set"));
    } else {
        invalid(
            &at_reason,
            &condition.reason,
            reason(&condition.reason),
            errors,
        );
        if condition.reason.len() > REASON_MAX {
            errors.push(FieldError::too_long(&at_reason, REASON_MAX));
        }
    }
    if condition.message.len() > MESSAGE_MAX {
        errors.push(FieldError::too_long(&path.child("message"), MESSAGE_MAX));
    }
}

/// `[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?`
fn reason(text: &str) -> Problems {
    const RULE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
                        alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                        'my_name', or 'MY_NAME', or 'MyName', or 'ReasonA,ReasonB', or 'ReasonA:ReasonB', regex used \
                        for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    let bytes = text.as_bytes();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let shaped = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|last| word(*last))
        && bytes
            .iter()
            .all(|byte| word(*byte) || matches!(byte, b',' | b':'));
    if shaped {
        Problems::new()
    } else {
        vec![RULE.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(
        check: fn(&IntOrString, &Path<'_>, &mut Errors),
        value: &IntOrString,
    ) -> Vec<String> {
        let mut errors = Errors::default();
        check(value, &Path::root("x"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn takes_numbers_and_percentages() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        for good in [
            IntOrString::Int(0),
            IntOrString::Int(7),
            text("0%"),
            text("150%"),
        ] {
            assert_eq!(checked(int_or_percent, &good), [""; 0]);
        }
        assert_eq!(
            checked(int_or_percent, &IntOrString::Int(-1)),
            ["x: Invalid value: -1: must be greater than or equal to 0"]
        );
        for bad in ["", "%", "5", "-5%", "5 %", "1.5%"] {
            let found = checked(int_or_percent, &text(bad));
            assert_eq!(found.len(), 1, "{bad}");
            assert!(found[0].contains("regex used for validation is '[0-9]+%'"));
        }
        assert_eq!(checked(at_most_all, &text("100%")), [""; 0]);
        assert_eq!(
            checked(at_most_all, &text("101%")),
            ["x: Invalid value: \"101%\": must not be greater than 100%"]
        );
        assert_eq!(
            checked(at_most_all, &text(&format!("{}%", "9".repeat(40)))).len(),
            1
        );
        assert_eq!(amount(&text("25%")), 25);
        assert_eq!(amount(&text("3")), 3);
        assert_eq!(amount(&text("many")), 0);
    }

    #[test]
    fn knows_reasons() {
        for good in ["A", "a1", "A,B", "My_Reason:x_"] {
            assert_eq!(reason(good), Problems::new(), "{good}");
        }
        for bad in ["", "1a", "_a", "a,", "a b", "ä"] {
            assert_eq!(reason(bad).len(), 1, "{bad}");
        }
    }
}
