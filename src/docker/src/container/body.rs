//! From a container's description to what the engine takes. Pure.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, DeviceMapping, HostConfig, HostConfigLogConfig,
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
};

use crate::{
    labels,
    pod::{Pod, labels_of},
    spec::{Bind, ContainerSpec, PodSpec, Processes, Profile, Resources, Security, Source},
    volume,
};

/// Bytes of a log that the engine keeps, for when we are not there to take it.
const LOG_SIZE: &str = "10m";
/// The period in which a limited container may use its share, in microseconds: the kernel's own default.
const PERIOD: i64 = 100_000;
/// The least that the kernel takes for such a share.
const LEAST_QUOTA: i64 = 1000;
/// The least that the kernel takes for a weight.
const LEAST_SHARES: i64 = 2;

/// For what never writes.
pub(crate) fn no_log() -> HostConfigLogConfig {
    HostConfigLogConfig {
        typ: Some("none".to_owned()),
        config: None,
    }
}

pub(super) fn of(pod: &Pod, spec: &ContainerSpec) -> ContainerCreateBody {
    let mut labels = labels_of(&pod.settings, &pod.spec, labels::CONTAINER);
    labels.insert(labels::NAME.to_owned(), spec.name.clone());
    labels.insert(labels::ATTEMPT.to_owned(), spec.attempt.to_string());
    let env = spec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        // An entry point of one's own takes the place of the image's arguments too.
        entrypoint: Some(spec.args.clone()).filter(|args| !args.is_empty()),
        env: Some(env.collect()),
        working_dir: spec.working_dir.clone(),
        user: spec.security.user.clone(),
        stop_signal: spec.stop_signal.clone(),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin),
        stdin_once: Some(spec.stdin_once),
        labels: Some(labels),
        // Health is for the caller's probes.
        healthcheck: Some(bollard::models::HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..bollard::models::HealthConfig::default()
        }),
        host_config: Some(HostConfig {
            oom_score_adj: Some(pod.protection.score(spec.resources.oom_score.into())),
            ..host_config(&pod.spec, &pod.id, spec)
        }),
        ..ContainerCreateBody::default()
    }
}

fn host_config(pod: &PodSpec, holder: &str, spec: &ContainerSpec) -> HostConfig {
    let joined = format!("container:{holder}");
    let resources = &spec.resources;
    let memory = memory(resources);
    let limit = resources.cpu_limit;
    let security = &spec.security;
    HostConfig {
        network_mode: Some(joined.clone()),
        ipc_mode: Some(joined.clone()),
        pid_mode: match pod.processes {
            Processes::Own => None,
            Processes::Pod => Some(joined),
            Processes::Host => Some("host".to_owned()),
        },
        memory,
        // As much as without: no swap.
        memory_swap: memory,
        cpu_period: limit.map(|_| PERIOD),
        cpu_quota: limit.map(quota),
        cpu_shares: Some(shares(resources.cpu_request.unwrap_or(0))),
        pids_limit: resources.pids.map(i64::from),
        mounts: Some(
            spec.binds
                .iter()
                .map(|bind| mount(&pod.uid, bind))
                .collect(),
        ),
        devices: Some(spec.devices.iter().map(device).collect()),
        log_config: Some(log()),
        privileged: Some(security.privileged),
        readonly_rootfs: Some(security.read_only_root),
        group_add: Some(security.groups.iter().map(ToString::to_string).collect()),
        cap_add: Some(security.add_capabilities.clone()),
        cap_drop: Some(security.drop_capabilities.clone()),
        security_opt: Some(security_options(security)),
        masked_paths: security.unmasked.then(Vec::new),
        readonly_paths: security.unmasked.then(Vec::new),
        ..HostConfig::default()
    }
}

/// The limits that can be changed while a container runs. What there is no limit for any more keeps the one it has: the
/// engine cannot take one away.
pub(super) fn update(resources: &Resources) -> ContainerUpdateBody {
    let memory = memory(resources);
    ContainerUpdateBody {
        memory,
        memory_swap: memory,
        cpu_period: resources.cpu_limit.map(|_| PERIOD),
        cpu_quota: resources.cpu_limit.map(quota),
        cpu_shares: Some(shares(resources.cpu_request.unwrap_or(0))),
        ..ContainerUpdateBody::default()
    }
}

fn memory(resources: &Resources) -> Option<i64> {
    let bytes = resources.memory?;
    Some(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// The kernel's quota of a period for so many thousandths of a core.
fn quota(millicores: u32) -> i64 {
    (i64::from(millicores) * PERIOD / 1000).max(LEAST_QUOTA)
}

/// The kernel's weight of so many thousandths of a core: 1024 for a whole one.
fn shares(millicores: u32) -> i64 {
    (i64::from(millicores) * 1024 / 1000).max(LEAST_SHARES)
}

fn log() -> HostConfigLogConfig {
    let config = [("max-size", LOG_SIZE), ("max-file", "2")];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(HashMap::from(config)),
    }
}

fn mount(uid: &str, bind: &Bind) -> Mount {
    let path = match &bind.source {
        Source::Path(path) => path,
        Source::Memory(name) => {
            return Mount {
                read_only: Some(bind.read_only),
                ..volume::mount(uid, name, bind.target.clone())
            };
        }
    };
    let propagation = match bind.propagation {
        Some("rshared") => MountBindOptionsPropagationEnum::RSHARED,
        Some("rslave") => MountBindOptionsPropagationEnum::RSLAVE,
        _ => MountBindOptionsPropagationEnum::RPRIVATE,
    };
    Mount {
        target: Some(bind.target.clone()),
        source: Some(path.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(bind.read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(propagation),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

fn device(device: &crate::spec::Device) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(device.source.to_string_lossy().into_owned()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some("rwm".to_owned()),
    }
}

fn security_options(security: &Security) -> Vec<String> {
    let mut options = Vec::new();
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    for (module, profile) in [
        ("seccomp", &security.seccomp),
        ("apparmor", &security.apparmor),
    ] {
        match profile {
            Profile::Default => {}
            Profile::Unconfined => options.push(format!("{module}=unconfined")),
            Profile::Given(profile) => options.push(format!("{module}={profile}")),
        }
    }
    options.extend(
        security
            .selinux
            .iter()
            .map(|option| format!("label={option}")),
    );
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(spec: &ContainerSpec) -> HostConfig {
        host_config(&PodSpec::default(), "holder", spec)
    }

    #[test]
    fn limits_are_the_kernels() {
        let resources = Resources {
            memory: Some(64 << 20),
            cpu_limit: Some(250),
            cpu_request: Some(500),
            pids: Some(7),
            oom_score: 1000,
        };
        let host = host(&ContainerSpec {
            resources,
            ..ContainerSpec::default()
        });
        assert_eq!(
            (host.memory, host.memory_swap),
            (Some(64 << 20), Some(64 << 20))
        );
        assert_eq!(
            (host.cpu_quota, host.cpu_period),
            (Some(25_000), Some(100_000))
        );
        assert_eq!((host.cpu_shares, host.pids_limit), (Some(512), Some(7)));
    }

    #[test]
    fn without_limits_there_are_none() {
        let host = host(&ContainerSpec::default());
        assert_eq!(
            (host.memory, host.cpu_quota, host.pids_limit),
            (None, None, None)
        );
        assert_eq!((host.cpu_shares, host.pid_mode), (Some(2), None));
        assert_eq!(host.network_mode.as_deref(), Some("container:holder"));
        assert_eq!(host.masked_paths, None);
    }

    #[test]
    fn security_is_passed_on() {
        let security = Security {
            no_new_privileges: true,
            seccomp: Profile::Unconfined,
            apparmor: Profile::Given("mine".to_owned()),
            selinux: vec!["level:s0".to_owned()],
            drop_capabilities: vec!["ALL".to_owned()],
            groups: vec![5, 6],
            unmasked: true,
            ..Security::default()
        };
        let host = host(&ContainerSpec {
            security,
            ..ContainerSpec::default()
        });
        assert_eq!(
            host.security_opt.unwrap(),
            [
                "no-new-privileges",
                "seccomp=unconfined",
                "apparmor=mine",
                "label=level:s0"
            ]
        );
        assert_eq!(host.group_add.unwrap(), ["5", "6"]);
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.masked_paths, Some(Vec::new()));
    }

    #[test]
    fn a_bind_keeps_its_mounts_to_itself() {
        let made = mount(
            "u",
            &Bind {
                source: Source::Path("/a".into()),
                target: "/b".to_owned(),
                read_only: true,
                propagation: None,
            },
        );
        assert_eq!(
            (made.source.as_deref(), made.read_only),
            (Some("/a"), Some(true))
        );
        let memory = mount(
            "u",
            &Bind {
                source: Source::Memory("v".to_owned()),
                target: "/b".to_owned(),
                read_only: false,
                propagation: None,
            },
        );
        assert_eq!(memory.source.as_deref(), Some("vaquita_u_v"));
        let propagation = made.bind_options.unwrap().propagation;
        assert_eq!(propagation, Some(MountBindOptionsPropagationEnum::RPRIVATE));
    }
}
