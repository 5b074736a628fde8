//! `metav1.LabelSelector` as a field of an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::metadata::{invalid, labels};
use crate::field::{Errors, FieldError, Path};
use crate::names;

/// A selector that may be absent.
pub fn label_selector(selector: Option<&LabelSelector>, path: &Path<'_>, errors: &mut Errors) {
    let Some(selector) = selector else { return };
    let pairs = selector.match_labels.iter().flatten();
    labels(
        pairs.map(|(key, value)| (key.as_str(), value.as_str())),
        &path.child("matchLabels"),
        errors,
    );
    let path = path.child("matchExpressions");
    for (at, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.index(at);
        let count = requirement.values.as_ref().map_or(0, Vec::len);
        let values = path.child("values");
        match (requirement.operator.as_str(), count) {
            ("In" | "NotIn", 0) => {
                const DETAIL: &str = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&values, DETAIL));
            }
            ("Exists" | "DoesNotExist", 1..) => {
                const DETAIL: &str =
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&values, DETAIL));
            }
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            (other, _) => {
                errors.push(FieldError::invalid(
                    &path.child("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
        invalid(
            &path.child("key"),
            &requirement.key,
            names::qualified_name(&requirement.key),
            errors,
        );
        for (at, value) in requirement.values.iter().flatten().enumerate() {
            invalid(&values.index(at), value, names::label_value(value), errors);
        }
    }
}
