//! `node.k8s.io/v1` `RuntimeClass`.

use jiff::Timestamp;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::Value;

use super::pod_spec;
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::{invalid, labels};
use vaquita_api::validate::resources;

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
        let path = Path::root("overhead");
        let path = path.child("podFixed");
        let fixed = self
            .overhead
            .iter()
            .flat_map(|overhead| overhead.pod_fixed.iter().flatten());
        for (name, quantity) in fixed {
            resources::quantity(name, quantity, &path.key(name), errors);
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
        pod_spec::validate_tolerations(tolerations, &path.child("tolerations"), errors);
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
