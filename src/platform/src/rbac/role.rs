//! Role and `ClusterRole`.

use crate::Here;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde_json::{Value, json};

use crate::stored;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::meta;
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::selectors;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::date("Created At", "When the role was created."),
];

pub(super) fn role() -> Resource {
    stored::<Role>("role", true)
}

pub(super) fn cluster_role() -> Resource {
    stored::<ClusterRole>("clusterrole", false)
}

impl Kind<Here> for Role {
    const NAME: fn(&str) -> Problems = names::path_segment;
    const CREATE_ON_UPDATE: bool = true;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn validate(&self, errors: &mut Errors) {
        validate_rules(self.rules.as_deref(), true, errors);
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        vec![self.name_cell(), created_at(self)]
    }
}

impl Kind<Here> for ClusterRole {
    const NAME: fn(&str) -> Problems = names::path_segment;
    const CREATE_ON_UPDATE: bool = true;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn validate(&self, errors: &mut Errors) {
        validate_rules(self.rules.as_deref(), false, errors);
        let Some(aggregation) = &self.aggregation_rule else {
            return;
        };
        let path = Path::root("aggregationRule");
        let path = path.child("clusterRoleSelectors");
        let selectors = aggregation
            .cluster_role_selectors
            .as_deref()
            .unwrap_or_default();
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(&path, detail));
        }
        for (at, selector) in selectors.iter().enumerate() {
            selectors::label_selector(Some(selector), &path.index(at), errors);
        }
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        vec![self.name_cell(), created_at(self)]
    }
}

fn created_at(role: &impl Kind<Here>) -> Value {
    role.metadata()
        .creation_timestamp
        .as_ref()
        .map(|time| meta::time(time.0))
        .into()
}

fn validate_rules(rules: Option<&[PolicyRule]>, namespaced: bool, errors: &mut Errors) {
    let path = Path::root("rules");
    for (at, rule) in rules.unwrap_or_default().iter().enumerate() {
        validate_rule(rule, namespaced, &path.index(at), errors);
    }
}

fn validate_rule(rule: &PolicyRule, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if rule.verbs.is_empty() {
        errors.push(FieldError::required(
            &path.child("verbs"),
            "verbs must contain at least one value",
        ));
    }
    if !is_empty(&rule.non_resource_urls) {
        let urls = json!(rule.non_resource_urls);
        let at = path.child("nonResourceURLs");
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(FieldError::invalid(&at, urls.clone(), detail));
        }
        if !(is_empty(&rule.api_groups)
            && is_empty(&rule.resources)
            && is_empty(&rule.resource_names))
        {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&at, urls, detail));
        }
        return;
    }
    if is_empty(&rule.api_groups) {
        let detail = "resource rules must supply at least one api group";
        errors.push(FieldError::required(&path.child("apiGroups"), detail));
    }
    if is_empty(&rule.resources) {
        let detail = "resource rules must supply at least one resource";
        errors.push(FieldError::required(&path.child("resources"), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, created, refused};

    #[test]
    fn says_what_may_be_done() {
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        let role = created(
            &role(),
            json!({"metadata": {"name": "system:reader"}, "rules": rules}),
        );
        assert_stable(&super::role(), &role);
        let row = super::role().row(&role, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["system:reader", "1970-01-01T00:00:00Z"])
        );
    }

    #[test]
    fn refuses_rules_about_nothing() {
        let with =
            |rule: Value| refused(&role(), json!({"metadata": {"name": "r"}, "rules": [rule]}));
        assert_eq!(with(json!({})).len(), 3);
        assert_eq!(
            with(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]})),
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/healthz\"]: namespaced rules cannot apply to non-resource URLs"
            ]
        );
    }
}
