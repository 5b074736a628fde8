//! What a manifest asks for that only a container on the machine's kernel can have. Pure, but for the files that a
//! volume's part is found by.

use std::{
    io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, Pod, PodSecurityContext, SeccompProfile,
    SecurityContext,
};
use vaquita_docker::{Bind, Profile, Security};
use vaquita_image::StartConfig;

use vaquita_backends::Native;

/// What the kernel would kill last, first, and what it is told of pods in between: upstream's.
const GUARANTEED_OOM_SCORE: i32 = -997;
const BEST_EFFORT_OOM_SCORE: i32 = 1000;
/// Where users of images are no numbers, nobody knows whether one is the superuser.
const NOT_A_NUMBER: &str = "container has runAsNonRoot and image has non-numeric user";

/// All of it; or what is wrong with it. `binds` are its volumes, `start` is what its image says.
pub fn native(
    pod: &Pod,
    container: &Container,
    binds: Result<Vec<Bind>, String>,
    attempt: u32,
    start: Option<&StartConfig>,
) -> Result<Native, String> {
    let shared = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let user = user(shared, own);
    check_not_root(shared, own, user.as_deref(), start)?;
    Ok(Native {
        attempt,
        binds: binds?,
        pids: None,
        oom_score: oom_score(pod),
        security: security(shared, own, user)?,
        devices: Vec::new(),
        stop_signal: stop_signal(container),
        stdin_once: container.stdin_once == Some(true),
    })
}

/// The signal that the manifest wants in place of the usual one.
fn stop_signal(container: &Container) -> Option<String> {
    container.lifecycle.as_ref()?.stop_signal.clone()
}

/// Pods that may use what they were promised and no more go last, those that were promised nothing first.
fn oom_score(pod: &Pod) -> i32 {
    let class = pod
        .status
        .as_ref()
        .and_then(|status| status.qos_class.as_deref());
    match class {
        Some("Guaranteed") => GUARANTEED_OOM_SCORE,
        Some("Burstable") => BEST_EFFORT_OOM_SCORE - 1,
        _ => BEST_EFFORT_OOM_SCORE,
    }
}

/// `UID`, `UID:GID`, or nothing for what the image says.
fn user(shared: Option<&PodSecurityContext>, own: Option<&SecurityContext>) -> Option<String> {
    let user = own.and_then(|own| own.run_as_user);
    let user = user.or_else(|| shared?.run_as_user);
    let group = own.and_then(|own| own.run_as_group);
    let group = group.or_else(|| shared?.run_as_group);
    match (user, group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, Some(group)) => Some(format!("0:{group}")),
        (None, None) => None,
    }
}

fn check_not_root(
    shared: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    user: Option<&str>,
    start: Option<&StartConfig>,
) -> Result<(), String> {
    let wanted = own.and_then(|own| own.run_as_non_root);
    if wanted.or_else(|| shared?.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let image = start.map(|start| start.user.as_str()).unwrap_or_default();
    let user = user.unwrap_or(image);
    let number = user.split(':').next().unwrap_or_default();
    match number.parse::<i64>() {
        Ok(0) => Err("container's runAsUser breaks non-root policy".to_owned()),
        Ok(_) => Ok(()),
        Err(_) if number.is_empty() => {
            Err("container has runAsNonRoot and image will run as root".to_owned())
        }
        Err(_) => Err(format!(
            "{NOT_A_NUMBER} ({number}), cannot verify user is non-root"
        )),
    }
}

fn security(
    shared: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    user: Option<String>,
) -> Result<Security, String> {
    let capabilities = own
        .and_then(|own| own.capabilities.clone())
        .unwrap_or_default();
    let Capabilities { add, drop } = capabilities;
    let groups = shared.map(|shared| {
        let further = shared.supplemental_groups.iter().flatten().copied();
        shared.fs_group.into_iter().chain(further).collect()
    });
    let seccomp = own.and_then(|own| own.seccomp_profile.as_ref());
    let seccomp = seccomp.or_else(|| shared?.seccomp_profile.as_ref());
    let apparmor = own.and_then(|own| own.app_armor_profile.as_ref());
    let apparmor = apparmor.or_else(|| shared?.app_armor_profile.as_ref());
    let flag = |field: fn(&SecurityContext) -> Option<bool>| own.and_then(field) == Some(true);
    Ok(Security {
        user,
        groups: groups.unwrap_or_default(),
        privileged: flag(|own| own.privileged),
        read_only_root: flag(|own| own.read_only_root_filesystem),
        no_new_privileges: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        add_capabilities: add.unwrap_or_default(),
        drop_capabilities: drop.unwrap_or_default(),
        seccomp: seccomp.map(self::seccomp).transpose()?.unwrap_or_default(),
        apparmor: apparmor.map(self::apparmor).unwrap_or_default(),
        selinux: selinux(shared, own),
        unmasked: own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked"),
    })
}

/// A profile of the machine's is a file below the kubelet's usual directory.
fn seccomp(profile: &SeccompProfile) -> Result<Profile, String> {
    match profile.type_.as_str() {
        "Unconfined" => Ok(Profile::Unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            let is_inside = !name.is_empty()
                && !name.starts_with('/')
                && name.split('/').all(|part| part != "..");
            if !is_inside {
                return Err(format!(
                    "seccompProfile: {name:?} must be a path below {SECCOMP_DIR}"
                ));
            }
            let read = std::fs::read_to_string(format!("{SECCOMP_DIR}/{name}"));
            read.map(Profile::Given).map_err(|error| {
                format!("cannot load seccomp profile {SECCOMP_DIR}/{name}: {error}")
            })
        }
        _ => Ok(Profile::Default),
    }
}

/// Where profiles of system calls are looked for.
const SECCOMP_DIR: &str = "/var/lib/kubelet/seccomp";

fn apparmor(profile: &AppArmorProfile) -> Profile {
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Unconfined", _) => Profile::Unconfined,
        ("Localhost", Some(name)) => Profile::Given(name.clone()),
        _ => Profile::Default,
    }
}

fn selinux(shared: Option<&PodSecurityContext>, own: Option<&SecurityContext>) -> Vec<String> {
    let options = own.and_then(|own| own.se_linux_options.as_ref());
    let Some(options) = options.or_else(|| shared?.se_linux_options.as_ref()) else {
        return Vec::new();
    };
    let parts = [
        ("user", &options.user),
        ("role", &options.role),
        ("type", &options.type_),
        ("level", &options.level),
    ];
    let parts = parts
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}:{}", value.as_ref()?)));
    parts.collect()
}

/// How mounts pass through a volume's mount, in the engine's words.
pub fn propagation(mode: Option<&str>) -> Option<&'static str> {
    match mode {
        Some("HostToContainer") => Some("rslave"),
        Some("Bidirectional") => Some("rshared"),
        _ => None,
    }
}

/// The path of a directory's part, which no link leads out of it. Another process can still put a link in its place before
/// the engine mounts it.
pub fn part(directory: &Path, sub_path: &str) -> io::Result<PathBuf> {
    let root = directory.canonicalize()?;
    let path = root.join(sub_path).canonicalize()?;
    if path.starts_with(&root) {
        Ok(path)
    } else {
        Err(io::Error::other("it leads out of the volume"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(shared: &Value, own: &Value, image_user: &str) -> Result<Security, String> {
        let shared: PodSecurityContext = serde_json::from_value(shared.clone()).unwrap();
        let own: SecurityContext = serde_json::from_value(own.clone()).unwrap();
        let start = StartConfig {
            user: image_user.to_owned(),
            ..StartConfig::default()
        };
        let user = user(Some(&shared), Some(&own));
        check_not_root(Some(&shared), Some(&own), user.as_deref(), Some(&start))?;
        security(Some(&shared), Some(&own), user)
    }

    #[test]
    fn the_containers_own_word_counts_more() {
        let shared = json!({"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 5, "supplementalGroups": [6],
            "seccompProfile": {"type": "Unconfined"}});
        let own = json!({"runAsUser": 7, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}});
        let security = checked(&shared, &own, "").unwrap();
        assert_eq!(security.user.as_deref(), Some("7:2000"));
        assert_eq!(security.groups, [5, 6]);
        assert!(security.no_new_privileges && security.read_only_root && !security.privileged);
        assert_eq!(security.seccomp, Profile::Unconfined);
        assert_eq!(security.drop_capabilities, ["ALL"]);
    }

    #[test]
    fn nobody_becomes_root_who_must_not() {
        let wanted = json!({"runAsNonRoot": true});
        for (own, image, part) in [
            (json!({}), "", "image will run as root"),
            (json!({}), "0", "breaks non-root policy"),
            (json!({"runAsUser": 0}), "7", "breaks non-root policy"),
            (json!({}), "redis", "non-numeric user"),
        ] {
            let message = checked(&wanted, &own, image).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        assert!(checked(&wanted, &json!({}), "7:7").is_ok());
        assert!(checked(&wanted, &json!({"runAsNonRoot": false}), "").is_ok());
    }

    #[test]
    fn no_link_leads_out_of_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir_all(inside.join("part")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink("part", inside.join("good")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("bad")).unwrap();
        assert!(part(&inside, "bad").is_err());
        assert!(part(&inside, "absent").is_err());
        assert!(part(&inside, "good").unwrap().ends_with("in/part"));
    }

    #[test]
    fn a_profile_is_no_way_to_read_files() {
        for name in ["/etc/shadow", "../x", "a/../../x", ""] {
            let own = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
            let message = checked(&json!({}), &own, "").unwrap_err();
            assert!(message.contains("must be a path"), "{message}");
        }
    }
}
