//! `ValidatingAdmissionPolicy`: expressions that must be true of a write.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    AuditAnnotation, ParamKind, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec,
    Validation,
};
use serde_json::{Value, json};

use super::{FAILURE_POLICIES, expressions, extension, matching};
use crate::Here;
use crate::checks::{conditions, keep_metadata, one_of};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

/// Why a write may be refused, as `Status.reason` says it.
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ANNOTATIONS_MAX: usize = 20;
/// The longest expression of an annotation, in bytes.
const ANNOTATION_MAX: usize = 5 << 10;

pub(super) fn resource() -> Resource {
    extension::<ValidatingAdmissionPolicy>("validatingadmissionpolicy").with_status()
}

/// The kind of a policy's parameters, as its row has it.
pub(super) fn param_kind_cell(kind: Option<&ParamKind>) -> Value {
    let Some(kind) = kind else {
        return "<unset>".into();
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&kind.api_version), text(&kind.kind)).into()
}

impl Kind<Here> for ValidatingAdmissionPolicy {
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::integer("Validations", "How many expressions must be true."),
        Column::string("ParamKind", "The kind of the policy's parameters."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        if let Some(constraints) = &mut spec.match_constraints {
            matching::apply_defaults(constraints);
        }
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({}));
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let spec = self.spec.clone().unwrap_or_default();
        validate_spec(name, &spec, &Path::root("spec"), errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::root("status");
        let at = path.child("typeChecking");
        let at = at.child("expressionWarnings");
        let checking = status.type_checking.iter();
        let warnings = checking.flat_map(|checking| checking.expression_warnings.iter().flatten());
        for (index, warning) in warnings.enumerate() {
            let at = at.index(index);
            if warning.warning.is_empty() {
                errors.push(FieldError::required(&at.child("warning"), ""));
            }
            if warning.field_ref.trim().is_empty() {
                errors.push(FieldError::required(&at.child("fieldRef"), ""));
            }
        }
        let given = status.conditions.as_deref().unwrap_or_default();
        conditions(given, &path.child("conditions"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        vec![
            self.name_cell(),
            spec.validations.map_or(0, |list| list.len()).into(),
            param_kind_cell(spec.param_kind.as_ref()),
            self.age_cell(now),
        ]
    }
}

fn validate_spec(
    name: &str,
    spec: &ValidatingAdmissionPolicySpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("failurePolicy");
    match &spec.failure_policy {
        None => errors.push(FieldError::required(&at, "")),
        Some(policy) => one_of(policy, &FAILURE_POLICIES, &at, errors),
    }
    if let Some(kind) = &spec.param_kind {
        expressions::validate_param_kind(kind, &path.child("paramKind"), errors);
    }
    let constraints = spec.match_constraints.as_ref();
    matching::validate_constraints(constraints, &path.child("matchConstraints"), errors);
    let given = spec.match_conditions.as_deref();
    expressions::validate_conditions(given, &path.child("matchConditions"), errors);
    let given = spec.variables.as_deref();
    expressions::validate_variables(given, &path.child("variables"), errors);
    let validations = spec.validations.as_deref().unwrap_or_default();
    let annotations = spec.audit_annotations.as_deref().unwrap_or_default();
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        for field in ["validations", "auditAnnotations"] {
            errors.push(FieldError::required(&path.child(field), detail));
        }
        return;
    }
    let at = path.child("validations");
    for (index, validation) in validations.iter().enumerate() {
        validate_validation(validation, &at.index(index), errors);
    }
    validate_annotations(name, annotations, &path.child("auditAnnotations"), errors);
}

fn validate_validation(validation: &Validation, path: &Path<'_>, errors: &mut Errors) {
    if validation.expression.trim().is_empty() {
        let detail = "expression is not specified";
        errors.push(FieldError::required(&path.child("expression"), detail));
    }
    if let Some(text) = given(validation.message_expression.as_deref())
        && text.trim().is_empty()
    {
        let at = path.child("messageExpression");
        let detail = "must be non-empty if specified";
        errors.push(FieldError::invalid(&at, text, detail));
    }
    if let Some(text) = given(validation.message.as_deref()) {
        let at = path.child("message");
        if text.trim().is_empty() {
            let detail = "message must be non-empty if specified";
            errors.push(FieldError::invalid(&at, text, detail));
        } else if text.trim().contains(['\n', '\r']) {
            let detail = "message must not contain line breaks";
            errors.push(FieldError::invalid(&at, text, detail));
        }
    }
    if let Some(reason) = &validation.reason {
        one_of(reason, &REASONS, &path.child("reason"), errors);
    }
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn validate_annotations(
    name: &str,
    annotations: &[AuditAnnotation],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if annotations.len() > ANNOTATIONS_MAX {
        let detail = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(FieldError::invalid(path, json!(annotations), detail));
    }
    let mut keys = HashSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let path = path.index(index);
        let (at, key) = (path.child("key"), annotation.key.as_str());
        if name.is_empty() {
            let detail = "requires metadata.name be non-empty";
            errors.push(FieldError::invalid(&at, key, detail));
        } else {
            let full = format!("{name}/{key}");
            invalid(&at, &full, names::qualified_name(&full), errors);
        }
        let expression = annotation.value_expression.trim();
        let at_value = path.child("valueExpression");
        if expression.is_empty() {
            let detail = "valueExpression is not specified";
            errors.push(FieldError::required(&at_value, detail));
        } else if expression.len() > ANNOTATION_MAX {
            let detail = format!("must not exceed {ANNOTATION_MAX} bytes in length");
            errors.push(FieldError::required(&at_value, detail));
        }
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(&at, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    fn policy() -> Value {
        json!({
            "metadata": {"name": "p.example.com"},
            "spec": {
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConstraints": {"resourceRules": [
                    {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
                ]},
                "validations": [{"expression": "true"}],
            },
        })
    }

    #[test]
    fn fails_closed_unless_told_otherwise() {
        let old = created(&resource(), policy());
        assert_eq!(old["spec"]["failurePolicy"], "Fail");
        assert_eq!(old["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
        assert_eq!(old["metadata"]["generation"], 1);
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["p.example.com", 1, "v1/ConfigMap", "0s"])
        );
        let status = changed(&old, |policy| {
            policy["metadata"]["resourceVersion"] = "1".into();
            policy["status"] =
                json!({"typeChecking": {"expressionWarnings": [{"fieldRef": "", "warning": ""}]}});
        });
        assert_eq!(
            causes(updated(&resource(), &old, status, Part::Status)),
            [
                "status.typeChecking.expressionWarnings[0].warning: Required value",
                "status.typeChecking.expressionWarnings[0].fieldRef: Required value",
            ]
        );
    }

    #[test]
    fn wants_something_to_say_of_something() {
        let detail = "validations or auditAnnotations must contain at least one item";
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "p"}})),
            [
                "spec.matchConstraints: Required value".to_owned(),
                format!("spec.validations: Required value: {detail}"),
                format!("spec.auditAnnotations: Required value: {detail}"),
            ]
        );
        let with = |field: &str, value: Value| {
            let mut policy = policy();
            policy["spec"][field] = value;
            refused(&resource(), policy)
        };
        assert_eq!(
            with(
                "validations",
                json!([{"expression": " ", "message": "a\nb", "reason": "Never"}])
            ),
            [
                "spec.validations[0].expression: Required value: expression is not specified",
                "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
                "spec.validations[0].reason: Unsupported value: \"Never\": supported values: \"Forbidden\", \"Invalid\", \
                 \"RequestEntityTooLarge\"",
            ]
        );
        assert_eq!(
            with("variables", json!([{"name": "in", "expression": ""}])),
            [
                "spec.variables[0].name: Invalid value: \"in\": name is not a valid CEL identifier",
                "spec.variables[0].expression: Required value: expression is not specified",
            ]
        );
        assert_eq!(
            with(
                "auditAnnotations",
                json!([{"key": "k", "valueExpression": "'a'"}, {"key": "k", "valueExpression": ""}])
            ),
            [
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                "spec.auditAnnotations[1].key: Duplicate value: \"k\"",
            ]
        );
    }
}
