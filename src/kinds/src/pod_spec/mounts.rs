//! Mistakes in where a container finds its volumes.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{Container, VolumeDevice, VolumeMount};

use super::Surroundings;
use super::spec::one_of_if;
use crate::volume_sources::local_path;
use vaquita_api::field::{Errors, FieldError, Path};

pub(super) fn validate(
    container: &Container,
    surroundings: &Surroundings<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let devices_by_name: HashMap<&str, &str> = devices
        .iter()
        .map(|device| (device.name.as_str(), device.device_path.as_str()))
        .collect();
    let mounts_by_name: HashMap<&str, &str> = mounts
        .iter()
        .map(|mount| (mount.name.as_str(), mount.mount_path.as_str()))
        .collect();
    let privileged = container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged)
        .unwrap_or(false);
    validate_mounts(
        mounts,
        &devices_by_name,
        (surroundings, privileged),
        &path.child("volumeMounts"),
        errors,
    );
    validate_devices(
        devices,
        &mounts_by_name,
        surroundings,
        &path.child("volumeDevices"),
        errors,
    );
}

fn validate_mounts(
    mounts: &[VolumeMount],
    devices: &HashMap<&str, &str>,
    (surroundings, privileged): (&Surroundings<'_>, bool),
    list: &Path<'_>,
    errors: &mut Errors,
) {
    let device_paths: HashSet<&str> = devices.values().copied().collect();
    let mut places = HashSet::new();
    for (at, mount) in mounts.iter().enumerate() {
        let path = list.index(at);
        let (at_name, at_path) = (path.child("name"), path.child("mountPath"));
        let (name, place) = (mount.name.as_str(), mount.mount_path.as_str());
        if name.is_empty() {
            errors.push(FieldError::required(&at_name, ""));
        }
        let volume = surroundings.volumes.get(name);
        if volume.is_none() {
            errors.push(FieldError::not_found(&at_name, name));
        }
        if place.is_empty() {
            errors.push(FieldError::required(&at_path, ""));
        }
        if !places.insert(place) {
            errors.push(FieldError::invalid(&at_path, place, "must be unique"));
        }
        if devices.contains_key(name) {
            const DETAIL: &str = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(&at_name, name, DETAIL));
        }
        if device_paths.contains(place) {
            const DETAIL: &str = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&at_path, place, DETAIL));
        }
        validate_part(mount, list, &path, errors);
        validate_ways(mount, privileged, list, errors);
    }
}

/// The part of the volume that is mounted.
fn validate_part(mount: &VolumeMount, list: &Path<'_>, path: &Path<'_>, errors: &mut Errors) {
    let part = mount.sub_path.as_deref().unwrap_or_default();
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    // Mistakes in these are reported of the list rather than of its item, as upstream has it.
    if !part.is_empty() {
        local_path(part, &list.child("subPath"), errors);
    }
    if !expression.is_empty() {
        if !part.is_empty() {
            const DETAIL: &str = "subPathExpr and subPath are mutually exclusive";
            let at = path.child("subPathExpr");
            errors.push(FieldError::invalid(&at, expression, DETAIL));
        }
        local_path(expression, &list.child("subPathExpr"), errors);
    }
}

/// How the mount reaches the host and the other containers, and whether it can be written to.
fn validate_ways(mount: &VolumeMount, privileged: bool, list: &Path<'_>, errors: &mut Errors) {
    const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    const READ_ONLY: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];
    let at = list.child("mountPropagation");
    let propagation = mount.mount_propagation.as_deref();
    one_of_if(propagation, &PROPAGATIONS, &at, errors);
    if propagation == Some("Bidirectional") && !privileged {
        const DETAIL: &str =
            "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(&at, DETAIL));
    }
    let at = list.child("recursiveReadOnly");
    let mode = mount.recursive_read_only.as_deref();
    one_of_if(mode, &READ_ONLY, &at, errors);
    if matches!(mode, Some("Enabled" | "IfPossible")) {
        if mount.read_only != Some(true) {
            const DETAIL: &str = "may only be specified when readOnly is true";
            errors.push(FieldError::forbidden(&at, DETAIL));
        }
        if propagation.is_some_and(|propagation| propagation != "None") {
            const DETAIL: &str =
                "may only be specified when mountPropagation is None or not specified";
            errors.push(FieldError::forbidden(&at, DETAIL));
        }
    }
}

fn validate_devices(
    devices: &[VolumeDevice],
    mounts: &HashMap<&str, &str>,
    surroundings: &Surroundings<'_>,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    let mount_paths: HashSet<&str> = mounts.values().copied().collect();
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for (at, device) in devices.iter().enumerate() {
        let path = list.index(at);
        let (at_name, at_path) = (path.child("name"), path.child("devicePath"));
        let (name, place) = (device.name.as_str(), device.device_path.as_str());
        if name.is_empty() {
            errors.push(FieldError::required(&at_name, ""));
        } else if !names.insert(name) {
            errors.push(FieldError::invalid(&at_name, name, "must be unique"));
        }
        match surroundings.volumes.get(name) {
            None => errors.push(FieldError::not_found(&at_name, name)),
            Some(volume)
                if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() =>
            {
                const DETAIL: &str = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(&at_name, name, DETAIL));
            }
            Some(_) => {}
        }
        if place.is_empty() {
            errors.push(FieldError::required(&at_path, ""));
        }
        if places.contains(place) {
            errors.push(FieldError::invalid(&at_path, place, "must be unique"));
        }
        if place.split('/').any(|part| part == "..") {
            const DETAIL: &str = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(&at_path, place, DETAIL));
        } else {
            places.insert(place);
        }
        if mounts.contains_key(name) {
            const DETAIL: &str = "must not already exist in volumeMounts";
            errors.push(FieldError::invalid(&at_name, name, DETAIL));
        }
        if mount_paths.contains(place) {
            const DETAIL: &str = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(&at_path, place, DETAIL));
        }
    }
}
