//! `apps/v1` Deployment.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::selector::LabelSelector;
use vaquita_api::table::Column;
use vaquita_api::{Object, meta};
use vaquita_kinds::pod_spec;

use crate::{Here, print, rules, stored, template};

pub(super) fn resource() -> Resource {
    stored::<Deployment>("deployment")
        .short(&["deploy"])
        .in_all()
        .scalable()
        .with_status()
}

impl Kind<Here> for Deployment {
    const GENERATION: bool = true;

    /// The controller copies them to the replica sets.
    const GENERATION_OF_ANNOTATIONS: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string(
            "Ready",
            "How many pods are ready, of those there should be.",
        ),
        Column::string(
            "Up-to-date",
            "How many pods come from the present template.",
        ),
        Column::string(
            "Available",
            "How many pods have been ready for long enough.",
        ),
        Column::AGE,
        print::CONTAINERS,
        print::IMAGES,
        print::SELECTOR,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        let kind = strategy
            .type_
            .get_or_insert_with(|| "RollingUpdate".to_owned());
        if kind == "RollingUpdate" {
            let update = strategy.rolling_update.get_or_insert_default();
            for field in [&mut update.max_unavailable, &mut update.max_surge] {
                field.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
            }
        }
        template::apply_defaults(&mut spec.template);
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({}));
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Status {
            // Who reports a status has no say in the labels.
            let labels = meta::at(old, &["metadata", "labels"]).cloned();
            let metadata = meta::metadata_mut(new);
            match labels {
                Some(labels) => metadata.insert("labels".to_owned(), labels),
                None => metadata.remove("labels"),
            };
        }
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

    fn validate_status(&self, old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::root("status");
        validate_status(status, &path, errors);
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
        let (spec, status) = (
            self.spec.clone().unwrap_or_default(),
            self.status.clone().unwrap_or_default(),
        );
        let [names, images] = print::containers(Some(&spec.template));
        let (ready, desired) = (
            status.ready_replicas.unwrap_or_default(),
            spec.replicas.unwrap_or_default(),
        );
        let selector = LabelSelector::from_object(Some(&spec.selector));
        vec![
            self.name_cell(),
            format!("{ready}/{desired}").into(),
            status.updated_replicas.unwrap_or_default().into(),
            status.available_replicas.unwrap_or_default().into(),
            self.age_cell(now),
            names,
            images,
            selector.map_or_else(
                |_| "<invalid>".into(),
                |selector| selector.to_string().into(),
            ),
        ]
    }
}

fn validate_spec(spec: &DeploymentSpec, path: &Path<'_>, errors: &mut Errors) {
    rules::none_negative(&[("replicas", spec.replicas)], path, errors);
    template::replicated(&spec.selector, &spec.template, path, errors);
    if let Some(strategy) = &spec.strategy {
        validate_strategy(strategy, &path.child("strategy"), errors);
    }
    let numbers = [
        ("minReadySeconds", spec.min_ready_seconds),
        ("revisionHistoryLimit", spec.revision_history_limit),
        ("progressDeadlineSeconds", spec.progress_deadline_seconds),
    ];
    rules::none_negative(&numbers, path, errors);
    if let Some(deadline) = spec.progress_deadline_seconds
        && deadline <= spec.min_ready_seconds.unwrap_or_default()
    {
        errors.push(FieldError::invalid(
            &path.child("progressDeadlineSeconds"),
            deadline,
            "must be greater than minReadySeconds",
        ));
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("rollingUpdate");
    match (
        strategy.type_.as_deref().unwrap_or_default(),
        &strategy.rolling_update,
    ) {
        ("Recreate", Some(_)) => {
            const DETAIL: &str = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&at, DETAIL));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", Some(update)) => validate_rolling(update, &at, errors),
        ("RollingUpdate", None) => {
            const DETAIL: &str = "this should be defaulted and never be nil";
            errors.push(FieldError::required(&at, DETAIL));
        }
        _ => errors.push(FieldError::not_supported(
            path,
            json!(strategy),
            &["Recreate", "RollingUpdate"],
        )),
    }
}

fn validate_rolling(update: &RollingUpdateDeployment, path: &Path<'_>, errors: &mut Errors) {
    let nothing = IntOrString::Int(0);
    let unavailable = update.max_unavailable.as_ref().unwrap_or(&nothing);
    let surge = update.max_surge.as_ref().unwrap_or(&nothing);
    let at = path.child("maxUnavailable");
    rules::int_or_percent(unavailable, &at, errors);
    rules::int_or_percent(surge, &path.child("maxSurge"), errors);
    if rules::amount(unavailable) == 0 && rules::amount(surge) == 0 {
        // There would be no room to replace anything.
        const DETAIL: &str = "may not be 0 when `maxSurge` is 0";
        rules::conflicting(unavailable, DETAIL, &at, errors);
    }
    rules::at_most_all(unavailable, &at, errors);
}

fn validate_status(status: &DeploymentStatus, path: &Path<'_>, errors: &mut Errors) {
    const TOTAL: &str = "cannot be greater than status.replicas";
    const READY: &str = "cannot be greater than readyReplicas";
    let generation = [("observedGeneration", status.observed_generation)];
    rules::none_negative(&generation, path, errors);
    let parts = [
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    rules::none_negative(&[("replicas", status.replicas)], path, errors);
    rules::none_negative(&parts, path, errors);
    let others = [
        ("unavailableReplicas", status.unavailable_replicas),
        ("collisionCount", status.collision_count),
        ("terminatingReplicas", status.terminating_replicas),
    ];
    rules::none_negative(&others, path, errors);
    let total = status.replicas.unwrap_or_default();
    rules::at_most(total, &parts, TOTAL, path, errors);
    let ready = status.ready_replicas.unwrap_or_default();
    rules::at_most(ready, &parts[2..], READY, path, errors);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, web};
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[test]
    fn fills_in_and_prints() {
        let deployment = created(&resource(), web());
        assert_eq!(
            deployment["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        let spec = &deployment["spec"];
        assert_eq!(
            [
                &spec["replicas"],
                &spec["revisionHistoryLimit"],
                &spec["progressDeadlineSeconds"]
            ],
            [1, 10, 600]
        );
        assert_eq!(deployment["status"], json!({}));
        assert_stable(&resource(), &deployment);
        let row = resource().row(&deployment, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["web", "0/1", 0, 0, "0s", "c", "x", "app=web"])
        );
    }

    #[test]
    fn refuses_impossible_strategies() {
        let with = |strategy: Value| {
            after(
                |spec| spec["strategy"] = strategy,
                |set| refused(&resource(), set),
            )
        };
        assert_eq!(with(json!({"type": "Recreate"})), [""; 0]);
        assert_eq!(
            with(json!({"type": "Recreate", "rollingUpdate": {}})),
            [
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
            ]
        );
        assert_eq!(
            with(json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}})),
            [
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"
            ]
        );
        assert_eq!(
            with(json!({"rollingUpdate": {"maxSurge": "200%", "maxUnavailable": "200%"}})),
            [
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"200%\": must not be greater than 100%"
            ]
        );
        assert_eq!(
            with(json!({"type": "Slowly"})),
            [
                "spec.strategy: Unsupported value: {\"type\":\"Slowly\"}: supported values: \"Recreate\", \"RollingUpdate\""
            ]
        );
    }

    #[test]
    fn refuses_impossible_times() {
        let with = |change: fn(&mut Value)| after(change, |set| refused(&resource(), set));
        assert_eq!(
            with(|spec| {
                spec["minReadySeconds"] = json!(60);
                spec["progressDeadlineSeconds"] = json!(60);
            }),
            [
                "spec.progressDeadlineSeconds: Invalid value: 60: must be greater than minReadySeconds"
            ]
        );
        assert_eq!(
            with(|spec| spec["revisionHistoryLimit"] = json!(-1)),
            ["spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0"]
        );
    }

    #[test]
    fn counts_its_changes() {
        let old = created(&resource(), web());
        let scaled = changed(&old, |web| web["spec"]["replicas"] = 3.into());
        let new = updated(&resource(), &old, scaled, Part::Main).unwrap();
        assert_eq!(meta::generation(&new), 2);
        let labelled = changed(&new, |web| web["metadata"]["labels"] = json!({"a": "b"}));
        let new = updated(&resource(), &new, labelled, Part::Main).unwrap();
        assert_eq!(meta::generation(&new), 2);
        let annotated = changed(&new, |web| {
            web["metadata"]["annotations"] = json!({"a": "b"});
        });
        let report = updated(&resource(), &new, annotated.clone(), Part::Status).unwrap();
        assert_eq!(meta::generation(&report), 2);
        let new = updated(&resource(), &new, annotated, Part::Main).unwrap();
        assert_eq!(meta::generation(&new), 3);
    }

    #[test]
    fn reports_leave_labels_alone() {
        let mut web = web();
        web["metadata"]["labels"] = json!({"a": "b"});
        let old = created(&resource(), web);
        let report = changed(&old, |web| {
            web["metadata"]["labels"] = json!({"c": "d"});
            web["status"] = json!({"replicas": 2, "updatedReplicas": 1, "collisionCount": 1});
        });
        let new = updated(&resource(), &old, report, Part::Status).unwrap();
        assert_eq!(new["metadata"]["labels"], json!({"a": "b"}));
        let wrong = changed(&new, |web| {
            web["status"] = json!({"replicas": 1, "readyReplicas": 2, "collisionCount": 0});
        });
        assert_eq!(
            causes(updated(&resource(), &new, wrong, Part::Status)),
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.collisionCount: Invalid value: 0: cannot be decremented",
            ]
        );
    }
}
