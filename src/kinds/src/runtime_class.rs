//! `node.k8s.io/v1` `RuntimeClass`.

use jiff::Timestamp;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::{Value, json};

use super::{pod_spec, resource_names};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::{invalid, labels};

pub(super) fn resource() -> Resource {
    stored::<RuntimeClass>("runtimeclass", false)
}

impl Kind<Here> for RuntimeClass {
    const UNCONDITIONAL_UPDATE: bool = false;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Handler", "What runs the pods of this class."),
        Column::AGE,
    ];

    fn validate(&self, errors: &mut Errors) {
        invalid(
            &Path::root("handler"),
            &self.handler,
            names::dns1123_label(&self.handler),
            errors,
        );
        // Upstream looks at it as if it were a container's limits, and says so.
        let path = Path::root("overhead");
        let path = path.child("limits");
        let fixed = self
            .overhead
            .iter()
            .flat_map(|overhead| overhead.pod_fixed.iter().flatten());
        for (name, quantity) in fixed {
            let path = path.key(name);
            resource_names::of_container(name, &path, errors);
            resource_names::amount(name, quantity, &path, errors);
        }
        let Some(scheduling) = &self.scheduling else {
            return;
        };
        let path = Path::root("scheduling");
        let selector = scheduling.node_selector.iter().flatten();
        labels(
            selector.map(|(key, value)| (key.as_str(), value.as_str())),
            &path.child("nodeSelector"),
            errors,
        );
        let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
        let path = path.child("tolerations");
        pod_spec::validate_tolerations(tolerations, &path, errors);
        for (at, toleration) in tolerations.iter().enumerate() {
            if tolerations[..at].contains(toleration) {
                errors.push(FieldError::duplicate(&path.index(at), json!(toleration)));
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        if self.handler != old.handler {
            errors.push(FieldError::invalid(
                &Path::root("handler"),
                self.handler.as_str(),
                "field is immutable",
            ));
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            self.name_cell(),
            self.handler.clone().into(),
            self.age_cell(now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, created, refused};

    #[test]
    fn prints_its_handler() {
        let class = json!({"metadata": {"name": "wasm"}, "handler": "spin"});
        let class = created(&resource(), class);
        assert_stable(&resource(), &class);
        let row = resource().row(&class, Timestamp::UNIX_EPOCH);
        assert_eq!(row, [json!("wasm"), json!("spin"), json!("0s")]);
    }

    #[test]
    fn refuses_what_pods_could_not_be_given() {
        let toleration = json!({"key": "a", "operator": "Exists"});
        let class = json!({
            "metadata": {"name": "w"}, "handler": "H",
            "overhead": {"podFixed": {"cpu": "-1"}},
            "scheduling": {"tolerations": [toleration, toleration]},
        });
        let errors = refused(&resource(), class);
        assert!(errors[0].starts_with("handler: Invalid value: \"H\""));
        assert_eq!(
            errors[1],
            "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"
        );
        assert!(errors[2].starts_with("scheduling.tolerations[1]: Duplicate value"));
    }
}
