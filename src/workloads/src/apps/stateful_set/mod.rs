//! `apps/v1` `StatefulSet`.

mod validate;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use vaquita_api::Object;
use vaquita_api::field::{Errors, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

use crate::{Here, print, rules, stored, template};

pub(super) fn resource() -> Resource {
    stored::<StatefulSet>("statefulset")
        .short(&["sts"])
        .in_all()
        .scalable()
        .with_status()
}

impl Kind<Here> for StatefulSet {
    const GENERATION: bool = true;

    /// The names of its pods begin with it, and are host names.
    const NAME: fn(&str) -> Problems = names::dns1123_label;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string(
            "Ready",
            "How many pods are ready, of those there should be.",
        ),
        Column::AGE,
        print::CONTAINERS,
        print::IMAGES,
    ];

    fn apply_defaults(&mut self) {
        let status = self.status.get_or_insert_default();
        status.available_replicas.get_or_insert(0);
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.pod_management_policy
            .get_or_insert_with(|| "OrderedReady".to_owned());
        let strategy = spec.update_strategy.get_or_insert_default();
        let kind = strategy
            .type_
            .get_or_insert_with(|| "RollingUpdate".to_owned());
        if kind == "RollingUpdate" {
            let update = strategy.rolling_update.get_or_insert_default();
            update.partition.get_or_insert(0);
            update.max_unavailable.get_or_insert(IntOrString::Int(1));
        }
        if let Some(ordinals) = &mut spec.ordinals {
            ordinals.start.get_or_insert(0);
        }
        let policy = spec
            .persistent_volume_claim_retention_policy
            .get_or_insert_default();
        for what in [&mut policy.when_deleted, &mut policy.when_scaled] {
            what.get_or_insert_with(|| "Retain".to_owned());
        }
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            apply_claim_defaults(claim);
        }
        template::apply_defaults(&mut spec.template);
    }

    fn prepare_create(object: &mut Object) {
        object.insert(
            "status".to_owned(),
            json!({"availableReplicas": 0, "replicas": 0}),
        );
    }

    fn validate(&self, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            let path = Path::root("spec");
            validate::service_name(spec, &path, errors);
            validate::spec(spec, &path, errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::root("spec");
        if let Some(spec) = &self.spec {
            validate::spec(spec, &path, errors);
        }
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            validate::update(new, old, &path, errors);
        }
    }

    fn validate_status(&self, old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::root("status");
        validate::status(status, &path, errors);
        let before = old
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        rules::not_decremented(
            status.collision_count,
            before,
            &path.child("collisionCount"),
            errors,
        );
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (self.spec.as_ref(), self.status.as_ref());
        let [names, images] = print::containers(spec.map(|spec| &spec.template));
        let ready = status
            .and_then(|status| status.ready_replicas)
            .unwrap_or_default();
        let desired = spec.and_then(|spec| spec.replicas).unwrap_or_default();
        vec![
            self.name_cell(),
            format!("{ready}/{desired}").into(),
            self.age_cell(now),
            names,
            images,
        ]
    }
}

/// The claims are shown as claims that nobody has looked at yet.
fn apply_claim_defaults(claim: &mut PersistentVolumeClaim) {
    let spec = claim.spec.get_or_insert_default();
    spec.volume_mode
        .get_or_insert_with(|| "Filesystem".to_owned());
    spec.resources.get_or_insert_default();
    let status = claim.status.get_or_insert_default();
    status.phase.get_or_insert_with(|| "Pending".to_owned());
}

#[cfg(test)]
mod tests;
