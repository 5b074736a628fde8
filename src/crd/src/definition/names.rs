//! The names of a declared kind, and who may declare one in a group of Kubernetes' own.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames,
};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::dns1035_label;

/// The annotation that says that the Kubernetes project knows of a kind in one of its groups: the URL of the pull request
/// that approved it, or `unapproved` with a reason.
pub(crate) const APPROVAL: &str = "api-approved.kubernetes.io";
/// Where mistakes about it are.
pub(super) const APPROVAL_FIELD: &str = "metadata.annotations[api-approved.kubernetes.io]";

/// Finds mistakes in the names that a definition asks for.
pub(super) fn validate_spec(
    names: &CustomResourceDefinitionNames,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let singular = names.singular.as_deref().unwrap_or_default();
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    for (field, value) in [
        ("plural", names.plural.as_str()),
        ("singular", singular),
        ("kind", &names.kind),
        ("listKind", list_kind),
    ] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    validate(names, path, errors);
}

/// Finds malformed names; absent ones are fine.
pub(super) fn validate(
    names: &CustomResourceDefinitionNames,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    let mut label = |path: &Path<'_>, value: &str, checked: &str, prefix: &str| {
        let problems = dns1035_label(checked);
        if !value.is_empty() && !problems.is_empty() {
            let detail = format!("{prefix}{}", problems.join(","));
            errors.push(FieldError::invalid(path, value, detail));
        }
    };
    let singular = names.singular.as_deref().unwrap_or_default();
    label(&path.child("plural"), &names.plural, &names.plural, "");
    label(&path.child("singular"), singular, singular, "");
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    for (field, kind) in [("kind", names.kind.as_str()), ("listKind", list_kind)] {
        label(&path.child(field), kind, &kind.to_lowercase(), MIXED);
    }
    for (field, list) in [
        ("shortNames", &names.short_names),
        ("categories", &names.categories),
    ] {
        let path = path.child(field);
        for (index, name) in list.iter().flatten().enumerate() {
            let problems = dns1035_label(name);
            if !problems.is_empty() {
                errors.push(FieldError::invalid(
                    &path.index(index),
                    name.as_str(),
                    problems.join(","),
                ));
            }
        }
    }
    if !names.kind.is_empty() && names.kind == list_kind {
        const DETAIL: &str = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(
            &path.child("listKind"),
            list_kind,
            DETAIL,
        ));
    }
}

/// What is said about the approval of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    /// The group is nobody's but its owner's.
    NotNeeded,
    /// Nothing is said.
    Missing,
    /// Neither a URL nor `unapproved`.
    Malformed(String),
    /// It bypasses approval and says so.
    Bypassed(String),
    /// The URL of the pull request.
    Approved(String),
}

/// Finds out what a definition says about its approval.
pub(crate) fn approval(definition: &CustomResourceDefinition) -> Approval {
    let group = definition.spec.group.as_str();
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|domain| {
        group == *domain
            || group
                .strip_suffix(domain)
                .is_some_and(|rest| rest.ends_with('.'))
    });
    if !protected {
        return Approval::NotNeeded;
    }
    let annotations = definition.metadata.annotations.as_ref();
    let Some(text) = annotations
        .and_then(|annotations| annotations.get(APPROVAL))
        .filter(|text| !text.is_empty())
    else {
        return Approval::Missing;
    };
    if text.starts_with("unapproved") {
        return Approval::Bypassed(text.clone());
    }
    let is_url = text
        .split_once("://")
        .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.trim_matches('/').is_empty());
    if is_url {
        Approval::Approved(text.clone())
    } else {
        Approval::Malformed(text.clone())
    }
}

/// Whether an update says something else about the approval than what it replaces.
pub(super) fn approval_changed(
    new: &CustomResourceDefinition,
    old: &CustomResourceDefinition,
) -> bool {
    std::mem::discriminant(&approval(new)) != std::mem::discriminant(&approval(old))
}

/// Kinds in groups of Kubernetes' own must be approved.
pub(super) fn validate_approval(
    new: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
    errors: &mut Errors,
) {
    if old.is_some_and(|old| !approval_changed(new, old)) {
        return;
    }
    let metadata = Path::root("metadata");
    let annotations = metadata.child("annotations");
    let path = annotations.key(APPROVAL);
    match approval(new) {
        Approval::Missing => {
            const DETAIL: &str = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
                                  https://github.com/kubernetes/enhancements/pull/1111";
            errors.push(FieldError::required(&path, DETAIL));
        }
        Approval::Malformed(text) => {
            const DETAIL: &str = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either \
                                  a URL or a reason starting with \"unapproved\", see \
                                  https://github.com/kubernetes/enhancements/pull/1111";
            errors.push(FieldError::invalid(&path, text, DETAIL));
        }
        Approval::NotNeeded | Approval::Bypassed(_) | Approval::Approved(_) => {}
    }
}
