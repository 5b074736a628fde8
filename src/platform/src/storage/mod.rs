//! `storage.k8s.io/v1`.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

use std::collections::BTreeMap;

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::Resource;
use vaquita_api::validate::metadata::invalid;

pub(super) fn resources() -> [Resource; 6] {
    [
        csi_driver::resource(),
        csi_node::resource(),
        csi_storage_capacity::resource(),
        storage_class::resource(),
        volume_attachment::resource(),
        volume_attributes_class::resource(),
    ]
}

/// The name of what makes or changes volumes: a qualified name in any case.
fn validate_provisioner(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        invalid(
            path,
            name,
            names::qualified_name(&name.to_lowercase()),
            errors,
        );
    }
}

/// Settings for a driver, which alone knows what they mean.
fn validate_parameters(
    parameters: Option<&BTreeMap<String, String>>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const COUNT_MAX: usize = 512;
    const SIZE_MAX: usize = 256 << 10;
    let Some(parameters) = parameters else { return };
    if parameters.len() > COUNT_MAX {
        errors.push(FieldError::too_long(path, COUNT_MAX));
        return;
    }
    if parameters.contains_key("") {
        errors.push(FieldError::invalid(path, "", "field can not be empty."));
    }
    let size: usize = parameters
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > SIZE_MAX {
        errors.push(FieldError::too_long(path, SIZE_MAX));
    }
}
