//! `StorageClass`: how volumes are made for those who claim them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use super::{validate_parameters, validate_provisioner};
use crate::checks::{immutable, one_of};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

/// The annotations that mark the class which claims without a class get.
const DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

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
        Column::string("AllowVolumeExpansion", "Whether volumes may grow."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.reclaim_policy
            .get_or_insert_with(|| "Delete".to_owned());
        self.volume_binding_mode
            .get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(&self, errors: &mut Errors) {
        validate_provisioner(&self.provisioner, &Path::root("provisioner"), errors);
        let parameters = Path::root("parameters");
        validate_parameters(self.parameters.as_ref(), &parameters, errors);
        let policy = self.reclaim_policy.as_deref().unwrap_or_default();
        if !policy.is_empty() {
            let at = Path::root("reclaimPolicy");
            one_of(policy, &["Delete", "Retain"], &at, errors);
        }
        let mode = self.volume_binding_mode.as_deref().unwrap_or_default();
        one_of(
            mode,
            &["Immediate", "WaitForFirstConsumer"],
            &Path::root("volumeBindingMode"),
            errors,
        );
        let terms = self.allowed_topologies.as_deref().unwrap_or_default();
        validate_topologies(terms, &Path::root("allowedTopologies"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        for (field, same) in [
            ("parameters", self.parameters == old.parameters),
            ("provisioner", self.provisioner == old.provisioner),
            ("reclaimPolicy", self.reclaim_policy == old.reclaim_policy),
        ] {
            if !same {
                errors.push(FieldError::forbidden(
                    &Path::root(field),
                    format!("updates to {field} are forbidden."),
                ));
            }
        }
        immutable(
            &self.volume_binding_mode,
            &old.volume_binding_mode,
            &Path::root("volumeBindingMode"),
            errors,
        );
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let annotations = self.metadata.annotations.as_ref();
        let default = DEFAULT.iter().any(|name| {
            let value = annotations.and_then(|annotations| annotations.get(*name));
            value.is_some_and(|value| value == "true")
        });
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

/// Where volumes may be: no two terms may say the same.
fn validate_topologies(terms: &[TopologySelectorTerm], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (at, term) in terms.iter().enumerate() {
        let path = path.index(at);
        let path = path.child("matchLabelExpressions");
        let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (at, expression) in term.match_label_expressions.iter().flatten().enumerate() {
            let path = path.index(at);
            let given = path.child("values");
            if expression.values.is_empty() {
                errors.push(FieldError::required(&given, ""));
            }
            let mut set = BTreeSet::new();
            for (at, value) in expression.values.iter().enumerate() {
                if !set.insert(value.as_str()) {
                    errors.push(FieldError::duplicate(&given.index(at), value.as_str()));
                }
            }
            let key = expression.key.as_str();
            invalid(&path.child("key"), key, names::qualified_name(key), errors);
            if values.insert(key, set).is_some() {
                errors.push(FieldError::duplicate(&path.child("key"), key));
            }
        }
        if !seen.insert(values) {
            errors.push(FieldError::duplicate(&path, ""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[test]
    fn says_how_volumes_are_made() {
        let class = json!({
            "metadata": {"name": "fast", "annotations": {DEFAULT[0]: "true"}},
            "provisioner": "disk.example.com", "parameters": {"type": "ssd"},
        });
        let old = created(&resource(), class);
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!([
                "fast (default)",
                "disk.example.com",
                "Delete",
                "Immediate",
                false,
                "0s"
            ])
        );
        let other = changed(&old, |class| {
            class["provisioner"] = "x".into();
            class["volumeBindingMode"] = "WaitForFirstConsumer".into();
            class["allowVolumeExpansion"] = true.into();
        });
        assert_eq!(
            causes(updated(&resource(), &old, other, Part::Main)),
            [
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ]
        );
    }

    #[test]
    fn names_places_once() {
        let term = json!({"matchLabelExpressions": [{"key": "zone", "values": ["a", "a"]}]});
        let class = json!({"metadata": {"name": "c"}, "provisioner": "p", "allowedTopologies": [term, term]});
        assert_eq!(
            refused(&resource(), class),
            [
                "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                "allowedTopologies[1].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                "allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\"",
            ]
        );
    }
}
