//! Checks that devices, claims and classes share.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::resource::v1::{
    DeviceSelector, DeviceTaint, DeviceToleration, OpaqueDeviceConfiguration,
};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::Value;

use crate::checks::{driver_name, one_of};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

/// The most requests, constraints, selectors, configurations and results that a claim or class may have of each.
pub(super) const LIST_MAX: usize = 32;
/// The longest expression, and the largest piece of free JSON, in bytes.
pub(super) const TEXT_MAX: usize = 10 << 10;
/// The longest domain before a name, in bytes.
const DOMAIN_MAX: usize = 63;
/// The longest name of an attribute or capacity, in bytes.
const ID_MAX: usize = 32;
const CONDITIONS_MAX: usize = 4;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// Looks at each item of a list of at most `max`.
pub(super) fn each<T>(
    list: Option<&[T]>,
    max: usize,
    path: &Path<'_>,
    errors: &mut Errors,
    mut check: impl FnMut(&T, &Path<'_>, &mut Errors),
) {
    let list = list.unwrap_or_default();
    if list.len() > max {
        errors.push(FieldError::too_many(path, list.len(), max));
        return;
    }
    for (at, item) in list.iter().enumerate() {
        check(item, &path.index(at), errors);
    }
}

/// As [`each`], and no two items have one key.
pub(super) fn each_once<T>(
    list: Option<&[T]>,
    max: usize,
    path: &Path<'_>,
    errors: &mut Errors,
    key: impl Fn(&T) -> String,
    check: impl FnMut(&T, &Path<'_>, &mut Errors),
) {
    each(list, max, path, errors, check);
    let mut seen = HashSet::new();
    for (at, item) in list.unwrap_or_default().iter().take(max).enumerate() {
        let key = key(item);
        if !seen.insert(key.clone()) {
            errors.push(FieldError::duplicate(&path.index(at), key));
        }
    }
}

/// Looks at each entry of a map of at most `max`. A huge key is not repeated in full.
pub(super) fn each_entry<T>(
    map: &BTreeMap<String, T>,
    max: usize,
    path: &Path<'_>,
    errors: &mut Errors,
    mut check: impl FnMut(&str, &T, &Path<'_>, &mut Errors),
) {
    const SHOWN: usize = DOMAIN_MAX + 1 + ID_MAX;
    if map.len() > max {
        errors.push(FieldError::too_many(path, map.len(), max));
        return;
    }
    for (key, value) in map {
        let shown: String = key.chars().take(SHOWN).collect();
        check(key, value, &path.key(&shown), errors);
    }
}

pub(super) fn label(text: &str, path: &Path<'_>, errors: &mut Errors) {
    invalid(path, text, names::dns1123_label(text), errors);
}

/// The name of a pool: subdomains with `/` in between.
pub(super) fn pool_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > names::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, names::SUBDOMAIN_MAX));
    }
    for part in name.split('/') {
        invalid(path, part, names::dns1123_subdomain(part), errors);
    }
}

/// The name of an attribute or capacity: `name` or `domain/name`.
pub(super) fn qualified_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some((domain, id)) = name.split_once('/') else {
        identifier(name, path, errors);
        return;
    };
    // As upstream has it, names of more parts pass.
    if id.contains('/') {
        return;
    }
    if domain.is_empty() {
        errors.push(FieldError::invalid(
            path,
            "",
            "the domain must not be empty",
        ));
    } else {
        driver_name(domain, path, errors);
    }
    if id.is_empty() {
        errors.push(FieldError::invalid(path, "", "the name must not be empty"));
    } else {
        identifier(id, path, errors);
    }
}

/// As [`qualified_name`], with a domain.
pub(super) fn fully_qualified_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    qualified_name(name, path, errors);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn identifier(id: &str, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                          alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for \
                          validation is '[A-Za-z_][A-Za-z0-9_]*')";
    if id.len() > ID_MAX {
        errors.push(FieldError::too_long(path, ID_MAX));
    }
    let well_formed = id.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !well_formed {
        errors.push(FieldError::invalid(path, id, DETAIL));
    }
}

/// The UID of a share of a device.
pub(super) fn uid(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let dashed = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let detail = if text.len() != 36 {
        format!("error validating uid: invalid UUID length: {}", text.len())
    } else if !text.bytes().enumerate().all(dashed) {
        "error validating uid: invalid UUID format".to_owned()
    } else if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal \
         characters"
            .to_owned()
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, text, detail));
}

/// Which devices will do.
pub(super) fn selectors(
    selectors: Option<&[DeviceSelector]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    each(
        selectors,
        LIST_MAX,
        path,
        errors,
        |selector, path, errors| {
            let path = path.child("cel");
            let Some(cel) = &selector.cel else {
                errors.push(FieldError::required(&path, ""));
                return;
            };
            let path = path.child("expression");
            if cel.expression.len() > TEXT_MAX {
                errors.push(FieldError::too_long(&path, TEXT_MAX));
            } else if cel.expression.trim().is_empty() {
                errors.push(FieldError::required(&path, ""));
            }
        },
    );
}

/// Settings for a driver, which alone knows what they mean.
pub(super) fn configuration(
    opaque: Option<&OpaqueDeviceConfiguration>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.child("opaque");
    let Some(opaque) = opaque else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    driver_name(&opaque.driver, &path.child("driver"), errors);
    free_json(&opaque.parameters, &path.child("parameters"), errors);
}

/// A JSON object of a bounded size.
pub(super) fn free_json(json: &RawExtension, path: &Path<'_>, errors: &mut Errors) {
    match &json.0 {
        Value::Null => errors.push(FieldError::required(path, "")),
        value if value.to_string().len() > TEXT_MAX => {
            errors.push(FieldError::too_long(path, TEXT_MAX));
        }
        Value::Object(_) => {}
        _ => {
            let detail = "must be a valid JSON object";
            errors.push(FieldError::invalid(path, "<value omitted>", detail));
        }
    }
}

pub(super) fn taint(taint: &DeviceTaint, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("key");
    invalid(&at, &taint.key, names::qualified_name(&taint.key), errors);
    if let Some(value) = &taint.value {
        let problems = names::label_value(value);
        invalid(&path.child("value"), value, problems, errors);
    }
    let at = path.child("effect");
    if taint.effect.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        one_of(&taint.effect, &EFFECTS, &at, errors);
    }
}

pub(super) fn toleration(toleration: &DeviceToleration, path: &Path<'_>, errors: &mut Errors) {
    if let Some(key) = toleration.key.as_ref().filter(|key| !key.is_empty()) {
        invalid(&path.child("key"), key, names::qualified_name(key), errors);
    }
    let value = toleration.value.as_deref().unwrap_or_default();
    let at = path.child("value");
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" if !value.is_empty() => {
            let detail = "must be empty for operator `Exists`";
            errors.push(FieldError::invalid(&at, value, detail));
        }
        "Exists" => {}
        "Equal" => invalid(&at, value, names::label_value(value), errors),
        "" => errors.push(FieldError::required(&path.child("operator"), "")),
        other => errors.push(FieldError::not_supported(
            &path.child("operator"),
            other,
            &["Equal", "Exists"],
        )),
    }
    if let Some(effect) = toleration.effect.as_ref().filter(|text| !text.is_empty()) {
        one_of(effect, &EFFECTS, &path.child("effect"), errors);
    }
}

/// The conditions that a device must have, and those that it must not have, before a pod is bound that uses it.
pub(super) fn binding_conditions(
    wanted: Option<&[String]>,
    failures: Option<&[String]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (at_wanted, at_failures) = (
        path.child("bindingConditions"),
        path.child("bindingFailureConditions"),
    );
    for (list, path) in [(wanted, &at_wanted), (failures, &at_failures)] {
        each_once(
            list,
            CONDITIONS_MAX,
            path,
            errors,
            Clone::clone,
            |name, path, errors| {
                invalid(path, name, names::qualified_name(name), errors);
            },
        );
    }
    let (wanted, failures) = (wanted.unwrap_or_default(), failures.unwrap_or_default());
    for (at, name) in failures.iter().enumerate() {
        if wanted.contains(name) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(FieldError::invalid(
                &at_failures.index(at),
                name.as_str(),
                detail,
            ));
        }
    }
    let nothing = || Value::Array(Vec::new());
    if wanted.is_empty() && !failures.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.push(FieldError::invalid(&at_wanted, nothing(), detail));
    }
    if failures.is_empty() && !wanted.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.push(FieldError::invalid(&at_failures, nothing(), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(check: fn(&str, &Path<'_>, &mut Errors), text: &str) -> Vec<String> {
        let mut errors = Errors::default();
        check(text, &Path::root("x"), &mut errors);
        errors.iter().map(FieldError::body).collect()
    }

    #[test]
    fn knows_names() {
        assert_eq!(problems(qualified_name, "example.com/model"), [""; 0]);
        assert_eq!(problems(qualified_name, "model"), [""; 0]);
        assert_eq!(
            problems(qualified_name, "/model"),
            ["Invalid value: \"\": the domain must not be empty"]
        );
        assert_eq!(problems(fully_qualified_name, "model").len(), 1);
        assert_eq!(problems(qualified_name, "my-model").len(), 1);
        assert_eq!(problems(pool_name, "a.b/c"), [""; 0]);
        assert_eq!(problems(pool_name, "a//c").len(), 1);
        assert_eq!(
            problems(uid, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
            [""; 0]
        );
        assert_eq!(
            problems(uid, "x"),
            ["Invalid value: \"x\": error validating uid: invalid UUID length: 1"]
        );
        assert_eq!(
            problems(uid, "6BA7B810-9dad-11d1-80b4-00c04fd430c8").len(),
            1
        );
    }
}
