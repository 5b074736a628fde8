//! `PodSpec` and `PodTemplateSpec`, which pods and all that makes pods have in common: defaults and validation.

mod containers;
mod defaults;
mod handlers;
mod scheduling;
mod spec;
mod volumes;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodTemplateSpec, Probe};

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::validate::metadata::{annotations, labels};

pub use defaults::{apply as apply_defaults, apply_requests as default_requests};
pub use scheduling::{validate_node_selector, validate_tolerations};
pub use spec::validate;

/// Mistakes in a template of pods.
pub fn validate_template(template: &PodTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    if let Some(metadata) = &template.metadata {
        let given = metadata.labels.iter().flatten();
        labels(
            given.map(|(key, value)| (key.as_str(), value.as_str())),
            &path.child("labels"),
            errors,
        );
        let given = metadata.annotations.iter().flatten();
        annotations(
            given.map(|(key, value)| (key.as_str(), value.as_str())),
            &path.child("annotations"),
            errors,
        );
    }
    let path = path.child("spec");
    match &template.spec {
        Some(spec) => {
            validate(spec, &path, errors);
            if spec
                .ephemeral_containers
                .as_ref()
                .is_some_and(|containers| !containers.is_empty())
            {
                let at = path.child("ephemeralContainers");
                errors.push(FieldError::forbidden(
                    &at,
                    "ephemeral containers not allowed in pod template",
                ));
            }
        }
        None => errors.push(FieldError::required(&path.child("containers"), "")),
    }
}

/// Whether an init container keeps running beside the others (`restartPolicy: Always`).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the two types of containers have in common, for the rules that they share.
trait AnyContainer {
    fn probes(&self) -> [(&'static str, Option<&Probe>); 3];
}

macro_rules! any_container {
    ($($type:ty),*) => {$(
        impl AnyContainer for $type {
            fn probes(&self) -> [(&'static str, Option<&Probe>); 3] {
                [
                    ("livenessProbe", self.liveness_probe.as_ref()),
                    ("readinessProbe", self.readiness_probe.as_ref()),
                    ("startupProbe", self.startup_probe.as_ref()),
                ]
            }
        }
    )*};
}
any_container!(Container, EphemeralContainer);
