//! Those annotations of a pod that mean something to the API server.

use k8s_openapi::api::core::v1::Pod;

use vaquita_api::field::{Errors, FieldError, Path};

/// Marks what a node agent shows of a pod that it runs from a file.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// Which pods of a set go first when there are too many.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn annotation<'p>(pod: &'p Pod, key: &str) -> Option<&'p String> {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(key))
}

pub(super) fn validate(pod: &Pod, errors: &mut Errors) {
    let path = Path::root("metadata");
    let path = path.child("annotations");
    let placed = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_ref())
        .is_some_and(|node| !node.is_empty());
    if let Some(value) = annotation(pod, MIRROR).filter(|_| !placed) {
        const DETAIL: &str = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(
            &path.key(MIRROR),
            value.as_str(),
            DETAIL,
        ));
    }
    if let Some(value) = annotation(pod, DELETION_COST).filter(|value| !is_cost(value)) {
        const DETAIL: &str = "must be a 32bit integer";
        let path = path.key(DELETION_COST);
        errors.push(FieldError::invalid(&path, value.as_str(), DETAIL));
    }
}

/// A whole number, written in the one way that sorts as it counts: no `+`, and no zeros in front.
fn is_cost(text: &str) -> bool {
    let padded = text.len() > 1 && (text.starts_with('0') || text.starts_with("-0"));
    !text.starts_with('+') && !padded && text.parse::<i32>().is_ok()
}

/// Which pods are mirrors is decided when they are created.
pub(super) fn validate_change(new: &Pod, old: &Pod, errors: &mut Errors) {
    let path = Path::root("metadata");
    let path = path.child("annotations");
    let detail = match (annotation(new, MIRROR), annotation(old, MIRROR)) {
        (Some(_), None) => "may not add mirror pod annotation",
        (new, old) if new != old => "may not remove or update mirror pod annotation",
        _ => return,
    };
    errors.push(FieldError::forbidden(&path.key(MIRROR), detail));
}
