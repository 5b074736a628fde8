//! `authorization.k8s.io/v1`: may they do this, may I, and what else?

use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview,
    SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::review;
use crate::Here;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};

pub(super) fn subject_access_review() -> Resource {
    review::<SubjectAccessReview>("subjectaccessreview", false)
}

pub(super) fn local_subject_access_review() -> Resource {
    review::<LocalSubjectAccessReview>("localsubjectaccessreview", true)
}

pub(super) fn self_subject_access_review() -> Resource {
    review::<SelfSubjectAccessReview>("selfsubjectaccessreview", false)
}

pub(super) fn self_subject_rules_review() -> Resource {
    review::<SelfSubjectRulesReview>("selfsubjectrulesreview", false)
}

impl Kind<Here> for SubjectAccessReview {
    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, errors);
        without_metadata(&self.metadata, false, errors);
    }
}

impl Kind<Here> for LocalSubjectAccessReview {
    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, errors);
        without_metadata(&self.metadata, true, errors);
        if let Some(resource) = &self.spec.resource_attributes {
            let asked = resource.namespace.as_deref().unwrap_or_default();
            if asked != self.metadata.namespace.as_deref().unwrap_or_default() {
                let path = Path::root("spec.resourceAttributes.namespace");
                let detail = "must match metadata.namespace";
                errors.push(FieldError::invalid(&path, asked, detail));
            }
        }
        if let Some(other) = &self.spec.non_resource_attributes {
            let path = Path::root("spec.nonResourceAttributes");
            let detail = "disallowed on this kind of request";
            errors.push(FieldError::invalid(&path, json!(other), detail));
        }
    }
}

impl Kind<Here> for SelfSubjectAccessReview {
    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        one_question(
            self.spec.resource_attributes.as_ref(),
            self.spec.non_resource_attributes.as_ref(),
            errors,
        );
        without_metadata(&self.metadata, false, errors);
    }
}

impl Kind<Here> for SelfSubjectRulesReview {
    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
    }
}

fn validate_spec(spec: &SubjectAccessReviewSpec, errors: &mut Errors) {
    one_question(
        spec.resource_attributes.as_ref(),
        spec.non_resource_attributes.as_ref(),
        errors,
    );
    let nobody = spec.user.as_ref().is_none_or(String::is_empty)
        && spec.groups.as_ref().is_none_or(Vec::is_empty);
    if nobody {
        let path = Path::root("spec");
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid(&path.child("user"), "", detail));
    }
}

/// The question is about a resource, or about a path that is none.
fn one_question(
    resource: Option<&ResourceAttributes>,
    other: Option<&NonResourceAttributes>,
    errors: &mut Errors,
) {
    let path = Path::root("spec");
    match (resource, other) {
        (Some(_), Some(other)) => {
            let at = path.child("nonResourceAttributes");
            let detail = "cannot be specified in combination with resourceAttributes";
            errors.push(FieldError::invalid(&at, json!(other), detail));
        }
        (None, None) => {
            let at = path.child("resourceAttributes");
            let detail =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid(&at, serde_json::Value::Null, detail));
        }
        _ => {}
    }
}

/// A question has no name; `local` ones have a namespace.
fn without_metadata(metadata: &ObjectMeta, local: bool, errors: &mut Errors) {
    let allowed = ObjectMeta {
        managed_fields: metadata.managed_fields.clone(),
        namespace: metadata.namespace.clone().filter(|_| local),
        ..ObjectMeta::default()
    };
    if *metadata != allowed {
        let detail = if local {
            "must be empty except for namespace"
        } else {
            "must be empty"
        };
        errors.push(FieldError::invalid(
            &Path::root("metadata"),
            json!(metadata),
            detail,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use vaquita_api::testing::{created, refused};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn question(spec: Value) -> Value {
        json!({"spec": spec})
    }

    #[test]
    fn asks_about_one_thing() {
        let pods = json!({"verb": "list", "resource": "pods"});
        let path = json!({"verb": "get", "path": "/healthz"});
        let review = created(
            &self_subject_access_review(),
            question(json!({"resourceAttributes": pods})),
        );
        assert_eq!(review["status"], json!({"allowed": false}));
        assert_eq!(
            refused(&self_subject_access_review(), question(json!({}))),
            [
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must \
                 be specified"
            ]
        );
        let both =
            json!({"resourceAttributes": pods, "nonResourceAttributes": path, "user": "ann"});
        let errors = refused(&subject_access_review(), question(both));
        assert!(
            errors[0].ends_with("cannot be specified in combination with resourceAttributes"),
            "{errors:?}"
        );
        assert_eq!(
            refused(
                &subject_access_review(),
                question(json!({"resourceAttributes": pods}))
            ),
            ["spec.user: Invalid value: \"\": at least one of user or group must be specified"]
        );
    }

    #[test]
    fn has_no_name_of_its_own() {
        let mut named = question(json!({"nonResourceAttributes": {"path": "/"}, "user": "ann"}));
        named["metadata"] = json!({"name": "x"});
        let errors = refused(&subject_access_review(), named);
        assert!(errors[0].ends_with("must be empty"), "{errors:?}");
    }

    #[test]
    fn stays_in_its_namespace() {
        let with = |namespace: &str| {
            let spec = json!({"user": "ann", "resourceAttributes": {"namespace": namespace}});
            refused(&local_subject_access_review(), question(spec))
        };
        assert_eq!(with("default"), [""; 0]);
        assert_eq!(
            with("other"),
            [
                "spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace"
            ]
        );
    }
}
