//! Mistakes in a pod's volumes.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, ProjectedVolumeSource, Volume,
    VolumeProjection,
};

use super::containers::{validate_field_ref, validate_resource_ref};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// The paths of files by which a downward API volume may know its pod.
const DOWNWARD_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

pub(super) fn validate(volumes: &[Volume], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        let name = path.child("name");
        if volume.name.is_empty() {
            errors.push(FieldError::required(&name, ""));
        } else {
            invalid(
                &name,
                &volume.name,
                names::dns1123_label(&volume.name),
                errors,
            );
        }
        if !volume.name.is_empty() && !seen.insert(&volume.name) {
            errors.push(FieldError::duplicate(&name, volume.name.as_str()));
        }
        validate_count(volume, &path, errors);
        validate_source(volume, &path, errors);
    }
}

/// A volume has one source. Which fields are sources is what the type says: all but the name.
fn validate_count(volume: &Volume, path: &Path<'_>, errors: &mut Errors) {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(volume) else {
        return;
    };
    for source in fields.keys().filter(|field| *field != "name").skip(1) {
        errors.push(FieldError::forbidden(
            &path.child(source),
            "may not specify more than 1 volume type",
        ));
    }
}

fn required(value: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    if value.is_none_or(str::is_empty) {
        errors.push(FieldError::required(path, ""));
    }
}

fn validate_source(volume: &Volume, path: &Path<'_>, errors: &mut Errors) {
    if let Some(source) = &volume.empty_dir {
        let path = path.child("emptyDir");
        if let Some(limit) = &source.size_limit
            && limit.0.starts_with('-')
        {
            const DETAIL: &str = "SizeLimit field must be a valid resource quantity";
            errors.push(FieldError::forbidden(&path.child("sizeLimit"), DETAIL));
        }
    }
    if let Some(source) = &volume.host_path {
        validate_host_path(source, &path.child("hostPath"), errors);
    }
    if let Some(source) = &volume.secret {
        let path = path.child("secret");
        required(
            source.secret_name.as_deref(),
            &path.child("secretName"),
            errors,
        );
        validate_mode(source.default_mode, &path.child("defaultMode"), errors);
        validate_items(source.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(source) = &volume.config_map {
        let path = path.child("configMap");
        required(Some(&source.name), &path.child("name"), errors);
        validate_mode(source.default_mode, &path.child("defaultMode"), errors);
        validate_items(source.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(source) = &volume.downward_api {
        let path = path.child("downwardAPI");
        validate_mode(source.default_mode, &path.child("defaultMode"), errors);
        validate_downward(source.items.as_deref(), &path, errors);
    }
    if let Some(source) = &volume.projected {
        validate_projected(source, &path.child("projected"), errors);
    }
    if let Some(source) = &volume.persistent_volume_claim {
        required(
            Some(&source.claim_name),
            &path.child("persistentVolumeClaim").child("claimName"),
            errors,
        );
    }
    if let Some(source) = &volume.nfs {
        let path = path.child("nfs");
        required(Some(&source.server), &path.child("server"), errors);
        required(Some(&source.path), &path.child("path"), errors);
        if !source.path.is_empty() && !source.path.starts_with('/') {
            errors.push(FieldError::invalid(
                &path.child("path"),
                source.path.as_str(),
                "must be an absolute path",
            ));
        }
    }
    if let Some(source) = &volume.csi {
        required(
            Some(&source.driver),
            &path.child("csi").child("driver"),
            errors,
        );
    }
    if let Some(source) = &volume.image {
        required(
            source.reference.as_deref(),
            &path.child("image").child("reference"),
            errors,
        );
    }
}

fn validate_host_path(source: &HostPathVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("path");
    if source.path.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        no_backsteps(&source.path, &at, errors);
    }
    if let Some(kind) = source
        .type_
        .as_deref()
        .filter(|kind| !HOST_PATH_TYPES.contains(kind))
    {
        errors.push(FieldError::not_supported(
            &path.child("type"),
            kind,
            &HOST_PATH_TYPES,
        ));
    }
}

/// A path without `..`.
pub(super) fn no_backsteps(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, text, "must not contain '..'"));
    }
}

/// A relative path without `..`.
pub(super) fn local_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    no_backsteps(text, path, errors);
}

fn validate_mode(mode: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        const DETAIL: &str = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, mode, DETAIL));
    }
}

fn validate_items(items: Option<&[KeyToPath]>, path: &Path<'_>, errors: &mut Errors) {
    for (at, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        required(Some(&item.key), &path.child("key"), errors);
        validate_file(&item.path, &path.child("path"), errors);
        validate_mode(item.mode, &path.child("mode"), errors);
    }
}

fn validate_file(file: &str, path: &Path<'_>, errors: &mut Errors) {
    if file.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    local_path(file, path, errors);
    if file.starts_with("..") && !file.starts_with("../") {
        errors.push(FieldError::invalid(path, file, "must not start with '..'"));
    }
}

fn validate_downward(
    items: Option<&[DownwardAPIVolumeFile]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for item in items.unwrap_or_default() {
        validate_file(&item.path, &path.child("path"), errors);
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), None) => {
                validate_field_ref(field, &DOWNWARD_FIELDS, &path.child("fieldRef"), errors);
            }
            (None, Some(resource)) => {
                validate_resource_ref(resource, true, &path.child("resourceFieldRef"), errors);
            }
            (Some(_), Some(_)) => {
                const DETAIL: &str =
                    "fieldRef and resourceFieldRef can not be specified simultaneously";
                let shown = serde_json::to_value(item).unwrap_or_default();
                errors.push(FieldError::invalid(path, shown, DETAIL));
            }
            (None, None) => {
                errors.push(FieldError::required(
                    path,
                    "one of fieldRef and resourceFieldRef is required",
                ));
            }
        }
        validate_mode(item.mode, &path.child("mode"), errors);
    }
}

fn validate_projected(source: &ProjectedVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    validate_mode(source.default_mode, &path.child("defaultMode"), errors);
    let sources = path.child("sources");
    for (at, source) in source.sources.iter().flatten().enumerate() {
        validate_projection(source, &sources.index(at), errors);
    }
}

fn validate_projection(source: &VolumeProjection, path: &Path<'_>, errors: &mut Errors) {
    if let Some(secret) = &source.secret {
        let path = path.child("secret");
        required(Some(&secret.name), &path.child("name"), errors);
        validate_items(secret.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(map) = &source.config_map {
        let path = path.child("configMap");
        required(Some(&map.name), &path.child("name"), errors);
        validate_items(map.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(downward) = &source.downward_api {
        validate_downward(
            downward.items.as_deref(),
            &path.child("downwardAPI"),
            errors,
        );
    }
    if let Some(token) = &source.service_account_token {
        let path = path.child("serviceAccountToken");
        let at = path.child("expirationSeconds");
        match token.expiration_seconds {
            Some(seconds) if seconds < 600 => {
                errors.push(FieldError::invalid(
                    &at,
                    seconds,
                    "may not specify a duration less than 10 minutes",
                ));
            }
            Some(seconds) if seconds > 1 << 32 => {
                errors.push(FieldError::invalid(
                    &at,
                    seconds,
                    "may not specify a duration larger than 2^32 seconds",
                ));
            }
            _ => {}
        }
        validate_file(&token.path, &path.child("path"), errors);
    }
}
