//! Which objects a policy or binding is about, and where parameters come from.

use k8s_openapi::api::admissionregistration::v1::{MatchResources, ParamRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{MATCH_POLICIES, rules};
use crate::checks::one_of;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::selectors;

pub(super) fn apply_defaults(resources: &mut MatchResources) {
    resources
        .match_policy
        .get_or_insert_with(|| "Equivalent".to_owned());
    resources.namespace_selector.get_or_insert_default();
    resources.object_selector.get_or_insert_default();
    let rules = resources.resource_rules.iter_mut().flatten();
    let excluded = resources.exclude_resource_rules.iter_mut().flatten();
    rules.chain(excluded).for_each(rules::apply_named_defaults);
}

pub(super) fn apply_param_defaults(reference: &mut ParamRef) {
    reference
        .parameter_not_found_action
        .get_or_insert_with(|| "Deny".to_owned());
}

pub(super) fn validate(resources: &MatchResources, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("matchPolicy");
    match &resources.match_policy {
        None => errors.push(FieldError::required(&at, "")),
        Some(policy) => one_of(policy, &MATCH_POLICIES, &at, errors),
    }
    let mut selector = |field: &str, selector: &Option<LabelSelector>| {
        let at = path.child(field);
        if selector.is_none() {
            errors.push(FieldError::required(&at, ""));
        }
        selectors::label_selector(selector.as_ref(), &at, errors);
    };
    selector("namespaceSelector", &resources.namespace_selector);
    selector("objectSelector", &resources.object_selector);
    for (field, list) in [
        ("resourceRules", &resources.resource_rules),
        ("excludeResourceRules", &resources.exclude_resource_rules),
    ] {
        let at = path.child(field);
        for (index, rule) in list.iter().flatten().enumerate() {
            rules::validate_named(rule, &at.index(index), errors);
        }
    }
}

/// What a policy is about, which must be of some resource.
pub(super) fn validate_constraints(
    constraints: Option<&MatchResources>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(constraints) = constraints else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    validate(constraints, path, errors);
    if constraints
        .resource_rules
        .as_ref()
        .is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::required(&path.child("resourceRules"), ""));
    }
}

pub(super) fn validate_param_ref(reference: &ParamRef, path: &Path<'_>, errors: &mut Errors) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let name = reference.name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = name {
        let at = path.child("name");
        invalid(&at, name, names::path_segment(name), errors);
        if reference.selector.is_some() {
            errors.push(FieldError::forbidden(&at, EXCLUSIVE));
        }
    }
    if let Some(selector) = &reference.selector {
        let at = path.child("selector");
        selectors::label_selector(Some(selector), &at, errors);
        if name.is_some() {
            errors.push(FieldError::forbidden(&at, EXCLUSIVE));
        }
    } else if name.is_none() {
        let detail = "one of name or selector must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let at = path.child("parameterNotFoundAction");
    match reference.parameter_not_found_action.as_deref() {
        None | Some("") => errors.push(FieldError::required(&at, "")),
        Some(action) => one_of(action, &["Allow", "Deny"], &at, errors),
    }
}
