//! Mistakes in what is for one operating system alone.

use k8s_openapi::api::core::v1::{
    PodSecurityContext, PodSpec, SecurityContext, WindowsSecurityContextOptions,
};

use super::each_container;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

const SYSTEMS: [&str; 2] = ["linux", "windows"];
/// The largest specification of a credential, in KiB.
const CREDENTIAL_MAX_KIB: usize = 64;
/// A domain's name is shorter than this, in bytes.
const DOMAIN_LIMIT: usize = 256;
/// The longest name of a user, in bytes.
const USER_MAX: usize = 104;

/// A pod that says which system it is for leaves alone what that system has not.
pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(os) = &spec.os else { return };
    let at = path.child("os");
    match os.name.as_str() {
        "" => errors.push(FieldError::required(&at.child("name"), "cannot be empty")),
        "linux" => validate_linux(spec, path, errors),
        "windows" => validate_windows(spec, path, errors),
        other => errors.push(FieldError::not_supported(&at, other, &SYSTEMS)),
    }
}

fn validate_linux(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "windows options cannot be set for a linux pod";
    let context = spec.security_context.as_ref();
    if context.is_some_and(|context| context.windows_options.is_some()) {
        let path = path.child("securityContext");
        errors.push(FieldError::forbidden(&path.child("windowsOptions"), DETAIL));
    }
    each_container(spec, path, |container, path| {
        let context = container.security_context.as_ref();
        if context.is_some_and(|context| context.windows_options.is_some()) {
            let path = path.child("securityContext");
            errors.push(FieldError::forbidden(&path.child("windowsOptions"), DETAIL));
        }
    });
}

fn validate_windows(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "cannot be set for a windows pod";
    let empty = PodSecurityContext::default();
    let context = spec.security_context.as_ref().unwrap_or(&empty);
    let inside = path.child("securityContext");
    let set = |flag: Option<bool>| flag == Some(true);
    let sysctls = context
        .sysctls
        .as_ref()
        .is_some_and(|list| !list.is_empty());
    for (at, field, given) in [
        (
            &inside,
            "appArmorProfile",
            context.app_armor_profile.is_some(),
        ),
        (
            &inside,
            "seLinuxOptions",
            context.se_linux_options.is_some(),
        ),
        (path, "hostUsers", spec.host_users.is_some()),
        (path, "hostPID", set(spec.host_pid)),
        (path, "hostIPC", set(spec.host_ipc)),
        (&inside, "seccompProfile", context.seccomp_profile.is_some()),
        (&inside, "fsGroup", context.fs_group.is_some()),
        (
            &inside,
            "fsGroupChangePolicy",
            context.fs_group_change_policy.is_some(),
        ),
        (&inside, "sysctls", sysctls),
        (
            path,
            "shareProcessNamespace",
            spec.share_process_namespace.is_some(),
        ),
        (&inside, "runAsUser", context.run_as_user.is_some()),
        (&inside, "runAsGroup", context.run_as_group.is_some()),
        (
            &inside,
            "supplementalGroups",
            context.supplemental_groups.is_some(),
        ),
        (
            &inside,
            "supplementalGroupsPolicy",
            context.supplemental_groups_policy.is_some(),
        ),
        (
            &inside,
            "seLinuxChangePolicy",
            context.se_linux_change_policy.is_some(),
        ),
    ] {
        if given {
            errors.push(FieldError::forbidden(&at.child(field), DETAIL));
        }
    }
    each_container(spec, path, |container, path| {
        let Some(context) = &container.security_context else {
            return;
        };
        let path = path.child("securityContext");
        for field in linux_fields(context) {
            errors.push(FieldError::forbidden(&path.child(field), DETAIL));
        }
    });
}

/// Those settings of a container that only Linux knows.
fn linux_fields(context: &SecurityContext) -> impl Iterator<Item = &'static str> {
    [
        ("appArmorProfile", context.app_armor_profile.is_some()),
        ("seLinuxOptions", context.se_linux_options.is_some()),
        ("seccompProfile", context.seccomp_profile.is_some()),
        ("capabilities", context.capabilities.is_some()),
        (
            "readOnlyRootFilesystem",
            context.read_only_root_filesystem.is_some(),
        ),
        ("privileged", context.privileged.is_some()),
        (
            "allowPrivilegeEscalation",
            context.allow_privilege_escalation.is_some(),
        ),
        ("procMount", context.proc_mount.is_some()),
        ("runAsUser", context.run_as_user.is_some()),
        ("runAsGroup", context.run_as_group.is_some()),
    ]
    .into_iter()
    .filter_map(|(field, given)| given.then_some(field))
}

/// On Windows, either all containers are processes of the host, or none is.
pub(super) fn validate_host_process(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.windows_options.as_ref())
        .and_then(|options| options.host_process);
    let (mut all, mut of_host) = (0, 0);
    each_container(spec, path, |container, path| {
        all += 1;
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.windows_options.as_ref())
            .and_then(|options| options.host_process);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail =
                format!("pod hostProcess value must be identical if both are specified, was {pod}");
            let path = path.child("securityContext");
            let path = path.child("windowsOptions");
            errors.push(FieldError::invalid(&path.child("hostProcess"), own, detail));
        }
        of_host += usize::from(own.or(of_pod) == Some(true));
    });
    if of_host == 0 {
        return;
    }
    if of_host != all {
        const DETAIL: &str = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(path, "", DETAIL));
    }
    if spec.host_network != Some(true) {
        const DETAIL: &str = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(
            &path.child("hostNetwork"),
            false,
            DETAIL,
        ));
    }
}

pub(super) fn validate_windows_options(
    options: Option<&WindowsSecurityContextOptions>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        let path = path.child("gmsaCredentialSpecName");
        invalid(&path, name, names::dns1123_subdomain(name), errors);
    }
    if let Some(spec) = options.gmsa_credential_spec.as_deref() {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            const DETAIL: &str = "gmsaCredentialSpec cannot be an empty string";
            errors.push(FieldError::invalid(&path, spec, DETAIL));
        } else if spec.len() > CREDENTIAL_MAX_KIB << 10 {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIAL_MAX_KIB} KiB");
            errors.push(FieldError::invalid(&path, spec, detail));
        }
    }
    if let Some(name) = options.run_as_user_name.as_deref() {
        for problem in user_name(name) {
            let detail = format!("runAsUserName{problem}");
            let path = path.child("runAsUserName");
            errors.push(FieldError::invalid(&path, name, detail));
        }
    }
}

/// What is wrong with `DOMAIN\user`, or a user alone: the end of a sentence that starts with the field's name.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec![" cannot be an empty string".to_owned()];
    }
    if name.chars().any(char::is_control) {
        return vec![" cannot contain control characters".to_owned()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec![" cannot contain more than one backslash".to_owned()],
    };
    let mut problems = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_LIMIT {
            problems.push(format!(
                "'s Domain length must be under {DOMAIN_LIMIT} characters"
            ));
        }
        if !is_netbios(domain) && !is_dns(domain) {
            problems.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        problems.push("'s User cannot be empty".to_owned());
    } else if user.len() > USER_MAX {
        problems.push(format!(
            "'s User length must not be longer than {USER_MAX} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        problems.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains([
        '"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']',
    ]) {
        problems
            .push("'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned());
    }
    problems
}

fn is_netbios(domain: &str) -> bool {
    let fits = |c: char| !matches!(c, '\\' | '/' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && domain.chars().all(fits)
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        label.len() <= names::LABEL_MAX
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_users_of_windows() {
        for good in ["user", "DOMAIN\\user", "a.example.com\\some user"] {
            assert_eq!(user_name(good), [""; 0], "{good}");
        }
        for bad in ["", "a\nb", "a\\b\\c", "\\user", "d\\", "...", "a:b"] {
            assert!(!user_name(bad).is_empty(), "{bad}");
        }
    }
}
