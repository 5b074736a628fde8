//! `PodSpec` and `PodTemplateSpec`, which pods and all that makes pods have in common: defaults and validation
//! (`pkg/apis/core/v1/defaults.go` and `pkg/apis/core/validation/validation.go`).
//!
//! [`apply_defaults`] and [`validate_template`] are for templates; pods have [`default_requests`] and [`validate_pod`] on top.

mod containers;
mod defaults;
mod env;
mod handlers;
mod mounts;
mod os;
mod projected;
mod scheduling;
mod security;
mod spec;
mod totals;
mod volumes;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, Volume};

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::validate::metadata::{annotations, labels};

pub use containers::common_of_ephemeral;
pub use defaults::{apply as apply_defaults, apply_requests as default_requests};
pub use scheduling::{validate_node_selector, validate_tolerations};
pub(crate) use security::validate_id;
pub use spec::{validate, validate_pod};
pub(crate) use warnings::of_annotations as warn_of_annotations;
pub use warnings::of_name as warn_of_name;

/// Where a specification stands. A few rules are for pods alone, for the sake of templates that were stored before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder<'h> {
    /// A pod of this name.
    Pod(&'h str),
    /// A template of pods.
    Template,
}

/// What the rules for one container need to know of its pod.
struct Surroundings<'s> {
    /// Those volumes in which no mistake was found; mounting another one is the same mistake told twice.
    volumes: BTreeMap<&'s str, &'s Volume>,
    /// The names of the pod's resource claims.
    claims: BTreeSet<&'s str>,
    /// How many seconds the pod has to end.
    grace: Option<i64>,
    restart_policy: &'s str,
    /// Whether users in the pod are users of the host.
    host_users: bool,
}

/// Every container of a pod of all three sorts, with its path: as a regular container, whatever it is.
fn each_container(spec: &PodSpec, path: &Path<'_>, mut visit: impl FnMut(&Container, &Path<'_>)) {
    let inits = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral: Vec<Container> = ephemeral.map(common_of_ephemeral).collect();
    let at = path.child("initContainers");
    for (index, container) in inits.enumerate() {
        visit(container, &at.index(index));
    }
    let at = path.child("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        visit(container, &at.index(index));
    }
    let at = path.child("ephemeralContainers");
    for (index, container) in ephemeral.iter().enumerate() {
        visit(container, &at.index(index));
    }
}

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
        warnings::of_annotations(metadata, &path.child("metadata"), errors);
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

#[cfg(test)]
mod tests;
