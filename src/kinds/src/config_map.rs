//! `v1` ConfigMap.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

/// The most that all values may take together, in bytes.
pub(super) const SIZE_MAX: usize = 1 << 20;

pub(super) fn resource() -> Resource {
    stored::<ConfigMap>("configmap", true).short(&["cm"])
}

impl Kind<Here> for ConfigMap {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Data", "How many keys there are."),
        Column::AGE,
    ];

    fn validate(&self, errors: &mut Errors) {
        let (data, binary) = (Path::root("data"), Path::root("binaryData"));
        let mut size = 0;
        for (key, value) in self.data.iter().flatten() {
            invalid(&data.key(key), key, names::config_map_key(key), errors);
            if self
                .binary_data
                .as_ref()
                .is_some_and(|binary| binary.contains_key(key))
            {
                const DETAIL: &str = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(&data.key(key), key.as_str(), DETAIL));
            }
            size += value.len();
        }
        for (key, value) in self.binary_data.iter().flatten() {
            invalid(&binary.key(key), key, names::config_map_key(key), errors);
            size += value.0.len();
        }
        if size > SIZE_MAX {
            errors.push(FieldError::too_long(&Path::root(""), SIZE_MAX));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        const FIXED: &str = "field is immutable when `immutable` is set";
        if old.immutable == Some(true) {
            if self.immutable != Some(true) {
                errors.push(FieldError::forbidden(&Path::root("immutable"), FIXED));
            }
            if self.data != old.data {
                errors.push(FieldError::forbidden(&Path::root("data"), FIXED));
            }
            if self.binary_data != old.binary_data {
                errors.push(FieldError::forbidden(&Path::root("binaryData"), FIXED));
            }
        }
        self.validate(errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let keys = self.data.as_ref().map_or(0, BTreeMap::len)
            + self.binary_data.as_ref().map_or(0, BTreeMap::len);
        vec![self.name_cell(), keys.into(), self.age_cell(now)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[test]
    fn counts_its_keys_of_both_sorts() {
        let map = created(
            &resource(),
            json!({"metadata": {"name": "m"}, "data": {"a": "b"}, "binaryData": {"c": "AA=="}}),
        );
        assert_stable(&resource(), &map);
        let row = resource().row(&map, Timestamp::UNIX_EPOCH);
        assert_eq!(row, [json!("m"), json!(2), json!("0s")]);
    }

    #[test]
    fn refuses_keys_twice_and_too_much_data() {
        let twice = json!({"metadata": {"name": "m"}, "data": {"a": "b"}, "binaryData": {"a": ""}});
        assert_eq!(
            refused(&resource(), twice),
            ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]
        );
        let large = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(SIZE_MAX + 1)}});
        assert_eq!(
            refused(&resource(), large),
            [": Too long: may not be more than 1048576 bytes"]
        );
    }

    #[test]
    fn stays_as_it_is_once_it_is_immutable() {
        let fixed = json!({"metadata": {"name": "m"}, "immutable": true, "data": {"a": "b"}});
        let old = created(&resource(), fixed);
        let other = changed(&old, |map| {
            map["data"]["a"] = "c".into();
            map["immutable"] = false.into();
        });
        let fields = causes(updated(&resource(), &old, other, Part::Main));
        assert_eq!(
            fields,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        let labelled = changed(&old, |map| map["metadata"]["labels"] = json!({"a": "b"}));
        assert!(updated(&resource(), &old, labelled, Part::Main).is_ok());
    }
}
