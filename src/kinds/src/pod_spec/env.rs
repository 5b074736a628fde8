//! Mistakes in the environment variables of a container.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector,
    ResourceFieldSelector,
};

use crate::resource_names::parsed;
use crate::volume_sources::{local_path, required};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

/// What a variable may hold of its pod.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What can be said of a pod in the downward API at all, in variables or in files.
const KNOWN_FIELDS: [&str; 12] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

pub(super) fn validate(env: Option<&[EnvVar]>, path: &Path<'_>, errors: &mut Errors) {
    for (at, variable) in env.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        let name = path.child("name");
        if variable.name.is_empty() {
            errors.push(FieldError::required(&name, ""));
        } else {
            let problems = names::env_var_name(&variable.name);
            invalid(&name, &variable.name, problems, errors);
        }
        if let Some(source) = &variable.value_from {
            let has_value = variable
                .value
                .as_ref()
                .is_some_and(|value| !value.is_empty());
            validate_source(source, has_value, &path.child("valueFrom"), errors);
        }
    }
}

fn validate_source(source: &EnvVarSource, has_value: bool, path: &Path<'_>, errors: &mut Errors) {
    if let Some(field) = &source.field_ref {
        validate_field_ref(field, &FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        validate_resource_ref(resource, false, &path.child("resourceFieldRef"), errors);
    }
    let maps = source
        .config_map_key_ref
        .as_ref()
        .map(|map| ("configMapKeyRef", &map.name, &map.key));
    let secrets = source
        .secret_key_ref
        .as_ref()
        .map(|secret| ("secretKeyRef", &secret.name, &secret.key));
    for (field, name, key) in maps.into_iter().chain(secrets) {
        let path = path.child(field);
        invalid(
            &path.child("name"),
            name,
            names::dns1123_subdomain(name),
            errors,
        );
        let at = path.child("key");
        if key.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else {
            invalid(&at, key, names::config_map_key(key), errors);
        }
    }
    if let Some(file) = &source.file_key_ref {
        validate_file_ref(file, &path.child("fileKeyRef"), errors);
    }
    let given = [
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.file_key_ref.is_some(),
    ];
    let detail = match given.iter().filter(|given| **given).count() {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}

fn validate_file_ref(file: &FileKeySelector, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("key");
    if file.key.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        invalid(&at, &file.key, names::env_var_name(&file.key), errors);
    }
    let at = path.child("volumeName");
    required(Some(&file.volume_name), &at, errors);
    if !file.volume_name.is_empty() {
        let problems = names::dns1123_label(&file.volume_name);
        invalid(&at, &file.volume_name, problems, errors);
    }
    let at = path.child("path");
    required(Some(&file.path), &at, errors);
    local_path(&file.path, &at, errors);
}

/// A field of the pod by its path, with a key for labels and annotations: `metadata.labels['app']`.
pub(super) fn validate_field_ref(
    field: &ObjectFieldSelector,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if field.api_version.as_ref().is_none_or(String::is_empty) {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    let at = path.child("fieldPath");
    let text = field.field_path.as_str();
    if text.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    let subscript = text
        .strip_suffix("']")
        .and_then(|text| text.split_once("['"));
    match subscript {
        Some(("metadata.annotations", key)) => {
            let problems = names::qualified_name(&key.to_lowercase());
            invalid(path, &key.to_lowercase(), problems, errors);
        }
        Some(("metadata.labels", key)) => invalid(path, key, names::qualified_name(key), errors),
        Some(_) => {
            let detail = format!(
                "error converting fieldPath: field label does not support subscript: {text}"
            );
            errors.push(FieldError::invalid(&at, text, detail));
        }
        None if supported.contains(&text) => {}
        None if KNOWN_FIELDS.contains(&text) => {
            errors.push(FieldError::not_supported(&at, text, supported));
        }
        None => {
            let detail = format!("error converting fieldPath: field label not supported: {text}");
            errors.push(FieldError::invalid(&at, text, detail));
        }
    }
}

/// A request or limit of a container, by the name of the resource.
pub(super) fn validate_resource_ref(
    resource: &ResourceFieldSelector,
    from_volume: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const SUPPORTED: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let name = resource.resource.as_str();
    let of_huge_pages =
        name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    let container = resource.container_name.as_ref();
    if from_volume && container.is_none_or(String::is_empty) {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if name.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !SUPPORTED.contains(&name) && !of_huge_pages {
        errors.push(FieldError::not_supported(
            &path.child("resource"),
            name,
            &SUPPORTED,
        ));
    }
    validate_divisor(resource, of_huge_pages, &path.child("divisor"), errors);
}

/// The unit in which a resource is told.
fn validate_divisor(
    resource: &ResourceFieldSelector,
    of_huge_pages: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const UNITS: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let Some(divisor) = resource.divisor.as_ref().map(parsed) else {
        return;
    };
    if divisor.is_zero() {
        return;
    }
    let name = resource.resource.as_str();
    let (units, what) = match name {
        "limits.cpu" | "requests.cpu" => ("1m, 1", "cpu"),
        "limits.memory" | "requests.memory" => (UNITS, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (UNITS, "local ephemeral storage")
        }
        _ if of_huge_pages => (UNITS, "hugepages"),
        _ => return,
    };
    let text = divisor.to_string();
    if !units.split(", ").any(|unit| unit == text) {
        let units = if what == "cpu" { "1m and 1" } else { units };
        let detail =
            format!("only divisor's values {units} are supported with the {what} resource");
        errors.push(FieldError::invalid(path, name, detail));
    }
}

pub(super) fn validate_from(
    sources: Option<&[EnvFromSource]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (at, source) in sources.unwrap_or_default().iter().enumerate() {
        let inside = path.index(at);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            let problems = names::env_var_name(prefix);
            invalid(&inside.child("prefix"), prefix, problems, errors);
        }
        let map = source.config_map_ref.as_ref();
        let secret = source.secret_ref.as_ref();
        let named = [
            ("configMapRef", map.map(|map| &map.name)),
            ("secretRef", secret.map(|secret| &secret.name)),
        ];
        for (field, name) in named {
            let Some(name) = name else { continue };
            let at = inside.child(field);
            let at = at.child("name");
            if name.is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else {
                invalid(&at, name, names::dns1123_subdomain(name), errors);
            }
        }
        let detail = match (map, secret) {
            (None, None) => "must specify one of: `configMapRef` or `secretRef`",
            (Some(_), Some(_)) => "may not have more than one field specified at a time",
            _ => continue,
        };
        // Of the list rather than of its item, as upstream has it.
        errors.push(FieldError::invalid(path, "", detail));
    }
}
