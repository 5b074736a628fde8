//! `CSIStorageCapacity`: how much room there is for volumes of a class in a part of the cluster.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use serde_json::Value;

use crate::checks::immutable;
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::quantity::Quantity;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::selectors;

pub(super) fn resource() -> Resource {
    stored::<CSIStorageCapacity>("csistoragecapacity", true)
}

impl Kind<Here> for CSIStorageCapacity {
    const UNCONDITIONAL_UPDATE: bool = false;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("StorageClassName", "The class of the volumes."),
        Column::string("Capacity", "How much room there is."),
    ];

    fn validate(&self, errors: &mut Errors) {
        selectors::label_selector(
            self.node_topology.as_ref(),
            &Path::root("nodeTopology"),
            errors,
        );
        let class = &self.storage_class_name;
        let problems = names::dns1123_subdomain(class);
        invalid(&Path::root("storageClassName"), class, problems, errors);
        if let Some(capacity) = &self.capacity
            && capacity.0.parse().is_ok_and(Quantity::is_negative)
        {
            errors.push(FieldError::invalid(
                &Path::root("capacity"),
                capacity.0.as_str(),
                "must be greater than or equal to 0",
            ));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        immutable(
            &self.node_topology,
            &old.node_topology,
            &Path::root("nodeTopology"),
            errors,
        );
        immutable(
            &self.storage_class_name,
            &old.storage_class_name,
            &Path::root("storageClassName"),
            errors,
        );
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let capacity = self.capacity.clone().unwrap_or_default();
        vec![
            self.name_cell(),
            self.storage_class_name.clone().into(),
            capacity.0.into(),
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
    fn reports_room() {
        let capacity =
            json!({"metadata": {"name": "c"}, "storageClassName": "fast", "capacity": "10Gi"});
        let old = created(&resource(), capacity);
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["c", "fast", "10Gi"]));
        let with = |field: &str, value: &str| {
            let new = changed(&old, |object| {
                object["metadata"]["resourceVersion"] = "1".into();
                object[field] = value.into();
            });
            causes(updated(&resource(), &old, new, Part::Main))
        };
        assert_eq!(with("capacity", "5Gi"), [""; 0]);
        assert_eq!(
            with("storageClassName", "slow"),
            ["storageClassName: Invalid value: \"slow\": field is immutable"]
        );
        let negative =
            json!({"metadata": {"name": "c"}, "storageClassName": "fast", "capacity": "-1"});
        assert_eq!(
            refused(&resource(), negative),
            ["capacity: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
    }
}
