//! `apps/v1` `ControllerRevision`: one state of the history of a `StatefulSet` or `DaemonSet`.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_kinds::print::NONE;

use crate::{Here, rules, stored};

pub(super) fn resource() -> Resource {
    stored::<ControllerRevision>("controllerrevision")
}

impl Kind<Here> for ControllerRevision {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Controller", "Whose history this is a part of."),
        Column::string("Revision", "Its place in the history."),
        Column::AGE,
    ];

    fn validate(&self, errors: &mut Errors) {
        if self.data.is_none() {
            let path = Path::root("data");
            errors.push(FieldError::required(&path, "data is mandatory"));
        }
        rules::not_negative(self.revision, &Path::root("revision"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        rules::immutable(&self.data, &old.data, &Path::root("data"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let mut owners = self.metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true));
        let controller = owner.map_or_else(
            || NONE.to_owned(),
            |owner| {
                // As clients write a resource: `statefulset.apps/web`, and without a group in the core.
                let kind = owner.kind.to_lowercase();
                match owner.api_version.split_once('/') {
                    Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
                    None => format!("{kind}/{}", owner.name),
                }
            },
        );
        vec![
            self.name_cell(),
            controller.into(),
            self.revision.into(),
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

    fn revision() -> Value {
        json!({
            "metadata": {"name": "web-1", "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": true,
            }]},
            "data": {"spec": {"replicas": 1}}, "revision": 3,
        })
    }

    #[test]
    fn prints_whose_it_is() {
        let object = created(&resource(), revision());
        assert_stable(&resource(), &object);
        let row = resource().row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["web-1", "statefulset.apps/web", 3, "0s"])
        );
    }

    #[test]
    fn keeps_its_data() {
        assert_eq!(
            refused(
                &resource(),
                json!({"metadata": {"name": "a"}, "revision": -1})
            ),
            [
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
        let old = created(&resource(), revision());
        let later = changed(&old, |revision| revision["revision"] = json!(4));
        let later = updated(&resource(), &old, later, Part::Main).unwrap();
        let other = changed(&later, |revision| revision["data"] = json!({"a": 1}));
        assert_eq!(
            causes(updated(&resource(), &later, other, Part::Main)),
            ["data: Invalid value: {\"a\":1}: field is immutable"]
        );
    }
}
