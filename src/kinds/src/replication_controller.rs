//! `v1` ReplicationController.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};
use serde_json::{Value, json};

use super::{pod_spec, print};
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource, SelectableField};
use vaquita_api::selector::LabelSelector;
use vaquita_api::table::Column;

pub(super) fn resource() -> Resource {
    stored::<ReplicationController>("replicationcontroller", true)
        .short(&["rc"])
        .in_all()
        .scalable()
        .with_status()
}

impl Kind<Here> for ReplicationController {
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
        Column::string("Containers", "The names of the template's containers.").wide(),
        Column::string("Images", "The images of the template's containers.").wide(),
        Column::string("Selector", "Which pods are counted.").wide(),
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let Some(template) = &mut spec.template else {
            return;
        };
        if let Some(spec) = &mut template.spec {
            pod_spec::apply_defaults(spec);
        }
        template.metadata.get_or_insert_default();
        let labels = template
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.labels.as_ref());
        if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
            let empty = |map: &Option<std::collections::BTreeMap<_, _>>| {
                map.as_ref()
                    .is_none_or(std::collections::BTreeMap::is_empty)
            };
            if empty(&spec.selector) {
                spec.selector = Some(labels.clone());
            }
            if empty(&self.metadata.labels) {
                self.metadata.labels = Some(labels.clone());
            }
        }
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"replicas": 0}));
    }

    fn validate(&self, errors: &mut Errors) {
        pod_spec::warn_of_name(&self.metadata, "Pod names and hostnames", errors);
        let empty = ReplicationControllerSpec::default();
        validate_spec(
            self.spec.as_ref().unwrap_or(&empty),
            &Path::root("spec"),
            errors,
        );
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        if let Some(status) = &self.status {
            validate_status(status, &Path::root("status"), errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (self.spec.as_ref(), self.status.as_ref());
        let template = spec
            .and_then(|spec| spec.template.as_ref())
            .and_then(|template| template.spec.as_ref());
        let (names, images) = print::containers(template.map_or(&[], |spec| &spec.containers));
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
            print::labels(spec.and_then(|spec| spec.selector.as_ref())),
        ]
    }
}

fn not_negative(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if value < 0 {
        errors.push(FieldError::invalid(
            path,
            value,
            "must be greater than or equal to 0",
        ));
    }
}

fn validate_spec(spec: &ReplicationControllerSpec, path: &Path<'_>, errors: &mut Errors) {
    not_negative(
        spec.min_ready_seconds.unwrap_or_default().into(),
        &path.child("minReadySeconds"),
        errors,
    );
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        errors.push(FieldError::required(&path.child("selector"), ""));
    }
    match spec.replicas {
        Some(replicas) => not_negative(replicas.into(), &path.child("replicas"), errors),
        None => errors.push(FieldError::required(&path.child("replicas"), "")),
    }
    let at = path.child("template");
    match &spec.template {
        None => errors.push(FieldError::required(&at, "")),
        Some(template) => {
            validate_template(template, &LabelSelector::from_map(&selector), &at, errors);
        }
    }
}

fn validate_template(
    template: &PodTemplateSpec,
    selector: &LabelSelector,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let labels = template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default();
    if !selector.is_everything() && !selector.matches(&labels) {
        const DETAIL: &str = "`selector` does not match template `labels`";
        let at = path.child("metadata");
        errors.push(FieldError::invalid(
            &at.child("labels"),
            json!(labels),
            DETAIL,
        ));
    }
    pod_spec::validate_template(template, path, errors);
    let Some(spec) = &template.spec else { return };
    let path = path.child("spec");
    // Another policy would let pods end, which the controller would only replace.
    if let Some(policy) = spec
        .restart_policy
        .as_deref()
        .filter(|policy| *policy != "Always")
    {
        errors.push(FieldError::not_supported(
            &path.child("restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if spec.active_deadline_seconds.is_some() {
        const DETAIL: &str = "activeDeadlineSeconds in ReplicationController is not Supported";
        errors.push(FieldError::forbidden(
            &path.child("activeDeadlineSeconds"),
            DETAIL,
        ));
    }
}

fn validate_status(status: &ReplicationControllerStatus, path: &Path<'_>, errors: &mut Errors) {
    let (ready, available) = (
        status.ready_replicas.unwrap_or(0),
        status.available_replicas.unwrap_or(0),
    );
    let labeled = status.fully_labeled_replicas.unwrap_or(0);
    let counts = [
        ("replicas", status.replicas),
        ("fullyLabeledReplicas", labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ];
    for (field, count) in counts {
        not_negative(count.into(), &path.child(field), errors);
    }
    not_negative(
        status.observed_generation.unwrap_or_default(),
        &path.child("observedGeneration"),
        errors,
    );
    for (field, count) in &counts[1..] {
        if *count > status.replicas {
            errors.push(FieldError::invalid(
                &path.child(field),
                *count,
                "cannot be greater than status.replicas",
            ));
        }
    }
    if available > ready {
        let at = path.child("availableReplicas");
        errors.push(FieldError::invalid(
            &at,
            available,
            "cannot be greater than readyReplicas",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::meta;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    fn controller() -> Value {
        json!({
            "metadata": {"name": "web"},
            "spec": {"template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x"}]},
            }},
        })
    }

    #[test]
    fn takes_labels_and_selector_from_its_template() {
        let rc = created(&resource(), controller());
        assert_eq!(rc["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(rc["spec"]["selector"], json!({"app": "web"}));
        assert_eq!(rc["spec"]["replicas"], 1);
        assert_eq!(rc["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert!(
            rc["spec"]["template"]["spec"]
                .get("enableServiceLinks")
                .is_none()
        );
        assert_eq!(rc["status"], json!({"replicas": 0}));
        assert_stable(&resource(), &rc);
        let row = resource().row(&rc, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["web", 1, 0, 0, "0s", "c", "x", "app=web"])
        );
    }

    #[test]
    fn refuses_what_could_never_work() {
        let with = |change: fn(&mut Value)| {
            let mut rc = controller();
            change(&mut rc["spec"]);
            refused(&resource(), rc)
        };
        assert_eq!(
            with(|spec| spec["selector"] = json!({"app": "db"})),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            with(|spec| spec["replicas"] = json!(-1)),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            with(|spec| spec["template"]["spec"]["restartPolicy"] = json!("Never")),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""
            ]
        );
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "a"}})),
            [
                "spec.selector: Required value",
                "spec.template: Required value"
            ]
        );
    }

    #[test]
    fn counts_changes_of_its_specification_alone() {
        let old = created(&resource(), controller());
        let scaled = changed(&old, |rc| rc["spec"]["replicas"] = 3.into());
        let new = updated(&resource(), &old, scaled, Part::Main).unwrap();
        assert_eq!(meta::generation(&new), 2);
        let status = changed(&new, |rc| {
            rc["status"] = json!({"replicas": 3, "readyReplicas": 2});
            rc["spec"]["replicas"] = 7.into();
        });
        let reported = updated(&resource(), &new, status, Part::Status).unwrap();
        assert_eq!(
            (meta::generation(&reported), &reported["spec"]["replicas"]),
            (2, &json!(3))
        );
        let wrong = changed(&new, |rc| {
            rc["status"] = json!({"replicas": 1, "readyReplicas": 2});
        });
        assert_eq!(
            causes(updated(&resource(), &new, wrong, Part::Status)),
            ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]
        );
    }
}
