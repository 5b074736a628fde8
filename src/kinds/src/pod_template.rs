//! `v1` `PodTemplate`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use super::{pod_spec, print};
use crate::{Here, stored};
use vaquita_api::field::{Errors, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

pub(super) fn resource() -> Resource {
    stored::<PodTemplate>("podtemplate", true)
}

impl Kind<Here> for PodTemplate {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Containers", "The names of the containers."),
        Column::string("Images", "The images of the containers."),
        Column::string("Pod Labels", "The labels of pods that are made of it."),
    ];

    fn apply_defaults(&mut self) {
        let template = self.template.get_or_insert_default();
        template.metadata.get_or_insert_default();
        if let Some(spec) = &mut template.spec {
            pod_spec::apply_defaults(spec);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let template = self.template.clone().unwrap_or_default();
        pod_spec::validate_template(&template, &Path::root("template"), errors);
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let template = self.template.clone().unwrap_or_default();
        let spec = template.spec.unwrap_or_default();
        let (names, images) = print::containers(&spec.containers);
        let labels = template.metadata.and_then(|metadata| metadata.labels);
        vec![
            self.name_cell(),
            names,
            images,
            print::labels(labels.as_ref()),
        ]
    }
}
