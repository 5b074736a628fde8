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
        Column::integer("Data", "How many keys there are."),
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
                let detail = format!("duplicate of key present in binaryData: {key:?}");
                errors.push(FieldError::invalid(&data.key(key), key.as_str(), detail));
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
