//! Mistakes in what a pod and its containers may do.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};
use serde_json::json;

use super::os;
use super::spec::one_of_if;
use crate::volume_sources::local_path;
use vaquita_api::field::{Errors, FieldError, Path};

/// The longest name of a sysctl, in bytes.
const SYSCTL_MAX: usize = 253;
/// The longest name of an `AppArmor` profile: a path without its end, in bytes.
const APP_ARMOR_MAX: usize = 4095;
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// The pod's own settings.
pub(super) fn validate_pod(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(context) = &spec.security_context else {
        return;
    };
    for (field, id) in [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        validate_id(id, &path.child(field), errors);
    }
    let groups = path.child("supplementalGroups");
    for (at, group) in context.supplemental_groups.iter().flatten().enumerate() {
        validate_id(Some(*group), &groups.index(at), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        const DETAIL: &str = "ShareProcessNamespace and HostPID cannot both be enabled";
        let at = path.child("shareProcessNamespace");
        errors.push(FieldError::invalid(&at, true, DETAIL));
    }
    validate_sysctls(spec, context, &path.child("sysctls"), errors);
    one_of_if(
        context.fs_group_change_policy.as_deref(),
        &["Always", "OnRootMismatch"],
        &path.child("fsGroupChangePolicy"),
        errors,
    );
    validate_seccomp(
        context.seccomp_profile.as_ref(),
        &path.child("seccompProfile"),
        errors,
    );
    os::validate_windows_options(
        context.windows_options.as_ref(),
        &path.child("windowsOptions"),
        errors,
    );
    validate_app_armor(
        context.app_armor_profile.as_ref(),
        &path.child("appArmorProfile"),
        errors,
    );
    one_of_if(
        context.supplemental_groups_policy.as_deref(),
        &["Merge", "Strict"],
        &path.child("supplementalGroupsPolicy"),
        errors,
    );
    one_of_if(
        context.se_linux_change_policy.as_deref(),
        &["MountOption", "Recursive"],
        &path.child("seLinuxChangePolicy"),
        errors,
    );
}

/// One container's settings.
pub(super) fn validate_container(
    context: &SecurityContext,
    host_users: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    validate_id(context.run_as_user, &path.child("runAsUser"), errors);
    validate_id(context.run_as_group, &path.child("runAsGroup"), errors);
    if let Some(mount) = context.proc_mount.as_deref() {
        let path = path.child("procMount");
        one_of_if(Some(mount), &["Default", "Unmasked"], &path, errors);
        if host_users && mount == "Unmasked" {
            const DETAIL: &str = "`hostUsers` must be false to use `Unmasked`";
            errors.push(FieldError::invalid(&path, mount, DETAIL));
        }
    }
    validate_seccomp(
        context.seccomp_profile.as_ref(),
        &path.child("seccompProfile"),
        errors,
    );
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            const DETAIL: &str =
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, json!(context), DETAIL));
        }
        let added = context
            .capabilities
            .iter()
            .flat_map(|capabilities| capabilities.add.iter().flatten());
        for _ in added.filter(|capability| *capability == "CAP_SYS_ADMIN") {
            const DETAIL: &str = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, json!(context), DETAIL));
        }
    }
    os::validate_windows_options(
        context.windows_options.as_ref(),
        &path.child("windowsOptions"),
        errors,
    );
    validate_app_armor(
        context.app_armor_profile.as_ref(),
        &path.child("appArmorProfile"),
        errors,
    );
}

/// The number of a user or group.
pub(crate) fn validate_id(id: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    let largest = i64::from(i32::MAX);
    if let Some(id) = id.filter(|id| !(0..=largest).contains(id)) {
        let detail = format!("must be between 0 and {largest}, inclusive");
        errors.push(FieldError::invalid(path, id, detail));
    }
}

/// A pod whose users are its own shares nothing else with the host.
pub(super) fn validate_host_users(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    if spec.host_users != Some(false) {
        return;
    }
    // Two of these are spelt like this in upstream's answers.
    for (field, shared) in [
        ("hostNetwork", spec.host_network),
        ("HostPID", spec.host_pid),
        ("HostIPC", spec.host_ipc),
    ] {
        if shared == Some(true) {
            const DETAIL: &str = "when `pod.Spec.HostUsers` is false";
            errors.push(FieldError::forbidden(&path.child(field), DETAIL));
        }
    }
}

/// Whether this names a setting of the kernel: words of lower case letters, digits, `-` and `_` between dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_word = |word: &str| {
        let bytes = word.as_bytes();
        bytes.first().is_some_and(|byte| edge(*byte))
            && bytes.last().is_some_and(|byte| edge(*byte))
            && bytes
                .iter()
                .all(|byte| edge(*byte) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(is_word)
}

/// Which namespace of the kernel a setting belongs to.
fn namespace_of(sysctl: &str) -> Option<&'static str> {
    let name = sysctl.replace('/', ".");
    let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    if name == "kernel.sem" || of_ipc.iter().any(|prefix| name.starts_with(prefix)) {
        Some("ipc")
    } else if name.starts_with("net.") {
        Some("net")
    } else {
        None
    }
}

fn validate_sysctls(
    spec: &PodSpec,
    context: &PodSecurityContext,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    let mut seen = HashSet::new();
    for (at, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = list.index(at);
        let path = path.child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            let detail = format!(
                r"must have at most {SYSCTL_MAX} characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.push(FieldError::invalid(&path, name, detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        let shared = match namespace_of(name) {
            Some("net") if spec.host_network == Some(true) => "hostNetwork",
            Some("ipc") if spec.host_ipc == Some(true) => "hostIPC",
            _ => continue,
        };
        let detail = format!("may not be specified when '{shared}' is true");
        errors.push(FieldError::invalid(&path, name, detail));
    }
}

fn validate_seccomp(profile: Option<&SeccompProfile>, path: &Path<'_>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let at = path.child("type");
    match profile.type_.as_str() {
        "" => {
            const DETAIL: &str = "type is required when seccompProfile is set";
            errors.push(FieldError::required(&at, DETAIL));
        }
        kind => one_of_if(Some(kind), &PROFILE_TYPES, &at, errors),
    }
    let at = path.child("localhostProfile");
    match (&*profile.type_, &profile.localhost_profile) {
        ("Localhost", None) => {
            const DETAIL: &str = "must be set when seccomp type is Localhost";
            errors.push(FieldError::required(&at, DETAIL));
        }
        ("Localhost", Some(file)) => local_path(file, &at, errors),
        (_, Some(_)) => {
            const DETAIL: &str = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(&at, json!(profile), DETAIL));
        }
        _ => {}
    }
}

fn validate_app_armor(profile: Option<&AppArmorProfile>, path: &Path<'_>, errors: &mut Errors) {
    const MISSING: &str = "must be set when AppArmor type is Localhost";
    let Some(profile) = profile else { return };
    let at = path.child("localhostProfile");
    let own = profile.localhost_profile.as_deref();
    match (&*profile.type_, own) {
        ("Localhost", None | Some("")) => errors.push(FieldError::required(&at, MISSING)),
        ("Localhost", Some(own)) => {
            if own.trim() != own {
                const DETAIL: &str = "must not be padded with whitespace";
                errors.push(FieldError::invalid(&at, own, DETAIL));
            }
            if own.len() > APP_ARMOR_MAX {
                errors.push(FieldError::too_long(&at, APP_ARMOR_MAX));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(own)) => {
            const DETAIL: &str = "can only be set when AppArmor type is Localhost";
            errors.push(FieldError::invalid(&at, own, DETAIL));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            const DETAIL: &str = "type is required when appArmorProfile is set";
            errors.push(FieldError::required(&path.child("type"), DETAIL));
        }
        (other, _) => errors.push(FieldError::not_supported(
            &path.child("type"),
            other,
            &PROFILE_TYPES,
        )),
    }
}
