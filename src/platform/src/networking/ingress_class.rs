//! `IngressClass`: which controller an Ingress is for.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use serde_json::Value;

use crate::checks::{domain_prefixed_path, immutable, required};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

/// The longest name of a controller, in bytes.
const CONTROLLER_MAX: usize = 250;

pub(super) fn resource() -> Resource {
    stored::<IngressClass>("ingressclass", false)
}

impl Kind<Here> for IngressClass {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Controller", "What serves the Ingresses of this class."),
        Column::string("Parameters", "Where the controller's settings are."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if let Some(parameters) = &mut spec.parameters {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("spec");
        let spec = self.spec.clone().unwrap_or_default();
        let controller = spec.controller.unwrap_or_default();
        let at = path.child("controller");
        if controller.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else {
            if controller.len() > CONTROLLER_MAX {
                errors.push(FieldError::too_long(&at, CONTROLLER_MAX));
            }
            domain_prefixed_path(&controller, &at, errors);
        }
        if let Some(parameters) = &spec.parameters {
            validate_parameters(parameters, &path.child("parameters"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let controller = |class: &Self| {
            let spec = class.spec.as_ref();
            spec.and_then(|spec| spec.controller.clone())
                .unwrap_or_default()
        };
        let path = Path::root("spec");
        immutable(
            &controller(self),
            &controller(old),
            &path.child("controller"),
            errors,
        );
        self.validate(errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map(|parameters| {
            let group = parameters.api_group.map(|group| format!(".{group}"));
            let kind = parameters.kind + &group.unwrap_or_default();
            format!("{kind}/{}", parameters.name)
        });
        vec![
            self.name_cell(),
            spec.controller.unwrap_or_default().into(),
            parameters.unwrap_or_else(|| "<none>".to_owned()).into(),
            self.age_cell(now),
        ]
    }
}

fn validate_parameters(
    parameters: &IngressClassParametersReference,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(group) = &parameters.api_group {
        let problems = names::dns1123_subdomain(group);
        invalid(&path.child("apiGroup"), group, problems, errors);
    }
    required(
        &parameters.kind,
        names::path_segment,
        &path.child("kind"),
        errors,
    );
    required(
        &parameters.name,
        names::path_segment,
        &path.child("name"),
        errors,
    );
    let at = path.child("namespace");
    match (parameters.scope.as_deref(), &parameters.namespace) {
        (Some("Cluster"), None) => {}
        (Some("Cluster"), Some(_)) => errors.push(FieldError::forbidden(
            &at,
            "`parameters.scope` is set to 'Cluster'",
        )),
        (Some("Namespace"), None) => errors.push(FieldError::required(
            &at,
            "`parameters.scope` is set to 'Namespace'",
        )),
        (Some("Namespace"), Some(namespace)) => {
            invalid(&at, namespace, names::dns1123_label(namespace), errors);
        }
        (Some(other), _) => errors.push(FieldError::not_supported(
            &path.child("scope"),
            other,
            &["Cluster", "Namespace"],
        )),
        (None, _) => errors.push(FieldError::required(&path.child("scope"), "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn class(parameters: Value) -> Value {
        json!({"metadata": {"name": "nginx"}, "spec": {"controller": "example.com/nginx", "parameters": parameters}})
    }

    #[test]
    fn names_a_controller_for_good() {
        let parameters = json!({"apiGroup": "example.com", "kind": "Settings", "name": "fast"});
        let old = created(&resource(), class(parameters));
        assert_eq!(old["spec"]["parameters"]["scope"], "Cluster");
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!([
                "nginx",
                "example.com/nginx",
                "Settings.example.com/fast",
                "0s"
            ])
        );
        let other = changed(&old, |class| class["spec"]["controller"] = "a.b/c".into());
        assert_eq!(
            causes(updated(&resource(), &old, other, Part::Main)),
            ["spec.controller: Invalid value: \"a.b/c\": field is immutable"]
        );
    }

    #[test]
    fn wants_parameters_where_their_scope_says() {
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "a"}})),
            ["spec.controller: Required value"]
        );
        let with = |scope: &str, namespace: Value| {
            let parameters =
                json!({"kind": "K", "name": "n", "scope": scope, "namespace": namespace});
            refused(&resource(), class(parameters))
        };
        assert_eq!(with("Namespace", json!("a")), [""; 0]);
        assert_eq!(
            with("Namespace", Value::Null),
            ["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"]
        );
        assert_eq!(
            with("Cluster", json!("a")),
            ["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"]
        );
        assert_eq!(
            with("World", Value::Null),
            [
                "spec.parameters.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespace\""
            ]
        );
    }
}
