//! `RoleBinding` and `ClusterRoleBinding`.

use crate::Here;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use serde_json::{Value, json};

use super::GROUP;
use crate::stored;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::string("Role", "What is given."),
    Column::AGE,
    Column::string("Users", "The users that have it.").wide(),
    Column::string("Groups", "The groups that have it.").wide(),
    Column::string("ServiceAccounts", "The service accounts that have it.").wide(),
];

pub(super) fn role_binding() -> Resource {
    stored::<RoleBinding>("rolebinding", true)
}

pub(super) fn cluster_role_binding() -> Resource {
    stored::<ClusterRoleBinding>("clusterrolebinding", false)
}

macro_rules! binding_kind {
    ($kind:ty, $roles:expr, $namespaced:expr) => {
        impl Kind<Here> for $kind {
            const NAME: fn(&str) -> Problems = names::path_segment;
            const CREATE_ON_UPDATE: bool = true;
            const COLUMNS: &'static [Column] = COLUMNS;

            fn apply_defaults(&mut self) {
                apply_defaults(&mut self.role_ref, self.subjects.as_deref_mut());
            }

            fn validate(&self, errors: &mut Errors) {
                validate_role(&self.role_ref, $roles, errors);
                validate_subjects(self.subjects.as_deref(), $namespaced, errors);
            }

            fn validate_update(&self, old: &Self, errors: &mut Errors) {
                self.validate(errors);
                if self.role_ref != old.role_ref {
                    let role = json!(self.role_ref);
                    errors.push(FieldError::invalid(
                        &Path::root("roleRef"),
                        role,
                        "cannot change roleRef",
                    ));
                }
            }

            fn row(&self, now: Timestamp) -> Vec<Value> {
                let subjects = self.subjects.as_deref().unwrap_or_default();
                vec![
                    self.name_cell(),
                    format!("{}/{}", self.role_ref.kind, self.role_ref.name).into(),
                    self.age_cell(now),
                    names_of("User", subjects),
                    names_of("Group", subjects),
                    names_of("ServiceAccount", subjects),
                ]
            }
        }
    };
}

binding_kind!(RoleBinding, &["ClusterRole", "Role"], true);
binding_kind!(ClusterRoleBinding, &["ClusterRole"], false);

fn apply_defaults(role: &mut RoleRef, subjects: Option<&mut [Subject]>) {
    if role.api_group.as_ref().is_none_or(String::is_empty) {
        role.api_group = Some(GROUP.to_owned());
    }
    for subject in subjects.into_iter().flatten() {
        if matches!(subject.kind.as_str(), "User" | "Group") && subject.api_group.is_none() {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

/// `a, b`; service accounts as `namespace/name`.
fn names_of(kind: &str, subjects: &[Subject]) -> Value {
    let of_kind = subjects.iter().filter(|subject| subject.kind == kind);
    let names: Vec<String> = of_kind
        .map(|subject| match subject.namespace.as_deref() {
            Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{}", subject.name),
            _ => subject.name.clone(),
        })
        .collect();
    names.join(", ").into()
}

fn validate_role(role: &RoleRef, kinds: &[&str], errors: &mut Errors) {
    let path = Path::root("roleRef");
    let group = role.api_group.as_deref().unwrap_or_default();
    if group != GROUP {
        errors.push(FieldError::not_supported(
            &path.child("apiGroup"),
            group,
            &[GROUP],
        ));
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            role.kind.as_str(),
            kinds,
        ));
    }
    if role.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        invalid(
            &path.child("name"),
            &role.name,
            names::path_segment(&role.name),
            errors,
        );
    }
}

fn validate_subjects(subjects: Option<&[Subject]>, namespaced: bool, errors: &mut Errors) {
    let path = Path::root("subjects");
    for (at, subject) in subjects.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        let group = subject.api_group.as_deref().unwrap_or_default();
        if subject.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    let problems = names::dns1123_subdomain(&subject.name);
                    invalid(&path.child("name"), &subject.name, problems, errors);
                }
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(
                        &path.child("apiGroup"),
                        group,
                        &[""],
                    ));
                }
                if !namespaced && subject.namespace.as_ref().is_none_or(String::is_empty) {
                    errors.push(FieldError::required(&path.child("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.push(FieldError::not_supported(
                        &path.child("apiGroup"),
                        group,
                        &[GROUP],
                    ));
                }
            }
            other => {
                const KINDS: [&str; 3] = ["Group", "ServiceAccount", "User"];
                errors.push(FieldError::not_supported(
                    &path.child("kind"),
                    other,
                    &KINDS,
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{causes, changed, created, refused, updated};

    fn binding() -> Value {
        json!({
            "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "admin"},
            "subjects": [{"kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}],
        })
    }

    #[test]
    fn gives_a_role_to_subjects() {
        let old = created(&cluster_role_binding(), binding());
        assert_eq!(old["roleRef"]["apiGroup"], GROUP);
        assert_eq!(old["subjects"][0]["apiGroup"], GROUP);
        let row = cluster_role_binding().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["b", "ClusterRole/admin", "0s", "ann", "", "n/s"])
        );
        let other = changed(&old, |binding| binding["roleRef"]["name"] = "view".into());
        let errors = causes(updated(&cluster_role_binding(), &old, other, Part::Main));
        assert!(errors[0].ends_with("cannot change roleRef"), "{errors:?}");
    }

    #[test]
    fn refuses_unknown_kinds() {
        let mut wrong = binding();
        wrong["subjects"][0]["kind"] = "Robot".into();
        wrong["roleRef"]["kind"] = "Role".into();
        assert_eq!(refused(&cluster_role_binding(), wrong.clone()).len(), 2);
        assert_eq!(refused(&role_binding(), wrong).len(), 1);
    }
}
