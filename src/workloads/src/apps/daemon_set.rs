//! `apps/v1` `DaemonSet`.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::selector::LabelSelector;
use vaquita_api::table::Column;
use vaquita_api::validate::selectors;
use vaquita_api::{Object, meta};
use vaquita_kinds::{pod_spec, print as cells};

use crate::{Here, print, rules, stored, template};

/// Counts the changes of the template. A field once, an annotation since `apps/v1`, and nobody's to set.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) fn resource() -> Resource {
    stored::<DaemonSet>("daemonset")
        .short(&["ds"])
        .in_all()
        .with_status()
}

impl Kind<Here> for DaemonSet {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::integer("Desired", "How many nodes should run the pod."),
        Column::integer("Current", "How many of these nodes have a pod."),
        Column::integer("Ready", "How many of these nodes have a pod that is ready."),
        Column::integer(
            "Up-to-date",
            "How many of these nodes have a pod of the present template.",
        ),
        Column::integer(
            "Available",
            "How many of these nodes have a pod that has been ready for long enough.",
        ),
        Column::string("Node Selector", "Which nodes run the pod."),
        Column::AGE,
        print::CONTAINERS,
        print::IMAGES,
        print::SELECTOR,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        spec.revision_history_limit.get_or_insert(10);
        let strategy = spec.update_strategy.get_or_insert_default();
        let kind = strategy
            .type_
            .get_or_insert_with(|| "RollingUpdate".to_owned());
        if kind == "RollingUpdate" {
            let update = strategy.rolling_update.get_or_insert_default();
            update.max_unavailable.get_or_insert(IntOrString::Int(1));
            update.max_surge.get_or_insert(IntOrString::Int(0));
        }
        template::apply_defaults(&mut spec.template);
    }

    fn prepare_create(object: &mut Object) {
        object.insert(
            "status".to_owned(),
            json!({
                "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
            }),
        );
        let generation = template_generation(object).max(1);
        set_template_generation(object, generation);
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        let template = |object| meta::at(object, &["spec", "template"]).cloned();
        let raise = part == Part::Main && template(new) != template(old);
        let generation = template_generation(old).saturating_add(i64::from(raise));
        set_template_generation(new, generation);
    }

    fn validate(&self, errors: &mut Errors) {
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
        let pod = spec.template.spec.as_ref();
        vec![
            self.name_cell(),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or_default().into(),
            status.number_available.unwrap_or_default().into(),
            cells::labels(pod.and_then(|pod| pod.node_selector.as_ref())),
            self.age_cell(now),
            names,
            images,
            print::selector(Some(&spec.selector)),
        ]
    }
}

fn template_generation(object: &Object) -> i64 {
    let text = meta::at(object, &["metadata", "annotations", TEMPLATE_GENERATION]);
    text.and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

fn set_template_generation(object: &mut Object, generation: i64) {
    let annotations = meta::object_mut(meta::metadata_mut(object), "annotations");
    annotations.insert(
        TEMPLATE_GENERATION.to_owned(),
        generation.to_string().into(),
    );
}

fn validate_spec(spec: &DaemonSetSpec, path: &Path<'_>, errors: &mut Errors) {
    let selector = template::given(&spec.selector);
    selectors::label_selector(selector, &path.child("selector"), errors);
    let at = path.child("template");
    if let Ok(selector) = LabelSelector::from_object(selector) {
        template::must_match(&spec.template, &selector, &at, errors);
    }
    pod_spec::validate_template(&spec.template, &at, errors);
    template::must_last(&spec.template, "DaemonSet", &at, errors);
    rules::none_negative(&[("minReadySeconds", spec.min_ready_seconds)], path, errors);
    if let Some(strategy) = &spec.update_strategy {
        validate_strategy(strategy, &path.child("updateStrategy"), errors);
    }
    let limit = [("revisionHistoryLimit", spec.revision_history_limit)];
    rules::none_negative(&limit, path, errors);
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("rollingUpdate");
    match (
        strategy.type_.as_deref().unwrap_or_default(),
        &strategy.rolling_update,
    ) {
        ("OnDelete", _) => {}
        ("RollingUpdate", Some(update)) => validate_rolling(update, &at, errors),
        ("RollingUpdate", None) => errors.push(FieldError::required(&at, "")),
        _ => errors.push(FieldError::not_supported(
            path,
            json!(strategy),
            &["OnDelete", "RollingUpdate"],
        )),
    }
}

fn validate_rolling(update: &RollingUpdateDaemonSet, path: &Path<'_>, errors: &mut Errors) {
    let nothing = IntOrString::Int(0);
    let unavailable = update.max_unavailable.as_ref().unwrap_or(&nothing);
    let surge = update.max_surge.as_ref().unwrap_or(&nothing);
    let (at_unavailable, at_surge) = (path.child("maxUnavailable"), path.child("maxSurge"));
    rules::int_or_percent(unavailable, &at_unavailable, errors);
    rules::int_or_percent(surge, &at_surge, errors);
    rules::at_most_all(unavailable, &at_unavailable, errors);
    rules::at_most_all(surge, &at_surge, errors);
    // A node's pod is replaced either before the old one is gone or after.
    match (rules::amount(unavailable) != 0, rules::amount(surge) != 0) {
        (true, true) => {
            const DETAIL: &str = "may not be set when maxUnavailable is non-zero";
            rules::conflicting(surge, DETAIL, &at_surge, errors);
        }
        (false, false) => {
            const DETAIL: &str = "cannot be 0 when maxSurge is 0";
            errors.push(FieldError::required(&at_unavailable, DETAIL));
        }
        _ => {}
    }
}

fn validate_status(status: &DaemonSetStatus, path: &Path<'_>, errors: &mut Errors) {
    let scheduled = [
        (
            "currentNumberScheduled",
            Some(status.current_number_scheduled),
        ),
        ("numberMisscheduled", Some(status.number_misscheduled)),
        (
            "desiredNumberScheduled",
            Some(status.desired_number_scheduled),
        ),
        ("numberReady", Some(status.number_ready)),
    ];
    rules::none_negative(&scheduled, path, errors);
    let generation = [("observedGeneration", status.observed_generation)];
    rules::none_negative(&generation, path, errors);
    let others = [
        ("updatedNumberScheduled", status.updated_number_scheduled),
        ("numberAvailable", status.number_available),
        ("numberUnavailable", status.number_unavailable),
        ("collisionCount", status.collision_count),
    ];
    rules::none_negative(&others, path, errors);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, web};
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[test]
    fn fills_in_and_prints() {
        let set = created(&resource(), web());
        assert_eq!(
            set["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
        );
        assert_eq!(
            set["metadata"]["annotations"],
            json!({"deprecated.daemonset.template.generation": "1"})
        );
        assert_stable(&resource(), &set);
        let row = resource().row(&set, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["web", 0, 0, 0, 0, 0, "<none>", "0s", "c", "x", "app=web"])
        );
    }

    #[test]
    fn counts_the_changes_of_its_template() {
        let old = created(&resource(), web());
        let slower = changed(&old, |set| set["spec"]["minReadySeconds"] = json!(5));
        let new = updated(&resource(), &old, slower, Part::Main).unwrap();
        assert_eq!((meta::generation(&new), template_generation(&new)), (2, 1));
        let other = changed(&new, |set| {
            set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("y");
            set["metadata"]["annotations"] = json!({TEMPLATE_GENERATION: "77"});
        });
        let new = updated(&resource(), &new, other, Part::Main).unwrap();
        assert_eq!((meta::generation(&new), template_generation(&new)), (3, 2));
        let report = changed(&new, |set| set["metadata"]["annotations"] = json!({}));
        let new = updated(&resource(), &new, report, Part::Status).unwrap();
        assert_eq!(template_generation(&new), 2);
    }

    #[test]
    fn replaces_before_or_after() {
        let with = |strategy: Value| {
            after(
                |spec| spec["updateStrategy"] = strategy,
                |set| refused(&resource(), set),
            )
        };
        assert_eq!(with(json!({"type": "OnDelete"})), [""; 0]);
        assert_eq!(
            with(json!({"rollingUpdate": {"maxSurge": "10%", "maxUnavailable": 0}})),
            [""; 0]
        );
        assert_eq!(
            with(json!({"rollingUpdate": {"maxSurge": 1}})),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"
            ]
        );
        assert_eq!(
            with(json!({"rollingUpdate": {"maxUnavailable": 0}})),
            [
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"
            ]
        );
        assert_eq!(
            with(json!({"type": "Never"})),
            [
                "spec.updateStrategy: Unsupported value: {\"type\":\"Never\"}: supported values: \"OnDelete\", \"RollingUpdate\""
            ]
        );
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "a"}})),
            [
                "spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`",
                "spec.template.spec.containers: Required value",
            ]
        );
    }

    #[test]
    fn reports_are_checked() {
        let old = created(&resource(), web());
        let wrong = changed(&old, |set| set["status"]["numberReady"] = json!(-1));
        assert_eq!(
            causes(updated(&resource(), &old, wrong, Part::Status)),
            ["status.numberReady: Invalid value: -1: must be greater than or equal to 0"]
        );
    }
}
