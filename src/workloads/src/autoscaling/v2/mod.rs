//! `autoscaling/v2` `HorizontalPodAutoscaler`.

mod defaults;
mod metrics;
mod table;
mod validate;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};
use vaquita_api::Object;
use vaquita_api::field::{Errors, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

use crate::{Here, rules, stored};

pub(super) use defaults::{cpu_utilization, scale_down, scale_up};
pub(super) use table::COLUMNS;

/// The target of an autoscaler that names none, in percent of the CPU that pods ask for.
pub(super) const DEFAULT_CPU: i32 = 80;

pub(super) fn resource() -> Resource {
    stored::<HorizontalPodAutoscaler>("horizontalpodautoscaler")
        .short(&["hpa"])
        .in_all()
        .with_status()
}

impl Kind<Here> for HorizontalPodAutoscaler {
    const COLUMNS: &'static [Column] = COLUMNS;

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        defaults::apply(&mut self.spec);
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"desiredReplicas": 0}));
    }

    fn validate(&self, errors: &mut Errors) {
        validate::spec(&self.spec, None, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        validate::spec(&self.spec, Some(&old.spec), &Path::root("spec"), errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let counts = [
            ("currentReplicas", status.current_replicas),
            ("desiredReplicas", Some(status.desired_replicas)),
        ];
        rules::none_negative(&counts, &Path::root("status"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        table::row(self, now)
    }
}

#[cfg(test)]
mod tests;
