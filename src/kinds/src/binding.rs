//! `v1` Binding: which node a pod goes to. Nothing of that sort is kept; carrying it out is [`pod::bind`](crate::pod::bind).

use k8s_openapi::api::core::v1::Binding;

use crate::Here;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{self, Kind, Resource};

pub(super) fn resource() -> Resource {
    registry::created_only::<Binding, Here>("binding", true)
}

impl Kind<Here> for Binding {
    fn validate(&self, errors: &mut Errors) {
        validate_target(self, errors);
    }
}

/// The target is a node.
pub(crate) fn validate_target(binding: &Binding, errors: &mut Errors) {
    let path = Path::root("target");
    let kind = binding.target.kind.as_deref().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    if binding.target.name.as_ref().is_none_or(String::is_empty) {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
}
