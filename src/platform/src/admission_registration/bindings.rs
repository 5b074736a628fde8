//! `ValidatingAdmissionPolicyBinding` and `MutatingAdmissionPolicyBinding`: where a policy counts, and with which parameters.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, MutatingAdmissionPolicyBinding, ParamRef, ValidatingAdmissionPolicyBinding,
};
use serde_json::{Value, json};

use super::{extension, matching};
use crate::Here;
use crate::checks::{one_of, required, selector_cell};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::string("PolicyName", "The policy."),
    Column::string("ParamRef", "Where its parameters are."),
    Column::AGE,
];

pub(super) fn validating() -> Resource {
    extension::<ValidatingAdmissionPolicyBinding>("validatingadmissionpolicybinding")
}

pub(super) fn mutating() -> Resource {
    extension::<MutatingAdmissionPolicyBinding>("mutatingadmissionpolicybinding")
}

impl Kind<Here> for ValidatingAdmissionPolicyBinding {
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn apply_defaults(&mut self) {
        let spec = &mut self.spec;
        apply_defaults(spec.match_resources.as_mut(), spec.param_ref.as_mut());
    }

    fn validate(&self, errors: &mut Errors) {
        let (path, spec) = (Path::root("spec"), &self.spec);
        Parts {
            policy: &spec.policy_name,
            params: spec.param_ref.as_ref(),
            resources: spec.match_resources.as_ref(),
        }
        .validate(&path, errors);
        validate_actions(
            &spec.validation_actions,
            &path.child("validationActions"),
            errors,
        );
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            self.name_cell(),
            self.spec.policy_name.clone().into(),
            param_cell(self.spec.param_ref.as_ref()),
            self.age_cell(now),
        ]
    }
}

impl Kind<Here> for MutatingAdmissionPolicyBinding {
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        apply_defaults(spec.match_resources.as_mut(), spec.param_ref.as_mut());
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        Parts {
            policy: spec.policy_name.as_deref().unwrap_or_default(),
            params: spec.param_ref.as_ref(),
            resources: spec.match_resources.as_ref(),
        }
        .validate(&Path::root("spec"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        vec![
            self.name_cell(),
            spec.policy_name.unwrap_or_default().into(),
            param_cell(spec.param_ref.as_ref()),
            self.age_cell(now),
        ]
    }
}

fn apply_defaults(resources: Option<&mut MatchResources>, params: Option<&mut ParamRef>) {
    if let Some(resources) = resources {
        matching::apply_defaults(resources);
    }
    if let Some(params) = params {
        matching::apply_param_defaults(params);
    }
}

/// What both kinds have.
struct Parts<'b> {
    policy: &'b str,
    params: Option<&'b ParamRef>,
    resources: Option<&'b MatchResources>,
}

impl Parts<'_> {
    fn validate(&self, path: &Path<'_>, errors: &mut Errors) {
        required(
            self.policy,
            names::dns1123_subdomain,
            &path.child("policyName"),
            errors,
        );
        if let Some(params) = self.params {
            matching::validate_param_ref(params, &path.child("paramRef"), errors);
        }
        if let Some(resources) = self.resources {
            matching::validate(resources, &path.child("matchResources"), errors);
        }
    }
}

fn validate_actions(actions: &[String], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (at, action) in actions.iter().enumerate() {
        let path = path.index(at);
        one_of(action, &ACTIONS, &path, errors);
        if !seen.insert(action.as_str()) {
            errors.push(FieldError::duplicate(&path, action.as_str()));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                      response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, json!(actions), detail));
    }
    if seen.is_empty() {
        let detail = "at least one validation action is required";
        errors.push(FieldError::required(path, detail));
    }
}

fn param_cell(params: Option<&ParamRef>) -> Value {
    let Some(params) = params else {
        return "<unset>".into();
    };
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (given(&params.name), given(&params.namespace)) {
        (Some(name), Some(namespace)) => format!("{namespace}/{name}").into(),
        // Whether parameters of this kind are in namespaces can't be told from here.
        (Some(name), None) => format!("*/{name}").into(),
        (None, _) if params.selector.is_some() => selector_cell(params.selector.as_ref()).into(),
        (None, _) => "<unset>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, created, refused};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn binding(spec: Value) -> Value {
        json!({"metadata": {"name": "b"}, "spec": spec})
    }

    #[test]
    fn says_where_a_policy_counts() {
        let spec = json!({
            "policyName": "p", "validationActions": ["Deny"], "paramRef": {"name": "n", "namespace": "ns"},
            "matchResources": {"excludeResourceRules": [
                {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
            ]},
        });
        let stored = created(&validating(), binding(spec.clone()));
        let resources = &stored["spec"]["matchResources"];
        assert_eq!(resources["matchPolicy"], "Equivalent");
        assert_eq!(resources["objectSelector"], json!({}));
        assert_eq!(resources["excludeResourceRules"][0]["scope"], "*");
        assert_eq!(
            stored["spec"]["paramRef"]["parameterNotFoundAction"],
            "Deny"
        );
        assert_stable(&validating(), &stored);
        let row = validating().row(&stored, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["b", "p", "ns/n", "0s"]));
        let mut mutating_spec = spec;
        mutating_spec["validationActions"] = Value::Null;
        let stored = created(&mutating(), binding(mutating_spec));
        assert_stable(&mutating(), &stored);
    }

    #[test]
    fn refuses_contradictions() {
        assert_eq!(
            refused(
                &validating(),
                binding(json!({"policyName": "p", "validationActions": ["Deny", "Warn", "Warn"]}))
            ),
            [
                "spec.validationActions[2]: Duplicate value: \"Warn\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Warn\"]: must not contain both Deny and Warn \
                 (repeating the same validation failure information in the API response and headers serves no purpose)",
            ]
        );
        let both = json!({"policyName": "p", "paramRef": {"name": "n", "selector": {}}});
        assert_eq!(
            refused(&mutating(), binding(both)),
            [
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
            ]
        );
        assert_eq!(
            refused(&mutating(), binding(json!({"paramRef": {}}))),
            [
                "spec.policyName: Required value",
                "spec.paramRef: Required value: one of name or selector must be specified"
            ]
        );
    }
}
