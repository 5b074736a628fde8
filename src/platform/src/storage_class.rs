//! `storage.k8s.io/v1` `StorageClass`.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

/// The annotation that marks the class which claims without a class get.
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn resource() -> Resource {
    stored::<StorageClass>("storageclass", false).short(&["sc"])
}

impl Kind<Here> for StorageClass {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Provisioner", "What makes the volumes."),
        Column::string(
            "ReclaimPolicy",
            "What becomes of a volume that is released.",
        ),
        Column::string("VolumeBindingMode", "When claims are bound to volumes."),
        Column::boolean("AllowVolumeExpansion", "Whether volumes may grow."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.reclaim_policy
            .get_or_insert_with(|| "Delete".to_owned());
        self.volume_binding_mode
            .get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("provisioner");
        if self.provisioner.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            let lower = self.provisioner.to_lowercase();
            invalid(
                &path,
                &self.provisioner,
                names::qualified_name(&lower),
                errors,
            );
        }
        for (field, value, allowed) in [
            ("reclaimPolicy", &self.reclaim_policy, ["Delete", "Retain"]),
            (
                "volumeBindingMode",
                &self.volume_binding_mode,
                ["Immediate", "WaitForFirstConsumer"],
            ),
        ] {
            if let Some(value) = value.as_deref().filter(|value| !allowed.contains(value)) {
                errors.push(FieldError::not_supported(
                    &Path::root(field),
                    value,
                    &allowed,
                ));
            }
        }
        let parameters = Path::root("parameters");
        if self
            .parameters
            .iter()
            .flatten()
            .any(|(key, _)| key.is_empty())
        {
            errors.push(FieldError::invalid(
                &parameters,
                "",
                "field can not be empty.",
            ));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        for (field, same) in [
            ("parameters", self.parameters == old.parameters),
            ("provisioner", self.provisioner == old.provisioner),
            ("reclaimPolicy", self.reclaim_policy == old.reclaim_policy),
            (
                "volumeBindingMode",
                self.volume_binding_mode == old.volume_binding_mode,
            ),
        ] {
            if !same {
                errors.push(FieldError::forbidden(
                    &Path::root(field),
                    format!("updates to {field} are forbidden."),
                ));
            }
        }
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
            self.provisioner.clone().into(),
            self.reclaim_policy.clone().unwrap_or_default().into(),
            self.volume_binding_mode.clone().unwrap_or_default().into(),
            self.allow_volume_expansion.unwrap_or_default().into(),
            self.age_cell(now),
        ]
    }
}
