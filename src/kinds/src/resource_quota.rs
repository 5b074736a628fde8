//! `v1` `ResourceQuota`: how much a namespace may use.

use std::collections::HashSet;
use std::fmt::Write;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, ScopeSelector,
    ScopedResourceSelectorRequirement,
};
use serde_json::{Value, json};

use crate::resource_names::{self, Amounts};
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

/// The scopes that only pods can be in; whatever else a quota limits has none of these.
const POD_SCOPES: [&str; 5] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "Terminating",
];
const PRIORITY_CLASS: &str = "PriorityClass";
const VOLUME_ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";
/// No pod is in both.
const OPPOSITES: [(&str, &str); 2] = [
    ("BestEffort", "NotBestEffort"),
    ("Terminating", "NotTerminating"),
];

pub(super) fn resource() -> Resource {
    stored::<ResourceQuota>("resourcequota", true)
        .short(&["quota"])
        .with_status()
}

impl Kind<Here> for ResourceQuota {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Request", "What is used of what may be used."),
        Column::string("Limit", "What is used of what the limits may add up to."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({}));
    }

    fn validate(&self, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Path::root("spec"), errors);
        }
        self.validate_status(self, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::root("spec");
        if let Some(spec) = &self.spec {
            validate_spec(spec, &path, errors);
        }
        let scopes = |quota: &Self| -> HashSet<String> {
            let scopes = quota.spec.iter().flat_map(|spec| &spec.scopes);
            scopes.flatten().cloned().collect()
        };
        if scopes(self) != scopes(old) {
            let given = self.spec.as_ref().and_then(|spec| spec.scopes.as_ref());
            errors.push(FieldError::invalid(
                &path.child("scopes"),
                json!(given),
                "field is immutable",
            ));
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::root("status");
        if let Some(ResourceQuotaStatus { hard, used }) = &self.status {
            validate_amounts(hard.as_ref(), &path.child("hard"), errors);
            validate_amounts(used.as_ref(), &path.child("used"), errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (mut requests, mut limits) = (String::new(), String::new());
        let zero = || "0".to_owned();
        let status = self.status.clone().unwrap_or_default();
        let used = status.used.unwrap_or_default();
        for (name, hard) in status.hard.iter().flatten() {
            let cell = if name.starts_with("limits.") {
                &mut limits
            } else {
                &mut requests
            };
            let comma = if cell.is_empty() { "" } else { ", " };
            let used = used.get(name).map_or_else(zero, |used| used.0.clone());
            // Writing to a String can't fail.
            let _ = write!(cell, "{comma}{name}: {used}/{}", hard.0);
        }
        vec![
            self.name_cell(),
            requests.into(),
            limits.into(),
            self.age_cell(now),
        ]
    }
}

fn validate_amounts(amounts: Option<&Amounts>, path: &Path<'_>, errors: &mut Errors) {
    for (name, quantity) in amounts.into_iter().flatten() {
        let path = path.key(name);
        resource_names::of_quota(name, &path, errors);
        resource_names::amount(name, quantity, &path, errors);
    }
}

fn validate_spec(spec: &ResourceQuotaSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_amounts(spec.hard.as_ref(), &path.child("hard"), errors);
    let limited: Vec<&str> = spec
        .hard
        .iter()
        .flat_map(Amounts::keys)
        .map(String::as_str)
        .collect();
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    let at = path.child("scopes");
    for scope in scopes {
        if !is_scope(scope) {
            errors.push(FieldError::invalid(&at, json!(scopes), "unsupported scope"));
        }
        for _ in limited.iter().filter(|name| is_out_of_scope(scope, name)) {
            const DETAIL: &str = "unsupported scope applied to resource";
            errors.push(FieldError::invalid(&at, json!(scopes), DETAIL));
        }
    }
    let names: HashSet<&str> = scopes.iter().map(String::as_str).collect();
    validate_opposites(&names, &json!(scopes), &at, errors);
    if let Some(selector) = &spec.scope_selector {
        let path = path.child("scopeSelector");
        validate_selector(
            selector,
            (&limited, scopes),
            &path.child("matchExpressions"),
            errors,
        );
    }
}

fn is_scope(scope: &str) -> bool {
    POD_SCOPES.contains(&scope) || [PRIORITY_CLASS, VOLUME_ATTRIBUTES_CLASS].contains(&scope)
}

/// Whether a quota of this scope can't limit a resource that quotas know.
fn is_out_of_scope(scope: &str, name: &str) -> bool {
    const OF_PODS: [&str; 10] = [
        "cpu",
        "ephemeral-storage",
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "memory",
        "pods",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if !resource_names::is_standard_in_quota(name) {
        return false;
    }
    let fits = match scope {
        "BestEffort" => name == "pods",
        PRIORITY_CLASS
        | "CrossNamespacePodAffinity"
        | "NotBestEffort"
        | "NotTerminating"
        | "Terminating" => OF_PODS.contains(&name),
        VOLUME_ATTRIBUTES_CLASS => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    };
    !fits
}

fn validate_opposites(names: &HashSet<&str>, shown: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (one, other) in OPPOSITES {
        if names.contains(one) && names.contains(other) {
            errors.push(FieldError::invalid(
                path,
                shown.clone(),
                "conflicting scopes",
            ));
        }
    }
}

fn validate_selector(
    selector: &ScopeSelector,
    (limited, scopes): (&[&str], &[String]),
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    for expression in expressions {
        let scope = expression.scope_name.as_str();
        if !is_scope(scope) {
            errors.push(FieldError::invalid(
                &path.child("scopeName"),
                scope,
                "unsupported scope",
            ));
        }
        for _ in limited.iter().filter(|name| is_out_of_scope(scope, name)) {
            const DETAIL: &str = "unsupported scope applied to resource";
            errors.push(FieldError::invalid(path, json!(selector), DETAIL));
        }
        validate_expression(expression, path, errors);
    }
    let names: HashSet<&str> = expressions
        .iter()
        .map(|expression| expression.scope_name.as_str())
        .collect();
    validate_opposites(&names, &json!(scopes), path, errors);
}

fn validate_expression(
    expression: &ScopedResourceSelectorRequirement,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let operator = expression.operator.as_str();
    let values = expression.values.as_deref().unwrap_or_default();
    if POD_SCOPES.contains(&expression.scope_name.as_str()) && operator != "Exists" {
        const DETAIL: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
            ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
            ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.push(FieldError::invalid(
            &path.child("operator"),
            operator,
            DETAIL,
        ));
    }
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            const DETAIL: &str =
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.push(FieldError::required(&path.child("values"), DETAIL));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            const DETAIL: &str =
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.push(FieldError::invalid(
                &path.child("values"),
                json!(values),
                DETAIL,
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(FieldError::invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, object, refused, updated};

    fn quota(spec: &Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": spec})
    }

    #[test]
    fn prints_what_is_used() {
        let mut quota = created(
            &resource(),
            quota(&json!({"hard": {"pods": 5, "limits.cpu": "2"}})),
        );
        assert_eq!(quota["status"], json!({}));
        assert_stable(&resource(), &quota);
        quota.insert(
            "status".to_owned(),
            json!({"hard": {"pods": "5", "limits.cpu": "2", "cpu": "1"}, "used": {"pods": "3", "limits.cpu": "1"}}),
        );
        let row = resource().row(&quota, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["q", "cpu: 0/1, pods: 3/5", "limits.cpu: 1/2", "0s"])
        );
    }

    #[test]
    fn refuses_what_cannot_be_limited() {
        let cases = [
            (
                json!({"hard": {"stars": 1}}),
                "spec.hard[stars]: Invalid value: \"stars\": must be a standard resource type or fully qualified",
            ),
            (
                json!({"hard": {"pods": "1500m"}}),
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            ),
            (
                json!({"scopes": ["Sideways"]}),
                "spec.scopes: Invalid value: [\"Sideways\"]: unsupported scope",
            ),
            (
                json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
            ),
            (
                json!({"scopes": ["Terminating", "NotTerminating"]}),
                "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(refused(&resource(), quota(&spec))[0], want);
        }
    }

    #[test]
    fn keeps_its_scopes() {
        let old = created(
            &resource(),
            quota(&json!({"hard": {"pods": 1}, "scopes": ["BestEffort"]})),
        );
        let other = changed(&old, |quota| quota["spec"]["scopes"] = json!([]));
        assert_eq!(
            causes(updated(&resource(), &old, other, Part::Main)),
            ["spec.scopes: Invalid value: null: field is immutable"]
        );
        let used = changed(&old, |quota| quota["status"]["used"] = json!({"pods": -1}));
        assert_eq!(
            causes(updated(&resource(), &old, used, Part::Status)),
            ["status.used[pods]: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
        let used = changed(&old, |quota| quota["status"]["used"] = json!({"pods": 1}));
        let new = updated(&resource(), &old, used, Part::Status).unwrap();
        assert_eq!(new["spec"], object(Value::Object(old))["spec"]);
    }
}
