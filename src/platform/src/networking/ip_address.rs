//! `IPAddress`: an address that is in use, and by what.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ParentReference};
use serde_json::Value;

use crate::checks::{canonical_ip, immutable, required};
use crate::{Here, stored};
use vaquita_api::field::{Errors, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

pub(super) fn resource() -> Resource {
    stored::<IPAddress>("ipaddress", false).short(&["ip"])
}

impl Kind<Here> for IPAddress {
    const NAME: fn(&str) -> Problems = canonical_ip;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("ParentRef", "What uses the address."),
        Column::AGE,
    ];

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("spec");
        validate_parent(&self.spec.parent_ref, &path.child("parentRef"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::root("spec");
        immutable(
            &self.spec.parent_ref,
            &old.spec.parent_ref,
            &path.child("parentRef"),
            errors,
        );
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let parent = &self.spec.parent_ref;
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let group = given(&parent.group).map(|group| format!(".{group}"));
        let namespace = given(&parent.namespace).map(|namespace| format!("/{namespace}"));
        let (group, namespace) = (group.unwrap_or_default(), namespace.unwrap_or_default());
        vec![
            self.name_cell(),
            format!("{}{group}{namespace}/{}", parent.resource, parent.name).into(),
            self.age_cell(now),
        ]
    }
}

fn validate_parent(parent: &ParentReference, path: &Path<'_>, errors: &mut Errors) {
    if let Some(group) = parent.group.as_ref().filter(|group| !group.is_empty()) {
        let problems = names::dns1123_subdomain(group);
        invalid(&path.child("group"), group, problems, errors);
    }
    let segment = names::path_segment;
    required(&parent.resource, segment, &path.child("resource"), errors);
    required(&parent.name, segment, &path.child("name"), errors);
    if let Some(namespace) = &parent.namespace {
        invalid(
            &path.child("namespace"),
            namespace,
            segment(namespace),
            errors,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    fn address(name: &str) -> Value {
        let parent =
            json!({"group": "", "resource": "services", "namespace": "default", "name": "web"});
        json!({"metadata": {"name": name}, "spec": {"parentRef": parent}})
    }

    #[test]
    fn belongs_to_one_parent_for_good() {
        let old = created(&resource(), address("10.96.0.1"));
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["10.96.0.1", "services/default/web", "0s"])
        );
        let other = changed(&old, |address| {
            address["spec"]["parentRef"]["name"] = "db".into();
        });
        let errors = causes(updated(&resource(), &old, other, Part::Main));
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
    }

    #[test]
    fn is_named_by_the_address() {
        assert_eq!(
            refused(&resource(), address("10.96.0.01")),
            [
                "metadata.name: Invalid value: \"10.96.0.01\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            ]
        );
        assert_eq!(
            refused(&resource(), address("2001:db8::0")),
            [
                "metadata.name: Invalid value: \"2001:db8::0\": must be in canonical form (\"2001:db8::\")"
            ]
        );
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "::1"}})),
            [
                "spec.parentRef.resource: Required value",
                "spec.parentRef.name: Required value"
            ]
        );
    }
}
