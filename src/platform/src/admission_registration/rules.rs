//! Which requests a webhook or policy is about: operations, groups, versions, resources.

use std::collections::HashSet;

use k8s_openapi::api::admissionregistration::v1::{NamedRuleWithOperations, RuleWithOperations};
use serde_json::json;

use crate::checks::one_of;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];

pub(super) fn apply_defaults(rule: &mut RuleWithOperations) {
    rule.scope.get_or_insert_with(|| "*".to_owned());
}

pub(super) fn apply_named_defaults(rule: &mut NamedRuleWithOperations) {
    rule.scope.get_or_insert_with(|| "*".to_owned());
}

/// A rule of a policy, which may name single objects.
pub(super) fn validate_named(rule: &NamedRuleWithOperations, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("resourceNames");
    let mut seen = HashSet::new();
    for (index, name) in rule.resource_names.iter().flatten().enumerate() {
        let at = at.index(index);
        invalid(&at, name, names::path_segment(name), errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name.as_str()));
        }
    }
    let plain = RuleWithOperations {
        api_groups: rule.api_groups.clone(),
        api_versions: rule.api_versions.clone(),
        operations: rule.operations.clone(),
        resources: rule.resources.clone(),
        scope: rule.scope.clone(),
    };
    validate(&plain, path, errors);
}

pub(super) fn validate(rule: &RuleWithOperations, path: &Path<'_>, errors: &mut Errors) {
    let operations = rule.operations.as_deref().unwrap_or_default();
    let at = path.child("operations");
    some_or_all(operations, "operations", &at, errors);
    for (index, operation) in operations.iter().enumerate() {
        one_of(operation, &OPERATIONS, &at.index(index), errors);
    }
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    some_or_all(groups, "API groups", &path.child("apiGroups"), errors);
    let versions = rule.api_versions.as_deref().unwrap_or_default();
    let at = path.child("apiVersions");
    some_or_all(versions, "API versions", &at, errors);
    for (index, _) in versions
        .iter()
        .enumerate()
        .filter(|(_, text)| text.is_empty())
    {
        errors.push(FieldError::required(&at.index(index), ""));
    }
    let resources = rule.resources.as_deref().unwrap_or_default();
    validate_resources(resources, &path.child("resources"), errors);
    if let Some(scope) = &rule.scope {
        one_of(scope, &SCOPES, &path.child("scope"), errors);
    }
}

/// A list that has something, and of which `*` is all.
fn some_or_all(list: &[String], what: &str, path: &Path<'_>, errors: &mut Errors) {
    if list.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if list.len() > 1 && list.iter().any(|item| item == "*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(path, json!(list), detail));
    }
}

/// `resource`, `resource/subresource`, and `*` for either.
fn validate_resources(resources: &[String], path: &Path<'_>, errors: &mut Errors) {
    if resources.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let (mut any_sub, mut any_resource) = (HashSet::new(), HashSet::new());
    // As upstream has it, the last plain resource decides.
    let mut plain = false;
    for (index, text) in resources.iter().enumerate() {
        let path = path.index(index);
        if text.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        let mut refuse = |other: String| {
            let detail = format!("if '{other}' is present, must not specify {text}");
            errors.push(FieldError::invalid(&path, text.as_str(), detail));
        };
        if any_sub.contains(resource) {
            refuse(format!("{resource}/*"));
        }
        if any_resource.contains(sub) {
            refuse(format!("*/{sub}"));
        }
        if sub == "*" {
            any_sub.insert(resource);
        }
        if resource == "*" {
            any_resource.insert(sub);
        }
    }
    let has = |wanted: &str| resources.iter().any(|text| text == wanted);
    if resources.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, json!(resources), detail));
    }
    if plain && has("*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, json!(resources), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::field::FieldError;

    fn problems(rule: serde_json::Value) -> Vec<String> {
        let mut errors = Errors::default();
        let rule = serde_json::from_value(rule).unwrap();
        validate(&rule, &Path::root("rule"), &mut errors);
        errors.iter().map(FieldError::to_string).collect()
    }

    #[test]
    fn wants_something_of_everything() {
        assert_eq!(
            problems(json!({})),
            [
                "rule.operations: Required value",
                "rule.apiGroups: Required value",
                "rule.apiVersions: Required value",
                "rule.resources: Required value",
            ]
        );
        assert_eq!(
            problems(
                json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]})
            ),
            [""; 0]
        );
    }

    #[test]
    fn takes_everything_at_its_word() {
        let with = |resources: serde_json::Value| {
            problems(
                json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}),
            )
        };
        assert_eq!(with(json!(["*", "*/status"])), [""; 0]);
        assert_eq!(
            with(json!(["pods/*", "pods/log"])),
            [
                "rule.resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log"
            ]
        );
        assert_eq!(
            with(json!(["*", "pods"])),
            [
                "rule.resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without \
                 subresources"
            ]
        );
        assert_eq!(with(json!(["*/*", "a"])).len(), 1);
        assert_eq!(
            problems(
                json!({"operations": ["*", "READ"], "apiGroups": ["a"], "apiVersions": [""], "resources": ["b"], "scope": "x"})
            ),
            [
                "rule.operations: Invalid value: [\"*\",\"READ\"]: if '*' is present, must not specify other operations",
                "rule.operations[1]: Unsupported value: \"READ\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \
                 \"UPDATE\"",
                "rule.apiVersions[0]: Required value",
                "rule.scope: Unsupported value: \"x\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ]
        );
    }
}
