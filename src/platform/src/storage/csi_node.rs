//! `CSINode`: the storage drivers of a node.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver};
use serde_json::{Value, json};

use crate::checks::{IMMUTABLE, driver_name, not_negative};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

/// The longest name that a driver may have for its node, in bytes.
const NODE_ID_MAX: usize = 256;

pub(super) fn resource() -> Resource {
    stored::<CSINode>("csinode", false)
}

impl Kind<Here> for CSINode {
    const UNCONDITIONAL_UPDATE: bool = false;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::integer("Drivers", "How many drivers the node has."),
        Column::AGE,
    ];

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("spec");
        let path = path.child("drivers");
        let mut names = HashSet::new();
        for (at, driver) in self.spec.drivers.iter().enumerate() {
            let path = path.index(at);
            validate_driver(driver, &path, errors);
            if !names.insert(driver.name.as_str()) {
                let at = path.child("name");
                errors.push(FieldError::duplicate(&at, driver.name.as_str()));
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        let path = Path::root("spec");
        let path = path.child("drivers");
        // How many volumes there may be is found out again from time to time; all else stays.
        let fixed = |driver: &CSINodeDriver| CSINodeDriver {
            allocatable: None,
            ..driver.clone()
        };
        for before in &old.spec.drivers {
            let after = self.spec.drivers.iter();
            for after in after.filter(|after| after.name == before.name) {
                if fixed(after) != fixed(before) {
                    let value = json!(fixed(after));
                    errors.push(FieldError::invalid(&path, value, IMMUTABLE));
                }
            }
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            self.name_cell(),
            self.spec.drivers.len().into(),
            self.age_cell(now),
        ]
    }
}

fn validate_driver(driver: &CSINodeDriver, path: &Path<'_>, errors: &mut Errors) {
    driver_name(&driver.name, &path.child("name"), errors);
    let at = path.child("nodeID");
    if driver.node_id.is_empty() {
        errors.push(FieldError::required(&at, ""));
    }
    if driver.node_id.len() > NODE_ID_MAX {
        let detail = format!("must be {NODE_ID_MAX} characters or less");
        errors.push(FieldError::invalid(&at, driver.node_id.as_str(), detail));
    }
    let allocatable = driver.allocatable.as_ref();
    if let Some(count) = allocatable.and_then(|allocatable| allocatable.count) {
        let at = path.child("allocatable");
        not_negative(count.into(), &at.child("count"), errors);
    }
    let mut keys = HashSet::new();
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(path, key.as_str()));
        }
        invalid(path, key, names::qualified_name(key), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn node(drivers: Value) -> Value {
        json!({"metadata": {"name": "n", "resourceVersion": "0"}, "spec": {"drivers": drivers}})
    }

    #[test]
    fn keeps_what_is_known_of_a_driver() {
        let driver = json!({"name": "disk.example.com", "nodeID": "n-1", "topologyKeys": ["example.com/zone"]});
        let old = created(&resource(), node(json!([driver])));
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["n", 1, "0s"]));
        let with = |field: &str, value: Value| {
            let new = changed(&old, |node| {
                node["metadata"]["resourceVersion"] = "1".into();
                node["spec"]["drivers"][0][field] = value;
            });
            causes(updated(&resource(), &old, new, Part::Main))
        };
        assert_eq!(with("allocatable", json!({"count": 3})), [""; 0]);
        let errors = with("nodeID", json!("n-2"));
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
    }

    #[test]
    fn tells_drivers_apart() {
        let driver = json!({"name": "a.b", "nodeID": "n", "allocatable": {"count": -1}});
        assert_eq!(
            refused(
                &resource(),
                node(json!([driver, {"name": "a.b", "nodeID": ""}]))
            ),
            [
                "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].nodeID: Required value",
                "spec.drivers[1].name: Duplicate value: \"a.b\"",
            ]
        );
    }
}
