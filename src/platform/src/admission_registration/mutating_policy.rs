//! `MutatingAdmissionPolicy`: expressions that change what is written.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicySpec, Mutation,
};
use serde_json::Value;

use super::validating_policy::param_kind_cell;
use super::{FAILURE_POLICIES, REINVOCATION_POLICIES, expressions, extension, matching};
use crate::Here;
use crate::checks::one_of;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

/// What leaves an object behind that can be changed.
const OPERATIONS: [&str; 2] = ["CREATE", "UPDATE"];
const PATCH_TYPES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];

pub(super) fn resource() -> Resource {
    extension::<MutatingAdmissionPolicy>("mutatingadmissionpolicy")
}

impl Kind<Here> for MutatingAdmissionPolicy {
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::integer("Mutations", "How many changes are made."),
        Column::string("ParamKind", "The kind of the policy's parameters."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        let policy = &mut spec.reinvocation_policy;
        if policy.as_ref().is_none_or(String::is_empty) {
            *policy = Some("Never".to_owned());
        }
        if let Some(constraints) = &mut spec.match_constraints {
            matching::apply_defaults(constraints);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        validate_spec(&spec, &Path::root("spec"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        vec![
            self.name_cell(),
            spec.mutations.map_or(0, |list| list.len()).into(),
            param_kind_cell(spec.param_kind.as_ref()),
            self.age_cell(now),
        ]
    }
}

fn validate_spec(spec: &MutatingAdmissionPolicySpec, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("failurePolicy");
    match &spec.failure_policy {
        None => errors.push(FieldError::required(&at, "")),
        Some(policy) => one_of(policy, &FAILURE_POLICIES, &at, errors),
    }
    if let Some(kind) = &spec.param_kind {
        expressions::validate_param_kind(kind, &path.child("paramKind"), errors);
    }
    let constraints = spec.match_constraints.as_ref();
    let at = path.child("matchConstraints");
    matching::validate_constraints(constraints, &at, errors);
    let at = at.child("resourceRules");
    let at = at.child("operations");
    let rules = constraints.and_then(|constraints| constraints.resource_rules.as_deref());
    for rule in rules.unwrap_or_default() {
        for operation in rule.operations.iter().flatten() {
            one_of(operation, &OPERATIONS, &at, errors);
        }
    }
    let given = spec.match_conditions.as_deref();
    expressions::validate_conditions(given, &path.child("matchConditions"), errors);
    let given = spec.variables.as_deref();
    expressions::validate_variables(given, &path.child("variables"), errors);
    let at = path.child("mutations");
    let mutations = spec.mutations.as_deref().unwrap_or_default();
    if mutations.is_empty() {
        let detail = "mutations must contain at least one item";
        errors.push(FieldError::required(&at, detail));
    }
    for (index, mutation) in mutations.iter().enumerate() {
        validate_mutation(mutation, &at.index(index), errors);
    }
    let at = path.child("reinvocationPolicy");
    match spec.reinvocation_policy.as_deref() {
        None | Some("") => errors.push(FieldError::required(&at, "")),
        Some(policy) => one_of(policy, &REINVOCATION_POLICIES, &at, errors),
    }
}

fn validate_mutation(mutation: &Mutation, path: &Path<'_>, errors: &mut Errors) {
    let configuration = mutation
        .apply_configuration
        .as_ref()
        .map(|configuration| configuration.expression.as_deref().unwrap_or_default());
    let json = mutation
        .json_patch
        .as_ref()
        .map(|patch| patch.expression.as_deref().unwrap_or_default());
    let (configuration, json) = (("applyConfiguration", configuration), ("jsonPatch", json));
    let ty = mutation.patch_type.as_str();
    let at = path.child("patchType");
    let ((wanted, expression), (other, unwanted)) = match ty {
        "" => {
            errors.push(FieldError::required(&at, ""));
            return;
        }
        "ApplyConfiguration" => (configuration, json),
        "JSONPatch" => (json, configuration),
        _ => {
            errors.push(FieldError::not_supported(&at, ty, &PATCH_TYPES));
            return;
        }
    };
    let at = path.child(wanted);
    match expression {
        None => {
            let detail = format!("must be specified when patchType is {ty}");
            errors.push(FieldError::required(&at, detail));
        }
        Some(expression) if expression.trim().is_empty() => {
            errors.push(FieldError::required(&at.child("expression"), ""));
        }
        Some(_) => {}
    }
    if unwanted.is_some() {
        let detail = format!("must not be specified when patchType is {ty}");
        let value = format!("{{{other}}}");
        errors.push(FieldError::invalid(&path.child(other), value, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vaquita_api::testing::{assert_stable, created, refused};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn policy(mutation: Value) -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {
                "matchConstraints": {"resourceRules": [
                    {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
                ]},
                "mutations": [mutation],
            },
        })
    }

    fn patch() -> Value {
        json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}})
    }

    #[test]
    fn is_asked_once_unless_told_otherwise() {
        let stored = created(&resource(), policy(patch()));
        assert_eq!(stored["spec"]["reinvocationPolicy"], "Never");
        assert_eq!(stored["spec"]["failurePolicy"], "Fail");
        assert_stable(&resource(), &stored);
        let row = resource().row(&stored, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["p", 1, "<unset>", "0s"]));
    }

    #[test]
    fn says_what_it_changes_and_how() {
        let mut deletions = policy(patch());
        deletions["spec"]["matchConstraints"]["resourceRules"][0]["operations"] = json!(["DELETE"]);
        assert_eq!(
            refused(&resource(), deletions),
            [
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"CREATE\", \
                 \"UPDATE\""
            ]
        );
        let with = |mutation| refused(&resource(), policy(mutation));
        assert_eq!(
            with(json!({"patchType": "ApplyConfiguration", "jsonPatch": {}})),
            [
                "spec.mutations[0].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration",
                "spec.mutations[0].jsonPatch: Invalid value: \"{jsonPatch}\": must not be specified when patchType is \
                 ApplyConfiguration",
            ]
        );
        assert_eq!(
            with(json!({"patchType": "JSONPatch", "jsonPatch": {}})),
            ["spec.mutations[0].jsonPatch.expression: Required value"]
        );
        assert_eq!(
            with(json!({})),
            ["spec.mutations[0].patchType: Required value"]
        );
    }
}
