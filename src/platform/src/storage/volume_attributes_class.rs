//! `VolumeAttributesClass`: settings of a volume that may change while it is used.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::Value;

use super::{validate_parameters, validate_provisioner};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

/// The annotation that marks the class which claims without a class get.
const DEFAULT: &str = "volumeattributesclass.alpha.kubernetes.io/is-default-class";

pub(super) fn resource() -> Resource {
    stored::<VolumeAttributesClass>("volumeattributesclass", false).short(&["vac"])
}

impl Kind<Here> for VolumeAttributesClass {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("DriverName", "The driver that knows the settings."),
        Column::AGE,
    ];

    fn validate(&self, errors: &mut Errors) {
        validate_provisioner(&self.driver_name, &Path::root("driverName"), errors);
        let path = Path::root("parameters");
        validate_parameters(self.parameters.as_ref(), &path, errors);
        if self.parameters.as_ref().is_none_or(BTreeMap::is_empty) {
            let detail = "must contain at least one key/value pair";
            errors.push(FieldError::required(&path, detail));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        for (field, same) in [
            ("driverName", self.driver_name == old.driver_name),
            ("parameters", self.parameters == old.parameters),
        ] {
            if !same {
                errors.push(FieldError::forbidden(
                    &Path::root(field),
                    format!("updates to {field} are forbidden."),
                ));
            }
        }
        self.validate(errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let annotations = self.metadata.annotations.as_ref();
        let default = annotations
            .and_then(|annotations| annotations.get(DEFAULT))
            .is_some_and(|value| value == "true");
        let name = self.metadata.name.clone().unwrap_or_default();
        vec![
            if default {
                format!("{name} (default)").into()
            } else {
                name.into()
            },
            self.driver_name.clone().into(),
            self.age_cell(now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[test]
    fn never_changes() {
        let class = json!({
            "metadata": {"name": "fast", "annotations": {DEFAULT: "true"}},
            "driverName": "disk.example.com", "parameters": {"iops": "9000"},
        });
        let old = created(&resource(), class);
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["fast (default)", "disk.example.com", "0s"])
        );
        let other = changed(&old, |class| class["parameters"]["iops"] = "1".into());
        assert_eq!(
            causes(updated(&resource(), &old, other, Part::Main)),
            ["parameters: Forbidden: updates to parameters are forbidden."]
        );
    }

    #[test]
    fn wants_a_driver_and_settings() {
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "a"}})),
            [
                "driverName: Required value",
                "parameters: Required value: must contain at least one key/value pair"
            ]
        );
    }
}
