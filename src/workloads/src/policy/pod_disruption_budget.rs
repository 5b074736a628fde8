//! `policy/v1` `PodDisruptionBudget`.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::selectors;

use crate::{Here, rules, stored};

/// What becomes of pods that are not healthy anyway.
const UNHEALTHY_POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];

pub(super) fn resource() -> Resource {
    stored::<PodDisruptionBudget>("poddisruptionbudget")
        .short(&["pdb"])
        .with_status()
}

impl Kind<Here> for PodDisruptionBudget {
    const GENERATION: bool = true;

    /// Evictions are counted in the status; whoever writes without having read it would lose some.
    const UNCONDITIONAL_UPDATE: bool = false;

    const CREATE_ON_UPDATE: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Min Available", "How many pods must stay."),
        Column::string("Max Unavailable", "How many pods may be away."),
        Column::integer("Allowed Disruptions", "How many pods may be evicted now."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.spec.get_or_insert_default();
        let status = self.status.get_or_insert_default();
        for count in [
            &mut status.current_healthy,
            &mut status.desired_healthy,
            &mut status.disruptions_allowed,
            &mut status.expected_pods,
        ] {
            count.get_or_insert(0);
        }
    }

    fn prepare_create(object: &mut Object) {
        object.insert(
            "status".to_owned(),
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}),
        );
    }

    fn validate(&self, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Path::root("spec"), errors);
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::root("status");
        let conditions = status.conditions.as_deref().unwrap_or_default();
        rules::conditions(conditions, &path.child("conditions"), errors);
        let counts = [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ];
        rules::none_negative(&counts, &path, errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.as_ref();
        let allowed = self
            .status
            .as_ref()
            .and_then(|status| status.disruptions_allowed);
        vec![
            self.name_cell(),
            limit(spec.and_then(|spec| spec.min_available.as_ref())),
            limit(spec.and_then(|spec| spec.max_unavailable.as_ref())),
            allowed.unwrap_or_default().into(),
            self.age_cell(now),
        ]
    }
}

fn limit(value: Option<&IntOrString>) -> Value {
    match value {
        Some(IntOrString::Int(number)) => number.to_string().into(),
        Some(IntOrString::String(text)) => text.as_str().into(),
        None => "N/A".into(),
    }
}

fn validate_spec(spec: &PodDisruptionBudgetSpec, path: &Path<'_>, errors: &mut Errors) {
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        const DETAIL: &str = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(path, json!(spec), DETAIL));
    }
    for (field, limit) in [
        ("minAvailable", &spec.min_available),
        ("maxUnavailable", &spec.max_unavailable),
    ] {
        if let Some(limit) = limit {
            rules::int_or_percent(limit, &path.child(field), errors);
            rules::at_most_all(limit, &path.child(field), errors);
        }
    }
    selectors::label_selector(spec.selector.as_ref(), &path.child("selector"), errors);
    if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
        let path = path.child("unhealthyPodEvictionPolicy");
        rules::supported(policy, &UNHEALTHY_POLICIES, &path, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::meta;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    fn budget(spec: &Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": spec})
    }

    #[test]
    fn fills_in_and_prints() {
        let object = created(&resource(), budget(&json!({"minAvailable": "50%"})));
        assert_eq!(
            object["status"],
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
        );
        assert_eq!(meta::generation(&object), 1);
        assert_stable(&resource(), &object);
        let row = resource().row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["web", "50%", "N/A", 0, "0s"]));
        let object = created(&resource(), budget(&json!({"maxUnavailable": 1})));
        let row = resource().row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..3], ["N/A", "1"]);
    }

    #[test]
    fn refuses_limits_that_make_no_sense() {
        let with = |spec: Value| refused(&resource(), budget(&spec));
        assert_eq!(with(json!({})), [""; 0]);
        assert_eq!(
            with(json!({"minAvailable": 1, "maxUnavailable": 1})),
            [
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set"
            ]
        );
        assert_eq!(
            with(json!({"minAvailable": "101%"})),
            ["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"]
        );
        assert_eq!(
            with(json!({"maxUnavailable": -1})),
            ["spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            with(json!({"unhealthyPodEvictionPolicy": "Maybe"})),
            [
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Maybe\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""
            ]
        );
        assert_eq!(
            with(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}})),
            [
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
            ]
        );
    }

    #[test]
    fn updates_say_what_they_are_based_on() {
        let mut old = created(&resource(), budget(&json!({"minAvailable": 1})));
        let blind = changed(&old, |budget| {
            budget["spec"]["minAvailable"] = json!(2);
        });
        assert_eq!(
            causes(updated(&resource(), &old, blind, Part::Main)),
            ["metadata.resourceVersion: Invalid value: 0: must be specified for an update"]
        );
        meta::metadata_mut(&mut old).insert("resourceVersion".to_owned(), "5".into());
        let seen = changed(&old, |budget| {
            budget["spec"]["minAvailable"] = json!(2);
        });
        let new = updated(&resource(), &old, seen, Part::Main).unwrap();
        assert_eq!(meta::generation(&new), 2);
    }

    #[test]
    fn conditions_are_checked() {
        let mut old = created(&resource(), budget(&json!({"minAvailable": 1})));
        meta::metadata_mut(&mut old).insert("resourceVersion".to_owned(), "5".into());
        let condition = json!({
            "type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": "",
            "lastTransitionTime": "2020-01-01T00:00:00Z",
        });
        let report = |conditions: Value| {
            let report = changed(&old, |budget| budget["status"]["conditions"] = conditions);
            causes(updated(&resource(), &old, report, Part::Status))
        };
        assert_eq!(report(json!([condition])), [""; 0]);
        let mut wrong = condition.clone();
        wrong["status"] = json!("Maybe");
        wrong["reason"] = json!("");
        assert_eq!(
            report(json!([condition, wrong])),
            [
                "status.conditions[1].type: Duplicate value: \"DisruptionAllowed\"",
                "status.conditions[1].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
                "status.conditions[1].reason: Required value: must be set",
            ]
        );
    }
}
