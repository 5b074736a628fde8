//! Whose requests, and which of them, a flow schema is about.

use k8s_openapi::api::flowcontrol::v1::{
    NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, ServiceAccountSubject,
    Subject,
};
use serde_json::json;

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const SUBJECTS: [&str; 3] = ["Group", "ServiceAccount", "User"];

pub(super) fn validate(rule: &PolicyRulesWithSubjects, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("subjects");
    if rule.subjects.is_empty() {
        let detail = "subjects must contain at least one value";
        errors.push(FieldError::required(&at, detail));
    }
    for (index, subject) in rule.subjects.iter().enumerate() {
        validate_subject(subject, &at.index(index), errors);
    }
    let resources = rule.resource_rules.as_deref().unwrap_or_default();
    let others = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, detail));
    }
    let at = path.child("resourceRules");
    for (index, rule) in resources.iter().enumerate() {
        validate_resource_rule(rule, &at.index(index), errors);
    }
    let at = path.child("nonResourceRules");
    for (index, rule) in others.iter().enumerate() {
        validate_other_rule(rule, &at.index(index), errors);
    }
}

fn validate_subject(subject: &Subject, path: &Path<'_>, errors: &mut Errors) {
    let kind = subject.kind.as_str();
    if !SUBJECTS.contains(&kind) {
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            kind,
            &SUBJECTS,
        ));
        return;
    }
    let group = subject.group.as_ref().map(|group| group.name.as_str());
    let user = subject.user.as_ref().map(|user| user.name.as_str());
    let account = subject.service_account.as_ref();
    for (of, field, name) in [
        ("User", "user", user),
        ("Group", "group", group),
        (
            "ServiceAccount",
            "serviceAccount",
            account.map(|account| account.name.as_str()),
        ),
    ] {
        let path = path.child(field);
        match name {
            None if kind == of => {
                let detail = format!("{field} is required when subject kind is '{of}'");
                errors.push(FieldError::required(&path, detail));
            }
            Some(_) if kind != of => {
                let detail = format!("{field} is forbidden when subject kind is not '{of}'");
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some("") => errors.push(FieldError::required(&path.child("name"), "")),
            _ => {}
        }
    }
    if let Some(account) = account.filter(|_| kind == "ServiceAccount") {
        validate_account(account, &path.child("serviceAccount"), errors);
    }
}

fn validate_account(account: &ServiceAccountSubject, path: &Path<'_>, errors: &mut Errors) {
    if !matches!(account.name.as_str(), "" | "*") {
        let problems = names::dns1123_subdomain(&account.name);
        invalid(&path.child("name"), &account.name, problems, errors);
    }
    let at = path.child("namespace");
    if account.namespace.is_empty() {
        let detail = "must specify namespace for service account";
        errors.push(FieldError::required(&at, detail));
    } else {
        let problems = names::dns1123_label(&account.namespace);
        invalid(&at, &account.namespace, problems, errors);
    }
}

/// What is wrong with a list of which `*` is all: that it is empty (`missing`), or that it has more than `*`.
/// Says whether its items are to be looked at one by one.
fn some_or_all(
    list: &[String],
    missing: &str,
    what: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> bool {
    if list.is_empty() {
        errors.push(FieldError::required(path, missing));
        return false;
    }
    let all = list.iter().any(|item| item == "*");
    if all && list.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(path, json!(list), detail));
    }
    !all
}

fn validate_verbs(verbs: &[String], path: &Path<'_>, errors: &mut Errors) {
    let missing = "verbs must contain at least one value";
    if some_or_all(verbs, missing, "verbs", path, errors)
        && !verbs.iter().all(|verb| VERBS.contains(&verb.as_str()))
    {
        errors.push(FieldError::not_supported(path, json!(verbs), &VERBS));
    }
}

fn validate_resource_rule(rule: &ResourcePolicyRule, path: &Path<'_>, errors: &mut Errors) {
    validate_verbs(&rule.verbs, &path.child("verbs"), errors);
    let missing = "resource rules must supply at least one api group";
    let at = path.child("apiGroups");
    some_or_all(&rule.api_groups, missing, "api groups", &at, errors);
    let missing = "resource rules must supply at least one resource";
    let at = path.child("resources");
    some_or_all(&rule.resources, missing, "resources", &at, errors);
    let at = path.child("namespaces");
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    if namespaces.is_empty() && rule.cluster_scope.unwrap_or_default() {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if !some_or_all(namespaces, missing, "namespaces", &at, errors) {
        return;
    }
    for (index, namespace) in namespaces.iter().enumerate() {
        for problem in names::dns1123_label(namespace) {
            let detail =
                format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
            errors.push(FieldError::invalid(
                &at.index(index),
                namespace.as_str(),
                detail,
            ));
        }
    }
}

fn validate_other_rule(rule: &NonResourcePolicyRule, path: &Path<'_>, errors: &mut Errors) {
    validate_verbs(&rule.verbs, &path.child("verbs"), errors);
    let missing = "nonResourceURLs must contain at least one value";
    let at = path.child("nonResourceURLs");
    let urls = &rule.non_resource_urls;
    if !some_or_all(urls, missing, "non-resource URLs", &at, errors) {
        return;
    }
    for (index, url) in urls.iter().enumerate() {
        if let Some(problem) = url_problem(url) {
            errors.push(FieldError::invalid(&at.index(index), url.as_str(), problem));
        }
    }
}

/// What is wrong with a path, which may end in `/*`.
fn url_problem(url: &str) -> Option<&'static str> {
    let wildcards = url.matches('*').count();
    if url.is_empty() {
        Some("must not be empty")
    } else if !url.starts_with('/') {
        Some("must start with slash")
    } else if url.contains(' ') {
        Some("must not contain white-space")
    } else if url.contains("//") {
        Some("must not contain double slash")
    } else if wildcards > 1 || wildcards == 1 && !url.ends_with("/*") {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(rule: serde_json::Value) -> Vec<String> {
        let mut errors = Errors::default();
        let rule = serde_json::from_value(rule).unwrap();
        validate(&rule, &Path::root("r"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wants_somebody_and_something() {
        assert_eq!(
            problems(json!({"subjects": []})),
            [
                "r.subjects: Required value: subjects must contain at least one value",
                "r: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
        let urls = json!([{"verbs": ["get"], "nonResourceURLs": ["/a/*", "/a*", "b", "/c//d"]}]);
        let subject = json!({"kind": "User", "group": {"name": "g"}});
        assert_eq!(
            problems(json!({"subjects": [subject], "nonResourceRules": urls})),
            [
                "r.subjects[0].user: Required value: user is required when subject kind is 'User'",
                "r.subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "r.nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching",
                "r.nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"b\": must start with slash",
                "r.nonResourceRules[0].nonResourceURLs[3]: Invalid value: \"/c//d\": must not contain double slash",
            ]
        );
    }

    #[test]
    fn knows_resources_in_namespaces() {
        let with = |rule: serde_json::Value| {
            let subject = json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "n"}});
            problems(json!({"subjects": [subject], "resourceRules": [rule]}))
        };
        let rule =
            json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "clusterScope": true});
        assert_eq!(with(rule), [""; 0]);
        let rule = json!({"verbs": ["eat"], "apiGroups": ["*", "a"], "resources": []});
        let errors = with(rule);
        assert!(errors[0].starts_with("r.resourceRules[0].verbs: Unsupported value: [\"eat\"]"));
        assert_eq!(errors.len(), 4);
    }
}
