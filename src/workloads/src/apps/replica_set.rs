//! `apps/v1` `ReplicaSet`.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use serde_json::{Value, json};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource, SelectableField};
use vaquita_api::table::Column;
use vaquita_kinds::pod_spec;

use crate::{Here, print, rules, stored, template};

pub(super) fn resource() -> Resource {
    stored::<ReplicaSet>("replicaset")
        .short(&["rs"])
        .in_all()
        .scalable()
        .with_status()
}

impl Kind<Here> for ReplicaSet {
    const GENERATION: bool = true;

    const SELECTABLE: &'static [SelectableField] = &[SelectableField::new(
        "status.replicas",
        &["status", "replicas"],
        "0",
    )];

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::integer("Desired", "How many pods there should be."),
        Column::integer("Current", "How many pods there are."),
        Column::integer("Ready", "How many pods are ready."),
        Column::AGE,
        print::CONTAINERS,
        print::IMAGES,
        print::SELECTOR,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        template::apply_defaults(spec.template.get_or_insert_default());
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"replicas": 0}));
    }

    fn validate(&self, errors: &mut Errors) {
        pod_spec::warn_of_name(&self.metadata, "Pod names and hostnames", errors);
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Path::root("spec"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            let path = Path::root("spec");
            rules::immutable(
                &new.selector,
                &old.selector,
                &path.child("selector"),
                errors,
            );
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        if let Some(status) = &self.status {
            validate_status(status, &Path::root("status"), errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (self.spec.as_ref(), self.status.as_ref());
        let template = spec.and_then(|spec| spec.template.as_ref());
        let [names, images] = print::containers(template);
        vec![
            self.name_cell(),
            spec.and_then(|spec| spec.replicas)
                .unwrap_or_default()
                .into(),
            status.map_or(0, |status| status.replicas).into(),
            status
                .and_then(|status| status.ready_replicas)
                .unwrap_or_default()
                .into(),
            self.age_cell(now),
            names,
            images,
            print::selector(spec.map(|spec| &spec.selector)),
        ]
    }
}

fn validate_spec(spec: &ReplicaSetSpec, path: &Path<'_>, errors: &mut Errors) {
    let numbers = [
        ("replicas", spec.replicas),
        ("minReadySeconds", spec.min_ready_seconds),
    ];
    rules::none_negative(&numbers, path, errors);
    if let Some(template) = &spec.template {
        template::replicated(&spec.selector, template, path, errors);
    }
}

fn validate_status(status: &ReplicaSetStatus, path: &Path<'_>, errors: &mut Errors) {
    const TOTAL: &str = "cannot be greater than status.replicas";
    let parts = [
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    rules::not_negative(status.replicas, &path.child("replicas"), errors);
    rules::none_negative(&parts, path, errors);
    rules::none_negative(
        &[("terminatingReplicas", status.terminating_replicas)],
        path,
        errors,
    );
    let generation = [("observedGeneration", status.observed_generation)];
    rules::none_negative(&generation, path, errors);
    rules::at_most(status.replicas, &parts, TOTAL, path, errors);
    let (available, ready) = (
        status.available_replicas.unwrap_or_default(),
        status.ready_replicas.unwrap_or_default(),
    );
    if available > ready {
        errors.push(FieldError::invalid(
            &path.child("availableReplicas"),
            available,
            "cannot be greater than readyReplicas",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, web};
    use super::*;
    use vaquita_api::meta;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[test]
    fn fills_in_and_prints() {
        let set = created(&resource(), web());
        assert_eq!(set["spec"]["replicas"], 1);
        assert_eq!(set["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(set["status"], json!({"replicas": 0}));
        assert_eq!(meta::generation(&set), 1);
        assert!(
            set["metadata"].get("labels").is_none(),
            "labels are not taken over"
        );
        assert_stable(&resource(), &set);
        let row = resource().row(&set, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["web", 1, 0, 0, "0s", "c", "x", "app=web"])
        );
    }

    #[test]
    fn refuses_what_could_never_work() {
        let with = |change: fn(&mut Value)| after(change, |set| refused(&resource(), set));
        assert_eq!(
            with(|spec| spec["selector"]["matchLabels"] = json!({"app": "db"})),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            with(|spec| spec["replicas"] = json!(-1)),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            with(|spec| {
                spec["template"]["spec"]["restartPolicy"] = json!("OnFailure");
                spec["template"]["spec"]["activeDeadlineSeconds"] = json!(5);
            }),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"OnFailure\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ]
        );
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "a"}})),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`",
                "spec.template.spec.containers: Required value",
            ]
        );
        assert_eq!(
            with(|spec| spec["selector"] =
                json!({"matchExpressions": [{"key": "app", "operator": "Like", "values": ["w"]}]}))
            .len(),
            2
        );
    }

    #[test]
    fn keeps_its_selector() {
        let old = created(&resource(), web());
        let other = changed(&old, |set| {
            set["spec"]["selector"]["matchLabels"]["tier"] = json!("front");
            set["spec"]["template"]["metadata"]["labels"]["tier"] = json!("front");
        });
        assert_eq!(
            causes(updated(&resource(), &old, other, Part::Main)),
            [
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"tier\":\"front\"}}: field is immutable"
            ]
        );
    }

    #[test]
    fn counts_add_up() {
        let old = created(&resource(), web());
        let wrong = changed(&old, |set| {
            set["status"] = json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2, "fullyLabeledReplicas": 3});
        });
        assert_eq!(
            causes(updated(&resource(), &old, wrong, Part::Status)),
            [
                "status.fullyLabeledReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
            ]
        );
    }
}
